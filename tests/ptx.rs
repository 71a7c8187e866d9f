//! Reading PTX: texts that must lower, texts that must be refused at a stated place, and texts that mean nothing.

use attnfuzz::ptx;
use proptest::prelude::*;
use std::path::{Path, PathBuf};

#[test]
fn good_texts_lower() {
    for path in texts("tests/ptx/ok") {
        let text = std::fs::read_to_string(&path).unwrap();
        let module = ptx::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(module.entries().next().is_some(), "{}", path.display());
        for entry in module.entries() {
            module.lower(entry).unwrap_or_else(|e| panic!("{}, {entry}: {e}", path.display()));
        }
    }
}

/// Each text says on the offending line what the message contains: `//~ ERROR expected a label`.
#[test]
fn bad_texts_are_refused_where_they_are_wrong() {
    for path in texts("tests/ptx/fail") {
        let text = std::fs::read_to_string(&path).unwrap();
        let expected: Vec<(u32, &str)> = text
            .lines()
            .zip(1..)
            .filter_map(|(line, n)| line.split_once("//~ ERROR ").map(|(_, message)| (n, message.trim())))
            .collect();
        let [(line, message)] = expected[..] else { panic!("{}: one `//~ ERROR`", path.display()) };
        let outcome = ptx::parse(&text).and_then(|module| {
            let names: Vec<String> = module.entries().map(str::to_owned).collect();
            names.iter().try_for_each(|name| module.lower(name).map(|_| ()))
        });
        let error = outcome.expect_err(&path.display().to_string());
        assert_eq!(error.position().line, line, "{}: {error}", path.display());
        assert!(error.to_string().contains(message), "{}: {error}", path.display());
    }
}

#[test]
fn parameters_are_laid_out_as_in_c() {
    let text = include_str!("ptx/ok/nvrtc_surface.ptx");
    let module = ptx::parse(text).unwrap();
    assert_eq!(module.version(), (8, 4));
    assert_eq!(module.target(), "sm_80");
    assert_eq!(module.entries().collect::<Vec<_>>(), ["k1", "k2"]);
    let program = module.lower("k1").unwrap();
    let layout: Vec<_> = program.params().iter().map(|p| (p.offset, p.size_bytes, p.align)).collect();
    assert_eq!(layout, [(0, 40, 8), (40, 8, 8), (48, 8, 8)]);
    assert_eq!(program.max_threads(), Some(128));
    assert!(module.lower("k3").is_err());
}

proptest! {
    #[test]
    fn garbage_is_refused_without_a_panic(text in "[ -~\n]{0,200}") {
        let _ = ptx::parse(&text);
    }

    /// A real kernel with a few bytes replaced, cut or doubled: any verdict will do.
    #[test]
    fn damaged_kernels_do_not_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..6)) {
        let mut bytes = include_bytes!("ptx/ok/nvrtc_surface.ptx").to_vec();
        for (at, byte, kind) in edits {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte & 0x7f,
                1 => bytes.truncate(at + 1),
                _ => {
                    let end = (at + usize::from(byte)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Ok(module) = ptx::parse(&text) {
            for entry in module.entries() {
                let _ = module.lower(entry);
            }
        }
    }
}

#[test]
fn deep_nesting_and_wide_calls_are_refused() {
    let nested = format!(
        ".version 8.4\n.target sm_80\n.address_size 64\n.entry k() {} ret; {}",
        "{".repeat(9999),
        "}".repeat(9999)
    );
    assert!(matches!(ptx::parse(&nested), Err(ptx::Error::TooLarge { .. })));
    // Each function calls the one before it ten times: 10^12 instructions if inlined without a limit.
    let mut text = String::from(".version 8.4\n.target sm_80\n.address_size 64\n.func f0() { ret; }\n");
    for i in 1..13 {
        text.push_str(&format!(".func f{i}() {{ {} ret; }}\n", format!("call f{};", i - 1).repeat(10)));
    }
    text.push_str(".entry k() { call f12; ret; }");
    let module = ptx::parse(&text).unwrap();
    assert!(matches!(module.lower("k"), Err(ptx::Error::TooLarge { .. })));
}

/// The `.ptx` files of a folder, in a fixed order.
pub(crate) fn texts(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "ptx"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{}", folder.display());
    paths
}
