//! krun-hostile-vmm: a vmm that its guest has taken over. It is launched as krun-vmm is, and jailed by krun-vmm's own code;
//! then it makes the attack that a scenario appended to PID 1's file.
//!
//! What a try got goes to stderr, which the shim writes to its log.

mod attempt;
mod limits;
mod tries;

use std::{convert::Infallible, env, process::ExitCode};

use anyhow::{Context, Result, bail};
use vmm::become_vm::{self, Prepared};

/// Goes before the name of the attack and the container's id, at the end of PID 1's file.
const MARK: &str = "\nHOSTILE=";

/// Begins each line that is for the scenario.
const PREFIX: &str = "hostile-vmm:";

fn main() -> ExitCode {
    match env::args().nth(1).as_deref() {
        Some("vm") => become_vm::with(misbehave),
        // The launcher probes KVM by it as well.
        _ => vmm::main(),
    }
}

fn misbehave(prepared: Prepared) -> Result<Infallible> {
    let words = appended(prepared.init()).context("no attack is named")?;
    let (attack, container) = words.rsplit_once(' ').context("no container is named")?;
    match attack.split_once(':') {
        Some(("alone", name)) => attempt::alone(&prepared, container, name),
        Some(("tries", part)) => attempt::part(&prepared, container, part.parse()?),
        _ => match attack {
            "holds" => limits::hold(&prepared),
            "eats" => limits::eat(&prepared),
            "spins" => limits::spin(prepared, container),
            other => bail!("there is no attack {other}"),
        },
    }
}

/// Reports a line to the scenario.
fn report(line: &str) {
    eprintln!("{PREFIX} {line}");
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
    fn the_attack_is_what_was_appended_last() {
        let program = [&[0xff; 500][..], b"\nHOSTILE=one a", b"\nHOSTILE=two b\n"].concat();
        assert_eq!(appended(&program), Some("two b"));
        assert_eq!(appended(&[0; 500]), None);
    }
}
