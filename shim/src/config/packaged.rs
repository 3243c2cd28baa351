//! The file that packages install as `/etc/krun/config.toml`: every key, commented out.

use super::{Config, Layer};

/// What stands in the packages' file: as it is, and with every key in effect.
#[test]
fn the_packages_file_names_every_key_and_what_it_says_of_defaults_is_true() {
    let file = include_str!("../../../deploy/package/config.toml");
    let mut plain = Config::default();
    plain.apply(file, "as it is").unwrap();
    assert_eq!(plain, Config::default());

    let keys: String = file
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') => format!("{key}\n"),
            _ => "\n".to_owned(),
        })
        .collect();
    let mut all = Config::default();
    all.apply(&keys, "with every key").unwrap();

    // serde's error lists the fields.
    let error = toml::from_str::<Layer>("nonsense = 1").err().unwrap().to_string();
    let (_, expected) = error.split_once("expected one of ").unwrap();
    let known: Vec<_> = expected.split('`').skip(1).step_by(2).collect();
    assert!(known.len() > 20, "{error}");
    let table: toml::Table = keys.parse().unwrap();
    for key in &known {
        assert!(table.contains_key(*key), "{key} is missing");
    }
    assert_eq!(table.len(), known.len());

    let defaults = Config::default();
    assert_eq!(all.cpus, defaults.cpus);
    assert_eq!(all.memory_mib, defaults.memory_mib);
    assert_eq!(all.idle_cache_mib, defaults.idle_cache_mib);
    assert_eq!(all.network, defaults.network);
    assert_eq!(all.anti_spoofing, defaults.anti_spoofing);
    assert_eq!(all.rootfs, defaults.rootfs);
    assert_eq!(all.rootfs_size_mib, defaults.rootfs_size_mib);
    assert_eq!(all.watch_volumes, defaults.watch_volumes);
    assert_eq!(all.nested_virt, defaults.nested_virt);
}
