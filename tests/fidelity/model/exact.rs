//! Floating-point numbers as integers of any size times a power of two, and one rounding routine for every format.
//!
//! Nothing is shared with the emulator, which computes in f64: this is the definition of each operation, spelt out.

use num_bigint::BigUint;
use std::cmp::Ordering;

/// A binary format: widths of exponent and fraction, and where its bits lie in the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) exponent: u32,
    pub(crate) fraction: u32,
    /// Zero bits below the last one of the fraction (tf32 sits in the upper part of a word).
    pub(crate) below: u32,
}

pub(crate) const F16: Format = Format { exponent: 5, fraction: 10, below: 0 };
pub(crate) const BF16: Format = Format { exponent: 8, fraction: 7, below: 0 };
pub(crate) const F32: Format = Format { exponent: 8, fraction: 23, below: 0 };
pub(crate) const F64: Format = Format { exponent: 11, fraction: 52, below: 0 };
pub(crate) const TF32: Format = Format { exponent: 8, fraction: 10, below: 13 };

/// Rounding directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    Nearest,
    NearestAway,
    Zero,
    Down,
    Up,
}

/// A number as IEEE 754 sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Nan,
    Infinite { negative: bool },
    Finite(Number),
}

/// `magnitude * 2^exponent` with a sign; `more` if the true magnitude is greater by less than one unit of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Number {
    pub(crate) negative: bool,
    pub(crate) magnitude: BigUint,
    pub(crate) exponent: i64,
    pub(crate) more: bool,
}

impl Number {
    pub(crate) fn zero(negative: bool) -> Self {
        Self { negative, magnitude: BigUint::ZERO, exponent: 0, more: false }
    }

    pub(crate) fn integer(value: i128) -> Self {
        Self { negative: value < 0, magnitude: value.unsigned_abs().into(), exponent: 0, more: false }
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.magnitude == BigUint::ZERO && !self.more
    }

    /// The magnitude in units of `2^exponent`, which must not be above the number's own.
    fn scaled(&self, exponent: i64) -> BigUint {
        &self.magnitude << (self.exponent - exponent) as u64
    }

    /// The nearest multiple of `2^exponent` in a direction, as its magnitude in that unit.
    fn rounded(&self, exponent: i64, rounding: Rounding) -> BigUint {
        let shift = exponent - self.exponent;
        if shift <= 0 {
            assert!(!self.more, "a number known too coarsely to be rounded");
            return self.scaled(exponent);
        }
        let shift = shift as u64;
        let kept = &self.magnitude >> shift;
        let rest = &self.magnitude - (&kept << shift);
        let inexact = rest != BigUint::ZERO || self.more;
        let half = BigUint::from(1u8) << (shift - 1);
        let against_half = rest.cmp(&half).then(if self.more { Ordering::Greater } else { Ordering::Equal });
        let up = match rounding {
            Rounding::Nearest => against_half == Ordering::Greater || against_half == Ordering::Equal && kept.bit(0),
            Rounding::NearestAway => against_half != Ordering::Less,
            Rounding::Zero => false,
            Rounding::Down => inexact && self.negative,
            Rounding::Up => inexact && !self.negative,
        };
        kept + u8::from(up)
    }

    /// Rounded to an integer.
    pub(crate) fn to_integer(&self, rounding: Rounding) -> Self {
        if self.exponent >= 0 {
            return self.clone();
        }
        Self { magnitude: self.rounded(0, rounding), exponent: 0, more: false, ..*self }
    }

    /// The value of an integer, clamped to `low..=high`.
    pub(crate) fn clamped(&self, low: i128, high: i128) -> i128 {
        let magnitude =
            if self.exponent > 200 { i128::MAX } else { i128::try_from(self.scaled(0)).unwrap_or(i128::MAX) };
        (if self.negative { -magnitude } else { magnitude }).clamp(low, high)
    }

