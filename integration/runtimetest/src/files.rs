//! `krun-runtimetest files NAME=DIRECTORY…`: what operations on files cost in each directory, by this machine's monotonic
//! clock. Prints `NAME: OPERATION MICROSECONDS` for each, and `end` last. Its files stay: to remove them from within a VM
//! takes longer than to measure.

use anyhow::{Context, Result};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::stat::{Mode, SFlag, mknod};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Few: a second of the clock that counts instructions takes a minute. The directory to be read has more.
const FILES: usize = 200;
const SMALL: usize = 4 << 10;
const NAMES: usize = 1000;
const LISTINGS: usize = 2;

const LARGE: usize = 16 << 20;
/// What cp reads and writes at once.
const CHUNK: usize = 128 << 10;
const PAGE: usize = 4 << 10;

const APPENDED: usize = 100;
const APPENDS: usize = 200;
const SYNCS: usize = 50;

/// Where a measured directory's files are.
const WITHIN: &str = "krun-measured";

/// What an operation is called, and microseconds for each.
type Cost = (&'static str, f64);

pub fn run(places: impl Iterator<Item = String>) -> Result<()> {
    let mut measured = Vec::new();
    for place in places {
        let (name, directory) =
            place.split_once('=').with_context(|| format!("{place}: no NAME=DIRECTORY"))?;
        let within = Path::new(directory).join(WITHIN);
        let costs = measure(&within).with_context(|| format!("measure in {directory}"))?;
        measured.push((name.to_owned(), within, costs));
    }
    let mut lines = String::new();
    for (name, within, mut costs) in measured {
        // Not before: a file system may look at what was removed a moment ago whenever it makes a file.
        unlink(&within, &mut costs)?;
        lines.extend(costs.0.iter().map(|(operation, micros)| format!("{name}: {operation} {micros:.3}\n")));
    }
    // Nor this: what reads it would run while the clock does.
    println!("{lines}end");
    Ok(())
}

/// Everything but unlink, in a directory that it makes.
fn measure(within: &Path) -> Result<Costs> {
    let mut costs = Costs::default();
    fs::create_dir(within).context("make a directory")?;
    small_files(within, &mut costs)?;
    large_directory(&within.join("names"), &mut costs)?;
    large_file(&within.join("large"), &mut costs)?;
    appends(&within.join("log"), &mut costs)?;
    Ok(costs)
}

/// A name for each of the small files.
fn paths(within: &Path, prefix: &str) -> Vec<PathBuf> {
    (0..FILES).map(|n| within.join(format!("{prefix}-{n}"))).collect()
}

#[derive(Default)]
struct Costs(Vec<Cost>);

impl Costs {
    /// Takes the time of `work`, which does the operation so many times.
    fn take(
        &mut self,
        operation: &'static str,
        times: usize,
        work: impl FnOnce() -> io::Result<()>,
    ) -> Result<()> {
        let begun = Instant::now();
        work().context(operation)?;
        self.0.push((operation, begun.elapsed().as_secs_f64() * 1e6 / times as f64));
        Ok(())
    }
}

fn small_files(within: &Path, costs: &mut Costs) -> Result<()> {
    let [files, renamed, missing] = ["file", "renamed", "missing"].map(|prefix| paths(within, prefix));
    let mut block = vec![b'.'; SMALL];

    costs.take("create+write 4 KiB", FILES, || files.iter().try_for_each(|file| fs::write(file, &block)))?;
    costs.take("stat", FILES, || files.iter().try_for_each(|file| fs::metadata(file).map(drop)))?;
    costs.take("stat of a missing name", FILES, || missing.iter().try_for_each(|path| is_missing(path)))?;
    costs.take("open+read+close 4 KiB", FILES, || {
        files.iter().try_for_each(|file| File::open(file)?.read_exact(&mut block))
    })?;
    costs.take("rename", FILES, || files.iter().zip(&renamed).try_for_each(|(old, new)| fs::rename(old, new)))
}

/// Removes what the renamed files are called.
fn unlink(within: &Path, costs: &mut Costs) -> Result<()> {
    let renamed = paths(within, "renamed");
    costs.take("unlink", FILES, || renamed.iter().try_for_each(fs::remove_file))
}

fn is_missing(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(_) => Err(ErrorKind::AlreadyExists.into()),
    }
}

fn large_directory(path: &Path, costs: &mut Costs) -> Result<()> {
    fs::create_dir(path).context("make the directory of names")?;
    for n in 0..NAMES {
        // Half as many calls as to create and close.
        mknod(&path.join(format!("name-{n}")), SFlag::S_IFREG, Mode::S_IRUSR, 0).context("make a name")?;
    }
    let lists = || {
        let names = fs::read_dir(path)?.try_fold(0, |count, entry| entry.map(|_| count + 1))?;
        if names == NAMES { Ok(()) } else { Err(io::Error::other(format!("{names} names of {NAMES}"))) }
    };
    costs.take("readdir, each of 1,000", NAMES * LISTINGS, || (0..LISTINGS).try_for_each(|_| lists()))
}

fn large_file(path: &Path, costs: &mut Costs) -> Result<()> {
    let mut chunk = vec![b'.'; CHUNK];
    costs.take("write 16 MiB", 1, || {
        let mut file = File::create_new(path)?;
        (0..LARGE / CHUNK).try_for_each(|_| file.write_all(&chunk))
    })?;
    costs.take("read 16 MiB", 1, || {
        let mut file = File::open(path)?;
        (0..LARGE / CHUNK).try_for_each(|_| file.read_exact(&mut chunk))
    })?;
    costs.take("mmap, read 16 MiB", 1, || touch(&File::open(path)?))
}

/// Maps the file as a loader does, and reads a byte of each page.
fn touch(file: &File) -> io::Result<()> {
    let length = NonZeroUsize::new(LARGE).ok_or(ErrorKind::InvalidInput)?;
    // SAFETY: a new mapping, at an address of the kernel's choice, takes nothing from anybody.
    let start = unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, file, 0) }?;
    for offset in (0..LARGE).step_by(PAGE) {
        // SAFETY: within the mapping, and the file, which nobody else has, is as long.
        std::hint::black_box(unsafe { start.cast::<u8>().add(offset).read_volatile() });
    }
    // SAFETY: the whole mapping from above, to which nothing points any more.
    unsafe { munmap(start, LARGE) }.map_err(io::Error::from)
}

fn appends(path: &Path, costs: &mut Costs) -> Result<()> {
    let line = [b'.'; APPENDED];
    let mut file = OpenOptions::new().append(true).create_new(true).open(path).context("make a log")?;
    costs.take("append 100 bytes", APPENDS, || (0..APPENDS).try_for_each(|_| file.write_all(&line)))?;
    costs.take("append 100 bytes+fsync", SYNCS, || {
        (0..SYNCS).try_for_each(|_| file.write_all(&line).and_then(|()| file.sync_all()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_operation_has_a_cost_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let within = directory.path().join(WITHIN);
        let mut costs = measure(&within).unwrap();
        unlink(&within, &mut costs).unwrap();
        let names: BTreeSet<_> = costs.0.iter().map(|(name, _)| name).collect();
        assert_eq!((names.len(), costs.0.len()), (12, 12));
        assert!(costs.0.iter().all(|(_, micros)| *micros > 0.0), "{:?}", costs.0);
    }

    #[test]
    fn what_another_left_is_not_measured() {
        let directory = tempfile::tempdir().unwrap();
        assert!(measure(directory.path()).is_err());
    }
}
