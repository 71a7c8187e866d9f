//! The rules by which others accept an attention kernel's output, as their tests apply them.
//!
//! Each is given one call's whole output. Where a rule compares with a reference in the tensors' type, that is the f64
//! reference rounded to it, which is kinder than the f32 one that the tests use. Differences are taken in f64, where some
//! of the tests take them in the tensors' type.

use attnfuzz::float::Dtype;

/// What a call left and what it should have left.
pub(crate) struct Step<'a> {
    /// Type of the tensors.
    pub(crate) dtype: Dtype,
    /// The kernel's output.
    pub(crate) found: &'a [f64],
    /// The f64 reference, not rounded.
    pub(crate) exact: &'a [f64],
    /// The same attention computed in the tensors' type.
    pub(crate) low_precision: &'a [f64],
    /// Whether no request had a cached token.
    pub(crate) empty_cache: bool,
}

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rule {
    /// ggml's `test-backend-ops` for flash attention: mean squared error over mean square of the output, at most 5e-4. A
    /// NaN fails, and so does an infinity or `FLT_MAX` that the reference lacks. Of an all-zero output and reference the
    /// quotient is NaN, which is not above the limit.
    Nmse,
    /// `torch.testing.assert_close` with one number for `rtol` and `atol`, as in FlashInfer's tests: 1e-3 for f16, 1e-2
    /// where that is too tight. NaN is close to nothing.
    AllClose(f64),
    /// `torch.testing.assert_close` with its own tolerances of the dtype.
    AssertClose,
    /// FlashAttention's tests: the largest error is at most twice that of the same attention in the tensors' type, and
    /// this much. torch's `max` hands a NaN on, and no comparison with one holds.
    TwiceLowPrecision(f64),
    /// Hand-written parity tests: `if (x - y).abs() > tolerance` fails, with 1e-4 for a first token and 1e-3 later. A NaN
    /// is above no tolerance.
    HandWritten,
}

impl Rule {
    /// Every rule that is compared.
    pub(crate) const ALL: [Self; 7] = [
        Self::Nmse,
        Self::AllClose(1e-3),
        Self::AllClose(1e-2),
        Self::AssertClose,
        Self::TwiceLowPrecision(0.0),
        Self::TwiceLowPrecision(1e-5),
        Self::HandWritten,
    ];

    /// What tables call it.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Nmse => "NMSE <= 5e-4 (ggml)".into(),
            Self::AllClose(tolerance) => format!("allclose {tolerance:e}, {tolerance:e} (FlashInfer)"),
            Self::AssertClose => "assert_close, its defaults (torch)".into(),
            Self::TwiceLowPrecision(0.0) => "2x low precision (FlashAttention)".into(),
            Self::TwiceLowPrecision(slack) => format!("2x low precision + {slack:e} (FlashAttention)"),
            Self::HandWritten => "1e-4, then 1e-3 (hand-written)".into(),
        }
    }

    /// Whether the rule refuses the output.
    pub(crate) fn refuses(self, step: &Step<'_>) -> bool {
        let pairs = || step.found.iter().zip(step.exact).map(|(&found, &exact)| (found, step.dtype.round(exact)));
        match self {
            Self::Nmse => refused_by_nmse(step),
            Self::AllClose(tolerance) => pairs().any(|pair| !is_close(pair, tolerance, tolerance)),
            Self::AssertClose => {
                let (rtol, atol) = match step.dtype {
                    Dtype::F32 => (1.3e-6, 1e-5),
                    Dtype::F16 => (1e-3, 1e-5),
                    Dtype::Bf16 => (1.6e-2, 1e-5),
                };
                pairs().any(|pair| !is_close(pair, rtol, atol))
            }
            Self::TwiceLowPrecision(slack) => {
                let low = step.low_precision.iter().zip(step.exact).map(|(&low, &o)| (low, step.dtype.round(o)));
                let within = largest_error(pairs()) <= 2.0 * largest_error(low) + slack;
                !within
            }
            Self::HandWritten => {
                let tolerance = if step.empty_cache { 1e-4 } else { 1e-3 };
                pairs().any(|(found, expected)| (found - expected).abs() > tolerance)
            }
        }
    }
}

/// torch's `isclose` with `equal_nan=False`: equal infinities are close.
fn is_close((found, expected): (f64, f64), rtol: f64, atol: f64) -> bool {
    found == expected || ((found - expected).abs() <= atol + rtol * expected.abs() && expected.is_finite())
}

/// The largest absolute difference; NaN if one is.
fn largest_error(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    pairs.map(|(x, y)| (x - y).abs()).fold(0.0, |max, error| if error.is_nan() || error > max { error } else { max })
}

fn refused_by_nmse(step: &Step<'_>) -> bool {
    let is_huge = |x: f64| x.is_infinite() || x.abs() == f64::from(f32::MAX);
    let (mut error, mut square) = (0.0, 0.0);
    for (&found, &exact) in step.found.iter().zip(step.exact) {
        let exact = Dtype::F32.round(exact);
        let mismatch = is_huge(found) != is_huge(exact) || (is_huge(found) && found.signum() != exact.signum());
        if found.is_nan() || exact.is_nan() || mismatch {
            return true;
        }
        error += (found - exact) * (found - exact);
        square += found * found;
    }
    error / square > 5e-4
}
