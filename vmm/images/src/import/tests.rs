//! Imports of files that are right, and of those that lie.

use std::{fs, path::Path};

use super::*;
use crate::testing::{blob, config, gzip, index, layer, manifest, root};

const UNPACKED: u64 = 1 << 30;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("images")).unwrap();
    (dir, store)
}

type Files = Vec<(String, Vec<u8>)>;

fn unpacked() -> Vec<Vec<u8>> {
    vec![layer(&[("a", "1")]), layer(&[("b", "2")])]
}

/// A layout with an image of two layers, in an index of an index.
fn layout() -> Files {
    let config = config(&unpacked());
    let packed: Vec<_> = unpacked().iter().map(|layer| gzip(layer)).collect();
    let blobs: Vec<_> = packed.iter().map(|packed| blob(packed)).collect();
    let manifest = manifest(&blob(&config), &blobs);
    let inner = index(&[("arm64", &blob(b"absent")), ("amd64", &blob(&manifest))]);
    let outer = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": Digest::of(&inner), "size": inner.len(),
        "annotations": {"org.opencontainers.image.ref.name": "r.example/app:v1"},
    }]});
    let mut files = vec![
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json".to_owned(), outer.to_string().into_bytes()),
    ];
    let blobs = [config, manifest, inner].into_iter().chain(packed);
    files.extend(blobs.map(|bytes| (format!("blobs/sha256/{}", Digest::of(&bytes).hex()), bytes)));
    files
}

/// What `docker save` made for long.
fn saved() -> Files {
    let (config, layers) = (config(&unpacked()), unpacked());
    let name = format!("{}.json", Digest::of(&config).hex());
    let manifest = serde_json::json!([{
        "Config": name, "RepoTags": ["app:v1", "app:v2"], "Layers": ["1/layer.tar", "2/layer.tar"],
    }]);
    vec![
        ("manifest.json".into(), manifest.to_string().into_bytes()),
        (name, config),
        ("1/layer.tar".into(), layers[0].clone()),
        ("2/layer.tar".into(), layers[1].clone()),
    ]
}

fn directory(at: &Path, files: &Files) {
    for (name, bytes) in files {
        let path = at.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

fn archive(files: &Files) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        archive.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    archive.into_inner().unwrap()
}

fn import(store: &Store, bytes: &[u8], name: Option<&str>) -> Result<Vec<Image>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("archive");
    fs::write(&path, bytes).unwrap();
    store.import(&path, name, UNPACKED)
}

fn check(image: &Image, reference: &str) {
    assert_eq!(image.record().reference, reference);
    let text = |number: usize, name| fs::read_to_string(image.layers()[number].path().join(name)).unwrap();
    assert_eq!((text(0, "a"), text(1, "b")), ("1".into(), "2".into()));
    assert_eq!(image.config().cmd, ["serve"]);
}

#[test]
fn a_layout_is_imported_as_a_directory_and_as_an_archive_packed_or_not() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    directory(dir.path(), &layout());
    let plain = archive(&layout());
    let zstd = zstd::encode_all(&plain[..], 1).unwrap();
    type Import<'a> = &'a dyn Fn(&Store) -> Result<Vec<Image>>;
    let sources: [Import; 4] = [
        &|store| store.import(dir.path(), None, UNPACKED),
        &|store| import(store, &plain, None),
        &|store| import(store, &gzip(&plain), None),
        &|store| import(store, &zstd, None),
    ];
    for source in sources {
        let (_dir, store) = store();
        let images = source(&store).unwrap();
        check(&images[0], "r.example/app:v1");
        let record = images[0].record();
        assert!(images.len() == 1 && record.manifest.is_some());
        assert!(record.imported_from.as_ref().is_some_and(|path| path.starts_with('/')), "{record:?}");
        assert_eq!(fs::read_dir(store.path().join("tmp")).unwrap().count(), 0);
    }
}

#[test]
fn what_docker_save_wrote_is_imported_under_each_of_its_names() {
    if !root() {
        return;
    }
    let (_dir, store) = store();
    let images = import(&store, &archive(&saved()), None).unwrap();
    check(&images[0], "docker.io/library/app:v1");
    check(&images[1], "docker.io/library/app:v2");
    let images = import(&store, &archive(&saved()), Some("mine")).unwrap();
    assert_eq!(images.len(), 1);
    check(&images[0], "docker.io/library/mine:latest");
}

