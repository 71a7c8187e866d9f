//! The report of a violated rule.

use std::fmt;

/// What rule was broken. Stable: findings are grouped by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ViolationKind {
    /// `__assertfail` was called.
    AssertFail,
    /// A shuffle read a lane that doesn't take part in it.
    AbsentLane,
    /// A block's warps wait at barriers that can't complete.
    BarrierDeadlock,
    /// An index outside the list of an indexed branch.
    BranchTarget,
    /// More warp instructions than the launch's budget: a hang.
    BudgetExhausted,
    /// Lanes of one warp arrived at a barrier apart.
    DivergentBarrier,
    /// Two unordered accesses to one byte of global memory, one of them a write.
    GlobalRace,
    /// An address that isn't a multiple of the access's size.
    Misaligned,
    /// A non-coherent read of data that the launch writes.
    NonCoherentRead,
    /// An access outside every region.
    OutOfBounds,
    /// A write to a region the kernel may only read.
    ReadOnlyWritten,
    /// Two accesses to one shared-memory byte, one of them a write, without a barrier between.
    SharedRace,
    /// `trap` was executed.
    Trap,
    /// Data that nobody wrote decides what is executed, is part of an address, or is left in a buffer.
    UninitialisedRead,
    /// A warp operation whose mask doesn't fit the lanes that execute it.
    WarpMask,
}

impl ViolationKind {
    pub(in crate::emulator) fn is_race(self) -> bool {
        matches!(self, Self::SharedRace | Self::GlobalRace | Self::NonCoherentRead)
    }

    /// The name used in `.ptx` expectations and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::AssertFail => "AssertFail",
            Self::AbsentLane => "AbsentLane",
            Self::BarrierDeadlock => "BarrierDeadlock",
            Self::BranchTarget => "BranchTarget",
            Self::BudgetExhausted => "BudgetExhausted",
            Self::DivergentBarrier => "DivergentBarrier",
            Self::GlobalRace => "GlobalRace",
            Self::Misaligned => "Misaligned",
            Self::NonCoherentRead => "NonCoherentRead",
            Self::OutOfBounds => "OutOfBounds",
            Self::ReadOnlyWritten => "ReadOnlyWritten",
            Self::SharedRace => "SharedRace",
            Self::Trap => "Trap",
            Self::UninitialisedRead => "UninitialisedRead",
            Self::WarpMask => "WarpMask",
        }
    }
}

impl fmt::Display for ViolationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A broken rule: what, where, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub kind: ViolationKind,
    /// Where it was broken.
    pub site: Site,
    /// What happened, in words, with addresses relative to regions.
    pub detail: String,
    /// The second party of a race or of a divergence.
    pub other: Option<Site>,
}

/// An instruction as executed by one lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Line of the PTX text, from 1.
    pub ptx_line: u32,
    /// That line.
    pub instruction: String,
    /// File and line of the CUDA source, where the PTX says (`.loc`).
    pub source: Option<(String, u32)>,
    /// Block index.
    pub block: [u32; 3],
    /// Warp within the block.
    pub warp: u32,
    /// Lane within the warp.
    pub lane: u32,
    /// Thread index within the block.
    pub thread: [u32; 3],
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.kind, self.detail, self.site)?;
        match &self.other {
            Some(other) => write!(f, "; the other party: {other}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((file, line)) = &self.source {
            write!(f, "{file}:{line}, ")?;
        }
        let [x, y, z] = self.block;
        let [tx, ty, tz] = self.thread;
        write!(
            f,
            "ptx {}: {} by block {x},{y},{z} warp {} lane {} thread {tx},{ty},{tz}",
            self.ptx_line, self.instruction, self.warp, self.lane
        )
    }
}

/// A violation as a handler knows it, before the run loop adds where.
#[derive(Clone, Debug)]
pub(in crate::emulator) struct Fault {
    pub(in crate::emulator) kind: ViolationKind,
    pub(in crate::emulator) lane: u32,
    pub(in crate::emulator) detail: String,
    /// Instruction index, warp and lane of the second party.
    pub(in crate::emulator) other: Option<(u32, u32, u32)>,
    /// Position of the second party's block in the order of the launch, where it is another.
    pub(in crate::emulator) other_position: Option<u64>,
    /// Not the kernel's: this emulator can't go on.
    pub(in crate::emulator) is_limit: bool,
    /// No violation yet: the instruction is to be executed again with the warp's shadow.
    pub(in crate::emulator) needs_shadow: bool,
}

/// Builds a fault by the given lane.
#[cold]
pub(in crate::emulator) fn fault(kind: ViolationKind, lane: usize, detail: impl Into<String>) -> Box<Fault> {
    let detail = detail.into();
    Box::new(Fault {
        kind,
        lane: lane as u32,
        detail,
        other: None,
        other_position: None,
        is_limit: false,
        needs_shadow: false,
    })
}

/// Builds what ends a launch without saying anything of the kernel.
#[cold]
pub(in crate::emulator) fn unsupported(lane: usize, detail: impl Into<String>) -> Box<Fault> {
    Box::new(Fault { is_limit: true, ..*fault(ViolationKind::Trap, lane, detail) })
}
