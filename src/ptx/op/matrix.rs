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

/// Integer `mma.sync.m16n8k16` and `m16n8k32` of 8-bit elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MmaInteger {
    /// Inner dimension: 16 or 32.
    pub k: u8,
    /// The elements of `a` have a sign.
    pub a_signed: bool,
    /// The elements of `b` have a sign.
    pub b_signed: bool,
    /// `.satfinite`: sums stop at the limits instead of wrapping around.
    pub saturates: bool,
    /// Results.
    pub d: [Word; 4],
    /// Fragment of the 16 by k factor.
    pub a: [Word; 4],
    /// Fragment of the k by 8 factor.
    pub b: [Word; 4],
    /// What is added to.
    pub c: [Word; 4],
}

/// `mma.sync.m8n8k4` of f64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MmaDouble {
    /// Of each addition.
    pub rounding: Rounding,
    /// Results.
    pub d: [Wide; 2],
    /// An element of the 8 by 4 factor.
    pub a: Wide,
    /// An element of the 4 by 8 factor.
    pub b: Wide,
    /// What is added to.
    pub c: [Wide; 2],
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
    /// Registers in use of each factor.
    pub(crate) fn factor_registers(&self) -> [usize; 2] {
        let k = usize::from(self.k);
        [k / 8, k / 16]
    }
}
