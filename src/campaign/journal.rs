//! What a campaign writes down of itself, so that one that was killed can go on.
//!
//! A journal is lines of text, each a checksum and one JSON object: a [`Head`], then now and then how far the campaign is.
//! Case `i` is a function of seed and `i` and results are looked at in order, so that is all it takes: what came after the
//! last entry is run again, with the same results. An entry is written each second, before a finding is shrunk and after
//! it was saved. A line that was being written when the campaign was killed is dropped.

use super::{Comparison, Config, Event, Found, Row};
use crate::case::codec::fnv1a;
use crate::oracle::{Signature, Unconfirmed};
use crate::regression::{Finding, LoadError, Saved};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Version of the files that this program writes, and the only one it reads.
const FORMAT: u32 = 1;

/// Which campaign a journal is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Version of the file.
    pub format: u32,
    /// The folder that paths are relative to.
    pub folder: PathBuf,
    /// The command line, the program's name first.
    pub arguments: Vec<String>,
    /// Name of each kernel, a hash of its manifest and PTX, and the first case that is drawn for it.
    pub kernels: Vec<(String, u64, String)>,
    /// Description of each device.
    pub backends: Vec<String>,
}

/// How far a campaign is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    /// The first case, over all kernels, whose result has not been looked at.
    pub(super) next: u64,
    /// Time it took.
    pub(super) elapsed: Duration,
    pub(super) rows: Vec<Row>,
    /// Signatures known of each kernel and backend.
    pub(super) known: Vec<Vec<Signature>>,
    /// For each kernel.
    pub(super) comparisons: Vec<Comparison>,
    pub(super) internal_errors: u64,
    /// Of each kernel and backend, the cases that are to run under compute-sanitizer.
    #[serde(default)]
    pub(super) to_sanitize: Vec<Vec<String>>,
    /// The findings that are in files.
    #[serde(default)]
    pub(super) found: Vec<Earlier>,
    /// For each backend.
    pub(super) unconfirmed: Vec<Unconfirmed>,
}

/// A finding of a campaign, in its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Earlier {
    kernel: String,
    file: PathBuf,
    executions: u32,
    #[serde(default)]
    hung: Option<Duration>,
    /// Whether it was only met, while another was shrunk.
    met: bool,
}

impl Earlier {
    /// Nothing if it is in no file.
    pub(super) fn of(found: &Found, met: bool) -> Option<Self> {
        let file = found.saved.as_ref()?.as_ref().ok()?.path().to_owned();
        Some(Self { kernel: found.kernel.clone(), file, executions: found.executions, hung: found.hung, met })
    }

    /// The event that told it, with what is in its file now.
    ///
    /// # Errors
    /// The file can't be read any more.
    pub fn event(&self) -> Result<Event, LoadError> {
        let finding = Finding::load(&self.file)?;
        let saved = Some(Ok(Saved::Known(self.file.clone())));
        let found = Found { kernel: self.kernel.clone(), finding, executions: self.executions, hung: self.hung, saved };
        let found = Box::new(found);
        Ok(if self.met { Event::Met(found) } else { Event::Found(found) })
    }
}

/// A journal that can be written on.
pub struct Journal {
    file: File,
    path: PathBuf,
    state: Option<State>,
}

/// Why a journal can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The file can't be read or written.
    #[error("can't use {file}: {source}", file = file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is not what was written.
    #[error("{file}:{line}: expected {expected}: the file was damaged", file = file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What should be there.
        expected: String,
    },
    /// It is of another campaign than can be run here.
    #[error("{file}: expected {what} {expected}, found {found}: this would not be the same campaign", file = file.display())]
    Different {
        /// The file.
        file: PathBuf,
        /// What differs.
        what: &'static str,
        /// As the journal has it.
        expected: String,
        /// As it is here.
        found: String,
    },
}

impl Head {
    /// The head of a campaign that a command line started in the current folder.
    ///
    /// # Errors
    /// There is no current folder, or the campaign is guided: its cases depend on more than a journal has.
    pub fn new(config: &Config, arguments: Vec<String>) -> io::Result<Self> {
        if config.guidance.is_some() {
            return Err(io::Error::other("a guided campaign keeps no journal"));
        }
        let kernels = config.kernels.iter().map(|kernel| {
            (kernel.reference(), kernel.content_hash(), kernel.space().case_at(config.seed, 0).to_string())
        });
        Ok(Self {
            format: FORMAT,
            folder: std::env::current_dir()?,
            arguments,
            kernels: kernels.collect(),
            backends: config.backends.iter().map(|backend| backend.describe()).collect(),
        })
    }
}

