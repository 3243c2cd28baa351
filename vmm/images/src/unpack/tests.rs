//! Archives that an image may have, and those that nobody should unpack.

mod layer;

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
};

use super::*;
use crate::limits::MAX_HEADERS;
use layer::*;

#[test]
fn files_have_their_content_owner_mode_and_time() {
    if !root() {
        return;
    }
    let mut suid = header(b'0', "bin/su", "", 3);
    suid.set_mode(0o4755);
    suid.set_uid(1000);
    suid.set_gid(1001);
    suid.set_cksum();
    let got = Layer::default().directory("bin").header(&suid).data(b"abc").unpack().unwrap();
    assert_eq!(got.text("bin/su"), "abc");
    let found = got.stat("bin/su");
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (1000, 1001, 0o4755));
    assert_eq!((found.mtime(), got.stat("bin").mtime()), (1_000_000, 1_000_000));
}

#[test]
fn the_top_directory_is_one_that_anybody_may_pass_unless_the_layer_says_otherwise() {
    if !root() {
        return;
    }
    assert_eq!(Layer::default().file("a", "").unpack().unwrap().stat("").mode() & 0o7777, 0o755);
    let mut top = header(b'5', "./", "", 0);
    top.set_mode(0o1700);
    top.set_cksum();
    let got = Layer::default().header(&top).file("a", "").unpack().unwrap();
    assert_eq!((got.stat("").mode() & 0o7777, got.stat("").mtime()), (0o1700, 1_000_000));
    assert!(matches!(Layer::default().link("./", "/etc").refused().1, EntryError::Top));
}

#[test]
fn directories_that_the_layer_leaves_out_are_made() {
    if !root() {
        return;
    }
    let got = Layer::default().file("a/b/c", "x").unpack().unwrap();
    assert_eq!(got.text("a/b/c"), "x");
    assert_eq!((got.stat("a/b").mode() & 0o7777, got.stat("a").uid()), (0o755, 0));
}

#[test]
fn links_stay_as_they_are() {
    if !root() {
        return;
    }
    let layer =
        Layer::default().link("out", "../../etc/shadow").file("a", "x").hard("b", "./a").hard("o", "out");
    let got = layer.unpack().unwrap();
    assert_eq!(fs::read_link(got.path("out")).unwrap().to_str(), Some("../../etc/shadow"));
    assert_eq!(fs::read_link(got.path("o")).unwrap().to_str(), Some("../../etc/shadow"));
    assert_eq!((got.stat("out").mtime(), got.stat("a").ino()), (1_000_000, got.stat("b").ino()));
}

#[test]
fn devices_and_fifos_are_made() {
    if !root() {
        return;
    }
    let device = |kind, name| {
        let mut header = header(kind, name, "", 0);
        header.set_mode(0o666);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        header.set_cksum();
        header
    };
    let layer = Layer::default().header(&device(b'3', "null")).header(&device(b'4', "disk"));
    let got = layer.entry(b'6', "pipe", "", b"").unpack().unwrap();
    let (null, disk) = (got.stat("null"), got.stat("disk"));
    assert!(null.file_type().is_char_device() && disk.file_type().is_block_device());
    assert_eq!((null.rdev(), null.permissions().mode() & 0o7777), (rustix::fs::makedev(1, 3), 0o666));
    assert!(got.stat("pipe").file_type().is_fifo());

    let mut strange = device(b'3', "strange");
    strange.set_device_major(1 << 12).unwrap();
    strange.set_cksum();
    assert!(matches!(Layer::default().header(&strange).refused().1, EntryError::Header(_)));
}

#[test]
fn whiteouts_become_those_of_overlayfs() {
    if !root() {
        return;
    }
    let got = Layer::default()
        .file("a/.wh.gone", "")
        .file("b/.wh..wh..opq", "")
        .file("b/new", "x")
        .unpack()
        .unwrap();
    assert!(got.whiteout("a/gone") && got.opaque("b") && !got.opaque("a"));
    assert_eq!(got.text("b/new"), "x");
    assert!(!got.path("a/.wh.gone").exists() && !got.path("b/.wh..wh..opq").exists());
}

#[test]
fn a_whiteout_hides_what_is_below_but_not_what_its_own_layer_has() {
    if !root() {
        return;
    }
    let before = Layer::default().file(".wh.d", "").file("d/f", "x").file(".wh.f", "").file("f", "y");
    let after = Layer::default().file("d/f", "x").file(".wh.d", "").file("f", "y").file(".wh.f", "");
    let explicit = Layer::default().file(".wh.d", "").directory("d").file("d/f", "x").file("f", "y");
    for layer in [before, after, explicit] {
        let got = layer.unpack().unwrap();
        assert!(got.opaque("d"));
        assert_eq!((got.text("d/f"), got.text("f")), ("x".into(), "y".into()));
    }
}

#[test]
fn what_aufs_kept_for_itself_is_left_out() {
    if !root() {
        return;
    }
    let got =
        Layer::default().directory(".wh..wh.plnk").file(".wh..wh.plnk/1.2", "").file(".wh..wh.aufs", "");
    assert_eq!(fs::read_dir(got.unpack().unwrap().path("")).unwrap().count(), 0);
}

