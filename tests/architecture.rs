//! A room imports only rooms with a lower number, never a sibling. ARCHITECTURE.md has the same table.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Every room and its number.
const ROOMS: [(&str, u32); 25] = [
    ("expr", 0),
    ("float", 0),
    ("ptx", 1),
    ("tensor", 1),
    ("case", 2),
    ("outcome", 2),
    ("corpus", 3),
    ("emulator", 3),
    ("generate", 3),
    ("reference", 3),
    ("shrink", 3),
    ("bound", 4),
    ("property", 4),
    ("backend", 5),
    ("oracle", 6),
    ("guide", 7),
    ("regression", 7),
    ("worker", 7),
    ("campaign", 8),
    ("coverage", 8),
    ("mutate", 8),
    ("rule_out", 9),
    ("report", 10),
    ("harness", 11),
    ("cli", 12),
];

fn source(path: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            source(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// Every `.rs` file below `src`, with its room: its folder's or its own name. `lib` and `main` are no rooms.
fn rooms() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    source(&root, &mut files);
    let room = |file: &Path| {
        let first = file.strip_prefix(&root).unwrap().components().next().unwrap();
        first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
    };
    files
        .into_iter()
        .map(|file| (room(&file), fs::read_to_string(&file).unwrap(), file))
        .map(|(room, text, file)| (room, file, text))
        .filter(|(room, ..)| room != "lib" && room != "main")
        .collect()
}

/// Room names after each `crate::` outside comments; `use crate::{a, b}` counts as both.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let code: String = text.lines().map(|l| l.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n");
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let names = match rest.strip_prefix('{') {
            Some(group) => group.split('}').next().unwrap_or("").split(',').map(str::trim).collect(),
            None => vec![rest],
        };
        for name in names {
            let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
            found.push(name[..end].to_owned());
        }
    }
    found
}

#[test]
fn no_room_imports_upward_or_sideways() {
    let number: BTreeMap<&str, u32> = ROOMS.into_iter().collect();
    let mut wrong = Vec::new();
    for (room, file, text) in rooms() {
        let own =
            *number.get(room.as_str()).unwrap_or_else(|| panic!("{room} ({}) is not in the table", file.display()));
        for import in imports(&text) {
            let Some(&other) = number.get(import.as_str()) else {
                wrong.push(format!("{} imports {import}, which is no room", file.display()));
                continue;
            };
            if import != room && other >= own {
                wrong.push(format!("{} ({own}) imports {import} ({other})", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_emulator_knows_nothing_of_attention() {
    for (room, file, text) in rooms() {
        if room == "emulator" || room == "ptx" {
            let allowed = ["emulator", "ptx", "float"];
            for import in imports(&text) {
                assert!(allowed.contains(&import.as_str()), "{} imports {import}", file.display());
            }
        }
    }
}

#[test]
fn only_the_command_line_prints_and_only_driver_files_are_unsafe() {
    for (room, file, text) in rooms() {
        let code: String = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        if room != "cli" {
            for word in ["println!", "print!(", "eprintln!", "eprint!("] {
                assert!(!code.contains(word), "{} prints", file.display());
            }
        }
        let unsafe_files = ["cuda.rs", "cuda/launch.rs", "cuda/memory.rs", "cuda_raw.rs", "cuda_bare.rs", "nvrtc.rs"];
        if !(room == "backend" && unsafe_files.iter().any(|name| file.ends_with(Path::new("backend").join(name)))) {
            assert!(!code.contains("unsafe {") && !code.contains("unsafe fn"), "{} is unsafe", file.display());
        }
    }
}

#[test]
fn the_table_in_architecture_md_is_this_one() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).unwrap();
    for (room, number) in ROOMS {
        let row = format!("| {number} | `{room}` |");
        assert!(text.contains(&row), "ARCHITECTURE.md lacks the row {row}");
    }
}

#[test]
fn the_rule_catches_an_upward_import() {
    assert_eq!(
        imports("use crate::{case, oracle::Verdict};\n// crate::cli\ncrate::bound::x()"),
        ["case", "oracle", "bound"]
    );
}
