//! The store, with images that nobody had to pull.

use std::{fs, os::unix::fs::PermissionsExt};

use super::*;
use crate::{
    limits::Budget,
    testing::{config, layer, root},
};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("images")).unwrap();
    (dir, store)
}

fn layers(files: &[&str]) -> Vec<Vec<u8>> {
    files.iter().map(|name| layer(&[(name, "x")])).collect()
}

fn unpack(store: &Store, bytes: &[u8]) -> Result<Layer> {
    store.unpack(&Digest::of(bytes), Fetched { packed: bytes, blob: None }, &Budget::new(1 << 30))
}

/// An image of layers with one file each.
fn add(store: &Store, reference: &str, files: &[&str]) -> Image {
    let bytes = layers(files);
    let layers: Vec<_> = bytes.iter().map(|bytes| unpack(store, bytes).unwrap()).collect();
    let config = config(&bytes);
    let record = Record {
        reference: refs::parse(reference).unwrap().whole(),
        manifest: None,
        config: Digest::of(&config),
        layers: bytes.iter().map(|bytes| Digest::of(bytes)).collect(),
        imported_from: None,
    };
    store.add(record, &config, &layers).unwrap()
}

fn count(store: &Store, directory: &str) -> usize {
    fs::read_dir(store.path().join(directory)).unwrap().count()
}

#[test]
fn a_store_is_its_users_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/images");
    let store = Store::open(&path).unwrap();
    assert_eq!(fs::metadata(store.path()).unwrap().permissions().mode() & 0o7777, 0o700);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(&error, Error::Store { why, .. } if why.contains("0750")), "{error}");
    std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).unwrap();
    assert!(matches!(Store::open(dir.path().join("link")), Err(Error::Store { .. })));
    if rustix::process::geteuid().is_root() {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(&path, Some(1000), None).unwrap();
        assert!(matches!(Store::open(&path), Err(Error::Store { .. })));
    }
}

#[test]
fn an_image_is_found_by_its_reference_in_any_form() {
    if !root() {
        return;
    }
    let (_dir, store) = store();
    add(&store, "alpine", &["a", "b"]);
    for name in ["alpine", "alpine:latest", "docker.io/library/alpine:latest"] {
        let image = store.find(name).unwrap().unwrap();
        let names: Vec<_> = image.layers().iter().map(|layer| layer.path().join("a").exists()).collect();
        assert_eq!(names, [true, false]);
    }
    assert!(store.find("alpine:3").unwrap().is_none());
    for wrong in ["", "UPPER", "a b", "../x", "a:", "a@sha256:1", "a@md5:d41d8cd98f00b204e9800998ecf8427e"] {
        assert!(matches!(store.find(wrong), Err(Error::Reference { .. } | Error::Digest(_))), "{wrong}");
    }
}

#[test]
fn a_plain_reference_is_looked_up_by_what_it_is_in_full() {
    let digest = format!("a@sha256:{}", "0".repeat(64));
    for reference in [
        "alpine",
        "alpine:3.22",
        "a/b",
        "a/b:1",
        "localhost/a",
        "localhost:5000/a:1",
        "r.example/a/b",
        "docker.io/a/b",
        "docker.io/library/a:1",
        &digest,
    ] {
        assert_eq!(refs::in_full(reference), refs::parse(reference).unwrap().whole(), "{reference}");
    }
}

#[test]
fn a_file_of_a_reference_stays_in_its_directory_however_long_its_name() {
    let (_dir, store) = store();
    let long = format!("r.example/{}:v", "a/".repeat(100) + "b");
    for reference in ["r.example:5000/a/b:v1.2_3", &long, "../../etc/passwd", ".hidden"] {
        let path = refs::path(&store, reference);
        assert_eq!(path.parent(), Some(store.path().join("refs").as_path()), "{reference}");
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name.len() <= 255 && !name.starts_with('.'), "{name}");
    }
    assert_eq!(refs::path(&store, "a.b/c-d_e:f").file_name().unwrap(), "a.b%2Fc-d_e%3Af");
}

#[test]
fn what_only_a_removed_reference_had_is_removed() {
    if !root() {
        return;
    }
    let (_dir, store) = store();
    drop(add(&store, "one", &["base", "one"]));
    drop(add(&store, "two", &["base", "two"]));
    let records = store.list().unwrap();
    let sizes = store.sizes(&records).unwrap();
    let removed = store.remove("one").unwrap();
    assert_eq!((removed.references, removed.layers, removed.in_use), (1, 1, 0));
    assert!(removed.bytes > 0 && removed.bytes < sizes[0], "{removed:?} of {sizes:?}");
    assert!(store.find("one").unwrap().is_none() && store.find("two").unwrap().is_some());
    assert_eq!((count(&store, "layers"), count(&store, "configs"), count(&store, "tmp")), (2, 1, 0));
    assert_eq!(store.remove("one").unwrap(), Removed::default());
    assert_eq!(store.remove("two").unwrap().layers, 2);
    assert_eq!((count(&store, "layers"), count(&store, "configs"), count(&store, "refs")), (0, 0, 0));
}

