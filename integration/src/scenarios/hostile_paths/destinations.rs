//! In an image: links where the container's mounts, its working directory, and its masked and read-only paths are. They lead to
//! places in the guest, whatever they name.

use super::{AT_ONCE, OWN, Prize, answer, bind_of, own_directory};
use crate::ctx::Ctx;
use crate::scenario::Outcome;
use crate::spec;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Instant;

pub fn links(ctx: &Ctx) -> Result<Outcome> {
    let prize = Prize::new(ctx)?;
    let (dir, up) = (prize.dir(), format!("../../../../../../..{}", prize.dir()));
    let source = own_directory(ctx, "source")?;
    let tmpfs = |destination: &str| json!({"destination": destination, "type": "tmpfs", "source": "tmpfs"});
    // The links of the image, the mounts, and other fields of the spec.
    type Case<'a> = (&'a str, Vec<(&'a str, &'a str)>, Vec<Value>, Vec<(&'a str, Value)>);
    let cases: [Case; 3] = [
        (
            "mounts on links",
            vec![
                ("data", &dir),
                ("up", &up),
                ("t", &dir),
                ("etc/resolv.conf", "/../../../run/krun-scenarios/prize/of"),
            ],
            vec![
                bind_of(&source, "/data", "rprivate"),
                bind_of(&source, "/up/new", "rprivate"),
                bind_of(&source.join("of"), "/etc/resolv.conf", "rprivate"),
                tmpfs("/t"),
            ],
            vec![],
        ),
        (
            "links of /proc as destinations",
            vec![("m", "/proc/1/root")],
            vec![bind_of(&source, &format!("/m{dir}"), "rprivate"), tmpfs(&format!("/m{dir}/below"))],
            vec![],
        ),
        (
            "a link as working directory, masked and read-only",
            vec![
                ("w", &dir),
                ("masked", &up),
                ("ro", &dir),
                ("etc/passwd", "/../../../run/krun-scenarios/prize/of"),
            ],
            vec![],
            vec![
                ("/process/cwd", json!("/w")),
                ("/linux/maskedPaths", json!(["/masked", "/masked/of"])),
                ("/linux/readonlyPaths", json!(["/ro", "/proc/1/root"])),
            ],
        ),
    ];
    for (i, (what, links, mounts, fields)) in cases.into_iter().enumerate() {
        let id = ctx.id(&i.to_string());
        let script = "pwd; cat of /data/of /t/of /up/of /w/of /etc/resolv.conf /etc/passwd; \
                      for d in /data /t /up /w /m/run/krun-scenarios/prize .; do echo x >$d/new; done; echo ran";
        let mut spec = spec::new(ctx, &id, &["sh", "-c", script])?;
        let root = PathBuf::from(spec["root"]["path"].as_str().context("root.path")?);
        for (name, target) in links {
            symlink(target, root.join(name)).with_context(|| format!("link {name}"))?;
        }
        spec["mounts"].as_array_mut().context("mounts")?.extend(mounts);
        for (path, value) in fields {
            *spec.pointer_mut(path).with_context(|| format!("no {path}"))? = value;
        }
        let begun = Instant::now();
        let output = spec::run(ctx, &["--rm"], &spec, &id)?.run()?;
        prize.guarded(what, &answer(&output))?;
        ensure!(begun.elapsed() < AT_ONCE, "{what}: an answer after {:?}", begun.elapsed());
        ensure!(output.status == 0 || !output.stderr_text().is_empty(), "{what}: nobody says why: {output}");
    }
    let kept = fs::read_to_string(source.join("of")).context("read the volume")?;
    ensure!(kept == OWN, "the volume is not what it was");
    Ok(Outcome::Passed)
}
