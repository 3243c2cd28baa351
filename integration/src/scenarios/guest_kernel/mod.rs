//! The guest's kernel: what the packaged one can do, and one of the administrator's choice.

mod images;

use crate::command::Cmd;
use crate::ctx::{Ctx, DEBIAN};
use crate::host;
use crate::procs;
use crate::scenario::{Outcome, Scenario};
use crate::spec;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

const WHY: &str = "runc has no guest";

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("guest-kernel-table", table).long().image(DEBIAN).krun_only(WHY).timeout(900),
    Scenario::new("guest-kernel-of-choice", of_choice).krun_only(WHY).timeout(400),
    Scenario::new("guest-kernel-refused", refused).long().krun_only(WHY),
    Scenario::new("guest-kernel-in-pods", in_pods).long().krun_only(WHY),
    Scenario::new("guest-kernel-nested", nested).long().krun_only(WHY),
];

const PROBES: &str = include_str!("probes.py");

/// The page with the table that this has printed.
const PAGE: &str = include_str!("../../../../docs/configuration.md");

/// What krun itself cannot do without.
const NEEDED: [&str; 9] = [
    "overlayfs",
    "mqueue",
    "inotify",
    "seccomp with notifications",
    "cgroup controller cpu",
    "cgroup controller memory",
    "cgroup controller pids",
    "BPF: of a cgroup (devices)",
    "vsock",
];

/// Tries what the packaged kernel can do, and prints the table of docs/configuration.md, which must say the same of the same
/// kernel.
fn table(ctx: &Ctx) -> Result<Outcome> {
    let probes = ctx.work("probes");
    fs::create_dir(&probes).context("make a directory")?;
    fs::write(probes.join("probes.py"), PROBES).context("write the probes")?;
    let mounts = [("/usr", "/usr"), (probes.to_str().context("a path in UTF-8")?, "/mnt")]
        .map(|(source, target)| format!("type=bind,src={source},dst={target},options=rbind:ro"));
    let flags = ["--rm", "--privileged", "--mount", &mounts[0], "--mount", &mounts[1]];
    let tried = ctx.run(&flags, DEBIAN, &ctx.id(""), &["python3", "/mnt/probes.py"]).timeout(800).run()?;
    let rows = tried.ok()?.stdout_text();
    let kernel = host::libkrunfw_kernel()?;
    let title = format!("Linux {kernel}, by `krun-scenarios run --filter guest-kernel-table`");
    for line in
        [&format!("{title}:"), "", "| | has it | tried |", "|---|---|---|"].into_iter().chain(rows.lines())
    {
        println!("tried: {line}");
    }
    ensure!(!rows.contains("BROKEN"), "a try failed for a reason of its own");
    ensure!(rows.lines().count() > 100, "tries are missing");
    for needed in NEEDED {
        ensure!(rows.contains(&format!("| {needed} | yes ")), "the kernel has no {needed}");
    }
    if PAGE.contains(&title) {
        for row in rows.lines() {
            ensure!(
                PAGE.lines().any(|line| says(line) == says(row)),
                "docs/configuration.md does not say {row}"
            );
        }
    }
    Ok(Outcome::Passed)
}

/// What a row says, without the words of the tools that were used.
fn says(row: &str) -> (&str, &str) {
    let mut cells = row.split('|').skip(1).map(str::trim);
    let (what, answer) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
    (what, answer.split(' ').next().unwrap_or_default().trim_end_matches(','))
}

/// What `ctr run` is told of a configuration with these lines.
fn configured(ctx: &Ctx, name: &str, text: &str) -> Result<[String; 2]> {
    let config = ctx.work(&format!("{name}.toml"));
    fs::write(&config, text).context("configure")?;
    Ok(["--runtime-config-path".to_owned(), config.display().to_string()])
}

/// `ctr run` of a script in a VM with this kernel.
fn with_kernel(ctx: &Ctx, kernel: &Path, name: &str, script: &str) -> Result<Cmd> {
    let flags = configured(ctx, name, &format!("kernel = {:?}\n", kernel.display().to_string()))?;
    Ok(ctx.sh(&flags.each_ref().map(String::as_str), &ctx.id(name), script))
}

