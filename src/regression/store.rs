//! Where findings are kept.

use super::{FORMAT, Finding};
use crate::case::codec::fnv1a;
use crate::shrink::complexity;
use serde::Deserialize;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Names that a finding may try.
const MAX_NAMES: u32 = 100;

/// A folder of findings.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// What became of a finding that was to be saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saved {
    /// It is in a new file.
    New {
        /// The file.
        path: PathBuf,
        /// Another file that may hold the same bug.
        same_signature_as: Option<SameSignature>,
    },
    /// This file already holds it.
    Known(PathBuf),
}

/// Another saved finding of the same kernel and signature: perhaps the same bug, perhaps not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SameSignature {
    /// Its file; where there are several, that of the simplest case.
    pub path: PathBuf,
    /// Whether its case is less simple than the new one.
    pub new_is_simpler: bool,
}

impl Saved {
    /// The file that holds the finding.
    pub fn path(&self) -> &Path {
        match self {
            Self::New { path, .. } | Self::Known(path) => path,
        }
    }
}

/// Why a finding can't be read.
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
    /// The file is not a finding.
    #[error("{file}{line}: {message}", file = file.display(), line = line.map(|n| format!(":{n}")).unwrap_or_default())]
    Content {
        /// The file.
        file: PathBuf,
        /// Line from 1, if it has one.
        line: Option<usize>,
        /// Expected and found.
        message: String,
    },
    /// A later program wrote it.
    #[error("{file}: expected format {FORMAT} or older, found {found}: a newer attnfuzz wrote it", file = file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its format.
        found: u32,
    },
}

impl Store {
    /// The store below `root`; the folder need not exist.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder all findings are below.
    pub fn folder(&self) -> PathBuf {
        self.root.join("cases")
    }

    /// Whether findings can be saved: tries to write in the nearest folder above that exists, and leaves nothing behind.
    pub fn check_writable(&self) -> io::Result<()> {
        let here = Path::new(".");
        let above = self.root.ancestors().map(|p| if p == Path::new("") { here } else { p });
        let folder = above.into_iter().find(|p| p.exists()).unwrap_or(here);
        tempfile::tempfile_in(folder).map(drop)
    }

    /// Saves `finding` under the name of `kernel`.
    ///
    /// A file that holds something else, another bug or nothing readable, is never overwritten, and another program that
    /// saves at the same time loses nothing: then each has a file of its own.
    pub fn save(&self, kernel: &str, finding: &Finding) -> io::Result<Saved> {
        let folder = self.folder().join(kernel);
        std::fs::create_dir_all(&folder)?;
        let id = finding.case.id();
        let mark = fnv1a(finding.signature.to_string().as_bytes()) >> 48;
        let further = (2..=MAX_NAMES).map(|n| format!("{id}-{mark:04x}-{n}.toml"));
        for name in [format!("{id}.toml"), format!("{id}-{mark:04x}.toml")].into_iter().chain(further) {
            let path = folder.join(name);
            let holds_it =
                || load(&path).is_ok_and(|known| known.case == finding.case && known.signature == finding.signature);
            if holds_it() {
                return Ok(Saved::Known(path));
            }
            match write(&path, finding) {
                Ok(()) => {
                    let same_signature_as = same_signature(&folder, &path, finding);
                    return Ok(Saved::New { path, same_signature_as });
                }
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                // Another program may have saved it just now.
                Err(_) if holds_it() => return Ok(Saved::Known(path)),
                Err(_) => {}
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{id}.toml and all its other names in {} hold something else", folder.display()),
        ))
    }

    /// Every file of the store, in order of its path; empty if the folder does not exist.
    pub fn files(&self) -> Result<Vec<PathBuf>, LoadError> {
        existing_files(&self.folder())
    }

    /// Every file with a finding of the kernel of this name, in order; empty if there is none.
    pub fn files_of(&self, kernel: &str) -> Result<Vec<PathBuf>, LoadError> {
        existing_files(&self.folder().join(kernel))
    }
}

/// The simplest other finding in `folder` with the signature of `finding`. A file that can't be read is none.
fn same_signature(folder: &Path, own: &Path, finding: &Finding) -> Option<SameSignature> {
    let files = files_below(folder).ok()?;
    let others = files.into_iter().filter(|file| file != own).filter_map(|file| Some((load(&file).ok()?, file)));
    let same = others.filter(|(other, _)| other.signature.matches(&finding.signature));
    let (simplest, path) = same.map(|(other, file)| (complexity(&other.case), file)).min()?;
    Some(SameSignature { path, new_is_simpler: complexity(&finding.case) < simplest })
}

fn existing_files(folder: &Path) -> Result<Vec<PathBuf>, LoadError> {
    if folder.exists() { files_below(folder) } else { Ok(Vec::new()) }
}

/// The files that `path` stands for: itself, or every `.toml` below it.
pub(crate) fn files_below(path: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let error = |source| LoadError::Read { file: path.into(), source };
    if !path.is_dir() {
        return Ok(vec![path.into()]);
    }
    let mut entries: Vec<PathBuf> = std::fs::read_dir(path)
        .map_err(error)?
        .map(|e| e.map(|e| e.path()))
        .collect::<io::Result<_>>()
        .map_err(error)?;
    entries.sort();
    let mut files = Vec::new();
    for entry in entries {
        if entry.is_dir() {
            files.extend(files_below(&entry)?);
        } else if entry.extension().is_some_and(|e| e == "toml") {
            files.push(entry);
        }
    }
    Ok(files)
}

/// Reads one finding.
pub(crate) fn load(file: &Path) -> Result<Finding, LoadError> {
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let text = std::fs::read_to_string(file).map_err(|source| LoadError::Read { file: file.into(), source })?;
    let content = |e: &toml::de::Error| LoadError::Content {
        file: file.into(),
        line: e.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count()),
        message: e.message().trim().replace('\n', ", "),
    };
    let version: Version = toml::from_str(&text).map_err(|e| content(&e))?;
    if version.format > FORMAT {
        return Err(LoadError::Newer { file: file.into(), found: version.format });
    }
    // What a format lacks has a default, so older ones read as they are.
    let finding: Finding = toml::from_str(&text).map_err(|e| content(&e))?;
    if finding.line != finding.case.to_string() {
        return Err(LoadError::Content {
            file: file.into(),
            line: None,
            message: format!("line: expected the same case as the table, {}, found {}", finding.case, finding.line),
        });
    }
    Ok(finding)
}

/// Writes the whole file or nothing.
fn write(path: &Path, finding: &Finding) -> io::Result<()> {
    let body = toml::to_string(finding).map_err(io::Error::other)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    writeln!(file, "# {}", finding.what())?;
    writeln!(file, "# Replay: {}", finding.replay(path))?;
    writeln!(file, "# Keep this file: `cargo test` and `attnfuzz replay` run it first.\n")?;
    file.write_all(body.as_bytes())?;
    file.as_file().sync_all()?;
    // A temporary file is made private; a finding is to be shared.
    #[cfg(unix)]
    std::fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    file.persist_noclobber(path).map_err(|e| e.error)?;
    // The file's name is in the folder, which is to reach the disk too. Not every file system can do that, and the file is
    // there without it.
    #[cfg(unix)]
    let _ = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}
