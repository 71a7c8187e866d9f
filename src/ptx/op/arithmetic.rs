//! What arithmetic operations compute: modes and, by number of sources and width, mnemonics.

use super::{Pred, Reg};
use crate::float::eight::Eight;
use crate::ptx::types::Type;

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
#[expect(missing_docs, reason = "named after the PTX mnemonics; widths are in the names")]
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
    BfindU {
        shiftamt: bool,
    },
    BfindS {
        shiftamt: bool,
    },
    NegF32 {
        ftz: bool,
    },
    AbsF32 {
        ftz: bool,
    },
    RcpF32(FloatMode),
    SqrtF32(FloatMode),
    Ex2Approx {
        ftz: bool,
    },
    Lg2Approx {
        ftz: bool,
    },
    RcpApprox {
        ftz: bool,
    },
    SqrtApprox {
        ftz: bool,
    },
    RsqrtApprox {
        ftz: bool,
    },
    SinApprox {
        ftz: bool,
    },
    CosApprox {
        ftz: bool,
    },
    TanhApprox,
    NegHalf(HalfMode),
    AbsHalf(HalfMode),
    Ex2Half(HalfMode),
    TanhHalf(HalfMode),
    /// Two 8-bit floats to two f16 (`cvt.rn.f16x2.e4m3x2`).
    EightToHalf {
        format: Eight,
        relu: bool,
    },
    /// Two f16 to two 8-bit floats.
    HalfToEight {
        format: Eight,
        relu: bool,
    },
}

/// Operations on the two 16-bit integers of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the PTX mnemonics")]
pub enum Packed {
    Add,
    MinU,
    MinS { relu: bool },
    MaxU,
    MaxS { relu: bool },
}

/// Two sources, one 32-bit result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the PTX mnemonics; widths are in the names")]
pub enum Binary32 {
    Add,
    Sub,
    MulLo,
    MulHiU,
    MulHiS,
    Mul24LoU,
    Mul24LoS,
    Mul24HiU,
    Mul24HiS,
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
        satfinite: bool,
    },
    /// Two f32 to 8-bit floats, `a` in the upper byte.
    PackEight {
        format: Eight,
        relu: bool,
    },
    Packed(Packed),
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
    FmaHalfOob(HalfMode),
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
    Dp2a { a_signed: bool, b_signed: bool, high: bool },
    Fns,
    PackSaturated { bits: u8, signed: bool },
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
    RcpF64(Rounding),
    SqrtF64(Rounding),
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
    AddF64(Rounding),
    SubF64(Rounding),
    MulF64(Rounding),
    DivF64(Rounding),
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
    FmaF64(Rounding),
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

/// What an operation of a carry chain adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the PTX mnemonics")]
pub enum Carried {
    Add,
    Sub,
    MadLo,
    MadHiU,
    MadHiS,
}

/// `add.cc`, `addc`, `sub.cc`, `subc`, `mad.cc`, `madc`: arithmetic of 32 or 64 bits through the carry flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carry {
    /// What is computed.
    pub op: Carried,
    /// The result.
    pub d: Reg,
    /// First source.
    pub a: Reg,
    /// Second source.
    pub b: Reg,
    /// What a product is added to.
    pub c: Option<Reg>,
    /// The flag, carry or borrow of each lane (`CC.CF`).
    pub flag: Pred,
    /// The flag is a source (`addc`).
    pub takes: bool,
    /// The flag is a result (`.cc`).
    pub gives: bool,
}

/// Boolean operations on predicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the PTX mnemonics")]
pub enum Logic {
    And,
    Or,
    Xor,
}
