//! Binary floating-point formats below f64: bits, rounding, unit roundoff.
//!
//! Rounding is done on f64 bit patterns, once, to nearest even. `half::f16::from_f64` is not used
//! because it may go through f32 and round twice where the processor has a half-precision converter.

pub mod approx;
pub(crate) mod bits;
pub mod eight;
pub mod exact;
pub mod fused;
pub(crate) mod lanes;
pub(crate) mod tile;

/// The types of 16-bit elements, where they are typed.
pub use half::{bf16, f16};

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Storage type of a tensor element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16: the upper half of binary32.
    Bf16,
}

impl Dtype {
    /// Every dtype, simplest first.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// Bytes of one element.
    pub fn size_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Significand bits, the implicit one included.
    pub fn precision_bits(self) -> u32 {
        match self {
            Self::F32 => 24,
            Self::F16 => 11,
            Self::Bf16 => 8,
        }
    }

    /// Exponent of the smallest normal number.
    pub fn min_exponent(self) -> i32 {
        match self {
            Self::F32 | Self::Bf16 => -126,
            Self::F16 => -14,
        }
    }

    /// Largest finite value.
    pub fn max_finite(self) -> f64 {
        match self {
            Self::F32 => f64::from(f32::MAX),
            Self::F16 => 65504.0,
            Self::Bf16 => f64::from(half::bf16::MAX),
        }
    }

    /// Smallest positive normal number.
    pub fn min_positive_normal(self) -> f64 {
        libm::ldexp(1.0, self.min_exponent())
    }

    /// Distance from a number to the next larger in magnitude; that of the subnormal numbers around 0. Infinity for
    /// infinity, NaN for NaN.
    pub fn spacing(self, x: f64) -> f64 {
        if !x.is_finite() {
            return x.abs();
        }
        let exponent = if x == 0.0 { self.min_exponent() } else { libm::ilogb(x).max(self.min_exponent()) };
        libm::ldexp(1.0, exponent + 1 - self.precision_bits() as i32)
    }

    /// Half the distance from 1 to the next number: the relative error of one rounding to nearest.
    pub fn unit_roundoff(self) -> f64 {
        (-f64::from(self.precision_bits())).exp2()
    }

    /// Rounds to this format, to nearest even, and widens back to f64. NaN stays NaN, overflow gives infinity.
    pub fn round(self, x: f64) -> f64 {
        if x == 0.0 || !x.is_finite() {
            return x;
        }
        if self == Self::F32 { f64::from(x as f32) } else { self.round_scaled(x) }
    }

    /// [`Dtype::round`] of a finite number other than 0, for any format.
    fn round_scaled(self, x: f64) -> f64 {
        // The spacing of the format at |x|: one unit in the last place of its binade, or the subnormal spacing.
        let exponent = (((x.to_bits() >> 52) & 0x7ff) as i32 - 1023).max(self.min_exponent());
        let ulp = exponent - self.precision_bits() as i32 + 1;
        // Scaling by a power of two is exact here. Where f64 has a spacing of 1, a sum is rounded to an integer: the only
        // rounding, and a good deal faster than a call of `rint`.
        const SPACING_1: f64 = 1.5 * (1u64 << 52) as f64;
        let scaled = x * power_of_two(-ulp);
        let rounded = (((scaled + SPACING_1) - SPACING_1) * power_of_two(ulp)).copysign(x);
        if rounded.abs() > self.max_finite() {
            return f64::INFINITY.copysign(x);
        }
        rounded
    }

    /// The element's bits after [`Dtype::round`], in the low bits.
    pub fn encode(self, x: f64) -> u32 {
        // Each conversion below is exact: `round` already made the value representable.
        let x = self.round(x);
        match self {
            Self::F32 => (x as f32).to_bits(),
            Self::F16 => u32::from(half::f16::from_f32(x as f32).to_bits()),
            Self::Bf16 => u32::from(half::bf16::from_f32(x as f32).to_bits()),
        }
    }