#[test]
fn an_image_without_a_name_gets_one_of_its_id() {
    if !root() {
        return;
    }
    let (_dir, store) = store();
    let mut files = saved();
    let text = String::from_utf8(files[0].1.clone()).unwrap();
    files[0].1 = text.replace(r#"["app:v1","app:v2"]"#, "null").into_bytes();
    let images = import(&store, &archive(&files), None).unwrap();
    check(&images[0], &format!("localhost/imported:{}", &Digest::of(&config(&unpacked())).hex()[..12]));
}

#[test]
fn a_link_in_an_archive_is_another_name_in_it() {
    if !root() {
        return;
    }
    let mut files = saved();
    let (name, bytes) = files.remove(2);
    files.push(("shared/layer.tar".into(), bytes));
    let linked = |target: &str| {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        archive.append_link(&mut header, &name, target).unwrap();
        let mut bytes = archive.into_inner().unwrap();
        bytes.truncate(bytes.len() - 1024);
        bytes.extend(super::tests::archive(&files));
        bytes
    };
    let (_dir, store) = store();
    check(&import(&store, &linked("../shared/layer.tar"), None).unwrap()[0], "docker.io/library/app:v1");
    let (_dir, store) = self::store();
    for away in ["../../etc/passwd", "/etc/passwd", "layer.tar"] {
        assert!(matches!(import(&store, &linked(away), None), Err(Error::NoImage { .. })), "{away}");
    }
}

#[test]
fn bytes_of_a_layout_must_have_their_sizes_and_digests() {
    if !root() {
        return;
    }
    for number in 2..layout().len() {
        let (_dir, store) = store();
        let mut wrong = layout();
        wrong[number].1[20] ^= 1;
        let error = import(&store, &archive(&wrong), None).unwrap_err();
        assert!(matches!(error, Error::Mismatch { .. }), "{number}: {error}");
        let mut short = layout();
        short[number].1.pop();
        let error = import(&store, &archive(&short), None).unwrap_err();
        assert!(matches!(error, Error::Truncated { .. }), "{number}: {error}");
        let mut long = layout();
        long[number].1.push(b' ');
        let error = import(&store, &archive(&long), None).unwrap_err();
        assert!(matches!(error, Error::TooLong { .. }), "{number}: {error}");
        let mut missing = layout();
        missing.remove(number);
        assert!(matches!(import(&store, &archive(&missing), None), Err(Error::NoImage { .. })), "{number}");
        assert_eq!(store.list().unwrap(), []);
    }
}

#[test]
fn what_docker_save_wrote_must_have_its_digests() {
    if !root() {
        return;
    }
    for number in 1..saved().len() {
        let (_dir, store) = store();
        let mut wrong = saved();
        wrong[number].1[20] ^= 1;
        assert!(import(&store, &archive(&wrong), None).is_err(), "{number}");
        assert_eq!(store.list().unwrap(), []);
    }
    let (_dir, store) = store();
    let mut wrong = saved();
    wrong[2].1 = layer(&[("a", "another")]);
    assert!(matches!(import(&store, &archive(&wrong), None), Err(Error::Mismatch { .. })));
    let mut wrong = saved();
    wrong[1].1.push(b' ');
    assert!(matches!(import(&store, &archive(&wrong), None), Err(Error::Mismatch { .. })));
}

#[test]
fn a_link_in_a_layout_is_not_followed() {
    let (dir, store) = store();
    let at = dir.path().join("layout");
    directory(&at, &layout());
    fs::rename(at.join("index.json"), dir.path().join("index.json")).unwrap();
    std::os::unix::fs::symlink("../index.json", at.join("index.json")).unwrap();
    let error = store.import(&at, None, UNPACKED).unwrap_err();
    assert!(matches!(&error, Error::NoImage { why, .. } if why.contains("symbolic link")), "{error}");
}

#[test]
fn what_is_no_image_is_told_so() {
    let (dir, store) = store();
    let none = |bytes: &[u8]| import(&store, bytes, None).unwrap_err();
    for bytes in [&b"hello"[..], &[7; 5000], b"", &archive(&vec![("a".into(), vec![])])] {
        let error = none(bytes);
        assert!(matches!(error, Error::NoImage { .. }), "{error}");
    }
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert!(matches!(store.import(&empty, None, UNPACKED), Err(Error::NoImage { .. })));
    assert!(matches!(store.import(dir.path().join("missing"), None, UNPACKED), Err(Error::Io { .. })));
    assert!(matches!(store.import("/dev/null", None, UNPACKED), Err(Error::NoImage { .. })));
}

#[test]
fn limits_hold_for_archives_too() {
    let (dir, store) = store();
    let path = dir.path().join("archive");
    fs::write(&path, gzip(&archive(&saved()))).unwrap();
    assert!(matches!(store.import(&path, None, 1000), Err(Error::TooBig { allowed: 1000 })));
    let mut long = saved();
    long[1].1 = vec![b' '; crate::MAX_DOCUMENT as usize + 1];
    assert!(matches!(import(&store, &archive(&long), None), Err(Error::DocumentSize { .. })));
    if root() {
        fs::write(&path, archive(&saved())).unwrap();
        assert!(matches!(store.import(&path, None, 1000), Err(Error::TooBig { .. })));
    }
}

#[test]
fn one_name_is_for_one_image() {
    let (_dir, store) = store();
    let mut files = saved();
    let text = String::from_utf8(files[0].1.clone()).unwrap();
    let one = text.strip_prefix('[').unwrap().strip_suffix(']').unwrap();
    files[0].1 = format!("[{one},{one}]").into_bytes();
    let error = import(&store, &archive(&files), Some("mine")).unwrap_err();
    assert!(error.to_string().contains("2 images, but one name is given"), "{error}");
}

#[test]
fn an_archive_has_few_files_with_short_names() {
    let (_dir, store) = store();
    let long = vec![("a".repeat(1025), Vec::new())];
    let error = import(&store, &archive(&long), None).unwrap_err();
    assert!(error.to_string().contains("a name of more than 1024 bytes"), "{error}");
    let many = (0..20_001).map(|number| (number.to_string(), Vec::new())).collect();
    let error = import(&store, &archive(&many), None).unwrap_err();
    assert!(error.to_string().contains("more than 20000 files"), "{error}");
}
