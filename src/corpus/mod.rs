//! Cases worth starting from, one to a file: a fuzzer's corpus, seeds, and the input that made it crash.
//!
//! A file holds a line, `KERNEL CASE`: the kernel's name and the case in its one-line form. It can be read and edited, and means
//! the same case after any change of the generators.

use crate::case::codec::fnv1a;
use crate::case::{Case, ParseError};
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A kernel's name, and a case for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Name of the kernel.
    pub kernel: String,
    /// The case.
    pub case: Case,
}

/// Why a line is no entry.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EntryError {
    /// No name and case.
    #[error("expected KERNEL CASE in one line, such as \"gqa_decode kv=1 g=1 ...\", found {0:?}")]
    Form(String),
    /// The case can't be read.
    #[error(transparent)]
    Case(#[from] ParseError),
}

/// Why a corpus can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file or folder can't be read.
    #[error("can't read {file}: {source}", file = file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds no entry.
    #[error("{file}: {error}", file = file.display())]
    Entry {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        error: EntryError,
    },
}

/// Bytes of a text that a message shows.
const SHOWN: usize = 60;

impl FromStr for Entry {
    type Err = EntryError;

    fn from_str(text: &str) -> Result<Self, EntryError> {
        let text = text.trim();
        let form = || EntryError::Form(text.chars().take(SHOWN).collect());
        let (kernel, case) = text.split_once(' ').ok_or_else(form)?;
        if kernel.contains('=') || !case.contains('=') || case.contains(['\n', '\r']) {
            return Err(form());
        }
        Ok(Self { kernel: kernel.into(), case: case.parse()? })
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kernel, self.case)
    }
}

impl Entry {
    /// Name of the file that the entry is saved in.
    pub fn file_name(&self) -> String {
        format!("{}-{:012x}", self.kernel, fnv1a(self.to_string().as_bytes()) >> 16)
    }

    /// Writes the entry into `folder`, which is made if need be; the same entry is in the same file.
    pub fn save(&self, folder: &Path) -> io::Result<PathBuf> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join(self.file_name());
        std::fs::write(&path, format!("{self}\n"))?;
        Ok(path)
    }
}

/// The entries of a folder's files, in the order of their names; folders in it and hidden files are passed over.
pub fn load(folder: &Path) -> Result<Vec<(PathBuf, Entry)>, LoadError> {
    let unreadable = |file: &Path| {
        let file = file.to_owned();
        move |source| LoadError::Read { file, source }
    };
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .map_err(unreadable(folder))?;
    files
        .retain(|path| path.is_file() && !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')));
    files.sort();
    let load = |file: PathBuf| {
        let bytes = std::fs::read(&file).map_err(unreadable(&file))?;
        match String::from_utf8_lossy(&bytes).parse() {
            Ok(entry) => Ok((file, entry)),
            Err(error) => Err(LoadError::Entry { file, error }),
        }
    };
    files.into_iter().map(load).collect()
}

/// Indices of entries that together have every feature that any of them has; cheaper ones are preferred, the earlier one of two.
///
/// Each item is what an entry costs and the numbers of its features.
pub fn minimal<'f>(entries: impl IntoIterator<Item = (u64, &'f BTreeSet<u32>)>) -> Vec<usize> {
    let mut by_cost: Vec<_> = entries.into_iter().enumerate().collect();
    by_cost.sort_by_key(|&(index, (cost, _))| (cost, index));
    let mut have = BTreeSet::new();
    let mut kept: Vec<usize> = by_cost
        .into_iter()
        .filter(|(_, (_, features))| {
            let before = have.len();
            have.extend(features.iter().copied());
            have.len() > before
        })
        .map(|(index, _)| index)
        .collect();
    kept.sort_unstable();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "gqa_decode kv=2 g=3 d=1 past=0,7 dtype=f32 cache=hnd:8 scale=1 values=flat:0";

    #[test]
    fn an_entry_is_its_line() {
        let entry: Entry = format!("{LINE}\n").parse().unwrap();
        assert_eq!((entry.kernel.as_str(), entry.to_string().as_str()), ("gqa_decode", LINE));
    }

    #[test]
    fn what_is_no_entry_says_why() {
        let error = |text: &str| text.parse::<Entry>().unwrap_err().to_string();
        for text in ["", "gqa_decode", "kv=2 g=3", "some words", "a kv=1\nb kv=1"] {
            assert!(error(text).starts_with("expected KERNEL CASE in one line"), "{text:?}: {}", error(text));
        }
        assert_eq!(
            error("gqa_decode kv=2 h=3"),
            "unknown key \"h\", expected one of kv, g, d, dv, past, q, append, causal, window, softcap, sinks, dtype, cache, pages, scale, steps, knobs, values, only, poison, sched, view, relation"
        );
        assert!(error(&"x".repeat(5000)).len() < 200);
    }

    #[test]
    fn a_folder_is_read_back_and_a_bad_file_named() {
        let folder = tempfile::tempdir().unwrap();
        let entry: Entry = LINE.parse().unwrap();
        let path = entry.save(folder.path()).unwrap();
        assert_eq!(entry.save(folder.path()).unwrap(), path);
        assert_eq!(load(folder.path()).unwrap(), [(path, entry)]);
        std::fs::write(folder.path().join("bad"), [0xff, 0]).unwrap();
        assert!(load(folder.path()).unwrap_err().to_string().contains("bad: expected KERNEL CASE"));
        assert!(load(&folder.path().join("none")).unwrap_err().to_string().starts_with("can't read "));
    }

    #[test]
    fn a_minimal_corpus_has_every_feature_at_the_least_cost() {
        let sets: Vec<BTreeSet<u32>> =
            [&[1, 2][..], &[2, 3], &[1, 2, 3], &[4], &[]].map(|s| s.iter().copied().collect()).into();
        let kept = |costs: [u64; 5]| minimal(costs.into_iter().zip(&sets));
        assert_eq!(kept([1, 2, 3, 9, 0]), [0, 1, 3]);
        assert_eq!(kept([5, 5, 1, 9, 0]), [2, 3]);
    }
}