#[test]
fn capabilities_and_users_attributes_are_kept_and_no_others() {
    if !root() {
        return;
    }
    // CAP_DAC_OVERRIDE and CAP_FOWNER: a newline.
    let capability = b"\x01\0\0\x02\n\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let layer = Layer::default().pax(&[
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.security.selinux", b"x"),
        ("SCHILY.xattr.security.capability", capability),
    ]);
    let got = layer.file("a", "x").pax(&[("SCHILY.xattr.trusted.overlay.opaque", b"y")]).directory("d");
    let got = got.unpack().unwrap();
    assert_eq!(got.xattr("a", c"security.capability").unwrap(), capability);
    for key in [c"trusted.overlay.opaque", c"trusted.overlay.redirect", c"user.overlay.opaque"] {
        assert_eq!(got.xattr("a", key), None, "{key:?}");
    }
    assert_ne!(got.xattr("a", c"security.selinux").as_deref(), Some(&b"x"[..]));
    assert!(!got.opaque("d"));
}

#[test]
fn long_names_of_gnu_and_pax_are_read() {
    if !root() {
        return;
    }
    let long = "d/".repeat(120) + "file";
    let layer = Layer::default()
        .entry(b'L', "././@LongLink", "", &[long.as_bytes(), b"\0"].concat())
        .file("short", "g");
    assert_eq!(layer.unpack().unwrap().text(&long), "g");
    let layer = Layer::default().pax(&[("path", long.as_bytes()), ("uid", b"70000"), ("mtime", b"5.5")]);
    let got = layer.file("short", "p").pax(&[("linkpath", long.as_bytes())]).hard("b", "x").unpack().unwrap();
    assert_eq!((got.text(&long), got.text("b")), ("p".into(), "p".into()));
    let found = got.stat(&long);
    assert_eq!((found.uid(), found.mtime(), found.mtime_nsec()), (70000, 5, 500_000_000));
}

#[test]
fn a_sparse_file_has_its_holes() {
    if !root() {
        return;
    }
    let sparse = |size: u64| {
        let mut header = header(b'S', "sparse", "", 512);
        let gnu = header.as_gnu_mut().unwrap();
        let octal =
            |field: &mut [u8; 12], number| field.copy_from_slice(format!("{number:011o}\0").as_bytes());
        octal(&mut gnu.sparse[0].offset, size - 512);
        octal(&mut gnu.sparse[0].numbytes, 512);
        octal(&mut gnu.realsize, size);
        header.set_cksum();
        Layer::default().header(&header).data(&[7; 512])
    };
    let got = sparse(8 << 20).unpack().unwrap();
    let found = got.stat("sparse");
    assert_eq!(found.size(), 8 << 20);
    assert!(found.blocks() * 512 < 1 << 20, "{} blocks", found.blocks());
    assert_eq!(fs::read(got.path("sparse")).unwrap()[(8 << 20) - 512..], [7; 512]);
    // Its holes count as what it unpacks to.
    let budget = Budget::new(1 << 20);
    assert!(matches!(sparse(8 << 20).unpack_within(&budget), Err(Error::TooBig { .. })));
    let pax = Layer::default().pax(&[("GNU.sparse.major", b"1")]).file("a", "");
    assert!(matches!(pax.refused().1, EntryError::Header(_)));
}

#[test]
fn the_later_of_two_entries_counts_but_no_directory_is_replaced() {
    if !root() {
        return;
    }
    let layer = Layer::default().file("a", "old").file("keep", "k").hard("b", "keep").link("l", "keep");
    let got = layer
        .file("a", "new")
        .file("b", "b")
        .file("l", "file")
        .directory("d")
        .directory("d")
        .unpack()
        .unwrap();
    assert_eq!((got.text("a"), got.text("b"), got.text("keep")), ("new".into(), "b".into(), "k".into()));
    assert!(got.stat("l").is_file());
    let (entry, why) = Layer::default().file("d/a", "").file("d", "x").refused();
    assert!(entry == "d" && matches!(why, EntryError::Replaces));
}

#[test]
fn an_entry_outside_of_the_layer_is_refused_by_name() {
    if !root() {
        return;
    }
    let refused = |name: &str| Layer::default().file("first", "").file(name, "x").refused();
    let (entry, why) = refused("/etc/passwd");
    assert!(entry == "/etc/passwd" && matches!(why, EntryError::Absolute), "{why}");
    let (entry, why) = refused("a/../../b");
    assert!(entry == "a/../../b" && matches!(why, EntryError::Dots), "{why}");
    let nul = Layer::default().pax(&[("path", b"a\0b")]).file("x", "").refused();
    assert!(matches!(nul.1, EntryError::Nul));
    let nul = Layer::default().pax(&[("linkpath", b"a\0b")]).link("x", "y").refused();
    assert!(matches!(nul.1, EntryError::Nul));
    let text = Layer::default().file("/x", "").unpack().err().unwrap().to_string();
    assert_eq!(text, "entry \"/x\" of a layer: an absolute name; names are relative to the layer");
}

