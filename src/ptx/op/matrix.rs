//! Operands of matrix instructions and asynchronous copies.

use super::{AccessSpace, Address, Rounding, Wide, Word};

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

/// What is multiplied and added up, element by element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntegerElement {
    /// Integers of 4 or 8 bits.
    Bits {
        /// Of an element.
        bits: u8,
        /// The elements of `a` have a sign.
        a_signed: bool,
        /// The elements of `b` have a sign.
        b_signed: bool,
    },
    /// `.xor.popc`.
    Xor,
    /// `.and.popc`.
    And,
}

/// Integer `mma.sync` of 8 or 16 rows and 8 columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MmaInteger {
    /// Of `a`.
    pub rows: u8,
    /// Words that a row of `a` fills: the inner dimension.
    pub words_of_a_row: u8,
    /// Elements of the factors.
    pub element: IntegerElement,
    /// `.satfinite`: sums stop at the limits instead of wrapping around.
    pub saturates: bool,
    /// Results.
    pub d: [Word; 4],
    /// Fragment of the first factor.
    pub a: [Word; 4],
    /// Fragment of the second factor.
    pub b: [Word; 4],
    /// What is added to.
    pub c: [Word; 4],
}

/// `mma.sync` of f64, of 8 or 16 rows and 8 columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MmaDouble {
    /// Of `a`.
    pub rows: u8,
    /// Inner dimension: 4, 8 or 16.
    pub k: u8,
    /// Of each addition.
    pub rounding: Rounding,
    /// Results.
    pub d: [Wide; 4],
    /// Fragment of the first factor.
    pub a: [Wide; 8],
    /// Fragment of the second factor.
    pub b: [Wide; 4],
    /// What is added to.
    pub c: [Wide; 4],
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

impl Mma {
    /// Registers in use of each factor.
    pub(crate) fn factor_registers(&self) -> [usize; 2] {
        let k = usize::from(self.k);
        if self.factor == Factor::Tf32 { [k / 2, k / 4] } else { [k / 4, k / 8] }
    }
}

impl MmaInteger {
    /// Registers in use of each factor, and of the sums.
    pub(crate) fn registers(&self) -> [usize; 3] {
        let (row_halves, chunks) = (usize::from(self.rows) / 8, usize::from(self.words_of_a_row) / 4);
        [chunks * row_halves, chunks, 2 * row_halves]
    }
}

impl MmaDouble {
    /// Registers in use of each factor, and of the sums.
    pub(crate) fn registers(&self) -> [usize; 3] {
        let (row_halves, chunks) = (usize::from(self.rows) / 8, usize::from(self.k) / 4);
        [chunks * row_halves, chunks, 2 * row_halves]
    }
}
