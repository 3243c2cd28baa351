//! The environment of a container's process, as runc makes it: the spec's entries in their order, the last one of each
//! name, and HOME from the container's /etc/passwd if the spec has none.

use std::io::{BufRead, BufReader};

/// The entries to execute with.
pub fn prepare(entries: &[String], home: Option<&str>) -> Vec<String> {
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut seen = std::collections::HashSet::new();
    let mut kept: Vec<String> =
        entries.iter().rev().filter(|entry| seen.insert(name(entry))).cloned().collect();
    kept.reverse();
    if !seen.contains("HOME") {
        kept.push(format!("HOME={}", home.unwrap_or("/")));
    }
    kept
}

/// The value of `name`.
pub fn lookup<'a>(env: &'a [String], name: &str) -> Option<&'a str> {
    env.iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
}

/// The home directory of `uid` in the passwd file `text`.
pub fn home_of(uid: u32, text: impl std::io::Read) -> Option<String> {
    // No passwd file is this long; a hostile one must not fill the memory.
    const LONGEST_FILE: u64 = 1 << 20;
    BufReader::new(text.take(LONGEST_FILE)).lines().map_while(Result::ok).find_map(|line| {
        let mut fields = line.split(':').skip(2);
        (fields.next()?.parse() == Ok(uid)).then(|| fields.nth(2).map(str::to_owned))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| s.to_string()).collect()
    }

    #[test]
    fn order_and_content_are_kept() {
        let env = strings(&["A=1\n2", "B=\"x=y\" ü", "HOME=/h", "EMPTY="]);
        assert_eq!(prepare(&env, Some("/root")), env);
    }

    #[test]
    fn the_last_of_a_name_wins() {
        let env = strings(&["A=1", "HOME=/", "A=2"]);
        assert_eq!(prepare(&env, None), strings(&["HOME=/", "A=2"]));
    }

    #[test]
    fn home_comes_from_passwd() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nu:x:1000:1000::/home/u:/bin/sh\n";
        assert_eq!(home_of(1000, passwd.as_bytes()).as_deref(), Some("/home/u"));
        assert_eq!(home_of(7, passwd.as_bytes()), None);
        assert_eq!(prepare(&[], Some("/home/u")), strings(&["HOME=/home/u"]));
        assert_eq!(prepare(&[], None), strings(&["HOME=/"]));
    }
}
