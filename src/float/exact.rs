//! f64 arithmetic rounded once, to nearest or in a direction, computed with integers.
//!
//! A finite value is taken apart into a significand and an exponent; sums, products, quotients and roots are formed in
//! 128 bits with a last bit that stands for all that was cut off, and rounded to 53 bits or, below the smallest normal
//! number, to as many as are left. No C library and no rounding mode of the processor takes part.

use super::fused::Direction;

/// `significand * 2^exponent`, the significand's last bit set when something below it was cut off.
#[derive(Clone, Copy)]
struct Parts {
    negative: bool,
    significand: u128,
    exponent: i32,
}

/// Where the leading bit of a normalised significand is: there is room for one carry.
const TOP: u32 = 125;

impl Parts {
    fn of(x: f64) -> Self {
        let bits = x.to_bits();
        let (field, fraction) = ((bits >> 52 & 0x7ff) as i32, bits & ((1 << 52) - 1));
        let significand = if field == 0 { fraction } else { fraction | 1 << 52 };
        Self { negative: x.is_sign_negative(), significand: significand.into(), exponent: field.max(1) - 1075 }
    }

    /// With the leading bit at `TOP`; zero stays as it is.
    fn normalised(self) -> Self {
        if self.significand == 0 {
            return self;
        }
        let shift = TOP as i32 - self.significand.ilog2() as i32;
        let significand = if shift >= 0 { self.significand << shift } else { jam(self.significand, -shift as u32) };
        Self { significand, exponent: self.exponent - shift, ..self }
    }

    fn round(self, direction: Option<Direction>) -> f64 {
        if self.significand == 0 {
            return if self.negative { -0.0 } else { 0.0 };
        }
        let Self { negative, significand, exponent } = self.normalised();
        // The last kept bit weighs 2^(exponent + cut), at least 2^-1074.
        let cut = (TOP as i32 - 52).max(-1074 - exponent);
        let (kept, rest, half) = match cut {
            ..=126 => {
                let cut = cut as u32;
                (significand >> cut, significand & ((1 << cut) - 1), 1u128 << (cut - 1))
            }
            _ => (0, 1, 2),
        };
        let up = match direction {
            None => rest > half || rest == half && kept & 1 == 1,
            Some(Direction::Zero) => false,
            Some(Direction::Down) => negative && rest != 0,
            Some(Direction::Up) => !negative && rest != 0,
        };
        let kept = kept as u64 + u64::from(up);
        let last = exponent + cut;
        // Adding to the bits carries into the exponent field, from subnormal to normal and from one power to the next.
        let magnitude = if kept < 1 << 52 { kept } else { (((last + 1074) as u64) << 52) + kept };
        let infinity = f64::INFINITY.to_bits();
        let to_infinity = match direction {
            None => true,
            Some(Direction::Zero) => false,
            Some(Direction::Down) => negative,
            Some(Direction::Up) => !negative,
        };
        let magnitude = match magnitude {
            m if m < infinity && last <= 971 => m,
            _ if to_infinity => infinity,
            _ => infinity - 1,
        };
        f64::from_bits(magnitude | u64::from(negative) << 63)
    }
}

/// `a * b + c`.
pub fn fma(a: f64, b: f64, c: f64, direction: Option<Direction>) -> f64 {
    if !(a.is_finite() && b.is_finite()) {
        return a * b + c;
    }
    if !c.is_finite() {
        return c;
    }
    let (product, c) = (product(a, b).normalised(), Parts::of(c).normalised());
    if product.significand == 0 || c.significand == 0 {
        let sum = if product.significand == 0 { c } else { product };
        let cancelled = product.significand == 0 && c.significand == 0 && product.negative != c.negative;
        return if cancelled { zero(direction) } else { sum.round(direction) };
    }
    let key = |p: &Parts| (p.exponent, p.significand);
    let (large, small) = if key(&product) < key(&c) { (c, product) } else { (product, c) };
    // Significands have 106 bits at most, so that bits are cut off only where at most one leading bit cancels.
    let aligned = jam(small.significand, (large.exponent - small.exponent) as u32);
    let significand =
        if large.negative == small.negative { large.significand + aligned } else { large.significand - aligned };
    if significand == 0 {
        return zero(direction);
    }
    Parts { significand, ..large }.round(direction)
}

