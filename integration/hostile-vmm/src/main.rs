//! krun-hostile-vmm: a vmm that its guest has taken over. It is launched as krun-vmm is, and jailed by krun-vmm's own code;
//! then it does what follows PID 1's file in the way that a scenario appended to it.
//!
//! What a try got goes to stderr, which the shim writes to its log.

mod attempt;
mod limits;
mod tries;

use std::{convert::Infallible, env, process::ExitCode};

use anyhow::{Context, Result, bail};
use vmm::become_vm::{self, Prepared};

/// Goes before the name of the way and the container's id, at the end of PID 1's file.
const MARK: &str = "\nHOSTILE=";

/// Begins each line that is for the scenario.
const SAYS: &str = "hostile-vmm:";

fn main() -> ExitCode {
    match env::args().nth(1).as_deref() {
        Some("vm") => become_vm::with(misbehave),
        // The launcher probes KVM by it as well.
        _ => vmm::main(),
    }
}

fn misbehave(prepared: Prepared) -> Result<Infallible> {
    let words = appended(prepared.init()).context("no way is named")?;
    let (way, container) = words.rsplit_once(' ').context("no container is named")?;
    match way.split_once(':') {
        Some(("alone", name)) => attempt::alone(&prepared, container, name),
        Some(("tries", part)) => attempt::part(&prepared, container, part.parse()?),
        _ => match way {
            "holds" => limits::hold(&prepared),
            "eats" => limits::eat(&prepared),
            "spins" => limits::spin(prepared, container),
            other => bail!("no way is named {other}"),
        },
    }
}

/// Says a line to the scenario.
fn say(line: &str) {
    eprintln!("{SAYS} {line}");
}

/// The words that were appended to the program.
fn appended(program: &[u8]) -> Option<&str> {
    let tail = program.get(program.len().saturating_sub(256)..)?;
    let start = tail.windows(MARK.len()).rposition(|window| window == MARK.as_bytes())? + MARK.len();
    std::str::from_utf8(&tail[start..]).ok().map(str::trim_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_is_what_was_appended_last() {
        let program = [&[0xff; 500][..], b"\nHOSTILE=one a", b"\nHOSTILE=two b\n"].concat();
        assert_eq!(appended(&program), Some("two b"));
        assert_eq!(appended(&[0; 500]), None);
    }
}
