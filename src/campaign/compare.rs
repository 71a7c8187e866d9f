//! The same case on two backends, bit for bit.
//!
//! Both results lie within the bound of the same reference or one of them is a finding already; this only measures how
//! far apart two right executions of one program are (approximate instructions may differ).

use crate::outcome::Output;
use crate::tensor::Buffer;
use serde::{Deserialize, Serialize};

/// How the outputs of two backends differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// Cases compared.
    pub cases: u64,
    /// Output elements compared.
    pub elements: u64,
    /// Elements with the same bits.
    pub identical: u64,
    /// Largest distance, in units in the last place of the storage type.
    pub max_ulps: u64,
}

impl Comparison {
    /// Adds a case that both backends ran to its end.
    pub fn add(&mut self, a: &Output, b: &Output) {
        self.cases += 1;
        for (a, b) in a.out.iter().zip(&b.out).chain(a.lse.iter().zip(&b.lse)) {
            for index in 0..a.len().min(b.len()) {
                let distance = ulps(a, b, index);
                self.elements += 1;
                self.identical += u64::from(distance == 0);
                self.max_ulps = self.max_ulps.max(distance);
            }
        }
    }

    /// Puts two counts together.
    pub fn merge(&mut self, other: Self) {
        self.cases += other.cases;
        self.elements += other.elements;
        self.identical += other.identical;
        self.max_ulps = self.max_ulps.max(other.max_ulps);
    }
}

/// Numbers of the storage type between two elements.
fn ulps(a: &Buffer, b: &Buffer, index: usize) -> u64 {
    let bits = 8 * a.dtype().size_bytes() as u32;
    // Sign-magnitude bits to a line on which neighbours are neighbouring integers.
    let place = |buffer: &Buffer| {
        let x = i64::from(buffer.bits(index));
        let sign = 1 << (bits - 1);
        if x & sign == 0 { x } else { sign - x }
    };
    place(a).abs_diff(place(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float::Dtype;

    #[test]
    fn distance_is_counted_in_units_of_the_storage_type() {
        for dtype in Dtype::ALL {
            let one = dtype.encode(1.0);
            let pair = |a, b| ulps(&Buffer::filled(dtype, 1, a), &Buffer::filled(dtype, 1, b), 0);
            assert_eq!(pair(one, one + 3), 3);
            assert_eq!(pair(dtype.encode(-1.0), dtype.encode(-1.0) + 2), 2);
            assert_eq!(pair(dtype.encode(0.0), dtype.encode(-0.0)), 0);
            assert_eq!(pair(1, dtype.encode(-0.0) + 1), 2);
        }
    }
}
