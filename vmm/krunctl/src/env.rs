//! The environment of a command: a plain one, and what `-e` adds to it.

use anyhow::{Result, bail};

/// What every command has.
const DEFAULTS: [(&str, &str); 2] =
    [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/root")];

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

/// The defaults with `variables`, of which the last of a name counts. One without a value that is not set here is left out,
/// as `docker run -e` does.
///
/// # Errors
/// When a value that is taken from here is not UTF-8.
pub fn with(variables: &[Variable]) -> Result<Vec<String>> {
    let mut env: Vec<(&str, String)> = DEFAULTS.map(|(key, value)| (key, value.to_owned())).to_vec();
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
        env.push((key, value));
    }
    Ok(env.into_iter().map(|(key, value)| format!("{key}={value}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(texts: &[&str]) -> Vec<Variable> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_last_of_a_name_counts_and_what_is_not_set_is_left_out() {
        let env = with(&variables(&["A=1", "PATH=/bin", "A=two=2", "B=", "KRUNCTL_IS_NOT_SET"])).unwrap();
        assert_eq!(env, ["HOME=/root", "PATH=/bin", "A=two=2", "B="]);
    }

    #[test]
    fn a_name_alone_takes_the_value_from_here() {
        let here = std::env::var("PATH").unwrap();
        assert_eq!(with(&variables(&["PATH"])).unwrap()[1], format!("PATH={here}"));
    }

    #[test]
    fn a_name_is_needed() {
        for text in ["", "=", "=x"] {
            assert!(text.parse::<Variable>().unwrap_err().contains("KEY=VAL"));
        }
    }
}
