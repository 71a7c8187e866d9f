//! The operations of a lowered program: one dense enum, operands as register slots.
//!
//! A slot is a register across the 32 lanes of a warp. There are three files: predicates (one bit a lane), 32-bit words
//! (which also hold 8- and 16-bit registers, zero-extended) and 64-bit wides. Constants have slots of their own, so that
//! no operation has an immediate form.

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

/// Rounding of a floating-point result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "IEEE 754 rounding directions")]
pub enum Rounding {
    Nearest,
    /// To nearest, ties away from zero (`.rna`).
    NearestAway,
    Zero,
    Down,
    Up,
}

/// Modifiers of an f32 or f64 operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FloatMode {
    /// `.rn`, `.rz`, `.rm`, `.rp`.
    pub rounding: Rounding,
    /// `.ftz`: subnormal inputs and results become zero of the same sign.
    pub ftz: bool,
    /// `.sat`: the result is clamped to 0..=1, NaN becomes +0.
    pub sat: bool,
}

/// Modifiers of an f16 or bf16 operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HalfMode {
    /// bf16 rather than f16.
    pub bf16: bool,
    /// Two values in a word.
    pub packed: bool,
    /// `.ftz`.
    pub ftz: bool,
    /// `.sat`.
    pub sat: bool,
    /// `.relu`: negative results become +0, NaN the canonical NaN.
    pub relu: bool,
}

/// min and max treat NaN in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MinMaxMode {
    /// `.NaN`: a NaN operand makes the result the canonical NaN; otherwise the other operand wins.
    pub nan: bool,
    /// `.ftz`.
    pub ftz: bool,
    /// `.xorsign.abs`.
    pub xorsign_abs: bool,
}

/// One source, one 32-bit result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "named after the PTX mnemonics; widths are in the names"
)]
pub enum Unary32 {
    Not,
    Not16,
    Neg,
    Neg16,
    Abs,
    Abs16,
    Cnot,
    Popc,
    Clz,
    Brev,
    BfindU { shiftamt: bool },
    BfindS { shiftamt: bool },
    NegF32 { ftz: bool },
    AbsF32 { ftz: bool },
    RcpF32(FloatMode),
    SqrtF32(FloatMode),
    Ex2Approx { ftz: bool },
    Lg2Approx { ftz: bool },
    RcpApprox { ftz: bool },
    SqrtApprox { ftz: bool },
    RsqrtApprox { ftz: bool },
    SinApprox { ftz: bool },
    CosApprox { ftz: bool },
    TanhApprox,
    NegHalf(HalfMode),
    AbsHalf(HalfMode),
    Ex2Half(HalfMode),
    TanhHalf(HalfMode),
}

/// Two sources, one 32-bit result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "named after the PTX mnemonics; widths are in the names"
)]
pub enum Binary32 {
    Add,
    Sub,
    MulLo,
    MulHiU,
    MulHiS,
    Mul24LoU,
    Mul24LoS,
    DivU,
    DivS,
    RemU,
    RemS,
    MinU,
    MinS,
    MaxU,
    MaxS,
    And,
    Or,
    Xor,
    Shl,
    ShrU,
    ShrS,
    AddSatS,
    SubSatS,
    Add16,
    Sub16,
    MulLo16,
    MulHiU16,
    MulHiS16,
    MulWideS16,
    DivS16,
    RemS16,
    MinS16,
    MaxS16,
    Shl16,
    ShrS16,
    AddF32(FloatMode),
    SubF32(FloatMode),
    MulF32(FloatMode),
    DivF32(FloatMode),
    DivApproxF32 {
        ftz: bool,
    },
    DivFullF32 {
        ftz: bool,
    },
    MinF32(MinMaxMode),
    MaxF32(MinMaxMode),
    CopysignF32,
    AddHalf(HalfMode),
    SubHalf(HalfMode),
    MulHalf(HalfMode),
    MinHalf(HalfMode, MinMaxMode),
    MaxHalf(HalfMode, MinMaxMode),
    /// `set` on halves: each half all ones (or 1.0 in the given format) where the comparison holds.
    SetHalf {
        mode: HalfMode,
        compare: Compare,
        one: u16,
    },
    /// `a` in the upper half, `b` in the lower, both f32 (`cvt.rn.f16x2.f32`).
    PackHalf {
        mode: HalfMode,
        rounding: Rounding,
    },
    /// `a` in the lower half, `b` in the upper (`mov.b32 d, {a, b}`).
    Pack16,
}