/// `a * b`.
pub fn multiply(a: f64, b: f64, direction: Option<Direction>) -> f64 {
    if a.is_finite() && b.is_finite() { product(a, b).round(direction) } else { a * b }
}

/// `a / b`.
pub fn divide(a: f64, b: f64, direction: Option<Direction>) -> f64 {
    if !(a.is_finite() && b.is_finite()) || a == 0.0 || b == 0.0 {
        return a / b;
    }
    let (a, b) = (Parts::of(a).normalised(), Parts::of(b));
    let quotient = (a.significand / b.significand) << 1;
    let inexact = u128::from(a.significand % b.significand != 0);
    Parts { negative: a.negative != b.negative, significand: quotient | inexact, exponent: a.exponent - b.exponent - 1 }
        .round(direction)
}

/// The square root.
pub fn sqrt(a: f64, direction: Option<Direction>) -> f64 {
    if a == 0.0 || !a.is_finite() || a < 0.0 {
        return a.sqrt();
    }
    let mut a = Parts::of(a).normalised();
    if a.exponent % 2 != 0 {
        a = Parts { significand: a.significand << 1, exponent: a.exponent - 1, ..a };
    }
    let root = a.significand.isqrt();
    let inexact = u128::from(root * root != a.significand);
    Parts { negative: false, significand: root << 1 | inexact, exponent: a.exponent / 2 - 1 }.round(direction)
}

fn product(a: f64, b: f64) -> Parts {
    let (a, b) = (Parts::of(a), Parts::of(b));
    Parts {
        negative: a.negative != b.negative,
        significand: a.significand * b.significand,
        exponent: a.exponent + b.exponent,
    }
}

/// Shifts right; what falls off stays visible in the last bit.
fn jam(x: u128, by: u32) -> u128 {
    match by {
        0 => x,
        1..=127 => x >> by | u128::from(x << (128 - by) != 0),
        _ => u128::from(x != 0),
    }
}

/// An exact zero from terms that cancel.
fn zero(direction: Option<Direction>) -> f64 {
    if direction == Some(Direction::Down) { -0.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn same(a: f64, b: f64) -> bool {
        a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
    }

    proptest! {
        #[test]
        fn to_nearest_is_the_processors(a: u64, b: u64, c: u64, near in -80i32..80) {
            let (a, b) = (f64::from_bits(a), f64::from_bits(b));
            let close = a * b * 2f64.powi(near) * (1.0 + (c % 7) as f64);
            for c in [f64::from_bits(c), close, -close] {
                prop_assert!(same(fma(a, b, c, None), a.mul_add(b, c)), "fma {a:e} {b:e} {c:e}");
                prop_assert!(same(fma(a, 1.0, c, None), a + c));
            }
            prop_assert!(same(multiply(a, b, None), a * b));
            prop_assert!(same(divide(a, b, None), a / b));
            prop_assert!(same(sqrt(a, None), a.sqrt()));
        }

        #[test]
        fn directions_enclose_the_nearest(a: u64, b: u64) {
            let (a, b) = (f64::from_bits(a), f64::from_bits(b));
            for f in [multiply, divide, |a, b, way| fma(a, 1.0, b, way), |a: f64, _, way| sqrt(a, way)] {
                let [near, down, up, zero] =
                    [None, Some(Direction::Down), Some(Direction::Up), Some(Direction::Zero)].map(|way| f(a, b, way));
                if near.is_nan() {
                    continue;
                }
                prop_assert!(down == up || same(down.next_up(), up) || down.next_up() == up, "{down:e} {up:e}");
                prop_assert!(near == down || near == up);
                let inward = if near.is_sign_negative() { up } else { down };
                prop_assert_eq!(zero, inward);
            }
        }
    }
}
