//! What changed since the guest was told, each name once. What does not fit is everything.

use std::collections::{BTreeMap, BTreeSet};

use guest_protocol::api::{Changed, LookAgainRequest};

/// How many names are kept. Those that the guest's kernel has not kept cost it little; for more than these, looking at everything is
/// cheaper.
const NAMES: usize = 4096;

/// How many bytes of names, and of their directories' paths, are kept, as they are sent: what is sent at once must fit in the
/// buffer of a socket (by default 208 KiB; socket(7), wmem_default), so that no deadline can pass in the middle of it.
const BYTES: usize = 96 << 10;

/// What one more name or directory takes besides itself when it is sent.
const OVERHEAD: usize = 16;

/// What changed in volumes.
#[derive(Debug, Default)]
pub struct Changes {
    /// By their numbers.
    volumes: BTreeMap<u32, In>,
    /// Of all volumes of which not everything changed.
    size: Size,
}

/// What changed in a volume.
#[derive(Debug)]
enum In {
    Everything,
    Some(Directories),
}

#[derive(Debug, Default)]
struct Directories {
    /// By their paths, so that a directory comes before those in it.
    changed: BTreeMap<Vec<u8>, Directory>,
    size: Size,
}

#[derive(Debug, Default, Clone, Copy)]
struct Size {
    names: usize,
    bytes: usize,
}

impl Size {
    fn add(&mut self, name: &[u8]) {
        self.names += 1;
        self.bytes += name.len() + OVERHEAD;
    }
}

#[derive(Debug, Default)]
struct Directory {
    names: BTreeSet<Vec<u8>>,
    itself: bool,
}

impl Changes {
    /// `name` in `directory` changed, and with it the directory if it `came_or_went`.
    pub fn add(&mut self, volume: u32, directory: &[u8], name: &[u8], came_or_went: bool) {
        self.change(volume, directory, |changed, size| {
            changed.itself |= came_or_went;
            if !changed.names.contains(name) {
                size.add(name);
                changed.names.insert(name.to_vec());
            }
        });
    }

    /// A directory changed itself, or a volume that is a file.
    pub fn add_itself(&mut self, volume: u32, directory: &[u8]) {
        self.change(volume, directory, |changed, _| changed.itself = true);
    }

    /// Anything may have changed.
    pub fn add_all(&mut self, volume: u32) {
        if let Some(In::Some(Directories { size, .. })) = self.volumes.insert(volume, In::Everything) {
            self.size.names -= size.names;
            self.size.bytes -= size.bytes;
        }
    }

    /// Whether anything in the volume may have changed: more cannot be told.
    pub fn is_all(&self, volume: u32) -> bool {
        matches!(self.volumes.get(&volume), Some(In::Everything))
    }

    fn change(&mut self, volume: u32, directory: &[u8], change: impl FnOnce(&mut Directory, &mut Size)) {
        let of = self.volumes.entry(volume).or_insert_with(|| In::Some(Directories::default()));
        let In::Some(Directories { changed, size }) = of else { return };
        let before = *size;
        if !changed.contains_key(directory) {
            // A directory counts as a name: it is looked at as well.
            size.add(directory);
            changed.insert(directory.to_vec(), Directory::default());
        }
        if let Some(changed) = changed.get_mut(directory) {
            change(changed, size);
        }
        self.size.names += size.names - before.names;
        self.size.bytes += size.bytes - before.bytes;
        if self.size.names > NAMES || self.size.bytes > BYTES {
            self.add_all(volume);
        }
    }

    /// What to tell the guest; none when nothing changed. Nothing is kept.
    pub fn take(&mut self) -> Option<LookAgainRequest> {
        if self.volumes.is_empty() {
            return None;
        }
        self.size = Size::default();
        let mut request = LookAgainRequest::default();
        for (volume, of) in std::mem::take(&mut self.volumes) {
            match of {
                In::Everything => request.all.push(volume),
                In::Some(directories) => {
                    request.changed.extend(directories.changed.into_iter().map(|(path, directory)| {
                        Changed {
                            volume,
                            directory: path,
                            names: directory.names.into_iter().collect(),
                            itself: directory.itself,
                            ..Default::default()
                        }
                    }));
                }
            }
        }
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once_and_parents_first() {
        let mut changes = Changes::default();
        changes.add(1, b"a/b", b"file", false);
        changes.add(1, b"a/b", b"file", true);
        changes.add(1, b"", b"a", false);
        changes.add_itself(1, b"a");
        let request = changes.take().unwrap();
        let told: Vec<_> = request
            .changed
            .iter()
            .map(|changed| (changed.directory.as_slice(), changed.names.len(), changed.itself))
            .collect();
        assert_eq!(told, [(&b""[..], 1, false), (b"a", 0, true), (b"a/b", 1, true)]);
        assert!(request.all.is_empty());
        assert!(changes.take().is_none());
    }

    #[test]
    fn what_does_not_fit_is_everything_of_its_volume() {
        let mut changes = Changes::default();
        changes.add(1, b"", b"name", true);
        for number in 0..100_000 {
            changes.add(2, b"", format!("{number}").as_bytes(), true);
            changes.add(3, format!("{number}").as_bytes(), b"name", true);
            changes.add(4, &[b'x'; 4000], &[b'y'; 255], true);
        }
        for number in 0..100 {
            changes.add_itself(5, &[number; 4000]);
        }
        let request = changes.take().unwrap();
        assert_eq!(request.all, [2, 3, 5]);
        assert_eq!(request.changed.len(), 2);
        assert!(changes.take().is_none());
    }
}