/// A copy of libkrunfw at another path boots, by a link too, and so does its kernel as a vmlinux and a bzImage; by `ctr` and
/// krunctl. The usual one is hidden from all of them, and the vmm cannot write to it.
fn of_choice(ctx: &Ctx) -> Result<Outcome> {
    let expected = format!("{}\n", host::libkrunfw_kernel()?);
    let dir = ctx.work("kernels");
    fs::create_dir(&dir).context("make a directory")?;
    let of = |name: &str| dir.join(name);
    let library = host::libkrunfws()?.remove(0);
    fs::copy(&library, of("other.so")).context("copy libkrunfw")?;
    symlink("other.so", of("link")).context("make a link")?;
    fs::write(of("vmlinux"), images::vmlinux(&library)?).context("write a vmlinux")?;
    let packed = Cmd::new(&["gzip", "-1", "-c", &of("vmlinux").display().to_string()]).run()?.ok()?;
    fs::write(of("bzImage"), images::bz_image(&packed.stdout)).context("write a bzImage")?;
    drop(packed);
    // A host may let only root read its kernels.
    fs::set_permissions(of("vmlinux"), fs::Permissions::from_mode(0o600)).context("chmod")?;
    for library in host::libkrunfws()? {
        host::hide(&library)?;
    }
    for name in ["other.so", "link", "vmlinux", "bzImage"] {
        let output = with_kernel(ctx, &of(name), name, "uname -r")?.run()?;
        output.ok()?.printed(&expected).with_context(|| name.to_owned())?;
    }
    nobody_writes(ctx, &of("vmlinux"))?;
    let root = spec::busybox_root(&ctx.work("root"))?.display().to_string();
    for name in ["other.so", "vmlinux"] {
        let kernel = of(name).display().to_string();
        Cmd::new(&["krunctl", "check", "--kernel", &kernel]).run()?.ok()?;
        let run = [
            "krunctl",
            "run",
            "--kernel",
            &kernel,
            "--memory",
            "256",
            "--root",
            &root,
            "--",
            "/bin/uname",
            "-r",
        ];
        Cmd::new(&run).run()?.ok()?.printed(&expected).with_context(|| format!("krunctl, {name}"))?;
    }
    Ok(Outcome::Passed)
}

/// A vmm that reads its kernel from the file has it open on a mount through which not even root can write.
fn nobody_writes(ctx: &Ctx, kernel: &Path) -> Result<()> {
    const KERNEL_FD: u8 = 7; // of vmm/launcher/src/order.rs
    let mut running = with_kernel(ctx, kernel, "held", "echo up; sleep 1000")?.spawn()?;
    running.wait_for_stdout("up\n")?;
    let vmm = procs::all()?.into_iter().find(|process| process.is_called("krun-vmm")).context("no vmm")?;
    let open = format!("/proc/{}/fd/{KERNEL_FD}", vmm.pid);
    ensure!(fs::read(&open).context("read the vmm's kernel")? == fs::read(kernel)?, "{open} is another file");
    let error = fs::File::options().write(true).open(&open).err().and_then(|error| error.raw_os_error());
    ensure!(error == Some(libc::EROFS), "opening {open} for writing got {error:?}");
    ctx.kill(&ctx.id("held"), "SIGKILL")?.ok()?;
    running.finish()?.expect_status(137).map(drop)
}

/// What is no kernel of this machine's, or not root's alone, is refused with what is wrong and what is allowed.
fn refused(ctx: &Ctx) -> Result<Outcome> {
    let library = host::libkrunfws()?.remove(0);
    let dir = ctx.work("kernels");
    fs::create_dir(&dir).context("make a directory")?;
    let of = |name: &str| -> PathBuf { dir.join(name) };
    fs::write(of("text"), "#!/bin/sh\n").context("write a file")?;
    for name in ["writable", "nobodys"] {
        fs::copy(&library, of(name)).context("copy libkrunfw")?;
    }
    fs::set_permissions(of("writable"), fs::Permissions::from_mode(0o666)).context("chmod")?;
    chown(of("nobodys"), Some(65534), None).context("chown")?;
    let mut foreign = images::vmlinux(&library)?;
    foreign[18] = 183; // EM_AARCH64 of elf.h
    fs::write(of("aarch64"), foreign).context("write a vmlinux")?;
    fs::write(of("xz"), images::bz_image(b"\xfd7zXZ\0")).context("write a bzImage")?;
    Cmd::new(&["mkfifo", &of("fifo").display().to_string()]).run()?.ok()?;
    let whole = fs::read(&library).context("read libkrunfw")?;
    fs::write(of("half"), &whole[..whole.len() / 2]).context("write a half")?;
    let cases: [(PathBuf, &[&str]); 11] = [
        ("/no/such/kernel".into(), &["kernel = /no/such/kernel", "No such file"]),
        ("kernel".into(), &["kernel = kernel", "absolute path"]),
        (dir.clone(), &["regular file"]),
        (of("fifo"), &["regular file"]),
        (of("text"), &["is no kernel", "libkrunfw.so.5", "vmlinux", "bzImage"]),
        ("/bin/busybox".into(), &["is no kernel"]),
        (of("writable"), &["0666", "nobody but root"]),
        (of("nobodys"), &["uid 65534", "root's"]),
        (of("aarch64"), &["aarch64", "x86_64"]),
        (of("half"), &["truncated"]),
        (of("xz"), &["xz", "gzip, bzip2 or zstd"]),
    ];
    for (i, (path, words)) in cases.iter().enumerate() {
        let shown = path.display().to_string();
        let output = with_kernel(ctx, path, &i.to_string(), "true")?.run()?;
        output.refused(&[words, &[shown.as_str()][..]].concat()).with_context(|| shown.clone())?;
    }
    let root = spec::busybox_root(&ctx.work("root"))?.display().to_string();
    let text = of("text").display().to_string();
    for (words, rest) in [(&["check"][..], &[][..]), (&["run", "--root", &root], &["--", "/bin/true"])] {
        let command = [&["krunctl"], words, &["--kernel", &text], rest].concat();
        let output = Cmd::new(&command).run()?;
        ensure!(output.status != 0, "krunctl takes a text for a kernel: {output}");
        let printed = output.stdout_text() + &output.stderr_text();
        ensure!(printed.contains("is no kernel"), "krunctl does not say why: {output}");
    }
    Ok(Outcome::Passed)
}

