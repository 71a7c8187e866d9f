//! Printed PTX reads as the same module and lowers to the same programs: every text of the tree, and mangled ones.

use attnfuzz::harness::ptx;
use proptest::prelude::*;
use std::path::{Path, PathBuf};

fn texts(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            texts(&path, found);
        } else if path.extension().is_some_and(|e| e == "ptx") {
            found.push(path);
        }
    }
}

#[test]
fn every_text_survives_printing() {
    let mut found = Vec::new();
    for folder in ["kernels", "tests"] {
        texts(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut found);
    }
    assert!(found.len() > 100, "{}", found.len());
    for path in found {
        let text = std::fs::read_to_string(&path).unwrap();
        ptx::check(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn mangled_kernels_survive_printing(mut bytes in proptest::collection::vec(any::<u8>(), 1..120)) {
        bytes[0] |= 0x80;
        prop_assert_eq!(ptx::check(&ptx::text(&bytes)), Ok(()));
    }
}
