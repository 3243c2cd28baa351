//! `--cap-add`, `--cap-drop` and `--ulimit`: what the command may do.

use std::str::FromStr;

use anyhow::{Result, bail};
use serde_json::{Value, json};

/// The default set of containerd and Docker. Source: containerd's `oci.defaultUnixCaps`.
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Those that it lacks. Source: capabilities(7).
const OTHERS: [&str; 27] = [
    "CAP_AUDIT_CONTROL",
    "CAP_AUDIT_READ",
    "CAP_BLOCK_SUSPEND",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
    "CAP_DAC_READ_SEARCH",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_LEASE",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MAC_ADMIN",
    "CAP_MAC_OVERRIDE",
    "CAP_NET_ADMIN",
    "CAP_NET_BROADCAST",
    "CAP_PERFMON",
    "CAP_SYSLOG",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_MODULE",
    "CAP_SYS_NICE",
    "CAP_SYS_PACCT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_WAKE_ALARM",
];

/// The capabilities of a command; a name may lack `CAP_`, and `ALL` is every one. Source: `docker run --cap-add`.
///
/// # Errors
/// When a name is none.
pub fn capabilities(add: &[String], drop: &[String]) -> Result<Vec<&'static str>> {
    let (add, drop) = (named("--cap-add", add)?, named("--cap-drop", drop)?);
    let all = DEFAULT.into_iter().chain(OTHERS);
    let has = |capability: &&str| match (add.contains(capability), drop.contains(capability)) {
        // One that is named in both is there, as when all are dropped and it is added.
        (true, _) => true,
        (false, dropped) => DEFAULT.contains(capability) && !dropped,
    };
    Ok(all.filter(has).collect())
}

fn named(flag: &str, names: &[String]) -> Result<Vec<&'static str>> {
    let mut found = Vec::new();
    for name in names {
        let wanted = name.to_ascii_uppercase();
        let mut all = DEFAULT.into_iter().chain(OTHERS);
        if wanted == "ALL" {
            found.extend(all);
            continue;
        }
        let wanted = wanted.strip_prefix("CAP_").unwrap_or(&wanted);
        match all.find(|capability| capability.strip_prefix("CAP_") == Some(wanted)) {
            Some(capability) => found.push(capability),
            None => bail!(
                "{flag} {name}: no such capability; it must be ALL, or one of capabilities(7), as NET_ADMIN"
            ),
        }
    }
    Ok(found)
}

/// The names of limits, as of setrlimit(2) in lower case. Source: `docker run --ulimit`.
const LIMITS: [&str; 15] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "sigpending",
    "stack",
];

/// A limit of the command's processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ulimit {
    kind: &'static str,
    soft: u64,
    hard: u64,
}

impl FromStr for Ulimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("it must be NAME=SOFT[:HARD], with a name of {}", LIMITS.join(", "));
        let (name, values) = text.split_once('=').ok_or_else(form)?;
        let kind = LIMITS.into_iter().find(|known| *known == name).ok_or_else(form)?;
        let number = |value: &str| match value {
            "-1" | "unlimited" => Ok(u64::MAX),
            value => value.parse().map_err(|_| format!("{value:?} is no number; -1 is no limit")),
        };
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let (soft, hard) = (number(soft)?, number(hard)?);
        if soft > hard {
            return Err(format!("{soft} is more than the hard limit, {hard}"));
        }
        Ok(Ulimit { kind, soft, hard })
    }
}

/// The limits of a command: these, and a number of open files that containers have elsewhere.
pub fn rlimits(limits: &[Ulimit]) -> Value {
    let mut all = vec![Ulimit { kind: "nofile", soft: 1024, hard: 4096 }];
    for limit in limits {
        all.retain(|other| other.kind != limit.kind);
        all.push(limit.clone());
    }
    let limit = |limit: &Ulimit| {
        let kind = format!("RLIMIT_{}", limit.kind.to_ascii_uppercase());
        json!({"type": kind, "soft": limit.soft, "hard": limit.hard})
    };
    all.iter().map(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(add: &[&str], drop: &[&str]) -> Result<Vec<&'static str>> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        capabilities(&owned(add), &owned(drop))
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        assert_eq!(set(&[], &[]).unwrap(), DEFAULT);
        assert_eq!(set(&["chown"], &["ALL"]).unwrap(), ["CAP_CHOWN"]);
        assert_eq!(set(&["ALL"], &[]).unwrap().len(), 41);
        let some = set(&["CAP_NET_ADMIN"], &["net_raw"]).unwrap();
        assert!(some.contains(&"CAP_NET_ADMIN") && !some.contains(&"CAP_NET_RAW"));
        assert!(set(&[], &["root"]).unwrap_err().to_string().contains("--cap-drop root"));
    }

    #[test]
    fn limits_replace_the_default_one() {
        let limits: Vec<Ulimit> =
            ["nofile=10:20", "core=-1", "core=0"].map(|text| text.parse().unwrap()).to_vec();
        assert_eq!(
            rlimits(&limits),
            json!([
                {"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            ])
        );
        for (text, words) in
            [("files=1", "nofile"), ("nofile", "NAME=SOFT"), ("nofile=2:1", "more than"), ("cpu=x", "x")]
        {
            assert!(text.parse::<Ulimit>().unwrap_err().contains(words), "{text}");
        }
    }
}
