//! krunctl's images: imported, pulled from a registry in the box, and refused from one that lies.

use crate::command::{Cmd, Output, Running};
use crate::ctx::{BUSYBOX, Ctx};
use crate::scenario::{Outcome, Scenario};
use crate::wait::until_true;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::krunctl::WHY;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("krunctl-image", image).krun_only(WHY),
    Scenario::new("krunctl-image-liars", liars).long().krun_only(WHY),
    Scenario::new("krunctl-image-tls", tls).long().krun_only(WHY),
];

pub const STORE: &str = "/var/lib/krun/images";
const REGISTRY: &str = include_str!("files/registry.py");

fn krunctl(words: &[&str]) -> Result<Output> {
    Cmd::new(&[&["krunctl"], words].concat()).run()
}

/// The box's image as an archive, whose configuration says more than it did.
fn archive(ctx: &Ctx) -> Result<String> {
    let archive = ctx.work("busybox.tar").display().to_string();
    // Without --local ctr of 2.1 may end before the file's last bytes are written.
    ctx.ctr(&["image", "export", "--local", &archive, BUSYBOX]).run()?.ok()?;
    crate::undo::remember(&[
        "sh",
        "-c",
        "krunctl image rm localhost/busybox:1; krunctl image prune; rm -rf /var/lib/krun/images",
    ])?;
    Ok(archive)
}

/// A layout with a configuration of its own, made from the archive.
pub fn layout(ctx: &Ctx) -> Result<String> {
    let layout = ctx.work("layout");
    fs::create_dir(&layout).context("make a directory")?;
    let at = layout.display().to_string();
    Cmd::new(&["busybox", "tar", "-xf", &archive(ctx)?, "-C", &at]).run()?.ok()?;
    let read = |path: &Path| -> Result<serde_json::Value> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
    let blob = |digest: &serde_json::Value| {
        layout.join("blobs").join(digest.as_str().unwrap_or_default().replace(':', "/"))
    };
    let mut index = read(&layout.join("index.json"))?;
    let mut manifest = read(&blob(&index["manifests"][0]["digest"]))?;
    let mut config = read(&blob(&manifest["config"]["digest"]))?;
    config["config"] = json!({
        "Env": ["FROM_IMAGE=yes", "PATH=/bin"], "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["echo cmd $FROM_IMAGE; pwd; id -u"],
        "User": "7:8", "WorkingDir": "/tmp", "StopSignal": "SIGUSR1",
    });
    let put = |content: &serde_json::Value| -> Result<(String, usize)> {
        let bytes = serde_json::to_vec(content)?;
        let path = ctx.work("blob");
        fs::write(&path, &bytes)?;
        let sum = Cmd::new(&["sha256sum", &path.display().to_string()]).run()?.ok()?.stdout_text();
        let hex = sum.split_whitespace().next().unwrap_or_default().to_owned();
        fs::rename(&path, layout.join("blobs/sha256").join(&hex))?;
        Ok((format!("sha256:{hex}"), bytes.len()))
    };
    let (digest, size) = put(&config)?;
    manifest["config"]["digest"] = digest.into();
    manifest["config"]["size"] = size.into();
    let (digest, size) = put(&manifest)?;
    index["manifests"][0]["digest"] = digest.into();
    index["manifests"][0]["size"] = size.into();
    fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
    Ok(at)
}

/// A registry that serves the layout, and its address.
pub fn registry(ctx: &Ctx, layout: &str, lie: &[&str]) -> Result<(Running, String)> {
    let script = ctx.work("registry.py");
    fs::write(&script, REGISTRY).context("write the registry")?;
    let script = script.display().to_string();
    let words = [&["python3", &script, layout], lie].concat();
    let mut registry = Cmd::new(&words).timeout(600).spawn()?;
    registry.wait_for_stdout("\n")?;
    let port = String::from_utf8(registry.stdout_now())?.trim().to_owned();
    Ok((registry, format!("127.0.0.1:{port}/app:1")))
}