    /// The value of an element's bits.
    pub fn decode(self, bits: u32) -> f64 {
        match self {
            Self::F32 => f64::from(f32::from_bits(bits)),
            Self::F16 => f64::from(half::f16::from_bits(bits as u16)),
            Self::Bf16 => f64::from(half::bf16::from_bits(bits as u16)),
        }
    }
}

/// Exponent of the lowest set bit of a finite `x`: `x` is a multiple of 2 to that power, and of no greater one.
///
/// A number larger than any exponent for zero, which is a multiple of every power of two.
pub fn lowest_bit(x: f64) -> i32 {
    const ZERO: i32 = 1_000_000;
    let bits = x.to_bits();
    let fraction = bits & ((1 << 52) - 1);
    let exponent = ((bits >> 52) & 0x7ff) as i32;
    if x == 0.0 {
        ZERO
    } else if exponent == 0 {
        fraction.trailing_zeros() as i32 - 1074
    } else {
        (fraction | (1 << 52)).trailing_zeros() as i32 + exponent - 1075
    }
}

/// The larger number, the first one if the second is NaN: one instruction, unlike [`f64::max`], which sees to NaN in either.
#[inline(always)]
pub(crate) fn larger(a: f64, b: f64) -> f64 {
    if b > a { b } else { a }
}

/// 2 to the power of `exponent`, for exponents of normal f64 numbers.
fn power_of_two(exponent: i32) -> f64 {
    debug_assert!((-1022..=1023).contains(&exponent));
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}

impl FromStr for Dtype {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|d| d.to_string() == s)
            .ok_or_else(|| format!("expected a dtype (f32, f16 or bf16), found {s:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_bit_pattern_round_trips(bits: u16) {
            for dtype in [Dtype::F16, Dtype::Bf16] {
                let x = dtype.decode(u32::from(bits));
                if !x.is_nan() {
                    prop_assert_eq!(dtype.encode(x), u32::from(bits));
                }
            }
        }

        #[test]
        fn f32_rounding_is_the_processors(x: f64) {
            prop_assume!(x != 0.0);
            prop_assert_eq!(Dtype::F32.round_scaled(x).to_bits(), f64::from(x as f32).to_bits());
        }

        #[test]
        fn f32_rounding_near_its_limits(bits: u32, offset in -1.0..1.0f64) {
            let x = f64::from(f32::from_bits(bits)) * (1.0 + offset * 2f64.powi(-23));
            prop_assume!(x != 0.0 && x.is_finite());
            prop_assert_eq!(Dtype::F32.round_scaled(x).to_bits(), f64::from(x as f32).to_bits());
        }

        #[test]
        fn rounding_is_monotone(a in -70000.0..70000.0f64, b in -70000.0..70000.0f64) {
            for dtype in Dtype::ALL {
                prop_assert!(dtype.round(a.min(b)) <= dtype.round(a.max(b)));
            }
        }
    }

    #[test]
    fn lowest_bits() {
        let cases = [(1.0, 0), (-6.0, 1), (0.75, -2), (f64::from(f32::from_bits(1)), -149), (f64::from_bits(4), -1072)];
        for (x, exponent) in cases {
            assert_eq!(lowest_bit(x), exponent);
        }
        assert!(lowest_bit(0.0) > 2000);
    }

    #[test]
    fn f16_rounds_once() {
        // Through f32 this would become the tie 1 + 2^-11 and then go to even, 1.0.
        let x = 1.0 + 2f64.powi(-11) + 2f64.powi(-40);
        assert_eq!(Dtype::F16.round(x), 1.0 + 2f64.powi(-10));
        assert_eq!(Dtype::F16.round(65519.999), 65504.0);
        assert_eq!(Dtype::F16.round(65520.0), f64::INFINITY);
        assert_eq!(Dtype::F16.round(2f64.powi(-25)), 0.0);
        assert_eq!(Dtype::F16.round(2f64.powi(-25) * 1.01), 2f64.powi(-24));
    }
}