#[test]
fn what_is_in_use_stays_until_it_is_not() {
    if !root() {
        return;
    }
    let (_dir, store) = store();
    let image = add(&store, "one", &["a", "b"]);
    assert_eq!(store.prune(|_| true).unwrap(), Removed::default());
    let removed = Removed { references: 1, layers: 0, bytes: 0, in_use: 2 };
    assert_eq!(store.remove("one").unwrap(), removed);
    assert!(image.layers()[0].path().join("a").exists());
    assert_eq!(store.prune(|_| false).unwrap().in_use, 2);
    drop(image);
    let removed = store.prune(|_| false).unwrap();
    assert_eq!((removed.references, removed.layers, removed.in_use), (0, 2, 0));
    assert_eq!((count(&store, "layers"), count(&store, "tmp")), (0, 0));
}

#[test]
fn images_that_nobody_wants_go_and_the_others_stay() {
    if !root() {
        return;
    }
    let (_dir, store) = store();
    drop(add(&store, "one", &["base", "one"]));
    drop(add(&store, "two", &["base", "two"]));
    drop(add(&store, "none", &[]));
    let removed = store.prune(|record| !record.reference.contains("two")).unwrap();
    assert_eq!((removed.references, removed.layers), (2, 1));
    assert!(store.find("one").unwrap().is_none() && store.find("two").unwrap().is_some());
}

#[test]
fn a_reference_that_moves_on_leaves_its_layers_to_prune() {
    if !root() {
        return;
    }
    let (_dir, store) = store();
    drop(add(&store, "one", &["old"]));
    drop(add(&store, "one", &["new"]));
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(store.prune(|_| false).unwrap().layers, 1);
    assert!(store.find("one").unwrap().unwrap().layers()[0].path().join("new").exists());
}

#[test]
fn what_a_killed_process_left_goes_away_but_not_what_another_is_making() {
    let (_dir, store) = store();
    let left = store.path().join("tmp/left");
    fs::create_dir_all(left.join("layer/a")).unwrap();
    let making = Temp::new(&store).unwrap();
    Store::open(store.path()).unwrap();
    assert!(!left.exists() && making.path().exists());
    let path = making.path().to_owned();
    drop(making);
    assert!(!path.exists());
}

#[test]
fn a_layer_with_another_digest_does_not_appear() {
    if !root() {
        return;
    }
    let (_dir, store) = store();
    let bytes = layer(&[("a", "x")]);
    let (wanted, budget) = (Digest::of(b"other"), Budget::new(1 << 30));
    let done = store.unpack(&wanted, Fetched { packed: &bytes[..], blob: None }, &budget);
    assert!(matches!(done, Err(Error::Mismatch { .. })));
    let packed = |declared: &[u8]| {
        let blob = Some(crate::testing::blob(declared));
        store.unpack(&Digest::of(&bytes), Fetched { packed: &bytes[..], blob }, &budget)
    };
    assert!(matches!(packed(b"other"), Err(Error::TooLong { .. })));
    // It unpacks to what it should, but it is not what was declared.
    assert!(matches!(packed(&vec![0; bytes.len()]), Err(Error::Mismatch { .. })));
    assert_eq!((count(&store, "layers"), count(&store, "tmp")), (0, 0));
}

#[test]
fn two_that_unpack_the_same_layer_both_have_it() {
    if !root() {
        return;
    }
    let (_dir, store) = store();
    let bytes = layer(&[("a", "x")]);
    let (first, second) = (unpack(&store, &bytes).unwrap(), unpack(&store, &bytes).unwrap());
    assert_eq!(first.directory().metadata().unwrap().ino(), second.directory().metadata().unwrap().ino());
    assert_eq!((count(&store, "layers"), count(&store, "tmp")), (1, 0));
}

#[test]
fn an_image_has_each_layer_once_and_none_that_nothing_appears_of() {
    if !root() {
        return;
    }
    let (_dir, store) = store();
    let shown = |reference, files: &[&str]| -> Vec<_> {
        let image = add(&store, reference, files);
        let bytes = layers(files);
        let of = |layer: &Layer| {
            files[bytes.iter().position(|bytes| Digest::of(bytes) == *layer.digest()).unwrap()]
        };
        image.layers().iter().map(of).map(str::to_owned).collect()
    };
    assert_eq!(shown("twice", &["a", "b", "a"]), ["b", "a"]);
    assert_eq!(shown("opaque", &["a", ".wh..wh..opq", "b"]), [".wh..wh..opq", "b"]);
}

#[test]
fn overlayfs_gets_the_top_layer_first_and_all_of_them_in_a_page() {
    if !root() {
        return;
    }
    let (_dir, store) = store();
    let names: Vec<_> = (0..crate::MAX_LAYERS).map(|number| number.to_string()).collect();
    let image = add(&store, "many", &names.iter().map(String::as_str).collect::<Vec<_>>());
    let lowerdir = image.lowerdir();
    let paths: Vec<_> = lowerdir.split(':').map(Path::new).collect();
    assert_eq!(paths.len(), crate::MAX_LAYERS);
    assert!(paths[0].join("127").exists() && paths[127].join("0").exists());
    assert!(lowerdir.len() < 4096 - 512, "{} bytes", lowerdir.len());
}

#[test]
fn an_image_that_lost_a_layer_is_not_there() {
    if !root() {
        return;
    }
    let (_dir, store) = store();
    let path = add(&store, "one", &["a"]).layers()[0].path().to_owned();
    fs::remove_dir_all(path).unwrap();
    assert!(store.find("one").unwrap().is_none());
}
