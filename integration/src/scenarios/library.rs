//! The examples of the crate `vm-launcher` (`vmm/launcher/examples`), which show how others use it.

use crate::command::{Cmd, Output, Running};
use crate::ctx::Ctx;
use crate::host;
use crate::scenario::{Outcome, Scenario};
use crate::spec;
use crate::wait;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

pub const SCENARIOS: &[Scenario] =
    &[Scenario::new("library-examples", examples).long().krun_only("they have no containerd").timeout(600)];

/// Where the box has them.
const EXAMPLES: &str = "/usr/local/libexec/krun/examples";

/// Checks an example with this root file system.
type Check = fn(&Ctx, &str) -> Result<()>;

const CHECKS: [(&str, Check); 5] =
    [("run", run), ("exec", exec), ("streams", streams), ("volumes", volumes), ("ports", ports)];

/// Each prints what it says that it prints, ends as it should, and leaves nothing.
fn examples(ctx: &Ctx) -> Result<Outcome> {
    let mut installed: Vec<_> = fs::read_dir(EXAMPLES)
        .with_context(|| format!("list {EXAMPLES}"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    let mut checked: Vec<_> = CHECKS.iter().map(|(name, _)| (*name).to_owned()).collect();
    installed.sort();
    checked.sort();
    ensure!(installed == checked, "the box has the examples {installed:?}, and {checked:?} are checked");
    let root = spec::busybox_root(&ctx.work("root"))?.display().to_string();
    for (name, check) in CHECKS {
        check(ctx, &root).with_context(|| format!("example {name}"))?;
        let left: Vec<_> = fs::read_dir("/run")?
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .filter(|name| name.starts_with("vm-launcher"))
            .collect();
        ensure!(left.is_empty(), "example {name} leaves {left:?} in /run");
    }
    Ok(Outcome::Passed)
}

fn example(name: &str, args: &[&str]) -> Cmd {
    let program = Path::new(EXAMPLES).join(name).display().to_string();
    Cmd::new(&[&[program.as_str()], args].concat())
}

/// A command's output and status are the example's, and so is a shell's status for one that there is not.
fn run(_: &Ctx, root: &str) -> Result<()> {
    let output = example("run", &[root, "/bin/sh", "-c", "uname -r; echo oops >&2; exit 42"]).run()?;
    let output = output.expect_status(42)?.printed(&format!("{}\n", host::libkrunfw_kernel()?))?;
    on_stderr(&output, "oops\n")?;
    let output = example("run", &[root, "/no/such/command"]).run()?.expect_status(127)?;
    output.refused(&["/no/such/command"])?;
    example("run", &["/no/such/root", "/bin/true"]).run()?.expect_status(125)?.refused(&["/no/such/root"])?;
    Ok(())
}

fn exec(_: &Ctx, root: &str) -> Result<()> {
    let output = example("exec", &[root]).run()?.ok()?.printed(
        "beside sleep\nexec ended with 3\nno such command: a shell would say 127\nthe container ended with 137\n",
    )?;
    on_stderr(&output, "")
}

fn streams(_: &Ctx, root: &str) -> Result<()> {
    // Lines of 101 bytes, as many as are a MiB or a little more.
    let length = (1_usize << 20).next_multiple_of(101);
    let expected =
        format!("{length} bytes sent, {length} received\non stderr: the input has ended\nexit status 5\n");
    on_stderr(&example("streams", &[root]).run()?.ok()?.printed(&expected)?, "")
}

fn volumes(ctx: &Ctx, root: &str) -> Result<()> {
    let directory = ctx.work("volume");
    fs::create_dir(&directory).context("make a volume")?;
    let output = example("volumes", &[root, &directory.display().to_string()]).run()?.ok()?.printed(
        "the VM reads: written on the host\nthe VM cannot write to /frozen\nthe host reads: written in the VM\n",
    )?;
    on_stderr(&output, "")?;
    let mut files: Vec<_> =
        fs::read_dir(&directory)?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    files.sort();
    ensure!(files == ["from-host", "from-vm"], "the volume has {files:?}");
    Ok(())
}

/// The server takes one client, whom it answers, and ends with a status.
fn ports(_: &Ctx, root: &str) -> Result<()> {
    let script = "read name; echo hello $name; exit 6";
    let server = ["/bin/busybox", "nc", "-l", "-p", "8080", "-e", "/bin/sh", "-c", script];
    let mut running = example("ports", &[&[root, "8080"], &server[..]].concat()).spawn()?;
    running.wait_for_stdout(" leads to port 8080 of the VM\n")?;
    let address = address(&running)?;
    // The server may need a moment to listen: until then clients are refused.
    let answer = wait::until("an answer of the server", Duration::from_secs(60), || Ok(ask(address).ok()))?;
    ensure!(answer == "hello box\n", "the server answered {answer:?}");
    let expected = format!("{address} leads to port 8080 of the VM\nthe server ended with 6\n");
    running.finish()?.expect_status(6)?.printed(&expected)?;
    ensure!(TcpStream::connect(address).is_err(), "{address} leads somewhere after the end");
    Ok(())
}

/// The address that the example names.
fn address(running: &Running) -> Result<SocketAddr> {
    let printed = String::from_utf8_lossy(&running.stdout_now()).into_owned();
    let word = printed.split_whitespace().next().unwrap_or_default();
    word.parse().with_context(|| format!("which address is this: {printed}"))
}

fn ask(address: SocketAddr) -> Result<String> {
    let mut client = TcpStream::connect(address)?;
    client.set_read_timeout(Some(Duration::from_secs(30)))?;
    client.write_all(b"box\n")?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    ensure!(!answer.is_empty(), "no answer");
    Ok(answer)
}

fn on_stderr(output: &Output, text: &str) -> Result<()> {
    ensure!(
        output.stderr_text() == text,
        "stderr has {:?} where {text:?} was expected",
        output.stderr_text()
    );
    Ok(())
}
