//! What was compared, and what differed.

use std::fmt::{self, Debug, Display};

#[derive(Default)]
pub struct Report {
    compared: usize,
    differences: Vec<String>,
}

impl Report {
    /// Compares one thing.
    pub fn same<T: PartialEq + Debug>(&mut self, what: impl Display, told: T, found: T) {
        self.holds(found == told, || format!("{what}: told {told:?}, found {found:?}"));
    }

    /// Notes whether something is as told; else says what is wrong.
    pub fn holds(&mut self, holds: bool, wrong: impl FnOnce() -> String) {
        self.compared += 1;
        if !holds {
            self.differences.push(wrong());
        }
    }

    pub fn is_clean(&self) -> bool {
        self.differences.is_empty()
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.differences.iter().try_for_each(|difference| writeln!(f, "{difference}"))?;
        writeln!(f, "{} compared, {} different", self.compared, self.differences.len())
    }
}

#[cfg(test)]
mod tests {
    use super::Report;

    #[test]
    fn differences_are_named_and_counted() {
        let mut report = Report::default();
        report.same("hostname", "a", "a");
        assert!(report.is_clean());
        report.same("cwd", "/", "/tmp");
        assert!(!report.is_clean());
        assert_eq!(report.to_string(), "cwd: told \"/\", found \"/tmp\"\n2 compared, 1 different\n");
    }
}
