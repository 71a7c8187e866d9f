//! Numbers side by side in a vector register, for formulas that are evaluated for several columns at once.

use pulp::Simd;
use std::ops::{Add, Div, Mul, Sub};

/// As many numbers as a register of `S` holds. Every operation is that of `f64` on each of them, bit for bit.
#[derive(Clone, Copy)]
pub(crate) struct Lanes<S: Simd> {
    simd: S,
    x: S::f64s,
}

impl<S: Simd> Lanes<S> {
    /// Register `index` of a row of numbers. Panics if it is not there in full.
    #[inline(always)]
    pub(crate) fn of(simd: S, row: &[f64], index: usize) -> Self {
        Self { simd, x: S::as_simd_f64s(row).0[index] }
    }

    /// Puts the numbers where [`Lanes::of`] takes them from.
    #[inline(always)]
    pub(crate) fn put(self, row: &mut [f64], index: usize) {
        S::as_mut_simd_f64s(row).0[index] = self.x;
    }

    /// The same number in each place.
    #[inline(always)]
    pub(crate) fn same(self, x: f64) -> Self {
        Self { x: self.simd.splat_f64s(x), ..self }
    }

    #[inline(always)]
    pub(crate) fn abs(self) -> Self {
        Self { x: self.simd.abs_f64s(self.x), ..self }
    }

    #[inline(always)]
    pub(crate) fn sqrt(self) -> Self {
        Self { x: self.simd.sqrt_f64s(self.x), ..self }
    }

    /// The smaller number; the other one if either is NaN.
    #[inline(always)]
    pub(crate) fn min(self, other: Self) -> Self {
        self.unless(self.simd.less_than_f64s(other.x, self.x), other)
    }

    /// The larger number; the other one if either is NaN.
    #[inline(always)]
    pub(crate) fn max(self, other: Self) -> Self {
        self.unless(self.simd.less_than_f64s(self.x, other.x), other)
    }

    /// `other` where `mask` says so, or this is NaN.
    #[inline(always)]
    fn unless(self, mask: S::m64s, other: Self) -> Self {
        let Self { simd, x } = self;
        let number = simd.equal_f64s(x, x);
        let kept = simd.select_f64s(mask, other.x, x);
        Self { simd, x: simd.select_f64s(number, kept, other.x) }
    }

    /// This where `condition` is a number and not infinite, else `other`.
    #[inline(always)]
    pub(crate) fn where_finite(self, condition: Self, other: Self) -> Self {
        let Self { simd, x } = self;
        let finite = simd.less_than_f64s(condition.abs().x, simd.splat_f64s(f64::INFINITY));
        Self { simd, x: simd.select_f64s(finite, x, other.x) }
    }
}

/// An operator between vectors, and between a vector and a number.
macro_rules! operator {
    ($Trait:ident, $method:ident, $operation:ident) => {
        impl<S: Simd> $Trait for Lanes<S> {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self { x: self.simd.$operation(self.x, other.x), ..self }
            }
        }

        impl<S: Simd> $Trait<f64> for Lanes<S> {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: f64) -> Self {
                self.$method(self.same(other))
            }
        }

        impl<S: Simd> $Trait<Lanes<S>> for f64 {
            type Output = Lanes<S>;

            #[inline(always)]
            fn $method(self, other: Lanes<S>) -> Lanes<S> {
                other.same(self).$method(other)
            }
        }
    };
}

operator!(Add, add, add_f64s);
operator!(Sub, sub, sub_f64s);
operator!(Mul, mul, mul_f64s);
operator!(Div, div, div_f64s);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every operation, on each number of `a` and `b`.
    struct All<'a> {
        a: &'a [f64; 8],
        b: &'a [f64; 8],
        results: &'a mut [[f64; 8]; 10],
    }

    impl pulp::WithSimd for All<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            for index in 0..8 / S::F64_LANES {
                let [a, b] = [self.a, self.b].map(|row| Lanes::of(simd, row, index));
                let all = [
                    a + b,
                    a - b,
                    a * b,
                    a / b,
                    a.min(b),
                    a.max(b),
                    a.abs(),
                    a.sqrt(),
                    a.where_finite(b, 2.0 * b),
                    1.0 - a * 3.0,
                ];
                all.into_iter().zip(&mut *self.results).for_each(|(result, row)| result.put(row, index));
            }
        }
    }

    fn number() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<f64>(),
            prop::sample::select(vec![1.0, -1.0, 0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY])
        ]
    }

    proptest! {
        #[test]
        fn operations_are_those_of_f64(a in prop::array::uniform8(number()), b in prop::array::uniform8(number())) {
            for arch in [pulp::Arch::Scalar, pulp::Arch::new()] {
                let mut results = [[0.0; 8]; 10];
                arch.dispatch(All { a: &a, b: &b, results: &mut results });
                for (i, (a, b)) in a.into_iter().zip(b).enumerate() {
                    let where_finite = if b.is_finite() { a } else { 2.0 * b };
                    let plain = [
                        a + b,
                        a - b,
                        a * b,
                        a / b,
                        a.min(b),
                        a.max(b),
                        a.abs(),
                        a.sqrt(),
                        where_finite,
                        1.0 - a * 3.0,
                    ];
                    for (operation, (found, plain)) in results.iter().map(|row| row[i]).zip(plain).enumerate() {
                        let zeros = found == 0.0 && plain == 0.0 && [4, 5].contains(&operation);
                        let same = found.to_bits() == plain.to_bits() || found.is_nan() && plain.is_nan() || zeros;
                        prop_assert!(same, "operation {operation} on {a} and {b}: {found}, expected {plain}");
                    }
                }
            }
        }
    }
}
