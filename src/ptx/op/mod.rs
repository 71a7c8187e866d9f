//! The operations of a lowered program: one dense enum, operands as register slots.
//!
//! A slot is a register across the 32 lanes of a warp. There are three files: predicates (one bit a lane), 32-bit words
//! (which also hold 8- and 16-bit registers, zero-extended) and 64-bit wides. Constants have slots of their own, so that
//! no operation has an immediate form.

mod arithmetic;
mod matrix;
mod mbarrier;
mod operands;
mod wmma;

pub use arithmetic::{
    Binary32, Binary64, Carried, Carry, Compare, Count64, FloatMode, HalfMode, Logic, MinMaxMode, Packed, Relation,
    Rounding, Shift64, Ternary32, Ternary64, Unary32, Unary64,
};
pub use matrix::{CopyAsync, Factor, IntegerElement, MatrixAccess, Mma, MmaDouble, MmaInteger};

pub use mbarrier::{Mbarrier, MbarrierKind, PENDING_MASK};
pub use operands::{Role, Slot};
pub use wmma::{Element, Fragment, Part, Wmma, WmmaAccess};

use super::types::{Space, Type};

/// Slot in the 32-bit file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Word(pub u32);

/// Slot in the 64-bit file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Wide(pub u32);

/// Slot in the predicate file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pred(pub u32);

/// A register of either width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the variants are the two files")]
pub enum Reg {
    Word(Word),
    Wide(Wide),
}

/// A predicate as a source, possibly negated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The predicate.
    pub pred: Pred,
    /// Written with `!`.
    pub negated: bool,
}

/// A conversion between fundamental types (`cvt`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversion {
    /// Source type.
    pub from: Type,
    /// Result type.
    pub to: Type,
    /// Width of the destination register in bits: integer results are extended to it.
    pub destination_bits: u8,
    /// Rounding to the result's format, or to an integer.
    pub rounding: Rounding,
    /// Rounds to an integral value (`.rni` and the like).
    pub to_integral: bool,
    /// `.ftz`.
    pub ftz: bool,
    /// `.sat`.
    pub sat: bool,
    /// `.relu`.
    pub relu: bool,
    /// `.satfinite`: infinite results become the largest finite number.
    pub satfinite: bool,
}

/// An address: base register plus constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// What it starts from.
    pub base: AddressBase,
    /// Bytes added.
    pub offset: i64,
}

/// What an address starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are the register files")]
pub enum AddressBase {
    Absolute,
    Word(Word),
    Wide(Wide),
}

/// The space an access names; generic addresses carry it in their upper bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessSpace {
    /// Any window.
    Generic,
    /// The named space only.
    Is(Space),
}

/// Shape of a load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// State space.
    pub space: AccessSpace,
    /// Bytes of one element: 1, 2, 4 or 8.
    pub element_bytes: u8,
    /// Elements: 1, 2 or 4 (8 for `.v8`).
    pub elements: u8,
    /// Loads extend the sign to the register's width.
    pub signed: bool,
    /// Width of the destination registers in bits.
    pub register_bits: u8,
    /// `.nc`: the data must not be written during the launch.
    pub non_coherent: bool,
    /// `.volatile`, `.relaxed`, `.acquire`, `.release`: not a data race with another such access.
    pub strong: bool,
}

/// Read-modify-write operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the PTX mnemonics")]
pub enum AtomicOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Inc,
    Dec,
    Exch,
    Cas,
}

/// How a shuffle picks its source lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the PTX modifiers")]
pub enum ShuffleMode {
    Up,
    Down,
    Bfly,
    Idx,
}

/// What a vote computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the PTX modifiers")]
pub enum VoteMode {
    All,
    Any,
    Uni,
    Ballot,
}

/// What `redux.sync` computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the PTX modifiers")]
pub enum ReduxOp {
    Add,
    MinU,
    MinS,
    MaxU,
    MaxS,
    And,
    Or,
    Xor,
    MinF32 { abs: bool, nan: bool },
    MaxF32 { abs: bool, nan: bool },
}

