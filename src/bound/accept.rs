//! From a bound on the error before the last rounding to a verdict on one element.
//!
//! A kernel whose unrounded output is within `b` of `o` stores `RN(x)` for some `x` in `[o - b, o + b]`.
//! Rounding to nearest is monotone, so what it stores lies in `[RN(o - b), RN(o + b)]`, and nothing is
//! lost by testing exactly that. Adding half an ulp to `b` instead would be up to twice as loose, and
//! wrong for subnormals and at overflow: for binary16, infinity is accepted if and only if `o + b` is
//! at least 65520, and required if and only if `o - b` is.
//!
//! Assumes that the store rounds to nearest, ties to even. Whether it saturates need not be known: an output is a mean of
//! values of its own type, so `o` is at most the largest finite number, and where `o + b` rounds to infinity, infinity
//! and that number are both accepted.

use crate::float::Dtype;

/// The values that a correct kernel may store: every one between the two, NaN excluded.
///
/// A bound that is not a number accepts everything that is one.
pub fn interval(o: f64, b: f64, dtype: Dtype) -> (f64, f64) {
    if !b.is_finite() {
        return (f64::NEG_INFINITY, f64::INFINITY);
    }
    (dtype.round(o - b), dtype.round(o + b))
}

/// Whether a correct kernel may store `out`. Never if it is NaN.
pub fn accepts(out: f64, o: f64, b: f64, dtype: Dtype) -> bool {
    let (low, high) = interval(o, b, dtype);
    low <= out && out <= high
}

/// How much of the bound `out` uses: the smallest `t >= 0` such that `out` is between `RN(o - t b)` and
/// `RN(o + t b)`.
///
/// `out` must be a value of `dtype`. 0 if it is `RN(o)`; infinity if it is NaN, or if `o` is not finite
/// and `out` is another value. At most 1 if and only if [`accepts`], up to f64 rounding where `out`'s
/// rounding cell ends.
pub fn ratio(out: f64, o: f64, b: f64, dtype: Dtype) -> f64 {
    if out.is_nan() || !o.is_finite() {
        return if out == o { 0.0 } else { f64::INFINITY };
    }
    // Which side `out` is on is as good as random, and so not to be branched on.
    let side = if out > o { 1.0 } else { -1.0 };
    // Distance from o to the nearest number that rounds to `out`.
    let distance = (lower_edge(side * out, dtype) - side * o).max(0.0);
    let ratio = distance / b;
    if !ratio.is_nan() {
        ratio
    } else if b == 0.0 || out == dtype.round(o) {
        0.0
    } else {
        f64::INFINITY
    }
}

/// [`ratio`], and whether [`accepts`] holds; faster than asking for each. Most elements need no rounding of the interval's ends.
pub fn assess(out: f64, o: f64, b: f64, dtype: Dtype) -> (f64, bool) {
    // Far enough from where they might differ by an f64 rounding.
    const INSIDE: std::ops::Range<f64> = 1e-6..0.999_999;
    // In 16 bits nearly every right element is, in 32 it is as good as random.
    let rounded = out == dtype.round(o);
    if rounded && dtype != Dtype::F32 {
        return (0.0, true);
    }
    let ratio = ratio(out, o, b, dtype);
    (ratio, rounded | INSIDE.contains(&ratio) || accepts(out, o, b, dtype))
}

/// Where the numbers that round to `x` begin: halfway to the next smaller value.
fn lower_edge(x: f64, dtype: Dtype) -> f64 {
    if x == f64::INFINITY {
        // Halfway between the largest finite value and the next one, were there another binade.
        let max = dtype.max_finite();
        return max + (max - below(max, dtype)) / 2.0;
    }
    if x == -dtype.max_finite() {
        return -lower_edge(f64::INFINITY, dtype);
    }
    x + (below(x, dtype) - x) / 2.0
}

