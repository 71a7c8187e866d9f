//! One dot product, with the sums that bound any kernel's error in it.

use crate::float::lowest_bit;
use crate::float::tile::tile;

/// Binary32 has 24 significant bits: integers up to 2^23 keep one bit to spare.
const EXACT_BITS: i32 = 23;

/// Sums over the products `q_k K_jk` of one key, before scaling.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Dot {
    pub(super) sum: f64,
    pub(super) abs: f64,
    pub(super) squares: f64,
    pub(super) nonzeros: u32,
}

impl Dot {
    /// The sums, in a fixed order: eight interleaved accumulators, added up as a tree, then the rest.
    #[inline(always)]
    pub(super) fn of(q: &[f64], k: &[f64]) -> Self {
        let (mut sum, mut abs, mut squares) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        let mut nonzeros = [0u32; LANES];
        let k = &k[..q.len()];
        // One loop for each sum: compilers make vectors of them as they stand.
        for chunk in 0..q.len() / LANES {
            let (q, k) = (tile::<LANES>(q, chunk * LANES), tile::<LANES>(k, chunk * LANES));
            let mut x = [0.0; LANES];
            for i in 0..LANES {
                x[i] = q[i] * k[i];
            }
            for i in 0..LANES {
                sum[i] += x[i];
            }
            for i in 0..LANES {
                abs[i] += x[i].abs();
            }
            for i in 0..LANES {
                squares[i] += x[i] * x[i];
            }
            for i in 0..LANES {
                nonzeros[i] += u32::from(x[i] != 0.0);
            }
        }
        let [sum, abs, squares] = trees(&[sum, abs, squares]);
        let mut dot = Self { sum, abs, squares, nonzeros: nonzeros.iter().sum::<u32>() };
        for i in q.len() - q.len() % LANES..q.len() {
            let x = q[i] * k[i];
            dot.sum += x;
            dot.abs += x.abs();
            dot.squares += x * x;
            dot.nonzeros += u32::from(x != 0.0);
        }
        dot
    }

    /// Whether every partial sum, in any order, is a binary32 number.
    ///
    /// Let `2^gq` be the lowest set bit over the nonzero entries of `q`, and `2^gk` over the entries
    /// of the key that meet one. Every partial sum is a multiple of `2^(gq+gk)`, and none exceeds
    /// `sum |q_k K_jk|`. If that is at most `2^(gq+gk+23)`, each fits in 24 bits. The same holds for
    /// a tensor core that keeps 23 or more fractional bits of its largest addend.
    ///
    /// `q_lowest` is `gq`. Ends at the first entry that decides against, which for data that use
    /// all their bits comes at once.
    pub(super) fn is_exact(&self, q: &[f64], k: &[f64], q_lowest: i32) -> bool {
        // Sums below this are products of subnormals, whose lowest bit may be lost.
        const LOWEST: i32 = -140;
        let mut k_lowest = lowest_bit(0.0);
        let fits = |k_lowest: i32| {
            let quantum = q_lowest.saturating_add(k_lowest);
            quantum > LOWEST && self.abs <= exp2(quantum.saturating_add(EXACT_BITS))
        };
        for (&q, &k) in q.iter().zip(k) {
            if q == 0.0 || k == 0.0 {
                continue;
            }
            let lowest = lowest_bit(k);
            if lowest < k_lowest {
                k_lowest = lowest;
                if !fits(k_lowest) {
                    return false;
                }
            }
        }
        fits(k_lowest)
    }
}

/// Accumulators of each sum.
const LANES: usize = 8;

/// Not inlined: compilers would pair up the lanes of several sums, all through the loop.
#[inline(never)]
fn trees(sums: &[[f64; LANES]; 3]) -> [f64; 3] {
    // `map` would copy the sums before it calls anything.
    [tree(&sums[0]), tree(&sums[1]), tree(&sums[2])]
}

#[inline(always)]
fn tree(x: &[f64; LANES]) -> f64 {
    let mut half = [0.0; LANES / 2];
    for i in 0..LANES / 2 {
        half[i] = x[i] + x[i + LANES / 2];
    }
    (half[0] + half[2]) + (half[1] + half[3])
}

/// A power of two, clipped to the range of normal numbers.
fn exp2(exponent: i32) -> f64 {
    f64::from_bits(((exponent.clamp(-1000, 1000) + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_exact_until_24_bits() {
        let exact = |q: &[f64], k: &[f64]| {
            let lowest = q.iter().map(|&x| lowest_bit(x)).min().unwrap();
            Dot::of(q, k).is_exact(q, k, lowest)
        };
        assert!(exact(&[2048.0, 1.0], &[4095.0, 1.0]));
        assert!(!exact(&[2048.0, 1.0], &[4097.0, 1.0]));
        // A power of two may be large; an entry of q that is zero hides the key's low bits.
        assert!(exact(&[0.0, 1024.0], &[0.1, 1.0]));
        assert!(!exact(&[1.0, 1024.0], &[0.1, 1.0]));
        assert!(exact(&[0.0; 3], &[0.1, 0.2, 0.3]));
    }

    #[test]
    fn sums_count_every_entry_once() {
        let q: Vec<f64> = (0..21).map(f64::from).collect();
        let k: Vec<f64> = (0..21).map(|i| if i % 2 == 0 { 1.0 } else { -2.0 }).collect();
        let dot = Dot::of(&q, &k);
        assert_eq!(dot.sum, 110.0 - 200.0);
        assert_eq!(dot.abs, 110.0 + 200.0);
        assert_eq!(dot.nonzeros, 20);
    }
}
