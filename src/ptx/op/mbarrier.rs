//! Operands of `mbarrier`.

use super::{AccessSpace, Address, Pred, Reg, Wide, Word};

/// Bits of a state that hold the arrivals still missing.
pub const PENDING_MASK: u32 = 0xf_ffff;

/// What an `mbarrier` instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MbarrierKind {
    /// `init` with a count of arrivals.
    Init {
        /// Arrivals that complete a phase.
        count: Word,
    },
    /// `inval`.
    Invalidate,
    /// `arrive` and `arrive_drop`.
    Arrive {
        /// The state before it.
        state: Option<Wide>,
        /// Arrivals; one if absent.
        count: Option<Word>,
        /// `.expect_tx`: transactions the phase waits for besides.
        transactions: Option<Word>,
        /// Later phases don't expect these arrivals.
        drops: bool,
        /// `.noComplete`: must not complete the phase.
        no_complete: bool,
    },
    /// `expect_tx`.
    Expect {
        /// Transactions the phase waits for besides.
        transactions: Word,
    },
    /// `complete_tx`.
    Complete {
        /// Transactions that have happened.
        transactions: Word,
    },
    /// `test_wait` and `try_wait`, which differ in time alone.
    Test {
        /// Whether the phase is complete.
        complete: Option<Pred>,
        /// The phase's state, or its parity (32 bits).
        phase: Reg,
        /// `.parity`.
        parity: bool,
    },
    /// `cp.async.mbarrier.arrive`.
    Copies {
        /// `.noinc`: the arrival is among those expected.
        counted: bool,
    },
}

/// An `mbarrier` instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mbarrier {
    /// What it does.
    pub kind: MbarrierKind,
    /// State space.
    pub space: AccessSpace,
    /// Of the object.
    pub address: Address,
}