/// Reduction of a barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the PTX modifiers")]
pub enum BarrierReduction {
    And { d: Pred },
    Or { d: Pred },
    Popc { d: Word },
}

/// What a barrier instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the PTX modifiers")]
pub enum BarrierKind {
    Sync,
    Arrive,
    Reduce { reduction: BarrierReduction, source: Condition },
    ClusterArrive,
    ClusterWait,
}

/// Stands for the cluster's barrier where others have their number.
pub const CLUSTER_BARRIER: u32 = u32::MAX;

/// Values that are fixed while a block runs and live in slots of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named after the PTX special registers")]
pub enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NwarpId,
    LanemaskEq,
    LanemaskLe,
    LanemaskLt,
    LanemaskGe,
    LanemaskGt,
    SmId,
    NsmId,
    GridId,
    DynamicSharedBytes,
    TotalSharedBytes,
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "operands carry their PTX names: d, a, b, c")]
pub enum Op {
    Unary32 {
        op: Unary32,
        d: Word,
        a: Word,
    },
    Binary32 {
        op: Binary32,
        d: Word,
        a: Word,
        b: Word,
    },
    Ternary32 {
        op: Ternary32,
        d: Word,
        a: Word,
        b: Word,
        c: Word,
    },
    Carry(Box<Carry>),
    Bfi32 {
        d: Word,
        a: Word,
        b: Word,
        position: Word,
        length: Word,
    },
    Unary64 {
        op: Unary64,
        d: Wide,
        a: Wide,
    },
    Binary64 {
        op: Binary64,
        d: Wide,
        a: Wide,
        b: Wide,
    },
    Ternary64 {
        op: Ternary64,
        d: Wide,
        a: Wide,
        b: Wide,
        c: Wide,
    },
    Shift64 {
        op: Shift64,
        d: Wide,
        a: Wide,
        b: Word,
    },
    Count64 {
        op: Count64,
        d: Word,
        a: Wide,
    },
    Bfe64 {
        signed: bool,
        d: Wide,
        a: Wide,
        position: Word,
        length: Word,
    },
    Bfi64 {
        d: Wide,
        a: Wide,
        b: Wide,
        position: Word,
        length: Word,
    },
    MulWide {
        signed: bool,
        d: Wide,
        a: Word,
        b: Word,
    },
    MadWide {
        signed: bool,
        d: Wide,
        a: Word,
        b: Word,
        c: Wide,
    },
    Convert {
        conversion: Conversion,
        d: Reg,
        a: Reg,
    },
    Compare32 {
        compare: Compare,
        d: Option<Pred>,
        q: Option<Pred>,
        a: Word,
        b: Word,
        combine: Option<(Logic, Condition)>,
    },
    Compare64 {
        compare: Compare,
        d: Option<Pred>,
        q: Option<Pred>,
        a: Wide,
        b: Wide,
        combine: Option<(Logic, Condition)>,
    },
    /// `setp.f16x2`: `d` for the lower halves, `q` for the upper.
    CompareHalves {
        compare: Compare,
        bf16: bool,
        d: Option<Pred>,
        q: Option<Pred>,
        a: Word,
        b: Word,
        combine: Option<(Logic, Condition)>,
    },
    Select32 {
        d: Word,
        a: Word,
        b: Word,
        p: Condition,
    },
    Select64 {
        d: Wide,
        a: Wide,
        b: Wide,
        p: Condition,
    },
    PredLogic {
        op: Logic,
        d: Pred,
        a: Condition,
        b: Condition,
    },
    PredMov {
        d: Pred,
        a: Condition,
    },
    Mov32 {
        d: Word,
        a: Word,
    },
    Mov64 {
        d: Wide,
        a: Wide,
    },
    /// Bits `shift..shift+16` of a word.
    Extract16 {
        d: Word,
        a: Word,
        shift: u8,
    },
    /// 32 bits of a wide.
    ExtractWord {
        d: Word,
        a: Wide,
        upper: bool,
    },
    /// Two words side by side.
    PackWords {
        d: Wide,
        low: Word,
        high: Word,
    },
    Load {
        access: Access,
        d: [Option<Reg>; 8],
        address: Address,
    },
    Store {
        access: Access,
        a: [Reg; 8],
        address: Address,
    },
    Atomic {
        op: AtomicOp,
        ty: Type,
        space: AccessSpace,
        d: Option<Reg>,
        address: Address,
        b: Reg,
        c: Option<Reg>,
    },
    Matrix(Box<MatrixAccess>),
    Mma(Box<Mma>),
    MmaInteger(Box<MmaInteger>),
    Wmma(Box<Wmma>),
    WmmaAccess(Box<WmmaAccess>),
    MmaDouble(Box<MmaDouble>),
    CopyAsync(Box<CopyAsync>),
    Mbarrier(Box<Mbarrier>),
    CopyCommit,
    /// All but the latest `pending` groups, or everything.
    CopyWait {
        pending: Option<u32>,
    },
    Prefetch,
    /// `uniform`: every lane that comes here goes the same way, as `.uni` promises.
    Branch {
        target: u32,
        uniform: bool,
    },
    BranchIndexed {
        index: Word,
        targets: Box<[u32]>,
    },
    Exit,
    Trap,
    /// An indirect call of something that isn't a function of its type.
    BadCall {
        callee: Wide,
    },
    /// A call deeper than calls are inlined.
    TooDeep,
    Barrier {
        kind: BarrierKind,
        id: Word,
        count: Option<Word>,
        aligned: bool,
    },
    WarpSync {
        mask: Word,
    },
    /// Of all memory, for the whole device.
    Fence,
    Shuffle {
        mode: ShuffleMode,
        d: Word,
        p: Option<Pred>,
        a: Word,
        b: Word,
        c: Word,
        mask: Word,
    },
    Vote {
        mode: VoteMode,
        d: Word,
        p: Option<Pred>,
        a: Condition,
        mask: Word,
    },
    Match {
        all: bool,
        d: Word,
        p: Option<Pred>,
        a: Reg,
        mask: Word,
    },
    Redux {
        op: ReduxOp,
        d: Word,
        a: Word,
        mask: Word,
    },
    ActiveMask {
        d: Word,
    },
    /// Warp instructions executed so far, standing in for time.
    Clock {
        d: Reg,
    },
    Print {
        d: Option<Word>,
        format: Wide,
        arguments: Wide,
    },
    AssertFail {
        message: Wide,
        file: Wide,
        line: Word,
        function: Wide,
    },
    Nop,
}

impl Op {
    /// Whether its results depend on its register operands alone, and it does nothing else. Loads, even of parameters, are none.
    pub(crate) fn is_function(&self) -> bool {
        matches!(
            self,
            Self::Unary32 { .. }
                | Self::Binary32 { .. }
                | Self::Ternary32 { .. }
                | Self::Bfi32 { .. }
                | Self::Unary64 { .. }
                | Self::Binary64 { .. }
                | Self::Ternary64 { .. }
                | Self::Shift64 { .. }
                | Self::Count64 { .. }
                | Self::Bfe64 { .. }
                | Self::Bfi64 { .. }
                | Self::MulWide { .. }
                | Self::MadWide { .. }
                | Self::Convert { .. }
                | Self::Compare32 { .. }
                | Self::Compare64 { .. }
                | Self::CompareHalves { .. }
                | Self::Select32 { .. }
                | Self::Select64 { .. }
                | Self::PredLogic { .. }
                | Self::PredMov { .. }
                | Self::Mov32 { .. }
                | Self::Mov64 { .. }
                | Self::Extract16 { .. }
                | Self::ExtractWord { .. }
                | Self::PackWords { .. }
        )
    }
}