/// No annotation names a kernel, and a pod's author has no virtual machines of their own.
fn in_pods(ctx: &Ctx) -> Result<Outcome> {
    let library = host::libkrunfws()?.remove(0);
    let kernel = format!("io.containerd.krun.kernel={}", library.display());
    let cases: [(&str, &[&str]); 2] = [
        (&kernel, &["krun.kernel", "no annotation is named \"kernel\""]),
        ("io.containerd.krun.nested_virt=true", &["krun.nested_virt", "in a pod: not allowed"]),
    ];
    for (i, (annotation, words)) in cases.into_iter().enumerate() {
        let id = ctx.id(&i.to_string());
        let sandbox = format!("io.kubernetes.cri.sandbox-id={id}");
        let flags = ["io.kubernetes.cri.container-type=sandbox", &sandbox, annotation]
            .map(|annotation| format!("--annotation={annotation}"));
        ctx.sh(&flags.each_ref().map(String::as_str), &id, "true").run()?.refused(words)?;
    }
    // Not even one of root's.
    ctx.sh(&["--annotation", &kernel], &ctx.id("root"), "true")
        .run()?
        .refused(&["no annotation is named"])?;
    Ok(Outcome::Passed)
}

/// Where the host's KVM lets guests be hosts, the guest has the CPU's extension and a /dev/kvm that answers, if asked for; where
/// it does not, Create says so.
fn nested(ctx: &Ctx) -> Result<Outcome> {
    let module =
        ["kvm_amd", "kvm_intel"].into_iter().find(|name| Path::new("/sys/module").join(name).exists());
    let module = module.context("the box's KVM is no module")?;
    let parameter = format!("/sys/module/{module}/parameters/nested");
    let value = fs::read_to_string(&parameter).context("read whether the box's KVM is nested")?;
    if !["1", "Y"].contains(&value.trim()) {
        return Ok(Outcome::Skipped(format!("{parameter} is {}", value.trim())));
    }
    let script = "grep '^flags' /proc/cpuinfo | grep -c -w -e svm -e vmx; grep -o ' kvm$' /proc/misc; true";
    let config = configured(ctx, "nested", "nested_virt = true\n")?;
    let flags = config.each_ref().map(String::as_str);
    ctx.sh(&[], &ctx.id("without"), script).run()?.ok()?.printed("0\n")?;
    ctx.sh(&flags, &ctx.id("with"), script).run()?.ok()?.printed("1\n kvm\n")?;
    let annotation = "io.containerd.krun.nested_virt=true";
    ctx.sh(&["--annotation", annotation], &ctx.id("asked"), script).run()?.ok()?.printed("1\n kvm\n")?;
    // With the device, which is the guest's.
    let open = "exec 3<>/dev/kvm && echo open";
    let device = [&flags[..], &["--device", "/dev/kvm"]].concat();
    ctx.sh(&device, &ctx.id("device"), open).run()?.ok()?.printed("open\n")?;
    ctx.sh(&["--device", "/dev/kvm"], &ctx.id("no-device"), open).run()?.refused(&["/dev/kvm"])?;

    let says_no = ctx.work("nested");
    fs::write(&says_no, "0\n").context("write a file")?;
    host::cover(&parameter, &says_no.display().to_string())?;
    let words = ["nested_virt = true", module, "nested=1"];
    ctx.sh(&flags, &ctx.id("refused"), "true").run()?.refused(&words)?;
    let root = spec::busybox_root(&ctx.work("root"))?.display().to_string();
    Cmd::new(&["krunctl", "run", "--nested-virt", "--root", &root, "--", "/bin/true"])
        .run()?
        .refused(&words)?;
    Ok(Outcome::Passed)
}
