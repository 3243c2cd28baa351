//! `nft`, which changes the host's packet filter.

use std::{
    env,
    io::{self, Write},
    os::unix::process::CommandExt as _,
    process::{Command, Output, Stdio},
};

use crate::error::{Error, Result};

/// Where it is, which is not in every root's `PATH`.
const SBIN: &str = "/usr/sbin:/sbin";

/// Does all that the script says, or nothing.
pub fn apply(script: &str) -> Result<()> {
    run(&["-f", "-"], script).map(drop)
}

/// What nft prints.
pub fn list(arguments: &[&str]) -> Result<String> {
    run(arguments, "")
}

fn run(arguments: &[&str], script: &str) -> Result<String> {
    let output = start("nft", arguments, script).map_err(not_run)?;
    if !output.status.success() {
        // Later lines quote the script.
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().unwrap_or("it says nothing").trim();
        let needed = "it needs root, nftables 0.9.3 or newer, and a kernel with nf_tables";
        return Err(Error::new(format!("nft {}: {said} ({needed})", arguments.join(" "))));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn not_run(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::new("nft is needed for the VM's firewall: install nftables"),
        _ => Error::new(format!("run nft: {error}")),
    }
}

fn start(program: &str, arguments: &[&str], script: &str) -> io::Result<Output> {
    let path = env::var("PATH").unwrap_or_default() + ":" + SBIN;
    let mut child = Command::new(program)
        .args(arguments)
        // Our own may have secrets.
        .env_clear()
        .env("PATH", path)
        // A Ctrl-C is for the VM's command: rules are changed to the end.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // nft reads all of it before it says anything.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(script.as_bytes()));
    let output = child.wait_with_output()?;
    match written {
        // One that failed says why itself.
        Err(error) if output.status.success() => Err(error),
        _ => Ok(output),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let error = start("/nonexistent/nft", &[], "").map_err(not_run).unwrap_err().to_string();
        assert!(error.contains("install nftables"), "{error}");
    }

    #[test]
    fn one_that_ends_early_says_why_itself() {
        let script = "x".repeat(1 << 20);
        assert!(!start("false", &[], &script).unwrap().status.success());
    }
}
