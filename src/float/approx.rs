//! The transcendental functions of the GPU's approximate instructions, as f64 values close enough to round correctly.
//!
//! Plain f64 additions and multiplications in a fixed order, no C library: the same bits on every machine. Each result
//! has a relative error near 2^-50, so rounding it to f32 gives the correctly rounded value unless the exact value
//! lies within 2^-26 ulp of a rounding boundary.

/// 2 to the power of `x`.
#[inline(always)]
pub fn exp2(x: f64) -> f64 {
    // Beyond these the f32 result is 0 or infinity whatever happens; the clamp also keeps the exponent arithmetic valid.
    let clamped = x.clamp(-1000.0, 1000.0);
    // Adding and subtracting 1.5 * 2^52 rounds to an integer and leaves it in the low bits.
    let shifted = clamped + ROUNDER;
    let integer = shifted - ROUNDER;
    let f = clamped - integer;
    let mut sum = EXP2[EXP2.len() - 1];
    let mut i = EXP2.len() - 1;
    while i > 0 {
        i -= 1;
        sum = sum * f + EXP2[i];
    }
    let exponent = shifted.to_bits().wrapping_add(1023) << 52;
    let result = sum * f64::from_bits(exponent);
    if x.is_nan() { x } else { result }
}

/// Logarithm to base 2. Zero gives minus infinity, negative numbers NaN.
pub fn log2(x: f64) -> f64 {
    if x.is_nan() || x < 0.0 {
        return f64::NAN;
    }
    if x == 0.0 {
        return f64::NEG_INFINITY;
    }
    if x == f64::INFINITY {
        return x;
    }
    // f32 inputs are normal f64 numbers. The significand is centred on 1 so that logarithms near 0 keep their accuracy.
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) & 0x7ff) as i64 - 1023;
    let mut m = f64::from_bits(bits & 0x000f_ffff_ffff_ffff | 0x3ff0_0000_0000_0000);
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        exponent += 1;
    }
    // ln(m) = 2 atanh((m - 1) / (m + 1)).
    let z = (m - 1.0) / (m + 1.0);
    let z2 = z * z;
    let mut sum = 0.0;
    let mut k = 27;
    while k >= 3 {
        sum = (sum + 1.0 / f64::from(k)) * z2;
        k -= 2;
    }
    let ln = 2.0 * z + 2.0 * z * sum;
    exponent as f64 + ln * std::f64::consts::LOG2_E
}

/// Sine of an f32 value.
pub fn sin(x: f64) -> f64 {
    sin_cos(x).0
}

/// Cosine of an f32 value.
pub fn cos(x: f64) -> f64 {
    sin_cos(x).1
}

/// Hyperbolic tangent.
pub fn tanh(x: f64) -> f64 {
    if x.abs() < 0.05 {
        // The quotient below cancels near zero; the series doesn't.
        let x2 = x * x;
        let series = x2
            * (-1.0 / 3.0
                + x2 * (2.0 / 15.0 + x2 * (-17.0 / 315.0 + x2 * (62.0 / 2835.0 - x2 * (1382.0 / 155_925.0)))));
        return x + x * series;
    }
    if x.abs() > 20.0 {
        return 1f64.copysign(x);
    }
    let e = exp2(2.0 * std::f64::consts::LOG2_E * x);
    (e - 1.0) / (e + 1.0)
}

const ROUNDER: f64 = 6_755_399_441_055_744.0;

/// ln(2)^k / k!, the Taylor series of 2^f; at |f| <= 1/2 the first term left out is below 2^-55.
const EXP2: [f64; 14] = exp2_coefficients();

const fn exp2_coefficients() -> [f64; 14] {
    let mut out = [1.0; 14];
    let mut k = 1;
    while k < out.len() {
        out[k] = out[k - 1] * std::f64::consts::LN_2 / k as f64;
        k += 1;
    }
    out
}

fn sin_cos(x: f64) -> (f64, f64) {
    if !x.is_finite() {
        return (f64::NAN, f64::NAN);
    }
    // Cody-Waite with pi/2 in three parts; past 2^20 quarter turns the hardware's own result has no accuracy left.
    let turns = (x * std::f64::consts::FRAC_2_PI).round_ties_even();
    let r = ((x - turns * 1.570_796_251_296_997) - turns * 7.549_789_415_861_596e-8) - turns * 5.390_302_858_158_8e-15;
    let r2 = r * r;
    let mut sine = 0.0;
    let mut cosine = 0.0;
    let mut k = 19.0;
    while k >= 3.0 {
        sine = (1.0 + sine) * (-r2 / (k * (k - 1.0)));
        cosine = (1.0 + cosine) * (-r2 / ((k - 1.0) * (k - 2.0)));
        k -= 2.0;
    }
    let (sine, cosine) = (r + r * sine, 1.0 + cosine);
    match turns.rem_euclid(4.0) as u8 {
        0 => (sine, cosine),
        1 => (cosine, -sine),
        2 => (-sine, -cosine),
        _ => (-cosine, sine),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(own: f64, other: f64) -> bool {
        own == other || (own - other).abs() <= other.abs() * 2f64.powi(-47)
    }

    proptest! {
        #[test]
        fn exp2_is_close(x in -200.0..200.0f64) {
            prop_assert!(close(exp2(x), x.exp2()), "{} {}", exp2(x), x.exp2());
        }

        #[test]
        fn log2_is_close(bits in 1u32..0x7f80_0000) {
            let x = f64::from(f32::from_bits(bits));
            prop_assert!(close(log2(x), x.log2()), "{} {}", log2(x), x.log2());
        }

        #[test]
        fn tanh_is_close(x in -30.0..30.0f64) {
            prop_assert!((tanh(x) - x.tanh()).abs() <= x.tanh().abs() * 2f64.powi(-44), "{} {}", tanh(x), x.tanh());
        }

        #[test]
        fn sine_and_cosine_are_close(x in -1000.0..1000.0f32) {
            let x = f64::from(x);
            prop_assert!((sin(x) - x.sin()).abs() < 2f64.powi(-46), "{} {}", sin(x), x.sin());
            prop_assert!((cos(x) - x.cos()).abs() < 2f64.powi(-46), "{} {}", cos(x), x.cos());
        }
    }

    #[test]
    fn exact_powers_are_exact() {
        for n in -149..=127 {
            assert_eq!(exp2(f64::from(n)), 2f64.powi(n));
            assert_eq!(log2(2f64.powi(n)), f64::from(n));
        }
        assert_eq!(exp2(f64::NEG_INFINITY) as f32, 0.0);
        assert_eq!(exp2(f64::INFINITY) as f32, f32::INFINITY);
    }
}