/// Three sources, one 32-bit result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the PTX mnemonics")]
pub enum Ternary32 {
    MadLo,
    MadHiU,
    MadHiS,
    MadLo16,
    SadU,
    SadS,
    FmaF32(FloatMode),
    FmaHalf(HalfMode),
    BfeU,
    BfeS,
    Lop3(u8),
    Prmt,
    PrmtF4e,
    PrmtB4e,
    PrmtRc8,
    PrmtEcl,
    PrmtEcr,
    PrmtRc16,
    ShfL { wrap: bool },
    ShfR { wrap: bool },
    Dp4a { a_signed: bool, b_signed: bool },
}

/// One 64-bit source and result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the PTX mnemonics")]
pub enum Unary64 {
    Not,
    Neg,
    Abs,
    Cnot,
    Brev,
    NegF64,
    AbsF64,
    RcpF64,
    SqrtF64,
    RcpApproxF64,
    RsqrtApproxF64,
}

/// Two 64-bit sources, one 64-bit result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the PTX mnemonics")]
pub enum Binary64 {
    Add,
    Sub,
    MulLo,
    MulHiU,
    MulHiS,
    DivU,
    DivS,
    RemU,
    RemS,
    MinU,
    MinS,
    MaxU,
    MaxS,
    And,
    Or,
    Xor,
    AddF64,
    SubF64,
    MulF64,
    DivF64,
    MinF64,
    MaxF64,
    CopysignF64,
}

/// Three 64-bit sources, one 64-bit result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the PTX mnemonics")]
pub enum Ternary64 {
    MadLo,
    MadHiU,
    MadHiS,
    FmaF64,
}

/// Shifts of a 64-bit value by a 32-bit amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the PTX mnemonics")]
pub enum Shift64 {
    Shl,
    ShrU,
    ShrS,
}

/// A 64-bit source, a 32-bit count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the PTX mnemonics")]
pub enum Count64 {
    Popc,
    Clz,
    BfindU { shiftamt: bool },
    BfindS { shiftamt: bool },
}

/// What a comparison tests; the unordered forms hold for NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the PTX comparison operators")]
pub enum Relation {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

/// A comparison of two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The test.
    pub relation: Relation,
    /// What the bits mean.
    pub ty: Type,
    /// `.ftz`.
    pub ftz: bool,
}

/// Boolean operations on predicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the PTX mnemonics")]
pub enum Logic {
    And,
    Or,
    Xor,
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
    Reduce {
        reduction: BarrierReduction,
        source: Condition,
    },
}

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

/// Element type of the factors of `mma`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are the formats")]
pub enum Factor {
    F16,
    Bf16,
    Tf32,
}

/// `mma.sync.m16n8k*.row.col`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mma {
    /// Inner dimension: 4, 8 or 16.
    pub k: u8,
    /// Format of `a` and `b`.
    pub factor: Factor,
    /// Sums are f16, two to a register; otherwise f32.
    pub half_sums: bool,
    /// Results.
    pub d: [Word; 4],
    /// Fragment of the 16 by k factor.
    pub a: [Word; 4],
    /// Fragment of the k by 8 factor.
    pub b: [Word; 4],
    /// What is added to.
    pub c: [Word; 4],
}

/// `ldmatrix` or `stmatrix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatrixAccess {
    /// `stmatrix`.
    pub is_store: bool,
    /// Matrices: 1, 2 or 4.
    pub count: u8,
    /// `.trans`.
    pub transposed: bool,
    /// State space.
    pub space: AccessSpace,
    /// Address of a row, in each lane.
    pub address: Address,
    /// One fragment a matrix.
    pub registers: [Word; 4],
}

/// `cp.async` from global to shared memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyAsync {
    /// Shared address.
    pub to: Address,
    /// Global address.
    pub from: Address,
    /// Bytes written: 4, 8 or 16.
    pub bytes: u8,
    /// Bytes read, the rest is zero.
    pub source_bytes: Option<Word>,
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
        d: [Option<Reg>; 4],
        address: Address,
    },
    Store {
        access: Access,
        a: [Reg; 4],
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
    CopyAsync(Box<CopyAsync>),
    CopyCommit,
    /// All but the latest `pending` groups, or everything.
    CopyWait {
        pending: Option<u32>,
    },
    Prefetch,
    Branch {
        target: u32,
    },
    BranchIndexed {
        index: Word,
        targets: Box<[u32]>,
    },
    Exit,
    Trap,
    Barrier {
        kind: BarrierKind,
        id: Word,
        count: Option<Word>,
        aligned: bool,
    },
    WarpSync {
        mask: Word,
    },
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
