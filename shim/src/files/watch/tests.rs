use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    bundle::FileVolume,
    files::{mount::ReadOnly, pin::Pinned},
};

fn volume(path: &Path) -> BundleVolume {
    BundleVolume::Files(FileVolume {
        source: Pinned::open(path).unwrap(),
        is_directory: path.is_dir(),
        recursive: true,
        read_only: ReadOnly::Nothing,
        follows: false,
        owners: None,
    })
}

/// All of what changes leads to, as paths, until `last` is among it.
fn told(watched: &mut Watched, last: &str) -> Vec<PathBuf> {
    let until = Instant::now() + Duration::from_secs(5);
    let mut told = Vec::new();
    while Instant::now() < until && !told.contains(&PathBuf::from(last)) {
        watched.collect(None);
        let request = watched.changes.take().unwrap_or_default();
        for changed in request.changed {
            let directory = Path::new(OsStr::from_bytes(&changed.directory));
            told.extend(changed.names.iter().map(|name| directory.join(OsStr::from_bytes(name))));
        }
    }
    told.sort();
    told
}

#[test]
fn what_changes_below_a_volume_is_told_and_nothing_else() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: what_changes_below_a_volume_is_told_and_nothing_else needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let [top, outside] = ["volume", "outside"].map(|name| dir.path().join(name));
    fs::create_dir_all(top.join("a/b")).unwrap();
    fs::create_dir(&outside).unwrap();
    symlink(&outside, top.join("link")).unwrap();
    let Some(mut watched) = Watched::all("c", &[volume(&top)], &Tops::default()).pop() else {
        // A file system that has no events.
        return;
    };
    watched.mark_all();
    fs::write(outside.join("secret"), "").unwrap();
    fs::write(top.join("link/secret"), "").unwrap();
    fs::write(top.join("a/b/file"), "").unwrap();
    fs::create_dir_all(top.join("new/deep")).unwrap();
    fs::write(top.join("new/deep/file"), "").unwrap();
    let seen = told(&mut watched, "new/deep/file");
    let expected = ["a/b/file", "new", "new/deep", "new/deep/file"].map(PathBuf::from);
    assert_eq!(seen, expected);

    // What leaves the volume keeps its mark, and nothing is told of it.
    fs::rename(top.join("a"), outside.join("moved")).unwrap();
    fs::write(outside.join("moved/b/secret"), "").unwrap();
    fs::write(top.join("end"), "").unwrap();
    assert_eq!(told(&mut watched, "end"), ["a", "end"].map(PathBuf::from));
}

#[test]
fn a_file_is_told_by_itself_and_not_what_the_guest_does() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: a_file_is_told_by_itself_and_not_what_the_guest_does needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "one").unwrap();
    let tops = Tops::default();
    let Some(mut watched) = Watched::all("c", &[volume(&file)], &tops).pop() else { return };
    fs::write(&file, "two").unwrap();
    fs::write(dir.path().join("other"), "").unwrap();
    watched.collect(Some(std::process::id()));
    assert!(watched.changes.take().is_none());
    fs::write(&file, "three").unwrap();
    watched.collect(None);
    let request = watched.changes.take().unwrap();
    assert!(
        matches!(&request.changed[..], [changed] if changed.itself && changed.names.is_empty()),
        "{request:?}"
    );

    // Another container has it too: what one does is news for the other.
    let _other = Watched::all("d", &[volume(&file)], &tops);
    fs::write(&file, "four").unwrap();
    watched.collect(Some(std::process::id()));
    assert!(watched.changes.take().is_some());
}

#[test]
fn directories_that_went_give_their_marks_back() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: directories_that_went_give_their_marks_back needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(mut watched) = Watched::all("c", &[volume(dir.path())], &Tops::default()).pop() else { return };
    watched.mark_all();
    watched.left = 1;
    fs::create_dir(dir.path().join("one")).unwrap();
    watched.collect(None);
    assert!(!watched.is_full && watched.left > 1, "{}", watched.left);
    assert_eq!(watched.changes.take().unwrap().all, [0]);
    fs::write(dir.path().join("one/file"), "").unwrap();
    assert_eq!(told(&mut watched, "one/file"), [PathBuf::from("one/file")]);
}
