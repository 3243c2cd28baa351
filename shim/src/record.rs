//! What a container gets on the host outside of its bundle, written down in the bundle before it is made: when the shim
//! dies, `delete` undoes what this says, and touches nothing else.
//!
//! The bundle is containerd's and root's, so its files are believed. A file that is not as it was written is not.

use std::{
    fs::OpenOptions,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The file's name in the bundle: one entry per line, in JSON.
const NAME: &str = "krun.record";

/// The largest record that is read, in bytes. One that we wrote has some hundreds.
const MAX_LENGTH: u64 = 64 << 10;

/// A cgroup of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// Its directory.
    pub path: PathBuf,
    /// systemd's name for it, `slice:prefix:name`, where systemd makes it.
    pub unit: Option<String>,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// This cgroup is not there, and is made now.
    MakingCgroup(Cgroup),
    /// We made it.
    MadeCgroup(Cgroup),
    /// Somebody else made it meanwhile, or it is removed.
    NoCgroup,
    /// Hooks begin to run.
    HooksBegan,
    /// The hooks after the end have run.
    HooksEnded,
    /// The hook of this number runs.
    HookRuns(u32),
    /// The hook that ran has ended, and so has what `delete` would have to end of it.
    HookEnded,
}

/// A container's record.
#[derive(Debug, Clone)]
pub struct Record {
    file: PathBuf,
}

/// What a record says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// The cgroup that was made.
    pub made: Option<Cgroup>,
    /// A cgroup that was not there before, and that we made unless somebody else did at the same moment.
    pub making: Option<Cgroup>,
    /// Hooks began, and those after the end have not run.
    pub hooked: bool,
    /// The number of the hook that was running.
    pub hook: Option<u32>,
}

impl Record {
    /// That of the container with this bundle.
    pub fn of(bundle: &Path) -> Record {
        Record { file: bundle.join(NAME) }
    }

    /// Writes an entry down.
    ///
    /// # Errors
    /// The file system's, naming the file.
    #[expect(clippy::disallowed_methods, reason = "the bundle is containerd's; a link there is not followed")]
    pub fn write(&self, entry: &Entry) -> Result<()> {
        let failed = |e: io::Error| Error::internal(format!("write {}", self.file.display())).because(e);
        let mut line = serde_json::to_vec(entry).map_err(|e| failed(e.into()))?;
        line.push(b'\n');
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        options.open(&self.file).and_then(|mut file| file.write_all(&line)).map_err(failed)
    }

    /// What it says; nothing when there is none.
    ///
    /// # Errors
    /// When it is not as it was written, naming the file.
    #[expect(clippy::disallowed_methods, reason = "the bundle is containerd's; a link there is not followed")]
    pub fn read(&self) -> Result<Recorded> {
        let failed = |e: io::Error| Error::internal(format!("read {}", self.file.display())).because(e);
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let file = match options.open(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Recorded::default()),
            opened => opened.map_err(failed)?,
        };
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(failed(io::Error::other("it is no file")));
        }
        let mut text = String::new();
        file.take(MAX_LENGTH + 1).read_to_string(&mut text).map_err(failed)?;
        if text.len() as u64 > MAX_LENGTH {
            return Err(failed(io::Error::other(format!("more than {MAX_LENGTH} bytes"))));
        }
        let mut recorded = Recorded::default();
        // A line without its end was cut off: what it says was not begun.
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            recorded.take(serde_json::from_str(line).map_err(|e| failed(e.into()))?);
        }
        Ok(recorded)
    }
}

impl Recorded {
    fn take(&mut self, entry: Entry) {
        match entry {
            Entry::MakingCgroup(cgroup) => self.making = Some(cgroup),
            Entry::MadeCgroup(cgroup) => (self.making, self.made) = (None, Some(cgroup)),
            Entry::NoCgroup => (self.making, self.made) = (None, None),
            Entry::HooksBegan => self.hooked = true,
            Entry::HooksEnded => self.hooked = false,
            Entry::HookRuns(number) => self.hook = Some(number),
            Entry::HookEnded => self.hook = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    fn cgroup(path: &str) -> Cgroup {
        Cgroup { path: path.into(), unit: None }
    }

    #[test]
    fn what_was_written_last_holds() {
        let bundle = tempfile::tempdir().unwrap();
        let record = Record::of(bundle.path());
        assert_eq!(record.read().unwrap(), Recorded::default());
        record.write(&Entry::MakingCgroup(cgroup("/a"))).unwrap();
        record.write(&Entry::HooksBegan).unwrap();
        record.write(&Entry::HookRuns(3)).unwrap();
        assert_eq!(record.read().unwrap().hook, Some(3));
        record.write(&Entry::HookEnded).unwrap();
        let recorded = record.read().unwrap();
        assert_eq!((recorded.making, recorded.made, recorded.hooked), (Some(cgroup("/a")), None, true));
        record.write(&Entry::MadeCgroup(cgroup("/a"))).unwrap();
        assert_eq!(record.read().unwrap().made, Some(cgroup("/a")));
        record.write(&Entry::HooksEnded).unwrap();
        record.write(&Entry::NoCgroup).unwrap();
        assert_eq!(record.read().unwrap(), Recorded::default());
    }

    #[test]
    fn an_entry_that_was_cut_off_is_none() {
        let bundle = tempfile::tempdir().unwrap();
        fs::write(bundle.path().join(NAME), "\"hooks_began\"\n{\"made_cgroup\":{\"pa").unwrap();
        assert_eq!(
            Record::of(bundle.path()).read().unwrap(),
            Recorded { hooked: true, ..Default::default() }
        );
    }

    #[test]
    fn what_we_did_not_write_is_refused() {
        for text in ["\"hooks\"\n", "\n", "{\"made_cgroup\":\"/a\"}\n", &"x".repeat(70_000)] {
            let bundle = tempfile::tempdir().unwrap();
            fs::write(bundle.path().join(NAME), text).unwrap();
            let error = Record::of(bundle.path()).read().unwrap_err().to_string();
            assert!(error.contains(NAME), "{error}");
        }
    }

    #[test]
    fn links_and_fifos_are_refused_at_once() {
        let bundle = tempfile::tempdir().unwrap();
        let (file, elsewhere) = (bundle.path().join(NAME), bundle.path().join("elsewhere"));
        fs::write(&elsewhere, "").unwrap();
        symlink(&elsewhere, &file).unwrap();
        let record = Record::of(bundle.path());
        record.read().unwrap_err();
        record.write(&Entry::HooksBegan).unwrap_err();
        assert_eq!(fs::read(&elsewhere).unwrap(), b"");
        fs::remove_file(&file).unwrap();
        mkfifo(&file, Mode::S_IRWXU).unwrap();
        record.read().unwrap_err();
        record.write(&Entry::HooksBegan).unwrap_err();
    }
}
