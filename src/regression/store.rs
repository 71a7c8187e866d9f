//! Where findings are kept.

use super::{FORMAT, Finding};
use crate::case::codec::fnv1a;
use serde::Deserialize;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A folder of findings.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// What became of a finding that was to be saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saved {
    /// It is in this new file.
    New(PathBuf),
    /// This file already holds it.
    Known(PathBuf),
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

    /// Saves `finding` under the name of `kernel`. A file that holds another bug is never overwritten.
    pub fn save(&self, kernel: &str, finding: &Finding) -> io::Result<Saved> {
        let folder = self.folder().join(kernel);
        std::fs::create_dir_all(&folder)?;
        let id = finding.case.id();
        let mark = fnv1a(finding.signature.to_string().as_bytes()) >> 48;
        for name in [format!("{id}.toml"), format!("{id}-{mark:04x}.toml")] {
            let path = folder.join(name);
            match load(&path) {
                Ok(known) if known.case == finding.case && known.signature == finding.signature => {
                    return Ok(Saved::Known(path));
                }
                Err(LoadError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    write(&path, finding)?;
                    return Ok(Saved::New(path));
                }
                Ok(_) | Err(_) => {}
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{id}.toml in {} holds something else", folder.display()),
        ))
    }

    /// Every file of the store, in order of its path; empty if the folder does not exist.
    pub fn files(&self) -> Result<Vec<PathBuf>, LoadError> {
        let folder = self.folder();
        if folder.exists() { files_below(&folder) } else { Ok(Vec::new()) }
    }
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
    writeln!(file, "# Replay: attnfuzz replay {}", path.display())?;
    writeln!(file, "# Keep this file: `cargo test` and `attnfuzz replay` run it first.\n")?;
    file.write_all(body.as_bytes())?;
    file.as_file().sync_all()?;
    // A temporary file is made private; a finding is to be shared.
    #[cfg(unix)]
    std::fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    file.persist_noclobber(path).map_err(|e| e.error)?;
    Ok(())
}
