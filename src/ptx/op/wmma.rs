//! Operands of `wmma`.

use super::{AccessSpace, Address, Factor, Word};

/// Which matrix a fragment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the PTX modifiers; sums are both c and d")]
pub enum Part {
    A,
    B,
    Sums,
}

/// What the elements of a fragment are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are the formats")]
pub enum Element {
    Float(Factor),
    Byte { signed: bool },
}

/// How a matrix lies over the registers of a warp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The matrix.
    pub part: Part,
    /// Its rows.
    pub rows: u8,
    /// Its columns.
    pub columns: u8,
    /// Format of an element; `None` for sums of 32 bits.
    pub factor: Option<Element>,
    /// Registers in use: elements of which there are too few to fill them come several times.
    pub registers: u8,
}

/// `wmma.load` and `wmma.store`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WmmaAccess {
    /// `wmma.store`.
    pub is_store: bool,
    /// What lies where in the registers.
    pub fragment: Fragment,
    /// Rows are contiguous in memory, not columns.
    pub row_major: bool,
    /// State space.
    pub space: AccessSpace,
    /// Of the first element.
    pub address: Address,
    /// Elements from one row, or column, to the next; contiguous if absent.
    pub stride: Option<Word>,
    /// The fragment.
    pub words: [Word; 8],
}

/// `wmma.mma`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wmma {
    /// `.satfinite`: integer sums stop at the limits instead of wrapping around.
    pub saturates: bool,
    /// Fragment of the first factor.
    pub a: (Fragment, [Word; 8]),
    /// Fragment of the second factor.
    pub b: (Fragment, [Word; 8]),
    /// What is added to.
    pub c: (Fragment, [Word; 8]),
    /// Results.
    pub d: (Fragment, [Word; 8]),
}