/// An image says what runs; its files are written, and stay as they are; a named VM keeps what it wrote.
fn image(ctx: &Ctx) -> Result<Outcome> {
    let layout = layout(ctx)?;
    let (_registry, reference) = registry(ctx, &layout, &[])?;
    // On a terminal, with a bar.
    let pull = format!("krunctl image pull --plain-http {reference}");
    let pulled = Cmd::new(&["script", "-qec", &pull, "/dev/null"]).run()?.ok()?.stdout_text();
    ensure!(
        pulled.contains("#] layers: 1 of 1") && pulled.contains(&format!("{reference} sha256:")),
        "{pulled}"
    );
    krunctl(&["image", "rm", &reference])?.ok()?;
    let run = |flags: &[&str], args: &[&str]| {
        let words =
            [&["run", "--memory", "256", "--plain-http", "--image", &reference], flags, &["--"], args]
                .concat();
        krunctl(&words)
    };
    run(&[], &[])?.ok()?.printed("cmd yes\n/tmp\n7\n")?;
    let script =
        "echo $A; cat /etc/hostname 2>/dev/null; echo x >/new; ls /new; grep -c localhost /etc/hosts";
    run(&["-u", "0", "-w", "/", "-e", "A=b"], &[script])?.ok()?.printed("b\n/new\n2\n")?;
    run(&["--entrypoint", "/bin/ls"], &["/new"])?.expect_status(1)?;
    // The box's name servers, and a file that is put there first; the guest can write neither list of ours.
    let key = ctx.work("key");
    fs::write(&key, "secret\n")?;
    let inject = format!("{}:/keys/new/key:0600", key.display());
    let script = "cat /keys/new/key; stat -c %a /keys/new/key; cat /etc/resolv.conf; echo x 2>/dev/null >/etc/hosts || echo kept";
    let servers = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    run(&["-u", "0", "--inject", &inject], &[script])?
        .ok()?
        .printed(&format!("secret\n600\n{servers}kept\n"))?;
    let listed = krunctl(&["image", "ls"])?.ok()?.stdout_text();
    let lines: Vec<_> = listed.lines().collect();
    let is_listed = lines.len() == 2 && lines[0].starts_with("REFERENCE") && lines[1].starts_with(&reference);
    ensure!(is_listed && lines[1].contains("iB"), "{listed}");

    let script =
        "cat /kept 2>/dev/null; echo more >>/kept; trap 'echo bye; exit 3' USR1; echo up; sleep 1000 & wait";
    let create =
        ["create", "--name", "kept", "--memory", "256", "-u", "0", "--image", &reference, "--", script];
    krunctl(&create)?.ok()?;
    crate::undo::remember(&["sh", "-c", "krunctl delete -f kept || true"])?;
    // It is kept for the VM, whatever becomes of its name.
    krunctl(&["image", "rm", &reference])?.ok()?;
    krunctl(&["image", "prune"])?.ok()?;
    for round in 1..=2 {
        krunctl(&["start", "kept"])?.ok()?;
        let ups = || Ok(krunctl(&["logs", "kept"])?.ok()?.stdout_text().matches("up").count() == round);
        until_true("it to be up", Duration::from_secs(60), ups)?;
        krunctl(&["stop", "kept"])?.ok()?;
    }
    krunctl(&["logs", "kept"])?.ok()?.printed("up\nbye\nmore\nup\nbye\n")?;
    krunctl(&["delete", "kept"])?.ok()?;
    krunctl(&["image", "prune"])?.ok()?;
    store_is_empty()?;

    let archive = ctx.work("busybox.tar").display().to_string();
    krunctl(&["run", "--memory", "256", "--image", &archive, "--", "/bin/echo", "imported"])?
        .ok()?
        .printed("imported\n")?;
    // Whatever the archive calls it, a run calls it after its path.
    let listed = krunctl(&["image", "ls", "--format", "json"])?.ok()?.stdout_text();
    let listed: serde_json::Value = serde_json::from_str(&listed)?;
    let name = listed[0]["reference"].as_str().unwrap_or_default();
    ensure!(name.starts_with("localhost/imported-from:"), "{listed}");
    ensure!(listed[0]["imported_from"] == archive.as_str(), "{listed}");
    ensure!(listed[0]["size"].as_u64().is_some_and(|bytes| bytes > 100_000), "{listed}");
    // It goes when no VM has it.
    krunctl(&["create", "--name", "kept", "--image", &archive, "--", "true"])?.ok()?;
    let prune = || Ok::<_, anyhow::Error>(krunctl(&["image", "prune"])?.ok()?.stdout_text());
    ensure!(
        prune()?.starts_with("imported images removed: 0, layers removed: 0,"),
        "an image of a VM's was removed"
    );
    krunctl(&["delete", "kept"])?.ok()?;
    let pruned = prune()?;
    ensure!(pruned.starts_with("imported images removed: 1,") && pruned.contains("iB"), "{pruned}");
    store_is_empty()
}