/// The next smaller value of `dtype`, for finite `x` above the smallest.
fn below(x: f64, dtype: Dtype) -> f64 {
    let sign = 1i32 << (dtype.size_bytes() * 8 - 1);
    let bits = dtype.encode(x) as i32;
    // Magnitude with sign as an integer, in the order of the values.
    let magnitude = bits & sign.wrapping_sub(1);
    let place = if bits & sign == 0 { magnitude } else { -magnitude } - 1;
    dtype.decode(place.unsigned_abs() | if place < 0 { sign as u32 } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dtypes() -> impl Strategy<Value = Dtype> {
        prop::sample::select(&Dtype::ALL[..])
    }

    fn magnitudes() -> impl Strategy<Value = f64> {
        (-1.0..1.0f64, -160..20i32).prop_map(|(x, e)| x * f64::from(e).exp2())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn intervals_grow_with_the_bound(o in magnitudes(), a in magnitudes(), b in magnitudes(), dtype in dtypes()) {
            let (small, large) = (a.abs().min(b.abs()), a.abs().max(b.abs()));
            let (inner, outer) = (interval(o, small, dtype), interval(o, large, dtype));
            prop_assert!(outer.0 <= inner.0 && inner.0 <= inner.1 && inner.1 <= outer.1);
        }

        #[test]
        fn the_rounded_reference_is_always_accepted(o in magnitudes(), b in magnitudes(), dtype in dtypes()) {
            let out = dtype.round(o);
            prop_assert!(accepts(out, o, b.abs(), dtype));
            prop_assert_eq!(ratio(out, o, b.abs(), dtype), 0.0);
            prop_assert!(!accepts(f64::NAN, o, b.abs(), dtype));
            prop_assert_eq!(ratio(f64::NAN, o, b.abs(), dtype), f64::INFINITY);
        }

        #[test]
        fn ratio_agrees_with_accepts(o in magnitudes(), b in magnitudes(), step in -2.0..2.0f64, dtype in dtypes()) {
            let b = b.abs();
            let out = dtype.round(o + step * b);
            let ratio = ratio(out, o, b, dtype);
            if accepts(out, o, b, dtype) {
                prop_assert!(ratio <= 1.0 + 1e-9, "accepted at {ratio}");
            } else {
                prop_assert!(ratio >= 1.0 - 1e-9, "refused at {ratio}");
            }
            prop_assert!(ratio <= step.abs() + 1e-9);
            prop_assert_eq!(assess(out, o, b, dtype), (ratio, accepts(out, o, b, dtype)));
        }

        #[test]
        fn ratio_is_what_it_says(out in any_element(), o in any_element(), off in -2.0..2.0f64, b in any_bound(), dtype in dtypes()) {
            // Ends of rounding cells among them, and the same numbers seen from elsewhere.
            let spacing = dtype.spacing(o);
            for (out, o) in [(dtype.round(out), o), (dtype.round(o + off * spacing), o), (dtype.round(o), o + spacing / 2.0)] {
                let (found, plain) = (ratio(out, o, b, dtype), plain_ratio(out, o, b, dtype));
                prop_assert_eq!(found.to_bits(), plain.to_bits(), "{} {} {}: {} {}", out, o, b, found, plain);
                let (assessed, accepted) = assess(out, o, b, dtype);
                prop_assert_eq!((assessed.to_bits(), accepted), (plain.to_bits(), accepts(out, o, b, dtype)));
            }
        }

        #[test]
        fn below_is_the_next_smaller_value(bits: u32, dtype in dtypes()) {
            let x = dtype.decode(bits);
            prop_assume!(x.is_finite() && x != -dtype.max_finite());
            let below = below(x, dtype);
            prop_assert!(below < x && dtype.round(below) == below);
            let between = below + (x - below) / 2.0;
            prop_assert!([below, x].contains(&dtype.round(between)));
        }
    }

    fn any_element() -> impl Strategy<Value = f64> {
        let special =
            [0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 65504.0, 65520.0, 65530.0, 3.4e38, 3.5e38];
        prop_oneof![4 => magnitudes(), 1 => prop::sample::select(special.to_vec())]
    }

    fn any_bound() -> impl Strategy<Value = f64> {
        prop_oneof![4 => magnitudes().prop_map(f64::abs), 1 => prop::sample::select(vec![0.0, f64::INFINITY, f64::NAN])]
    }

    /// [`ratio`], case by case.
    fn plain_ratio(out: f64, o: f64, b: f64, dtype: Dtype) -> f64 {
        if out == dtype.round(o) {
            return 0.0;
        }
        if out.is_nan() || !o.is_finite() || b.is_nan() {
            return f64::INFINITY;
        }
        let distance = if out > o { lower_edge(out, dtype) - o } else { o - -lower_edge(-out, dtype) };
        if distance <= 0.0 || b == f64::INFINITY { 0.0 } else { distance / b }
    }

    #[test]
    fn binary16_overflows_at_65520() {
        let accepts_infinity = |o, b| accepts(f64::INFINITY, o, b, Dtype::F16);
        assert!(!accepts_infinity(65500.0, 19.0));
        assert!(accepts_infinity(65500.0, 20.0));
        assert!(accepts(65504.0, 65530.0, 11.0, Dtype::F16));
        assert!(!accepts(65504.0, 65530.0, 9.0, Dtype::F16));
        assert_eq!(ratio(f64::INFINITY, 65500.0, 40.0, Dtype::F16), 0.5);
        assert_eq!(ratio(65504.0, 65530.0, 5.0, Dtype::F16), 2.0);
        assert_eq!(ratio(f64::NEG_INFINITY, -65500.0, 40.0, Dtype::F16), 0.5);
        assert_eq!(ratio(-65504.0, -65530.0, 5.0, Dtype::F16), 2.0);
    }

    #[test]
    fn a_saturating_store_needs_no_flag() {
        let accepts = |out, o, b| accepts(out, o, b, Dtype::F16);
        for o in [65504.0, 65000.0] {
            let b = 65520.0 - o;
            assert!(accepts(65504.0, o, b) && accepts(f64::INFINITY, o, b), "either way to overflow");
            assert!(!accepts(f64::INFINITY, o, b - 1.0), "nothing overflows");
        }
        assert!(!accepts(65504.0, 65000.0, 400.0), "too large");
    }

    #[test]
    fn cells_are_narrower_below_a_power_of_two() {
        // Below 1 the spacing of bf16 is 2^-8, above 2^-7.
        assert_eq!(ratio(1.0, 1.0 - 3.0 * 2f64.powi(-9), 2f64.powi(-8), Dtype::Bf16), 1.0);
        assert_eq!(ratio(1.0, 1.0 + 2f64.powi(-7), 2f64.powi(-8), Dtype::Bf16), 1.0);
        assert_eq!(ratio(-1.0, -1.0 - 2f64.powi(-7), 2f64.powi(-8), Dtype::Bf16), 1.0);
        // Across zero, and out of the subnormals.
        assert_eq!(ratio(0.0, 2f64.powi(-24), 2f64.powi(-25), Dtype::F16), 1.0);
        assert_eq!(ratio(-0.0, 0.0, 1.0, Dtype::F16), 0.0);
        assert_eq!(ratio(1.0, 1.0, 0.0, Dtype::F32), 0.0);
        assert_eq!(ratio(2.0, 1.0, 0.0, Dtype::F32), f64::INFINITY);
    }
}
