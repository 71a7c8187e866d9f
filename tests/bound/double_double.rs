//! Attention of one row with twice the digits of f64: a number is the unevaluated sum of two.
//!
//! Knuth's and Dekker's error-free transformations; the exponential by halving its argument and squaring.

use super::kernels::Inputs;

/// `high + low`, `|low|` at most half an ulp of `high`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Precise {
    high: f64,
    low: f64,
}

const LN_2: Precise = Precise { high: std::f64::consts::LN_2, low: 2.319_046_813_846_299_6e-17 };

impl Precise {
    fn sum(a: f64, b: f64) -> Self {
        let high = a + b;
        let part = high - a;
        Self { high, low: (a - (high - part)) + (b - part) }
    }

    fn product(a: f64, b: f64) -> Self {
        let high = a * b;
        Self { high, low: a.mul_add(b, -high) }
    }

    fn add(self, other: Self) -> Self {
        let high = Self::sum(self.high, other.high);
        let low = Self::sum(self.low, other.low);
        let first = Self::sum(high.high, high.low + low.high);
        Self::sum(first.high, first.low + low.low)
    }

    fn times(self, other: Self) -> Self {
        let product = Self::product(self.high, other.high);
        Self::sum(product.high, product.low + (self.high * other.low + self.low * other.high))
    }

    fn scaled(self, power_of_two: f64) -> Self {
        Self { high: self.high * power_of_two, low: self.low * power_of_two }
    }

    fn over(self, other: Self) -> Self {
        let mut quotient = Self::from(0.0);
        let mut rest = self;
        for _ in 0..3 {
            let digit = Self::from(rest.high / other.high);
            quotient = quotient.add(digit);
            rest = rest.add(digit.times(other).scaled(-1.0));
        }
        quotient
    }

    /// The exponential, for arguments of at most 0.
    fn exp(self) -> Self {
        if self.high < -700.0 {
            return Self::from(0.0);
        }
        let k = (self.high / LN_2.high).round();
        let reduced = self.add(LN_2.times(Self::from(-k))).scaled(2f64.powi(-8));
        // The series of exp(x) - 1, which loses nothing to the 1.
        let mut term = reduced;
        let mut less_one = reduced;
        for i in 2..12 {
            term = term.times(reduced).over(Self::from(f64::from(i)));
            less_one = less_one.add(term);
        }
        for _ in 0..8 {
            less_one = less_one.scaled(2.0).add(less_one.times(less_one));
        }
        less_one.add(Self::from(1.0)).scaled(k.exp2())
    }

    /// The difference from `x`, to f64.
    pub(super) fn minus(self, x: f64) -> f64 {
        (self.high - x) + self.low
    }
}

impl From<f64> for Precise {
    fn from(x: f64) -> Self {
        Self { high: x, low: 0.0 }
    }
}

/// The first column of the output, and the log-sum-exp to f64.
pub(super) fn attend(inputs: &Inputs) -> (Precise, Precise) {
    let scale = Precise::from(f64::from(inputs.scale));
    let s: Vec<Precise> = inputs
        .k
        .chunks(inputs.d)
        .map(|key| {
            let products = inputs.q.iter().zip(key).map(|(&q, &k)| Precise::product(f64::from(q), f64::from(k)));
            products.fold(Precise::from(0.0), Precise::add).times(scale)
        })
        .collect();
    let max = s.iter().copied().reduce(|a, b| if a.add(b.scaled(-1.0)).high >= 0.0 { a } else { b });
    let max = max.unwrap_or(Precise::from(0.0));
    let (mut sum, mut out) = (Precise::from(0.0), Precise::from(0.0));
    for (s, v) in s.into_iter().zip(inputs.v.iter().step_by(inputs.dv)) {
        let weight = s.add(max.scaled(-1.0)).exp();
        sum = sum.add(weight);
        out = out.add(weight.times(Precise::from(f64::from(*v))));
    }
    (out.over(sum), max.add(Precise::from(sum.high.ln())))
}

#[test]
fn exponentials_have_thirty_digits() {
    // e^-1 = 0.36787944117144232159552377016146086744581..., e^-30 = 9.35762296884017460...e-14
    let e = Precise::from(-1.0).exp();
    assert_eq!(e.high, 0.367_879_441_171_442_33);
    assert!((e.low - -1.242_875_367_278_836_3e-17).abs() < 1e-30, "{e:?}");
    let product = Precise::from(-30.25).exp().times(Precise::from(-1.75).exp());
    let whole = Precise::from(-32.0).exp();
    let difference = product.add(whole.scaled(-1.0)).high.abs() / whole.high;
    assert!(difference < 1e-28, "{difference:e}");
}