fn store_is_empty() -> Result<Outcome> {
    for directory in ["layers", "refs", "tmp"] {
        let path = Path::new(STORE).join(directory);
        ensure!(fs::read_dir(&path)?.count() == 0, "{} is not empty", path.display());
    }
    Ok(Outcome::Passed)
}

/// A registry that lies, or is not there, gives nothing, and leaves nothing.
fn liars(ctx: &Ctx) -> Result<Outcome> {
    let layout = layout(ctx)?;
    for (lie, words) in [
        ("blob", "sha256:"),
        ("endless", "bytes"),
        ("truncated", "end of file"),
        ("401", "access to app denied"),
        ("429", "too many requests (429)"),
    ] {
        let (_registry, reference) = registry(ctx, &layout, &[lie])?;
        let run = krunctl(&["run", "--plain-http", "--image", &reference, "--", "true"])?;
        run.expect_status(125)?.refused(&["--image", words])?;
    }
    for (reference, words) in [
        ("127.0.0.1:1/app:1", "127.0.0.1:1"),
        ("Not A Reference", "Not A Reference"),
        ("/no/such.tar", "/no/such.tar"),
        ("/etc/passwd", "/etc/passwd"),
    ] {
        krunctl(&["run", "--plain-http", "--image", reference, "--", "true"])?
            .expect_status(125)?
            .refused(&[words])?;
    }
    store_is_empty()
}

/// By TLS, a registry counts whose certificate this host trusts, and gets the credentials that are written down for it.
fn tls(ctx: &Ctx) -> Result<Outcome> {
    let layout = layout(ctx)?;
    let path = |name: &str| ctx.work(name).display().to_string();
    let (certificate, both, docker) = (path("certificate.pem"), path("both.pem"), path("docker"));
    let make = format!(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=krun \
         -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE -keyout {both} -out {certificate} 2>/dev/null && cat {certificate} >>{both}"
    );
    Cmd::new(&["sh", "-c", &make]).run()?.ok()?;
    let (_registry, reference) = registry(ctx, &layout, &["tls", &both, "me:hunter2"])?;
    let server = reference.strip_suffix("/app:1").context("the registry's address")?;
    fs::create_dir(&docker).context("make a directory")?;
    let written_down = |login: &str| {
        let text = Cmd::new(&["base64"]).stdin(login).run()?.ok()?.stdout_text();
        let config = json!({"auths": {server: {"auth": text.trim()}}});
        fs::write(format!("{docker}/config.json"), config.to_string()).context("write the credentials")
    };
    let pull = |trusted: &str, flags: &str| {
        let command = format!(
            "SSL_CERT_FILE={trusted} DOCKER_CONFIG={docker} exec krunctl image pull {flags} {reference}"
        );
        Cmd::new(&["sh", "-c", &command]).run()
    };
    pull(&certificate, "")?.expect_status(125)?.refused(&["access to app denied"])?;
    written_down("me:wrong")?;
    pull(&certificate, "")?.expect_status(125)?.refused(&["access to app denied"])?;
    written_down("me:hunter2")?;
    pull("/etc/ssl/certs/ca-certificates.crt", "")?.expect_status(125)?.refused(&["certificate"])?;
    pull(&certificate, "--plain-http")?.expect_status(125)?.refused(&["error sending request", server])?;
    let pulled = pull(&certificate, "")?.ok()?;
    ensure!(!format!("{pulled}").contains("hunter2"), "it says the password: {pulled}");
    krunctl(&["run", "--memory", "256", "--image", &reference, "--", "echo pulled"])?
        .ok()?
        .printed("pulled\n")?;
    krunctl(&["image", "rm", &reference])?.ok()?;
    Ok(Outcome::Passed)
}
