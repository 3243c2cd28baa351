//! What the process finds: its arguments, environment, files.

use crate::ctx::Ctx;
use crate::scenario::{Outcome, Scenario};
use crate::spec;
use anyhow::{Result, ensure};
use serde_json::json;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("env-and-args", env_and_args).smoke(),
    Scenario::new("rootfs-files", rootfs_files).long(),
];

/// Environment and arguments arrive byte for byte: 500 variables, newlines, quotes, UTF-8, empty ones, 1 MB of
/// arguments.
fn env_and_args(ctx: &Ctx) -> Result<Outcome> {
    let id = ctx.id("");
    let mut env = vec![
        "PATH=/bin".to_owned(),
        "HOME=/".to_owned(),
        "NEWLINES=one\ntwo\n\nthree\n".to_owned(),
        "QUOTES=\"double\" 'single' `back` $(echo no) \\ \\n".to_owned(),
        "UTF8=Grüße, 世界, \u{1f980}".to_owned(),
        "EMPTY=".to_owned(),
        "SIGNS==a=b, init=/bin/sh -- quiet".to_owned(),
    ];
    env.extend((env.len()..500).map(|i| format!("VARIABLE_{i}=value {i}")));
    let script = "cat /proc/$$/environ; echo; echo =====; cat /proc/$$/cmdline; exit";
    // A single argument may have 128 KiB (MAX_ARG_STRLEN): twelve of about 90.
    let long = |i: usize| format!("argument {i} {}", "äb\n".repeat(22_500));
    let args: Vec<String> = ["sh", "-c", script, "zero", "", "two\nlines"]
        .map(str::to_owned)
        .into_iter()
        .chain((0..12).map(long))
        .collect();
    let total: usize = args.iter().map(String::len).sum();
    ensure!(total > 1_000_000, "only {total} bytes of arguments");

    let mut spec = spec::new(ctx, &id, &[])?;
    spec["process"]["env"] = json!(env);
    spec["process"]["args"] = json!(args);
    let output = spec::run(ctx, &["--rm"], &spec, &id)?.run()?.ok()?.stdout;

    let expected = format!("{}\0\n=====\n{}\0", env.join("\0"), args.join("\0"));
    if output != expected.as_bytes() {
        let same = output.iter().zip(expected.as_bytes()).take_while(|(a, b)| a == b).count();
        let around = |bytes: &[u8]| {
            String::from_utf8_lossy(&bytes[same.saturating_sub(30)..bytes.len().min(same + 60)]).into_owned()
        };
        let (got, wanted) = (around(&output), around(expected.as_bytes()));
        anyhow::bail!(
            "{} bytes of environment and arguments were given, {} arrived; at byte {same} {wanted:?} became {got:?}",
            expected.len(),
            output.len()
        );
    }
    Ok(Outcome::Passed)
}

/// The root is writable and behaves like a file system: links, renames, modes, owners, a file that grows, and an
/// ordinary user in a set-group-id directory.
fn rootfs_files(ctx: &Ctx) -> Result<Outcome> {
    let script = r#"
        set -e
        mkdir -p /w/deep/er && cd /w
        echo one >a && ln a b && ln -s a c && mv a d
        [ "$(cat b d 2>/dev/null | tr -d '\n')" = oneone ]; echo "link count $(stat -c %h b)"
        [ ! -e c ]; echo "dangling $(readlink c)"
        chown 1000:2000 b; chmod 4750 b; echo "mode $(stat -c '%a %u:%g' d)"
        dd if=/dev/zero of=big bs=1M count=8 2>/dev/null; echo tail >>big; echo "size $(stat -c %s big)"
        rm -r deep; [ ! -e deep ]; mkfifo f; [ -p f ]
        mkdir shared; chown 0:2000 shared; chmod 2775 shared
        echo secret >root-only; chmod 600 root-only
        echo "user:x:1000:1000::/:/bin/sh" >>/etc/passwd; echo "team:x:2000:user" >>/etc/group
        echo "user:x:1000:" >>/etc/group
        su user -s /bin/sh -c 'echo mine >/w/shared/file; cat /w/root-only 2>/dev/null || echo closed'
        echo "owner $(stat -c '%u:%g' shared/file)"
    "#;
    let expected = "link count 2\ndangling a\nmode 4750 1000:2000\nsize 8388613\nclosed\nowner 1000:2000\n";
    ctx.sh(&[], &ctx.id(""), &format!("mkdir -p /etc; {script}")).run()?.ok()?.printed(expected)?;
    Ok(Outcome::Passed)
}