    fn compare_magnitude(&self, other: &Self) -> Ordering {
        let exponent = self.exponent.min(other.exponent);
        self.scaled(exponent).cmp(&other.scaled(exponent))
    }
}

impl Format {
    pub(crate) fn width(self) -> u32 {
        1 + self.exponent + self.fraction + self.below
    }

    fn bias(self) -> i64 {
        (1 << (self.exponent - 1)) - 1
    }

    /// The NaN that operations give.
    pub(crate) fn nan(self) -> u64 {
        u64::MAX >> (65 - self.width())
    }

    pub(crate) fn is_nan(self, bits: u64) -> bool {
        self.decode(bits) == Value::Nan
    }

    pub(crate) fn is_subnormal(self, bits: u64) -> bool {
        bits >> (self.fraction + self.below) & ((1 << self.exponent) - 1) == 0
    }

    pub(crate) fn sign(self) -> u64 {
        1 << (self.width() - 1)
    }

    pub(crate) fn decode(self, bits: u64) -> Value {
        let negative = bits & self.sign() != 0;
        let bits = bits >> self.below;
        let fraction = bits & ((1 << self.fraction) - 1);
        let exponent = bits >> self.fraction & ((1 << self.exponent) - 1);
        if exponent == (1 << self.exponent) - 1 {
            return if fraction == 0 { Value::Infinite { negative } } else { Value::Nan };
        }
        let hidden = u64::from(exponent != 0) << self.fraction;
        let exponent = exponent.max(1) as i64 - self.bias() - i64::from(self.fraction);
        Value::Finite(Number { negative, magnitude: (hidden | fraction).into(), exponent, more: false })
    }

    pub(crate) fn encode(self, value: &Value, rounding: Rounding) -> u64 {
        let infinity = ((1u64 << self.exponent) - 1) << self.fraction;
        let sign = |negative: bool| if negative { self.sign() } else { 0 };
        let number = match value {
            Value::Nan => return self.nan(),
            Value::Infinite { negative } => return sign(*negative) | infinity << self.below,
            Value::Finite(number) => number,
        };
        if number.is_zero() {
            return sign(number.negative);
        }
        // The exponent of the result's last bit, unless rounding carries into the next binade.
        let top = number.exponent + number.magnitude.bits() as i64 - 1;
        let last = (top - i64::from(self.fraction)).max(1 - self.bias() - i64::from(self.fraction));
        let kept = u64::try_from(number.rounded(last, rounding)).expect("a significand fits");
        // A carry out of the fraction increments the exponent, as it should.
        let exponent = (last + self.bias() + i64::from(self.fraction) - 1) as u64;
        let bits = u128::from(exponent) * (1 << self.fraction) + u128::from(kept);
        let overflow = bits >= u128::from(infinity);
        let outward = match rounding {
            Rounding::Nearest | Rounding::NearestAway => true,
            Rounding::Zero => false,
            Rounding::Down => number.negative,
            Rounding::Up => !number.negative,
        };
        let bits = match (overflow, outward) {
            (false, _) => bits as u64,
            (true, true) => infinity,
            (true, false) => infinity - 1,
        };
        sign(number.negative) | bits << self.below
    }
}

impl Value {
    pub(crate) fn negated(self) -> Self {
        match self {
            Self::Nan => Self::Nan,
            Self::Infinite { negative } => Self::Infinite { negative: !negative },
            Self::Finite(n) => Self::Finite(Number { negative: !n.negative, ..n }),
        }
    }

    fn negative(&self) -> bool {
        match self {
            Self::Nan => false,
            Self::Infinite { negative } => *negative,
            Self::Finite(n) => n.negative,
        }
    }

    fn is_zero(&self) -> bool {
        matches!(self, Self::Finite(n) if n.is_zero())
    }