#[test]
fn nothing_is_made_through_a_link_of_the_layer() {
    if !root() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let to = outside.path().to_str().unwrap().to_owned();
    let evil = || Layer::default().directory("real").link("out", &to).link("in", "real");
    let attacks = [
        evil().file("out/a", "x"),
        evil().file("out/new/a", "x"),
        evil().directory("out/a"),
        evil().link("out/a", "x"),
        evil().file("out/.wh.a", ""),
        evil().file("out/.wh..wh..opq", ""),
        evil().file("in/a", "x"),
        evil().file("real/b", "x").hard("c", "in/b"),
        evil().hard("c", "out/a"),
        evil().entry(b'6', "out/a", "", b""),
    ];
    for (number, attack) in attacks.into_iter().enumerate() {
        let (entry, why) = attack.refused();
        assert!(matches!(why, EntryError::Link), "{number}: {entry}: {why}");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "{number}");
    }
    assert!(matches!(Layer::default().file("f", "").file("f/a", "").refused().1, EntryError::NotDirectory));
}

#[test]
fn a_directory_entry_does_not_change_what_a_link_leads_to() {
    if !root() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let before = fs::metadata(outside.path()).unwrap();
    let got =
        Layer::default().link("d", outside.path().to_str().unwrap()).directory("d").file("d/a", "x").unpack();
    assert!(got.unwrap().stat("d").is_dir());
    let after = fs::metadata(outside.path()).unwrap();
    assert_eq!((before.mode(), before.mtime()), (after.mode(), after.mtime()));
}

#[test]
fn a_hard_link_leads_to_a_file_of_the_layer_only() {
    if !root() {
        return;
    }
    assert!(matches!(Layer::default().hard("a", "/etc/passwd").refused().1, EntryError::Absolute));
    assert!(matches!(Layer::default().hard("a", "../../etc/passwd").refused().1, EntryError::Dots));
    assert!(matches!(Layer::default().hard("a", "missing").refused().1, EntryError::Io(_)));
    assert!(matches!(Layer::default().hard("a", ".").refused().1, EntryError::Top));
    assert!(matches!(Layer::default().directory("d").hard("a", "d").refused().1, EntryError::Io(_)));
}

#[test]
fn what_unpacks_to_more_than_is_allowed_ends_there() {
    if !root() {
        return;
    }
    let budget = Budget::new(4096);
    let done = Layer::default().file("a", &"x".repeat(5000)).unpack_within(&budget);
    assert!(matches!(done, Err(Error::TooBig { allowed: 4096 })));
    // What comes after the last entry counts, too.
    let top = tempfile::tempdir().unwrap();
    let done = unpack(&[0; 9000][..], top.path(), &Budget::new(4096));
    assert!(matches!(done, Err(Error::TooBig { .. })));
}

#[test]
fn an_image_has_only_so_many_entries_also_those_that_are_not_named() {
    if !root() {
        return;
    }
    let budget = Budget::new(1 << 30);
    for _ in 0..crate::MAX_ENTRIES - 4 {
        budget.entry().unwrap();
    }
    Layer::default().file("a", "").unpack_within(&budget).unwrap();
    // One entry, and three directories on its way.
    let done = Layer::default().file("a/b/c/d", "").unpack_within(&budget);
    assert!(matches!(done, Err(Error::TooManyEntries)));
}

#[test]
fn an_endless_name_is_cut_off() {
    if !root() {
        return;
    }
    let long = vec![b'a'; MAX_HEADERS as usize];
    for kind in [b'L', b'K', b'x'] {
        let done = Layer::default().entry(kind, "long", "", &long).file("a", "").unpack();
        assert!(matches!(done, Err(Error::Tar(why)) if why.to_string().contains("bytes of headers")));
    }
}

#[test]
fn an_archive_that_is_cut_off_or_none_is_refused() {
    if !root() {
        return;
    }
    let top = tempfile::tempdir().unwrap();
    let layer = Layer::default().file("a", "x".repeat(2000).as_str()).0;
    for bytes in [&layer[..1000], &layer[..300], &[7; 2000]] {
        assert!(unpack(bytes, top.path(), &Budget::new(1 << 20)).is_err());
    }
    let cut = unpack(&layer[..1000], top.path(), &Budget::new(1 << 20));
    assert!(matches!(cut, Err(Error::Entry { why: EntryError::Header(_), .. })));
}

#[test]
fn two_sizes_of_one_entry_are_refused() {
    if !root() {
        return;
    }
    // The tar crate takes the value after the newline for a record of its own.
    let hidden = Layer::default().pax(&[("comment", b"\n10 size=1\n"), ("size", b"0")]).file("a", "x");
    assert!(hidden.unpack().is_err());
}

#[test]
fn owners_that_mean_no_change_are_refused() {
    if !root() {
        return;
    }
    let layer = Layer::default().pax(&[("uid", b"4294967295")]).file("a", "");
    assert!(matches!(layer.refused().1, EntryError::Owner(_)));
}
