//! What was worth keeping of fuzzing runs as ordinary tests: every seed, and every file of a corpus that is there.

use std::{collections::BTreeSet, fs, panic, path::Path};

use fuzz_targets::TARGETS;

const FUZZ: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The names in `directory`; none when it is not there.
fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[test]
fn every_target_is_fuzzed_and_has_seeds() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&Path::new(FUZZ).join("seeds")), targets);
    let fuzzed = names(&Path::new(FUZZ).join("fuzz_targets"));
    assert_eq!(fuzzed, targets.iter().map(|name| format!("{name}.rs")).collect());
    for name in &targets {
        assert!(names(&Path::new(FUZZ).join("seeds").join(name)).len() > 1, "{name} has no seeds");
    }
}

#[test]
fn every_seed_and_corpus_file_passes() {
    let mut failed = Vec::new();
    for (name, run) in TARGETS {
        for directory in ["seeds", "corpus"] {
            let directory = Path::new(FUZZ).join(directory).join(name);
            for file in names(&directory).iter().map(|file| directory.join(file)) {
                let data = fs::read(&file).unwrap();
                if panic::catch_unwind(|| run(&data)).is_err() {
                    failed.push(file);
                }
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
