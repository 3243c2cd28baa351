//! What is known of a VM on disk: a directory of its own, whose files appear whole or not at all.
//!
//! | file | |
//! |---|---|
//! | `vm.json` | how it was made; never changes |
//! | `lock` | held by the command that starts, stops or deletes it |
//! | `keeper` | held by the process that keeps it, for as long as it runs |
//! | `started` | it was started, and its end is not written down |
//! | `end.json` | how it ended the last time |
//! | `log`, `log.1` | what its command has written |
//! | `keeper.log` | what its keeper has written the last time |

mod description;
mod directory;

use std::{
    fs::{self, DirBuilder, File},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use serde::{Serialize, de::DeserializeOwned};
use shim::failpoint;

use description::End;
pub use description::{Description, VERSION, now};
use directory::{all_vms, check, remove_tree, remove_unfinished, unfinished_name};
pub use directory::{exists, name, place};

const DESCRIPTION: &str = "vm.json";
const LOCK: &str = "lock";
const KEEPER: &str = "keeper";
const STARTED: &str = "started";
const END: &str = "end.json";

/// How a VM is.
#[derive(Debug, PartialEq, Eq)]
pub enum Condition {
    /// It was never started.
    Created,
    /// It runs.
    Running,
    /// Its command ended, with this status.
    Exited(u32),
    /// Its keeper was killed, or the host was.
    Lost,
}

/// The state of one VM.
pub struct State {
    name: String,
    directory: PathBuf,
}

impl State {
    /// Makes the state of a new VM.
    ///
    /// # Errors
    /// When the name is taken, or the disk's error; then nothing is left.
    pub fn create(name: &str, description: &Description) -> Result<State> {
        State::create_in(&all_vms(), name, description)
    }

    fn create_in(vms: &Path, name: &str, description: &Description) -> Result<State> {
        let failed = || format!("making the state of {name} in {}", vms.display());
        DirBuilder::new().recursive(true).mode(0o700).create(vms).with_context(failed)?;
        check(vms)?;
        remove_unfinished(vms);
        let unfinished = State { name: name.to_owned(), directory: vms.join(unfinished_name()) };
        let made = || -> Result<()> {
            DirBuilder::new().mode(0o700).create(&unfinished.directory)?;
            unfinished.write(DESCRIPTION, description)?;
            for lock in [LOCK, KEEPER] {
                File::create_new(unfinished.directory.join(lock))?;
            }
            failpoint!(blocking "command.state-made");
            let directory = vms.join(name);
            match fs::rename(&unfinished.directory, &directory) {
                Err(error)
                    if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) =>
                {
                    bail!("{}", taken(name))
                }
                renamed => Ok(renamed?),
            }
        };
        if let Err(error) = made() {
            let _ = remove_tree(&unfinished.directory);
            return Err(error.context(failed()));
        }
        Ok(State { name: name.to_owned(), directory: vms.join(name) })
    }

    /// Refuses a name that is taken.
    ///
    /// # Errors
    /// When it is.
    pub fn check_free(name: &str) -> Result<()> {
        match exists(name) {
            true => bail!("{}", taken(name)),
            false => Ok(()),
        }
    }

    /// The state of the VM of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(name: &str) -> Result<State> {
        let vms = all_vms();
        check(&vms)?;
        let directory = vms.join(name);
        match directory.is_dir() {
            true => Ok(State { name: name.to_owned(), directory }),
            false => Err(anyhow!("no VM is named {name}; `krunctl ls` shows those that there are")),
        }
    }

    /// The states of all VMs, by name.
    pub fn all() -> Result<Vec<State>> {
        let vms = all_vms();
        check(&vms)?;
        let entries = match fs::read_dir(&vms) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.with_context(|| format!("reading {}", vms.display()))?,
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<_> = names.filter(|entry| name(entry).is_ok()).collect();
        names.sort();
        Ok(names.into_iter().map(|name| State { directory: vms.join(&name), name }).collect())
    }

    /// The VM's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A file of it.
    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    /// How it was made.
    ///
    /// # Errors
    /// When that cannot be read, or is of another version.
    pub fn description(&self) -> Result<Description> {
        let description: Description = self.read(DESCRIPTION)?;
        if description.version != VERSION {
            let path = self.path(DESCRIPTION);
            bail!("{}: version {}: this krunctl knows {VERSION}", path.display(), description.version);
        }
        Ok(description)
    }

    /// How it is.
    ///
    /// # Errors
    /// When its files cannot be read.
    pub fn condition(&self) -> Result<Condition> {
        // Shared: others may ask at the same moment.
        if self.take(KEEPER, FlockArg::LockSharedNonblock)?.is_none() {
            return Ok(Condition::Running);
        }
        if self.path(STARTED).exists() {
            return Ok(Condition::Lost);
        }
        match self.path(END).exists() {
            true => Ok(Condition::Exited(self.read::<End>(END)?.status)),
            false => Ok(Condition::Created),
        }
    }

    /// Waits for other commands that change it, and keeps them off until this is dropped.
    ///
    /// # Errors
    /// When it was deleted meanwhile.
    pub fn lock(&self) -> Result<Flock<File>> {
        let locked = self.take(LOCK, FlockArg::LockExclusive)?;
        locked.filter(|_| self.directory.is_dir()).with_context(|| self.gone())
    }

    /// Marks it as one that this process keeps, until this is dropped. Waits for another that keeps it.
    ///
    /// # Errors
    /// When it was deleted meanwhile.
    pub fn keep(&self) -> Result<Flock<File>> {
        let mut kept = self.take(KEEPER, FlockArg::LockExclusive)?.with_context(|| self.gone())?;
        let written = kept.set_len(0).and_then(|()| write!(kept, "{}", std::process::id()));
        written.with_context(|| format!("writing {}", self.path(KEEPER).display()))?;
        Ok(kept)
    }

    /// The pid of the process that keeps it, or kept it.
    pub fn keeper(&self) -> Option<i32> {
        fs::read_to_string(self.path(KEEPER)).ok()?.trim().parse().ok()
    }

    /// Waits until no process keeps it.
    ///
    /// # Errors
    /// When it was deleted meanwhile.
    pub fn wait_for_keeper(&self) -> Result<()> {
        self.take(KEEPER, FlockArg::LockShared).map(drop)
    }

    /// Takes a lock; none when another has it, and this is not to wait.
    fn take(&self, lock: &str, how: FlockArg) -> Result<Option<Flock<File>>> {
        // It is made anew where somebody removed it: a VM that is broken is to be deleted.
        let mut options = File::options();
        let file = options.create(true).truncate(false).write(true).open(self.path(lock));
        let file = file.with_context(|| self.gone())?;
        match Flock::lock(file, how) {
            Ok(locked) => Ok(Some(locked)),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(errno).with_context(|| format!("locking {}", self.path(lock).display())),
        }
    }

    fn gone(&self) -> String {
        format!("the VM {} is gone, or its state is broken", self.name)
    }

    /// Notes that it is started.
    pub fn starting(&self) -> Result<()> {
        self.write(STARTED, &now())
    }

    /// Notes how it ended.
    pub fn ended(&self, status: u32) -> Result<()> {
        self.write(END, &End { status, at: now() })?;
        remove(&self.path(STARTED))
    }

    /// Notes that it could not be started.
    pub fn not_started(&self) -> Result<()> {
        remove(&self.path(STARTED))
    }

    /// Removes it with all that is in it.
    pub fn delete(self) -> Result<()> {
        let unfinished = self.directory.with_file_name(unfinished_name());
        let failed = || format!("removing {}", self.directory.display());
        fs::rename(&self.directory, &unfinished).with_context(failed)?;
        failpoint!(blocking "command.state-renamed");
        remove_tree(&unfinished).with_context(failed)
    }

    fn read<T: DeserializeOwned>(&self, file: &str) -> Result<T> {
        let path = self.path(file);
        let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{}", path.display()))
    }

    /// Writes a file so that it is there as a whole or not at all, also when the host is switched off.
    fn write(&self, file: &str, content: &impl Serialize) -> Result<()> {
        let (path, next) = (self.path(file), self.path(&format!(".{file}")));
        let write = || -> Result<()> {
            let mut options = File::options();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&next)?;
            file.write_all(&serde_json::to_vec_pretty(content)?)?;
            file.sync_all()?;
            fs::rename(&next, &path)?;
            File::open(&self.directory)?.sync_all()?;
            Ok(())
        };
        write().with_context(|| format!("writing {}", path.display()))
    }
}

