//! What can be wrong with PTX text, and where.

use thiserror::Error;

/// Place in the PTX text. Both numbers start at 1; columns count bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// Line of the PTX text.
    pub line: u32,
    /// Byte within the line.
    pub column: u32,
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// Why a PTX text could not be turned into a program.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The text isn't PTX, or isn't complete.
    #[error("{at}: expected {expected}, found {found}")]
    Syntax {
        /// Where.
        at: Position,
        /// What would have been accepted.
        expected: String,
        /// What was there.
        found: String,
    },
    /// A name that nothing declares.
    #[error("{at}: expected a declared {what}, found `{name}`")]
    UnknownName {
        /// Where it is used.
        at: Position,
        /// Kind of thing looked for.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Legal or not, it asks for more than this program is willing to hold.
    #[error("{at}: expected at most {limit} {what}, found {found}")]
    TooLarge {
        /// Where the limit was passed.
        at: Position,
        /// What is counted.
        what: &'static str,
        /// The limit.
        limit: u64,
        /// The number found, or the first number past the limit.
        found: u64,
    },
    /// PTX that may well be right but that this emulator doesn't know. Never a fault of the kernel.
    #[error("{at}: `{opcode}` is not supported: {detail} (a limit of this emulator, not a fault of the kernel)")]
    Unsupported {
        /// Where.
        at: Position,
        /// Instruction or directive as written.
        opcode: String,
        /// The form that is missing.
        detail: String,
    },
}

impl Error {
    /// Where in the PTX text.
    pub fn position(&self) -> Position {
        match self {
            Self::Syntax { at, .. }
            | Self::UnknownName { at, .. }
            | Self::TooLarge { at, .. }
            | Self::Unsupported { at, .. } => *at,
        }
    }

    pub(super) fn syntax(at: Position, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Syntax { at, expected: expected.into(), found: found.into() }
    }

    pub(super) fn unsupported(at: Position, opcode: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Unsupported { at, opcode: opcode.into(), detail: detail.into() }
    }
}