    /// The exact sum; an exact zero of opposite signs is negative only when rounding down.
    pub(crate) fn add(&self, other: &Self, rounding: Rounding) -> Self {
        let (a, b) = match (self, other) {
            (Self::Nan, _) | (_, Self::Nan) => return Self::Nan,
            (Self::Infinite { negative: a }, Self::Infinite { negative: b }) if a != b => return Self::Nan,
            (Self::Infinite { negative }, _) | (_, Self::Infinite { negative }) => {
                return Self::Infinite { negative: *negative };
            }
            (Self::Finite(a), Self::Finite(b)) => (a, b),
        };
        let exponent = a.exponent.min(b.exponent);
        let (x, y) = (a.scaled(exponent), b.scaled(exponent));
        let (negative, magnitude) = match (a.negative == b.negative, x.cmp(&y)) {
            (true, _) => (a.negative, x + y),
            (false, Ordering::Equal) => return Self::Finite(Number::zero(rounding == Rounding::Down)),
            (false, Ordering::Greater) => (a.negative, x - y),
            (false, Ordering::Less) => (b.negative, y - x),
        };
        Self::Finite(Number { negative, magnitude, exponent, more: false })
    }

    pub(crate) fn mul(&self, other: &Self) -> Self {
        let negative = self.negative() != other.negative();
        match (self, other) {
            (Self::Nan, _) | (_, Self::Nan) => Self::Nan,
            (Self::Finite(a), Self::Finite(b)) => Self::Finite(Number {
                negative,
                magnitude: &a.magnitude * &b.magnitude,
                exponent: a.exponent + b.exponent,
                more: false,
            }),
            (a, b) if a.is_zero() || b.is_zero() => Self::Nan,
            _ => Self::Infinite { negative },
        }
    }

    pub(crate) fn div(&self, other: &Self) -> Self {
        let negative = self.negative() != other.negative();
        match (self, other) {
            (Self::Nan, _) | (_, Self::Nan) | (Self::Infinite { .. }, Self::Infinite { .. }) => Self::Nan,
            (Self::Infinite { .. }, _) => Self::Infinite { negative },
            (_, Self::Infinite { .. }) => Self::Finite(Number::zero(negative)),
            (Self::Finite(a), Self::Finite(b)) => match (a.is_zero(), b.is_zero()) {
                (true, true) => Self::Nan,
                (false, true) => Self::Infinite { negative },
                _ => {
                    // More bits than any format has.
                    let dividend = &a.magnitude << 180u32;
                    let magnitude = &dividend / &b.magnitude;
                    let more = &magnitude * &b.magnitude != dividend;
                    Self::Finite(Number { negative, magnitude, exponent: a.exponent - b.exponent - 180, more })
                }
            },
        }
    }

    pub(crate) fn sqrt(&self) -> Self {
        match self {
            Self::Finite(n) if n.is_zero() => self.clone(),
            Self::Infinite { negative: false } => self.clone(),
            Self::Finite(n) if !n.negative => {
                let shift = 240 + n.exponent.rem_euclid(2);
                let square = &n.magnitude << shift as u64;
                let magnitude = square.sqrt();
                let more = &magnitude * &magnitude != square;
                Self::Finite(Number { negative: false, magnitude, exponent: (n.exponent - shift) / 2, more })
            }
            _ => Self::Nan,
        }
    }

    /// The order of two numbers; `None` if one is NaN.
    pub(crate) fn compare(&self, other: &Self) -> Option<Ordering> {
        let sign = |v: &Self| match v {
            v if v.is_zero() => 0,
            v if v.negative() => -1,
            _ => 1,
        };
        let magnitudes = match (self, other) {
            (Self::Nan, _) | (_, Self::Nan) => return None,
            (Self::Finite(a), Self::Finite(b)) => a.compare_magnitude(b),
            (Self::Finite(_), _) => Ordering::Less,
            (_, Self::Finite(_)) => Ordering::Greater,
            _ => Ordering::Equal,
        };
        Some(sign(self).cmp(&sign(other)).then(if self.negative() { magnitudes.reverse() } else { magnitudes }))
    }
}
