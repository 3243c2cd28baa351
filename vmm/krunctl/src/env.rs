//! The environment of a command: a plain one, and what `-e` and `--env-file` add to it.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;

/// Where every command is looked for.
pub const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A variable that `-e` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    key: String,
    /// None: the value that it has here.
    value: Option<String>,
}

impl std::str::FromStr for Variable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        if key.is_empty() {
            return Err("it must be KEY=VAL, or KEY for the value that KEY has here".to_owned());
        }
        Ok(Variable { key: key.to_owned(), value })
    }
}

/// Longest `--env-file`, in bytes: it goes to the guest in one message.
const MAX_FILE: u64 = 1 << 20;

/// The flags that set variables.
#[derive(Args)]
#[group(skip)]
pub struct Arguments {
    /// Set a variable of the command's environment; KEY alone takes the value that it has here
    #[arg(short = 'e', long = "env", value_name = "KEY=VAL|KEY")]
    env: Vec<Variable>,
    /// Set the variables of a file: KEY=VAL or KEY a line, and comments that begin with #
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
}

impl Arguments {
    /// The variables: those of the files before the others.
    ///
    /// # Errors
    /// When a file cannot be read or is wrong, naming it and the line, but no value: it may be a secret.
    pub fn variables(&self) -> Result<Vec<Variable>> {
        let mut all = Vec::new();
        for path in &self.env_file {
            all.extend(of_file(path).with_context(|| format!("--env-file {}", path.display()))?);
        }
        all.extend(self.env.iter().cloned());
        Ok(all)
    }
}

fn of_file(path: &Path) -> Result<Vec<Variable>> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    ensure!(text.len() as u64 <= MAX_FILE, "it is too large: at most {MAX_FILE} bytes are allowed");
    let mut all = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if !line.is_empty() && !line.starts_with('#') {
            let variable = line.parse().map_err(|error| anyhow!("line {}: {error}", number + 1))?;
            all.push(variable);
        }
    }
    Ok(all)
}

/// The `defaults`, each KEY=VAL, with `variables`, of which the last of a name counts. One without a value that is not set here
/// is left out, as `docker run -e` does.
///
/// # Errors
/// When a value that is taken from here is not UTF-8.
pub fn with(defaults: &[String], variables: &[Variable]) -> Result<Vec<String>> {
    let key_of = |pair: &String| pair.split('=').next().unwrap_or_default().to_owned();
    let mut env: Vec<(String, String)> = defaults.iter().map(|pair| (key_of(pair), pair.clone())).collect();
    for Variable { key, value } in variables {
        let value = match (value, std::env::var_os(key)) {
            (Some(value), _) => value.clone(),
            (None, None) => continue,
            (None, Some(here)) => match here.into_string() {
                Ok(here) => here,
                // The value may be a secret.
                Err(_) => bail!("-e {key}: its value here is not UTF-8, as it must be"),
            },
        };
        env.retain(|(other, _)| other != key);
        env.push((key.clone(), format!("{key}={value}")));
    }
    Ok(env.into_iter().map(|(_, pair)| pair).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(texts: &[&str]) -> Vec<Variable> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn set(texts: &[&str]) -> Vec<String> {
        with(&[PATH.to_owned(), "HOME=/root".to_owned()], &variables(texts)).unwrap()
    }

    #[test]
    fn the_last_of_a_name_counts_and_what_is_not_set_is_left_out() {
        let env = set(&["A=1", "PATH=/bin", "A=two=2", "B=", "KRUNCTL_IS_NOT_SET"]);
        assert_eq!(env, ["HOME=/root", "PATH=/bin", "A=two=2", "B="]);
    }

    #[test]
    fn a_name_alone_takes_the_value_from_here() {
        let here = std::env::var("PATH").unwrap();
        assert_eq!(set(&["PATH"])[1], format!("PATH={here}"));
    }

    #[test]
    fn a_file_has_a_variable_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env");
        std::fs::write(&path, "# one\nA=1\n\n  B=x y # z\nPATH\n").unwrap();
        assert_eq!(of_file(&path).unwrap(), variables(&["A=1", "B=x y # z", "PATH"]));
        std::fs::write(&path, "A=1\n=secret\n").unwrap();
        let error = format!("{:#}", of_file(&path).unwrap_err());
        assert!(error.contains("line 2") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn a_name_is_needed() {
        for text in ["", "=", "=x"] {
            assert!(text.parse::<Variable>().unwrap_err().contains("KEY=VAL"));
        }
    }
}