impl State {
    pub(super) fn new(config: &Config) -> Self {
        let rows = config.kernels.iter().flat_map(|k| config.backends.iter().map(|b| Row::new(k, &**b)));
        let rows: Vec<Row> = rows.collect();
        Self {
            next: 0,
            elapsed: Duration::ZERO,
            known: vec![Vec::new(); rows.len()],
            to_sanitize: Vec::new(),
            found: Vec::new(),
            rows,
            comparisons: vec![Comparison::default(); config.kernels.len()],
            internal_errors: 0,
            unconfirmed: vec![Unconfirmed::default(); config.backends.len()],
        }
    }
}

impl Journal {
    /// Starts a journal in a new file.
    ///
    /// # Errors
    /// The file is already there or can't be written.
    pub fn create(path: &Path, head: &Head) -> Result<Self, JournalError> {
        let error = |source| JournalError::File { file: path.into(), source };
        let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(error)?;
        let mut journal = Self { file, path: path.into(), state: None };
        journal.write(head).map_err(error)?;
        Ok(journal)
    }

    /// Opens the journal of a campaign that ended early, to go on with it.
    ///
    /// # Errors
    /// The file can't be read and written, or is no journal of this version.
    pub fn open(path: &Path) -> Result<(Head, Self), JournalError> {
        let error = |source| JournalError::File { file: path.into(), source };
        let bytes = std::fs::read(path).map_err(error)?;
        let mut file = OpenOptions::new().write(true).open(path).map_err(error)?;
        // What follows the last end of a line was being written when the campaign was killed.
        let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |last| last + 1);
        let damaged =
            |line, expected: &str| JournalError::Damaged { file: path.into(), line, expected: expected.into() };
        let mut lines = bytes[..whole].split_inclusive(|&b| b == b'\n').enumerate();
        let first = lines.next().ok_or_else(|| damaged(1, "the head of a campaign"))?.1;
        let head: Head = parsed(first).ok_or_else(|| damaged(1, "the head of a campaign of this version"))?;
        let mut state: Option<State> = None;
        for (index, line) in lines {
            let found: State = parsed(line).ok_or_else(|| damaged(index + 1, "an entry with its checksum"))?;
            let [pairs, kernels] = [head.kernels.len() * head.backends.len(), head.kernels.len()];
            let fits = found.rows.len() == pairs && found.known.len() == pairs;
            if !fits || found.comparisons.len() != kernels || found.unconfirmed.len() != head.backends.len() {
                return Err(damaged(index + 1, "an entry of as many kernels and devices as the head has"));
            }
            state = Some(found);
        }
        file.set_len(whole as u64).and_then(|()| file.seek(SeekFrom::End(0))).map_err(error)?;
        Ok((head, Self { file, path: path.into(), state }))
    }

    /// Whether the campaign that `found` is the head of is the one this journal, whose head is `head`, was written by.
    ///
    /// # Errors
    /// What differs.
    pub fn check(&self, head: &Head, found: &Head) -> Result<(), JournalError> {
        let different = |what, expected: &dyn std::fmt::Debug, found: &dyn std::fmt::Debug| {
            let (expected, found) = (format!("{expected:?}"), format!("{found:?}"));
            Err(JournalError::Different { file: self.path.clone(), what, expected, found })
        };
        if head.format != found.format {
            return different("a journal of version", &head.format, &found.format);
        }
        if head.folder != found.folder {
            return different("to be run in the folder", &head.folder, &found.folder);
        }
        if head.kernels != found.kernels {
            return different("kernels (name, content, first case)", &head.kernels, &found.kernels);
        }
        if head.backends != found.backends {
            return different("devices", &head.backends, &found.backends);
        }
        Ok(())
    }

    /// The findings of the campaign up to here.
    pub fn found(&self) -> &[Earlier] {
        self.state.as_ref().map_or(&[], |state| &state.found)
    }

    /// How far the campaign is; nothing if it has written nothing yet.
    pub(super) fn state(&self) -> Option<State> {
        self.state.clone()
    }

    /// Adds an entry; an `important` one is to survive the machine too.
    pub(super) fn append(&mut self, state: &State, important: bool) -> Result<(), JournalError> {
        let synced = self.write(state).and_then(|()| if important { self.file.sync_data() } else { Ok(()) });
        synced.map_err(|source| JournalError::File { file: self.path.clone(), source })
    }

    fn write(&mut self, entry: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string(entry)?;
        self.file.write_all(format!("{:016x} {text}\n", fnv1a(text.as_bytes())).as_bytes())
    }
}

/// What a line holds, if its checksum is right and it holds that.
fn parsed<T: for<'de> Deserialize<'de>>(line: &[u8]) -> Option<T> {
    let line = std::str::from_utf8(line).ok()?;
    let (sum, text) = line.trim_end_matches('\n').split_once(' ')?;
    (sum == format!("{:016x}", fnv1a(text.as_bytes()))).then(|| serde_json::from_str(text).ok())?
}
