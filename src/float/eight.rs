//! 8-bit floating-point formats (OCP 8-bit Floating Point Specification).

/// An 8-bit format, named after the bits of its exponent and its fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Eight {
    /// Up to 448; no infinity, and one NaN of each sign.
    E4m3,
    /// Up to 57344, otherwise as IEEE 754 would have it.
    E5m2,
}

/// The NaN that conversions give, in both formats.
const NAN: u8 = 0x7f;

impl Eight {
    fn fraction_bits(self) -> u32 {
        match self {
            Self::E4m3 => 3,
            Self::E5m2 => 2,
        }
    }

    fn bias(self) -> i32 {
        match self {
            Self::E4m3 => 7,
            Self::E5m2 => 15,
        }
    }

    /// The largest finite number's bits.
    fn largest(self) -> u8 {
        match self {
            Self::E4m3 => 0x7e,
            Self::E5m2 => 0x7b,
        }
    }

    /// The value of a number's bits.
    pub fn decode(self, bits: u8) -> f64 {
        let magnitude = bits & 0x7f;
        let value = match self {
            Self::E5m2 if magnitude == 0x7c => f64::INFINITY,
            _ if magnitude > self.largest() => return f64::NAN,
            _ => self.finite(magnitude),
        };
        if bits & 0x80 == 0 { value } else { -value }
    }

    fn finite(self, magnitude: u8) -> f64 {
        let (field, fraction) = (magnitude >> self.fraction_bits(), magnitude & ((1 << self.fraction_bits()) - 1));
        let significand = f64::from(fraction) + if field == 0 { 0.0 } else { self.hidden() };
        significand * 2f64.powi(i32::from(field.max(1)) - self.bias() - self.fraction_bits() as i32)
    }

    fn hidden(self) -> f64 {
        f64::from(1 << self.fraction_bits())
    }

    /// Rounds to nearest even; what is too large becomes the largest finite number of its sign (`.satfinite`).
    pub fn encode(self, x: f64) -> u8 {
        if x.is_nan() {
            return NAN;
        }
        let sign = if x.is_sign_negative() { 0x80 } else { 0 };
        let magnitude = x.abs().min(self.finite(self.largest()));
        let exponent = ((magnitude.to_bits() >> 52) as i32 - 1023).max(1 - self.bias());
        let last = 2f64.powi(exponent - self.fraction_bits() as i32);
        let significand = (magnitude / last).round_ties_even() as u8;
        // The hidden bit, there unless the number is subnormal, adds one to the exponent's field; so does a carry.
        let field = (exponent + self.bias() - 1) as u8;
        sign | ((field << self.fraction_bits()) + significand)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_round_trips() {
        for format in [Eight::E4m3, Eight::E5m2] {
            for bits in 0..=u8::MAX {
                let value = format.decode(bits);
                if value.is_finite() {
                    assert_eq!(format.encode(value), bits, "{format:?} {value}");
                }
            }
        }
    }

    #[test]
    fn limits() {
        assert_eq!([448.0, 464.0, f64::INFINITY].map(|x| Eight::E4m3.encode(x)), [0x7e; 3]);
        assert_eq!([57344.0, 61440.0, f64::INFINITY].map(|x| Eight::E5m2.encode(x)), [0x7b; 3]);
        assert_eq!(Eight::E4m3.decode(1), 2f64.powi(-9));
        assert_eq!(Eight::E5m2.decode(1), 2f64.powi(-16));
        assert!(Eight::E4m3.decode(0x7f).is_nan() && Eight::E5m2.decode(0x7d).is_nan());
    }
}
