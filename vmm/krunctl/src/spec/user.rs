//! `-u`: who the command is, by the root file system's own lists of users and groups.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use anyhow::{Context, Result, bail};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// The most that is read of a list, in bytes.
const MAX_LIST: u64 = 4 << 20;

/// A user in a container.
#[derive(Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// The other groups.
    pub groups: Vec<u32>,
    /// The home directory, if the list has one.
    pub home: Option<String>,
}

/// A user as `-u` names it, and the group.
enum Name<'a> {
    Number(u32),
    Text(&'a str),
}

impl Name<'_> {
    fn of(text: &str) -> Name<'_> {
        text.parse().map_or(Name::Text(text), Name::Number)
    }

    /// Whether an entry of a list is the one that is meant.
    fn is(&self, entry: &[&str]) -> bool {
        match self {
            Name::Number(number) => entry.get(2).is_some_and(|field| field.parse() == Ok(*number)),
            Name::Text(text) => entry.first() == Some(text),
        }
    }
}

/// Finds `named`, which is `USER` or `USER:GROUP`, each a name or a number, in the file system whose root is `root`.
///
/// A number need not be in a list. Without a group, it is the user's own, as for `docker run -u`.
///
/// # Errors
/// When a name is in no list, naming it and the list.
pub fn find(root: &File, named: &str) -> Result<User> {
    let (user, group) = match named.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (named, None),
    };
    let is_wrong = user.is_empty() || group == Some("");
    if is_wrong {
        bail!("the user {named:?}: it must be USER or USER:GROUP, each a name or a number");
    }
    let wanted = Name::of(user);
    let entry = entries(root, "etc/passwd").into_iter().find(|entry| wanted.is(&fields(entry)));
    let entry = entry.as_deref().map(fields).unwrap_or_default();
    let number = |field: usize| entry.get(field).and_then(|text| text.parse().ok());
    let uid = match (number(2), wanted) {
        (Some(uid), _) | (None, Name::Number(uid)) => uid,
        (None, Name::Text(name)) => {
            bail!("the user {named}: no {name:?} in /etc/passwd of the root file system")
        }
    };
    let home = entry.get(5).filter(|home| home.starts_with('/')).map(|home| (*home).to_owned());
    let lists = entries(root, "etc/group");
    let (gid, groups) = match group {
        Some(group) => (gid_of(&lists, group, named)?, Vec::new()),
        None => (number(3).unwrap_or(0), groups_of(&lists, entry.first().copied())),
    };
    Ok(User { uid, gid, groups, home })
}

fn gid_of(lists: &[String], group: &str, named: &str) -> Result<u32> {
    let wanted = Name::of(group);
    let entry = lists.iter().map(|line| fields(line)).find(|entry| wanted.is(entry));
    match (entry.and_then(|entry| entry.get(2)?.parse().ok()), wanted) {
        (Some(gid), _) | (None, Name::Number(gid)) => Ok(gid),
        (None, Name::Text(name)) => {
            bail!("the user {named}: no {name:?} in /etc/group of the root file system")
        }
    }
}

/// The groups that list `user` as a member.
fn groups_of(lists: &[String], user: Option<&str>) -> Vec<u32> {
    let Some(user) = user else { return Vec::new() };
    let has = |members: &str| members.split(',').any(|member| member == user);
    let entries = lists.iter().map(|line| fields(line));
    let of = entries.filter(|entry| entry.get(3).is_some_and(|members| has(members)));
    of.filter_map(|entry| entry.get(2)?.parse().ok()).collect()
}

fn fields(line: &str) -> Vec<&str> {
    line.split(':').collect()
}

/// The lines of a list; none when there is no such file. The image may have put anything in its place, so it is opened
/// inside of the root, and only a regular file is read.
fn entries(root: &File, list: &str) -> Vec<String> {
    let open = || -> Result<Vec<String>> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(flags).resolve(resolve);
        let file = File::from(openat2(root, Path::new(list), how)?);
        if !file.metadata()?.is_file() {
            bail!("no file");
        }
        let lines = BufReader::new(file.take(MAX_LIST)).lines();
        lines.collect::<Result<_, _>>().context("reading")
    };
    open().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn root(passwd: &str, group: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/passwd"), passwd).unwrap();
        fs::write(root.path().join("etc/group"), group).unwrap();
        root
    }

    fn find_in(root: &tempfile::TempDir, named: &str) -> Result<(u32, u32, Vec<u32>)> {
        let user = find(&File::open(root.path()).unwrap(), named)?;
        Ok((user.uid, user.gid, user.groups))
    }

    #[test]
    fn users_and_groups_have_names_and_numbers() {
        let root =
            root("root:x:0:0::/root:/bin/sh\napp:x:7:8::/srv:/x\n", "app:x:8:\nadm:x:4:app,b\nx:x:9:b\n");
        assert_eq!(find_in(&root, "app").unwrap(), (7, 8, vec![4]));
        assert_eq!(find_in(&root, "7").unwrap(), (7, 8, vec![4]));
        assert_eq!(find_in(&root, "app:x").unwrap(), (7, 9, vec![]));
        assert_eq!(find_in(&root, "1000").unwrap(), (1000, 0, vec![]));
        assert_eq!(find_in(&root, "1000:100").unwrap(), (1000, 100, vec![]));
        let home = |named| find(&File::open(root.path()).unwrap(), named).unwrap().home;
        assert_eq!((home("app").as_deref(), home("1000")), (Some("/srv"), None));
    }

    #[test]
    fn a_name_that_is_in_no_list_is_refused() {
        let root = root("root:x:0:0::/root:/bin/sh\n", "");
        for (named, word) in [("bob", "\"bob\" in /etc/passwd"), ("root:adm", "\"adm\" in /etc/group")] {
            let error = find_in(&root, named).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        for named in ["", ":", "root:", ":0"] {
            assert!(find_in(&root, named).unwrap_err().to_string().contains("USER:GROUP"), "{named}");
        }
    }

    #[test]
    fn a_list_that_leads_out_of_the_root_is_not_read() {
        let root = root("", "");
        fs::remove_file(root.path().join("etc/passwd")).unwrap();
        symlink("/proc/self/environ", root.path().join("etc/passwd")).unwrap();
        assert!(find_in(&root, "root").is_err());
        fs::remove_file(root.path().join("etc/passwd")).unwrap();
        symlink("/etc/shadow-of-root", root.path().join("etc/passwd")).unwrap();
        fs::write(root.path().join("etc/shadow-of-root"), "bob:x:5:6::/:\n").unwrap();
        assert_eq!(find_in(&root, "bob").unwrap(), (5, 6, vec![]));
    }
}
