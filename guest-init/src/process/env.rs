//! The environment of a container's process, as runc makes it: the spec's entries in their order, the last one of each
//! name, and HOME from the container's /etc/passwd if the spec has none.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Where users have their home directories, in the container.
const PASSWD: &str = "/etc/passwd";

/// Keeps libcontainer from looking for the user's home directory: it would do so by the C library, which loads what the
/// image's nsswitch.conf names and waits for a FIFO's writer. [`without_placeholder`] removes it again.
const PLACEHOLDER: &str = "HOME=\u{1}krun";

/// The entries for libcontainer.
pub fn with_placeholder(entries: &[String]) -> Vec<String> {
    let has_home = entries.iter().rev().find_map(|entry| entry.strip_prefix("HOME="));
    let placeholder = has_home.is_none_or(str::is_empty).then(|| PLACEHOLDER.to_owned());
    entries.iter().cloned().chain(placeholder).collect()
}

/// The entries of [`with_placeholder`] as they were before.
pub fn without_placeholder(entries: &[String]) -> &[String] {
    match entries.split_last() {
        Some((last, before)) if last == PLACEHOLDER => before,
        _ => entries,
    }
}

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

/// The value of `name`: the last one, as for a program.
pub fn lookup<'a>(env: &'a [String], name: &str) -> Option<&'a str> {
    env.iter().rev().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
}

/// The home directory of `uid`, seen from the root of this process.
pub fn home(uid: u32) -> Option<String> {
    home_in(Path::new(PASSWD), uid)
}

/// An image may have a FIFO or a device in the place of the file: neither is waited for or read.
fn home_in(passwd: &Path, uid: u32) -> Option<String> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(passwd).ok()?;
    file.metadata().ok().filter(|metadata| metadata.is_file())?;
    home_of(uid, file)
}

/// The home directory of `uid` in the passwd file `text`.
fn home_of(uid: u32, text: impl std::io::Read) -> Option<String> {
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
    #[test]
    fn what_is_no_regular_file_is_not_waited_for() {
        let dir = std::env::temp_dir().join(format!("passwd-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let path = |name: &str| dir.join(name);
        std::fs::write(path("passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        std::os::unix::fs::symlink("passwd", path("link")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path("zero")).unwrap();
        for name in ["unwritten", "written"] {
            nix::unistd::mkfifo(&path(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        let _writer = OpenOptions::new().read(true).write(true).open(path("written")).unwrap();
        for name in ["passwd", "link"] {
            assert_eq!(home_in(&path(name), 0).as_deref(), Some("/root"), "{name}");
        }
        for name in ["unwritten", "written", "zero", ".", "missing"] {
            assert_eq!(home_in(&path(name), 0), None, "{name}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_passwd_file_is_read_up_to_a_limit() {
        let mut text = "x:x:1:1::/x:/bin/sh\n".repeat(100_000);
        text.push_str("u:x:1000:1000::/home/u:/bin/sh\n");
        assert_eq!(home_of(1000, text.as_bytes()), None);
        assert_eq!(home_of(7, std::io::repeat(b'x')), None);
    }

    #[test]
    fn the_placeholder_is_only_there_where_libcontainer_would_look() {
        for env in [&["A=1"][..], &[], &["HOME="], &["HOME=/x", "HOME="]] {
            let prepared = with_placeholder(&strings(env));
            assert_eq!(prepared.len(), env.len() + 1, "{env:?}");
            assert_eq!(without_placeholder(&prepared), strings(env));
        }
        let own = strings(&["HOME=/h", "A=1"]);
        assert_eq!(with_placeholder(&own), own);
        assert_eq!(without_placeholder(&own), own);
    }
}
