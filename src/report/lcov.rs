//! What a kernel's cases reached, as an lcov tracefile.
//!
//! A `DA` count is how many cases ran the line, once for each entry they ran it in; a `BRDA` one, how many took the
//! branch, or didn't, likewise. The nth conditional branch of a line has branch 2n where it is taken and 2n + 1 where it
//! isn't, all in block 0.
//!
//! Source: geninfo(1), "TRACEFILE FORMAT".

use crate::coverage::{File, Listing};
use std::fmt::Write;
use std::path::Path;

/// The records of a kernel's files. Records of several kernels make one tracefile.
pub fn records(kernel: &str, listing: &Listing) -> String {
    listing.files.iter().map(|file| record(kernel, file)).collect()
}

fn record(kernel: &str, file: &File) -> String {
    let mut text = String::new();
    // A test's name has no other characters.
    let name: String = kernel.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let _ = writeln!(text, "TN:{name}");
    let _ = writeln!(text, "SF:{}", absolute(&file.source.path));
    let (mut found, mut hit) = (0, 0);
    for (line, counts) in &file.lines {
        for (index, branch) in counts.branches.iter().enumerate() {
            for (way, number) in (0..2).zip(2 * index..) {
                found += 1;
                let taken = branch.map(|counts| counts[way]);
                hit += usize::from(taken.is_some_and(|cases| cases > 0));
                let taken = taken.map_or_else(|| "-".to_owned(), |cases| cases.to_string());
                let _ = writeln!(text, "BRDA:{line},0,{number},{taken}");
            }
        }
    }
    let _ = writeln!(text, "BRF:{found}\nBRH:{hit}");
    for (line, counts) in &file.lines {
        let _ = writeln!(text, "DA:{line},{}", counts.cases);
    }
    let hit = file.lines.values().filter(|line| !line.is_unrun()).count();
    let _ = writeln!(text, "LH:{hit}\nLF:{}\nend_of_record", file.lines.len());
    text
}

/// The path that genhtml finds the file by, wherever it runs, if the file is there.
fn absolute(path: &Path) -> String {
    path.canonicalize().unwrap_or_else(|_| path.to_owned()).display().to_string()
}