fn taken(name: &str) -> String {
    format!("the name {name} is taken; `krunctl delete {name}` removes that VM")
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;
    use crate::root::Origin;

    fn description() -> Description {
        Description {
            version: VERSION,
            root: Origin::Directory("/".into()),
            shown: "/".to_owned(),
            stop_signal: 15,
            cpus: 1,
            memory: 512,
            options: String::new(),
            debug: false,
            inject: Vec::new(),
            network: serde_json::from_value(serde_json::json!({
                "mode": "tsi", "own": false, "allow_net": [], "allow_host": [], "deny_all": false, "resolver": false
            }))
            .unwrap(),
            spec: Value::Null,
            files: BTreeMap::new(),
            created: now(),
        }
    }

    #[test]
    fn a_name_is_taken_once_and_nothing_stays_of_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let vms = dir.path().join("vms");
        State::create_in(&vms, "web", &description()).unwrap();
        let error = format!("{:#}", State::create_in(&vms, "web", &description()).err().unwrap());
        assert!(error.contains("taken"), "{error}");
        assert_eq!(fs::read_dir(&vms).unwrap().count(), 1);
    }

    #[test]
    fn a_vm_is_created_started_lost_and_ended() {
        let dir = tempfile::tempdir().unwrap();
        let vms = dir.path().join("vms");
        let state = State::create_in(&vms, "web", &description()).unwrap();
        assert_eq!(state.condition().unwrap(), Condition::Created);
        let keeper = state.keep().unwrap();
        state.starting().unwrap();
        assert_eq!(state.condition().unwrap(), Condition::Running);
        drop(keeper);
        assert_eq!(state.condition().unwrap(), Condition::Lost);
        state.ended(7).unwrap();
        assert_eq!(state.condition().unwrap(), Condition::Exited(7));
        state.delete().unwrap();
        assert_eq!(fs::read_dir(&vms).unwrap().count(), 0);
    }

    #[test]
    fn what_is_broken_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let vms = dir.path().join("vms");
        let state = State::create_in(&vms, "web", &description()).unwrap();
        fs::write(state.path(DESCRIPTION), "{\"version\": 1").unwrap();
        let error = format!("{:#}", state.description().unwrap_err());
        assert!(error.contains("vm.json") && error.contains("EOF"), "{error}");
        let newer = Description { version: 2, ..description() };
        state.write(DESCRIPTION, &newer).unwrap();
        assert!(state.description().unwrap_err().to_string().contains("version 2"));
    }
}
