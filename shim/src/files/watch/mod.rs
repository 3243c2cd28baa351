//! Watching volumes: what the host changes in them is told to the guest, whose kernel keeps names and attributes for seconds
//! and hears of nothing by itself.
//!
//! Every directory of a volume has a mark of fanotify, and a file that is a volume its own. So nothing outside of a volume is
//! ever heard of, and what others do elsewhere on its file system costs nothing. (One mark for a whole file system would need
//! no walk, and wake every shim of a host at each write on it.) What moved out of a volume keeps its mark for a moment; so a
//! path is told only if it leads, without links, from the volume's top to what changed.
//!
//! What the guest itself writes is the vmm's doing, and is not told, unless several containers of the sandbox have the volume:
//! each of them has names and attributes of its own.
//!
//! It is bounded: the kernel's queue (16384 events), what is kept of a volume until the guest has been told ([`changes`]), and the
//! number of directories. Beyond, the guest is told to look again at everything.

mod changes;
mod event;
mod group;
mod handle;
mod tops;
mod volume;

use std::{
    collections::HashMap,
    io::{self, Read},
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::Path,
    time::Duration,
};

use guest_protocol::{api, failure::CallError};
use log::{info, warn};
use nix::sys::fanotify::{Fanotify, MaskFlags};
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::spawn_blocking,
    time::sleep,
};
use ttrpc::{Code, context};
use vm_launcher::Guest;

use crate::bundle::Volume as BundleVolume;

use changes::Changes;
use event::{Event, Named};
use group::group;
use volume::Volume;

pub use tops::Tops;

/// How many directories a group watches. Each keeps an inode of the host in memory.
const DIRECTORIES: usize = 8192;

/// How many groups a container has at most: see [`Watched::all`].
const GROUPS: usize = 4;

/// How long changes gather: what belongs together comes at once, such as a new file and its renaming to an old one's name.
const GATHER: Duration = Duration::from_millis(10);

/// How long after a look at everything the next may be.
const CALM: Duration = Duration::from_millis(250);

/// How long the guest may take to look again.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often the kernel's queue is read before the guest is told.
const READS: usize = 16;

/// Names that changed.
const NAMES: MaskFlags = MaskFlags::FAN_CREATE
    .union(MaskFlags::FAN_DELETE)
    .union(MaskFlags::FAN_MOVED_FROM)
    .union(MaskFlags::FAN_MOVED_TO);

/// Names that came.
const CAME: MaskFlags = MaskFlags::FAN_CREATE.union(MaskFlags::FAN_MOVED_TO);

/// Watched volumes of a container, by one group.
#[derive(Debug, Default)]
pub struct Watched {
    container: String,
    volumes: Vec<Volume>,
    group: Option<Fanotify>,
    /// How many directories may get marks yet, as far as it was counted.
    left: usize,
    /// The last count left none.
    is_full: bool,
    changes: Changes,
}

impl Watched {
    /// Watches the tops of those `volumes` that can be watched; the others are named in the log. It may hang with a source's
    /// file system.
    ///
    /// One group is enough but for btrfs: each of its subvolumes seems another file system, and a group that has one takes
    /// nothing else (EXDEV; Linux before 6.8 takes none). Source: `fanotify_set_mark_fsid` in the kernel's fs/notify/fanotify.
    pub fn all(container: &str, volumes: &[BundleVolume], tops: &Tops) -> Vec<Watched> {
        let mut all = Vec::new();
        let files = volumes.iter().enumerate().filter_map(|(number, volume)| match volume {
            BundleVolume::Files(volume) => Some((number as u32, volume)),
            BundleVolume::Socket(_) => None,
        });
        for (number, volume) in files {
            if let Err(error) = Watched::enter(&mut all, container, (number, volume), tops) {
                let path = volume.source.path().display();
                info!(
                    "{container}: what the host changes in {path} is seen late: it cannot be watched: {error}"
                );
            }
        }
        all
    }

