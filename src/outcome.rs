//! What a backend may say about one run: an Output, or a Fault.
//!
//! A Fault is data about the kernel. What this program can't do (an unsupported instruction, no GPU) is not a Fault:
//! it is the error type of `backend`.

use crate::tensor::Buffer;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The result of running every step of a case once.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The kernel ran to its end.
    Output(Output),
    /// It did something wrong that is not a number.
    Fault(Fault),
}

/// What a kernel left in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Output of each step, `[token, q_head, v_head_dim]`.
    pub out: Vec<Buffer>,
    /// Log-sum-exps of each step, `[token, q_head]` in binary32; empty if the kernel returns none.
    pub lse: Vec<Buffer>,
    /// Key cache after the last step.
    pub k_cache: Buffer,
    /// Value cache after the last step.
    pub v_cache: Buffer,
}

/// A wrong act of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Which kind of wrong.
    pub kind: FaultKind,
    /// What exactly, for a person.
    pub detail: String,
    /// Where in the kernel, if the backend can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<Site>,
    /// The other party of a race.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other: Option<Site>,
}

/// A place in a kernel, and the thread that was there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Line of the PTX text, from 1, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ptx_line: Option<u32>,
    /// The instruction as written; where only the machine code is known, the function and the offset in it.
    pub instruction: String,
    /// `file:line` of the CUDA source, if the PTX has line information.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Block index, x, y, z, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<[u32; 3]>,
    /// Warp within the block, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warp: Option<u32>,
    /// Lane within the warp, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<u32>,
}

/// The kinds of [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FaultKind {
    /// Access outside every tensor.
    OutOfBounds,
    /// Access at an address that is not a multiple of its size.
    Misaligned,
    /// Read of memory that nothing has written.
    UninitialisedRead,
    /// Write to an input.
    InputModified,
    /// Bytes before or after a tensor were changed.
    GuardTouched,
    /// An output element was never written.
    NotWritten,
    /// Two runs of the same case gave different bits.
    NotRepeatable,
    /// The result changes with the content of memory that must not be read.
    ReadsPoison,
    /// A barrier that not all threads of the block reach together.
    DivergentBarrier,
    /// Threads wait for each other for ever.
    Deadlock,
    /// A shuffle or vote that names or reads a lane that is not there.
    WarpMask,
    /// Two threads access the same bytes, one writes, nothing orders them.
    Race,
    /// The kernel trapped or an assertion failed.
    Trap,
    /// The kernel did not end within its budget.
    Hang,
    /// The driver refused the launch.
    LaunchFailed,
    /// The driver reported an error of the kernel that it doesn't describe further.
    DeviceError,
    /// The process that ran the kernel died.
    Crash,
    /// A closure under test panicked.
    Panic,
    /// What a closure under test gave is not of the size and type that the case asks for.
    MalformedOutput,
}

impl FaultKind {
    /// The kind's name as it stands in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::OutOfBounds => "out-of-bounds",
            Self::Misaligned => "misaligned",
            Self::UninitialisedRead => "uninitialised-read",
            Self::InputModified => "input-modified",
            Self::GuardTouched => "guard-touched",
            Self::NotWritten => "not-written",
            Self::NotRepeatable => "not-repeatable",
            Self::ReadsPoison => "reads-poison",
            Self::DivergentBarrier => "divergent-barrier",
            Self::Deadlock => "deadlock",
            Self::WarpMask => "warp-mask",
            Self::Race => "race",
            Self::Trap => "trap",
            Self::Hang => "hang",
            Self::LaunchFailed => "launch-failed",
            Self::DeviceError => "device-error",
            Self::Crash => "crash",
            Self::Panic => "panic",
            Self::MalformedOutput => "malformed-output",
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Site {
    /// Something of this name, of which no place is known.
    pub fn of(instruction: &str) -> Self {
        Self { ptx_line: None, instruction: instruction.into(), source: None, block: None, warp: None, lane: None }
    }

    /// Where the instruction stands: in the CUDA source if that is known, else in the PTX. An offset in the machine code is no
    /// place: it is another one for each dtype.
    pub fn place(&self) -> Option<String> {
        self.source.clone().or_else(|| self.ptx_line.map(|line| format!("ptx {line}")))
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(source) = &self.source {
            write!(f, "{source}, ")?;
        }
        if let Some(line) = self.ptx_line {
            write!(f, "ptx {line}: ")?;
        }
        f.write_str(&self.instruction)?;
        let Some([x, y, z]) = self.block else { return Ok(()) };
        write!(f, " (block {x},{y},{z}")?;
        if let (Some(warp), Some(lane)) = (self.warp, self.lane) {
            write!(f, " warp {warp} lane {lane}")?;
        }
        f.write_str(")")
    }
}

impl Fault {
    /// A fault without a place.
    pub fn new(kind: FaultKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), site: None, other: None }
    }
}
