//! A kernel's CUDA source with its own headers, and the edits that make a mutant's of it.

use serde::Deserialize;
use std::path::PathBuf;

/// What NVRTC is given to compile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The file that is compiled.
    pub main: SourceFile,
    /// Headers that it, or one of them, includes by name. Names are unique.
    pub headers: Vec<SourceFile>,
    /// Folders to look for further headers in.
    pub include: Vec<PathBuf>,
}

/// A file of CUDA source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// File name: what `#include` and line information call it.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// One replacement that turns a parent's source into a mutant's.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// Name of the file it changes: a header's, or that of the file that is compiled, which it is if absent.
    pub file: Option<String>,
    /// Text that occurs exactly once in that file of the parent.
    pub find: String,
    /// What stands there in the mutant.
    pub replace: String,
}

impl Source {
    /// A source that includes no header of its own.
    pub fn of(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { main: SourceFile { name: name.into(), text: text.into() }, headers: Vec::new(), include: Vec::new() }
    }

    /// A mutant's source. All edits refer to the parent, so their order doesn't matter.
    ///
    /// # Errors
    /// Edits that don't fit.
    pub fn edited(&self, edits: &[Edit]) -> Result<Self, EditError> {
        let mut edits_of = vec![Vec::new(); 1 + self.headers.len()];
        for (index, edit) in edits.iter().enumerate() {
            let place = match &edit.file {
                None => Some(0),
                Some(name) => self.files().position(|file| file.name == *name),
            };
            let Some(place) = place else {
                let expected = self.files().map(|file| file.name.as_str()).collect::<Vec<_>>().join(", ");
                return Err(EditError::UnknownFile { index, found: edit.file.clone().unwrap_or_default(), expected });
            };
            edits_of[place].push((index, edit));
        }
        let mut files = self.files().zip(&edits_of).map(|(file, edits)| file.edited(edits));
        let main = files.next().unwrap_or_else(|| Ok(self.main.clone()))?;
        Ok(Self { main, headers: files.collect::<Result<_, _>>()?, include: self.include.clone() })
    }

    fn files(&self) -> impl Iterator<Item = &SourceFile> {
        std::iter::once(&self.main).chain(&self.headers)
    }
}

impl SourceFile {
    /// `edits` come with their index among all.
    fn edited(&self, edits: &[(usize, &Edit)]) -> Result<Self, EditError> {
        let mut places = Vec::with_capacity(edits.len());
        for &(index, edit) in edits {
            let found = if edit.find.is_empty() { 0 } else { self.text.matches(&edit.find).count() };
            match self.text.find(&edit.find) {
                Some(start) if found == 1 => places.push((start, index, edit)),
                _ => return Err(EditError::NotOnce { index, file: self.name.clone(), found }),
            }
        }
        places.sort_by_key(|&(start, ..)| start);
        let mut text = String::with_capacity(self.text.len());
        let mut copied = 0;
        let mut previous = 0;
        for (start, index, edit) in places {
            if start < copied {
                return Err(EditError::Overlap { first: previous, second: index });
            }
            text.push_str(&self.text[copied..start]);
            text.push_str(&edit.replace);
            copied = start + edit.find.len();
            previous = index;
        }
        text.push_str(&self.text[copied..]);
        Ok(Self { name: self.name.clone(), text })
    }
}

/// Why edits don't fit a source. Keys count `[[edit]]` tables from 0; the caller knows the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The file to change is neither the parent's source nor a header of it.
    #[error("edit[{index}].file: expected one of {expected}, found {found:?}")]
    UnknownFile {
        /// Which edit.
        index: usize,
        /// The name it gives.
        found: String,
        /// The names it may give.
        expected: String,
    },
    /// The text to find is absent, or ambiguous.
    #[error("edit[{index}].find: found {found} times in the parent's {file}, expected exactly once")]
    NotOnce {
        /// Which edit.
        index: usize,
        /// Name of the file that was searched.
        file: String,
        /// How often its text occurs.
        found: usize,
    },
    /// Two edits want the same text.
    #[error("edit[{second}].find: overlaps the text of edit[{first}]")]
    Overlap {
        /// The edit whose text starts first.
        first: usize,
        /// The other.
        second: usize,
    },
}
