//! Fused multiply-add and directed rounding of f32, f16 and bf16, in plain f64 arithmetic.
//!
//! Nothing here calls a C library or depends on the processor's own fused instruction, so results are the same on every
//! machine. The method is rounding to odd: a sum is computed in f64 with its exact error (Knuth's TwoSum); when the
//! error isn't zero the last bit of the f64 is made odd in the error's direction, after which one rounding to a format
//! of at most 51 bits is the correct one (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).

/// Direction of a rounding that isn't to nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "IEEE 754 directions")]
pub enum Direction {
    Zero,
    Down,
    Up,
}

/// `a * b + c` rounded once to f32, to nearest even.
pub fn fma_f32(a: f32, b: f32, c: f32) -> f32 {
    fma_to_odd(f64::from(a), f64::from(b), f64::from(c)) as f32
}

/// `a * b + c` in f64, rounded to odd, for factors whose product is exact in f64.
///
/// Rounding the result once more, to nearest, to any format of at most 51 bits gives the correctly rounded value.
pub fn fma_to_odd(a: f64, b: f64, c: f64) -> f64 {
    sum_to_odd(a * b, c)
}

/// `x + y` rounded to odd.
pub fn sum_to_odd(x: f64, y: f64) -> f64 {
    let (sum, error) = two_sum(x, y);
    let bits = sum.to_bits();
    let inexact = error != 0.0 && sum.is_finite();
    // An even last bit moves by one towards the error; the neighbours of an even significand are odd.
    let away = (error > 0.0) == (sum > 0.0);
    let moved = if away { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    f64::from_bits(if inexact && bits & 1 == 0 { moved } else { bits })
}

/// The f64 nearest `x + y` and the exact error of taking it.
pub fn two_sum(x: f64, y: f64) -> (f64, f64) {
    let sum = x + y;
    let part = sum - x;
    (sum, (x - (sum - part)) + (y - part))
}

/// `x`, exact or rounded to odd, as f32 in a direction.
pub fn to_f32_directed(x: f64, direction: Direction) -> f32 {
    let nearest = x as f32;
    if !x.is_finite() {
        return nearest;
    }
    let wide = f64::from(nearest);
    match direction {
        Direction::Down if wide > x => nearest.next_down(),
        Direction::Up if wide < x => nearest.next_up(),
        Direction::Zero if wide.abs() > x.abs() => {
            if x > 0.0 {
                nearest.next_down()
            } else {
                nearest.next_up()
            }
        }
        _ => nearest,
    }
}

/// `a / b` in f64, rounded to odd, for f32 operands.
pub fn divide_to_odd(a: f32, b: f32) -> f64 {
    let (a, b) = (f64::from(a), f64::from(b));
    let quotient = a / b;
    if !quotient.is_finite() || quotient == 0.0 {
        return quotient;
    }
    // The residue's sign says on which side of the quotient the exact value lies; 24 by 53 bits doesn't fit an f64,
    // so the product is split first.
    let (high, low) = split(quotient);
    let residue = (a - high * b) - low * b;
    let bits = quotient.to_bits();
    if residue == 0.0 || bits & 1 == 1 {
        return quotient;
    }
    let grows = (residue > 0.0) == (b > 0.0);
    let away = grows == (quotient > 0.0);
    f64::from_bits(if away { bits + 1 } else { bits - 1 })
}

/// The square root of an f32 in f64, rounded to odd.
pub fn sqrt_to_odd(a: f32) -> f64 {
    let a = f64::from(a);
    let root = a.sqrt();
    if !root.is_finite() || root == 0.0 {
        return root;
    }
    let (high, low) = split(root);
    let residue = ((a - high * high) - 2.0 * high * low) - low * low;
    let bits = root.to_bits();
    if residue == 0.0 || bits & 1 == 1 {
        return root;
    }
    f64::from_bits(if residue > 0.0 { bits + 1 } else { bits - 1 })
}

/// Upper 26 bits of a significand and the rest.
fn split(x: f64) -> (f64, f64) {
    let high = f64::from_bits(x.to_bits() & !0x7ff_ffff);
    (high, x - high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn fma_is_the_processors(a: u32, b: u32, c: u32) {
            let (a, b, c) = (f32::from_bits(a), f32::from_bits(b), f32::from_bits(c));
            let (own, theirs) = (fma_f32(a, b, c), a.mul_add(b, c));
            prop_assert!(own.to_bits() == theirs.to_bits() || own.is_nan() && theirs.is_nan());
        }

        #[test]
        fn fma_of_close_magnitudes_is_the_processors(a in -4096i32..4096, b in -4096i32..4096, c: i32, shift in 0..40) {
            let scale = 2f32.powi(shift - 30);
            let (a, b, c) = (a as f32, b as f32 * scale, c as f32 * 2f32.powi(-8));
            prop_assert_eq!(fma_f32(a, b, c).to_bits(), a.mul_add(b, c).to_bits());
        }

        #[test]
        fn directed_results_enclose_the_exact_one(a: i32, b: i32, c: i32) {
            let (a, b, c) = (a as f32, b as f32, c as f32);
            let exact = fma_to_odd(f64::from(a), f64::from(b), f64::from(c));
            let down = to_f32_directed(exact, Direction::Down);
            let up = to_f32_directed(exact, Direction::Up);
            let nearest = fma_f32(a, b, c);
            prop_assert!(down == up || down.next_up() == up);
            prop_assert!(nearest == down || nearest == up);
        }

        #[test]
        fn rounding_to_odd_keeps_division_and_root_correct(a: u32, b: u32) {
            let (a, b) = (f32::from_bits(a), f32::from_bits(b));
            let quotient = divide_to_odd(a, b) as f32;
            prop_assert!(quotient.to_bits() == (a / b).to_bits() || quotient.is_nan());
            let root = sqrt_to_odd(a) as f32;
            prop_assert!(root.to_bits() == a.sqrt().to_bits() || root.is_nan());
        }
    }
}
