//! What a vmm tries that a guest has taken over. Each is made in the jail, in a process of its own.

mod devices;
mod disks;
mod files;
mod kernel;
mod memory;
mod processes;
mod quotas;
mod sockets;

use nix::errno::Errno;

/// What a try got: success, with a detail that may be empty, or an error.
pub type Outcome = Result<String, Errno>;

/// One try. The scenario has a line for each name.
pub struct Try {
    /// Its name.
    pub name: &'static str,
    /// Makes it.
    pub make: fn() -> Outcome,
}

const fn one(name: &'static str, make: fn() -> Outcome) -> Try {
    Try { name, make }
}

/// All tries.
pub const ALL: &[&[Try]] = &[
    files::TRIES,
    processes::TRIES,
    kernel::TRIES,
    memory::TRIES,
    sockets::TRIES,
    devices::TRIES,
    disks::TRIES,
    quotas::TRIES,
];

/// A call's success, without a detail.
fn done(result: Result<usize, Errno>) -> Outcome {
    result.map(|_| String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_tries_have_one_name() {
        let names: Vec<_> = ALL.iter().copied().flatten().map(|one| one.name).collect();
        let unique: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
        // A call's name and its number of signs are what separates them in a line.
        assert!(names.iter().all(|name| !name.contains([':', '|', '"', '\\'])));
    }
}