    /// Watches a volume by the first group that takes it, or a new one.
    fn enter(
        all: &mut Vec<Watched>,
        container: &str,
        (number, volume): (u32, &crate::bundle::FileVolume),
        tops: &Tops,
    ) -> io::Result<()> {
        for watched in all.iter_mut() {
            match watched.add(number, volume, tops) {
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {}
                done => return done,
            }
        }
        if all.len() == GROUPS {
            return Err(io::Error::other(format!(
                "it needs a group of fanotify of its own, and {GROUPS} are in use"
            )));
        }
        let mut watched =
            Watched { container: container.to_owned(), left: DIRECTORIES, ..Watched::default() };
        watched.add(number, volume, tops)?;
        all.push(watched);
        Ok(())
    }

    fn add(&mut self, number: u32, volume: &crate::bundle::FileVolume, tops: &Tops) -> io::Result<()> {
        let group = match self.group.take() {
            Some(group) => group,
            None => group()?,
        };
        let group = self.group.insert(group);
        self.volumes.push(Volume::watch(group, number, volume, tops)?);
        Ok(())
    }

    /// The numbers of the volumes.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        self.volumes.iter().map(Volume::number)
    }

    /// Tells `guest` what changes, until it is dropped; but not what the process `vmm` does.
    pub async fn keep(self, guest: Guest, vmm: Option<u32>) {
        let container = self.container.clone();
        if let Err(error) = self.tell(guest, vmm).await {
            warn!("{container}: what the host changes in volumes is seen late from now on: {error}");
        }
    }

    async fn tell(self, guest: Guest, vmm: Option<u32>) -> io::Result<()> {
        let Some(group) = &self.group else { return Ok(()) };
        let queue = group.as_fd().try_clone_to_owned()?;
        // SAFETY: the descriptor is the AsyncFd's own until it is dropped, and always the same.
        let ready =
            unsafe { AsyncFd::register_with_interest(queue, Interest::READABLE) }.map_err(io::Error::from)?;
        let (mut watched, ()) = on_a_thread(self, Watched::mark_all).await?;
        let mut is_more = false;
        loop {
            if !is_more {
                ready.readable().await?.clear_ready();
                sleep(GATHER).await;
            }
            (watched, is_more) = on_a_thread(watched, move |watched| watched.collect(vmm)).await?;
            if let Some(mut request) = watched.changes.take() {
                request.container_id = watched.container.clone();
                let is_storm = !request.all.is_empty();
                let told = tell(&guest, request.clone()).await?;
                let is_refused = told.is_err();
                if let Err(error) = told {
                    watched.refused(&request, error)?;
                    is_more = true;
                }
                if is_storm || is_refused {
                    sleep(CALM).await;
                }
            }
        }
    }

    /// A guest that is late or fails is told later, all at once; one that knows no such call, or not the container, never.
    fn refused(&mut self, request: &api::LookAgainRequest, error: ttrpc::Error) -> io::Result<()> {
        const FINAL: [Code; 3] = [Code::UNIMPLEMENTED, Code::NOT_FOUND, Code::FAILED_PRECONDITION];
        match CallError::from(error) {
            CallError::Failed(failure) if FINAL.contains(&failure.code) => Err(io::Error::other(failure)),
            CallError::Failed(_) | CallError::Late => {
                let volumes = request.changed.iter().map(|changed| changed.volume).chain(request.all.clone());
                volumes.for_each(|volume| self.changes.add_all(volume));
                Ok(())
            }
            error @ CallError::Connection(_) => Err(io::Error::other(error)),
        }
    }

    /// Marks all directories that have no mark yet, and counts anew: those that went have given theirs back.
    fn mark_all(&mut self) {
        let Some(group) = &self.group else { return };
        self.left = DIRECTORIES;
        // Each has its share of them, and then those that need more what the others left.
        let mut all: Vec<_> = self.volumes.iter().map(|volume| (volume, 0)).collect();
        for _ in 0..2 {
            let mut count = all.len();
            all.retain_mut(|(volume, has)| {
                let most = *has + self.left / count;
                let mut left = most;
                // What is found is not news.
                volume.mark_below(group, Path::new(""), &mut left, |_, _| {});
                self.left -= (most - left).saturating_sub(*has);
                *has = most - left;
                count -= 1;
                left == 0
            });
        }
        let was_full = std::mem::replace(&mut self.is_full, self.left == 0);
        if self.is_full && !was_full {
            warn!(
                "{}: its volumes have more than {DIRECTORIES} directories: what the host changes in the others is seen late",
                self.container
            );
        }
    }

    /// Takes what the kernel has to tell. Whether there may be more.
    fn collect(&mut self, vmm: Option<u32>) -> bool {
        let Some(group) = &self.group else { return false };
        // The descriptor is the group's own.
        let Ok(mut queue) = group.as_fd().try_clone_to_owned().map(std::fs::File::from) else { return false };
        let mut buffer = vec![0; 1 << 16];
        // Where directories are, as far as it was asked: many events are of the same one.
        let mut known = HashMap::new();
        let (mut is_more, mut is_lost) = (true, false);
        for _ in 0..READS {
            let Ok(length) = queue.read(&mut buffer) else {
                is_more = false;
                break;
            };
            for event in event::parse(&buffer[..length]) {
                is_lost |= event.mask.contains(MaskFlags::FAN_Q_OVERFLOW);
                self.take(&event, vmm, &mut known);
            }
        }
        if is_lost || self.left == 0 && !self.is_full {
            self.lost();
        }
        is_more
    }

    /// Events were lost, or not acted on, new directories among them.
    fn lost(&mut self) {
        for volume in &self.volumes {
            self.changes.add_all(volume.number());
        }
        self.mark_all();
    }

    fn take(
        &mut self,
        event: &Event<'_>,
        vmm: Option<u32>,
        known: &mut HashMap<(usize, Vec<u8>), Option<Vec<u8>>>,
    ) {
        let Some(group) = &self.group else { return };
        let new_directory = event.mask.contains(MaskFlags::FAN_ONDIR) && event.mask.intersects(CAME);
        for (index, volume) in self.volumes.iter().enumerate() {
            if self.changes.is_all(volume.number()) && !new_directory {
                continue;
            }
            let own = vmm == Some(event.pid as u32) && !volume.is_shared();
            if let Some(file) = &event.file
                && volume.is_file(file)
            {
                if !own {
                    self.changes.add_itself(volume.number(), b"");
                }
                continue;
            }
            if own && !new_directory {
                continue;
            }
            let Some(Named { directory, name }) = &event.named else { continue };
            let key = (index, directory.to_vec());
            let path = known.entry(key).or_insert_with(|| volume.path_of(directory));
            let Some(path) = path else { continue };
            if !own {
                if *name == b"." {
                    self.changes.add_itself(volume.number(), path);
                } else {
                    self.changes.add(volume.number(), path, name, event.mask.intersects(NAMES));
                }
            }
            if new_directory && *name != b"." {
                let mut new = path.clone();
                if !new.is_empty() {
                    new.push(b'/');
                }
                new.extend(*name);
                let (changes, number) = (&mut self.changes, volume.number());
                // What was made in it before it had a mark was told to nobody.
                volume.mark_below(
                    group,
                    Path::new(std::ffi::OsStr::from_bytes(&new)),
                    &mut self.left,
                    |path, name| {
                        if !own {
                            changes.add(number, path, name, true);
                        }
                    },
                );
            }
        }
    }
}

/// Has the guest look again. A task of its own: a call that is given up while it is written is the end of the connection, and of
/// the VM.
async fn tell(guest: &Guest, request: api::LookAgainRequest) -> io::Result<ttrpc::Result<api::Empty>> {
    let client = guest.client.clone();
    let call =
        tokio::spawn(async move { client.look_again(context::with_duration(PATIENCE), &request).await });
    call.await.map_err(io::Error::other)
}

/// Runs `work`, which may hang with a file system of the host, where it holds up nobody.
async fn on_a_thread<T: Send + 'static>(
    mut watched: Watched,
    work: impl FnOnce(&mut Watched) -> T + Send + 'static,
) -> io::Result<(Watched, T)> {
    let done = spawn_blocking(move || {
        let result = work(&mut watched);
        (watched, result)
    });
    done.await.map_err(io::Error::other)
}

#[cfg(test)]
mod tests;
