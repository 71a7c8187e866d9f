//! Numbers of a contract that depend on the row: expressions in `n` and `d`.

use exmex::{Express, FlatEx};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// An expression in `n` (elements of the row: visible keys) and `d` (head dim), e.g. `ceil(n/4) + 4`.
///
/// Parsed once. Operators and functions are those of the `exmex` crate: `+ - * / ^`, `ceil`, `floor`,
/// `max(a, b)`, `min(a, b)`, `ln`, `log2`, `sqrt` and so on.
#[derive(Clone)]
pub struct Formula {
    text: String,
    /// Shared, because a parsed expression is several kilobytes and contracts are cloned.
    parsed: Arc<FlatEx<f64>>,
    /// For each variable of `parsed`, in its order, whether it is `n` (else it is `d`).
    is_n: Vec<bool>,
}

impl Formula {
    /// The formula's value for a row of `n` elements and a head dim of `d`.
    ///
    /// NaN where the expression has none, such as `ln(0 - n)`.
    pub fn eval(&self, n: usize, d: usize) -> f64 {
        let values: Vec<f64> = self.is_n.iter().map(|&is_n| if is_n { n as f64 } else { d as f64 }).collect();
        self.parsed.eval(&values).unwrap_or(f64::NAN)
    }

    /// The formula as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Why a text is not a [`Formula`] or a [`Depth`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormulaError {
    /// The expression has a variable that means nothing here.
    #[error("expected an expression in n and d, found variable `{found}` in `{text}`")]
    Variable {
        /// The variable.
        found: String,
        /// The whole expression.
        text: String,
    },
    /// The text is no expression.
    #[error("expected an expression in n and d, such as \"ceil(n/4) + 4\", found `{text}`: {reason}")]
    Syntax {
        /// The text.
        text: String,
        /// What the parser said.
        reason: String,
    },
    /// The expression is negative or not a number for some ordinary row.
    #[error("expected a value of at least 0, found {value} for n = {n}, d = {d} in `{text}`")]
    Value {
        /// The expression.
        text: String,
        /// Its value.
        value: String,
        /// Elements of the row.
        n: usize,
        /// Head dim.
        d: usize,
    },
}

impl FromStr for Formula {
    type Err = FormulaError;

    fn from_str(text: &str) -> Result<Self, FormulaError> {
        let text = text.trim().to_owned();
        let parsed = match exmex::parse::<f64>(&text) {
            Ok(parsed) => parsed,
            Err(error) => {
                return Err(FormulaError::Syntax { text, reason: error.to_string() });
            }
        };
        let mut is_n = Vec::new();
        for name in parsed.var_names() {
            match name.as_str() {
                "n" => is_n.push(true),
                "d" => is_n.push(false),
                found => {
                    return Err(FormulaError::Variable { found: found.to_owned(), text });
                }
            }
        }
        let formula = Self { text, parsed: Arc::new(parsed), is_n };
        // A wrong expression should be found when the manifest is read, not in the middle of a campaign.
        for (n, d) in [(1, 1), (1, 128), (33, 64), (65_536, 256)] {
            let value = formula.eval(n, d);
            if !value.is_finite() || value < 0.0 {
                return Err(FormulaError::Value { text: formula.text, value: value.to_string(), n, d });
            }
        }
        Ok(formula)
    }
}

impl From<f64> for Formula {
    /// The constant. A negative or non-finite number is replaced by 0, which `FromStr` would refuse.
    fn from(value: f64) -> Self {
        let value = if value.is_finite() { value.max(0.0) } else { 0.0 };
        // `{:?}` may write an exponent, which the expression grammar reads as the constant e; `{}` never does.
        let text = format!("{value}");
        let parsed = exmex::parse::<f64>(&text).unwrap_or_else(|_| unreachable!("`{text}` is a decimal number"));
        Self { text, parsed: Arc::new(parsed), is_n: Vec::new() }
    }
}

impl PartialEq for Formula {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl fmt::Debug for Formula {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Formula({})", self.text)
    }
}

impl fmt::Display for Formula {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// How many additions, or rescales, a term may go through.
#[derive(Clone, Debug, PartialEq)]
pub enum Depth {
    /// Nothing is known: any order.
    Any,
    /// At most this many.
    Max(Formula),
}

impl Depth {
    /// The limit for a row of `n` elements and a head dim of `d`; `None` when nothing is known.
    ///
    /// A formula that goes wrong for this row says nothing, so it gives `None` as well: looser, still sound.
    pub fn at(&self, n: usize, d: usize) -> Option<f64> {
        match self {
            Self::Any => None,
            Self::Max(formula) => Some(formula.eval(n, d)).filter(|x| x.is_finite()).map(|x| x.max(0.0).ceil()),
        }
    }
}

impl FromStr for Depth {
    type Err = FormulaError;

    fn from_str(text: &str) -> Result<Self, FormulaError> {
        if text.trim() == "any" { Ok(Self::Any) } else { text.parse().map(Self::Max) }
    }
}

impl From<f64> for Depth {
    fn from(value: f64) -> Self {
        Self::Max(value.into())
    }
}

impl fmt::Display for Depth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Max(formula) => formula.fmt(f),
        }
    }
}

/// What a manifest may write where a number is meant: the number, or text.
struct NumberOrText<T>(std::marker::PhantomData<T>);

impl<T: FromStr<Err = FormulaError>> de::Visitor<'_> for NumberOrText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of at least 0 or an expression in n and d")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<T, E> {
        format!("{value}").parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<T, E> {
        format!("{value}").parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<T, E> {
        format!("{value}").parse().map_err(E::custom)
    }
}

macro_rules! as_number_or_text {
    ($type:ty) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(NumberOrText(std::marker::PhantomData))
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

as_number_or_text!(Formula);
as_number_or_text!(Depth);

#[cfg(test)]
mod tests {
    use super::*;

    fn eval(text: &str, n: usize, d: usize) -> f64 {
        text.parse::<Formula>().unwrap().eval(n, d)
    }

    #[test]
    fn formulas_are_arithmetic_in_n_and_d() {
        assert_eq!(eval("ceil(n/4) + 4", 9, 64), 7.0);
        assert_eq!(eval("ceil(d/32)+5", 9, 80), 8.0);
        assert_eq!(eval("max(ceil(n/64) - 1, 0)", 64, 1), 0.0);
        assert_eq!(eval("min(n, d)", 64, 3), 3.0);
        assert_eq!(eval("5 * 2^-24", 1, 1), 5.0 * 2f64.powi(-24));
        assert_eq!(eval("2^(-21.4) + 8*2^(-24)*ln(n)", 1, 1), (-21.4f64).exp2());
        assert_eq!(eval("17", 1, 1), 17.0);
        assert_eq!(eval("0.0000000298", 1, 1), 0.0000000298);
        assert_eq!(Formula::from(5.0 * 2f64.powi(-24)).eval(1, 1), 5.0 * 2f64.powi(-24));
    }

    #[test]
    fn errors_say_what_was_expected() {
        let error = |text: &str| text.parse::<Depth>().unwrap_err().to_string();
        assert_eq!(error("m + 1"), "expected an expression in n and d, found variable `m` in `m + 1`");
        assert_eq!(error("n - 2"), "expected a value of at least 0, found -1 for n = 1, d = 1 in `n - 2`");
        assert!(
            error("n +").starts_with("expected an expression in n and d, such as \"ceil(n/4) + 4\", found `n +`: ")
        );
        assert!("any".parse::<Depth>().is_ok_and(|depth| depth.at(3, 3).is_none()));
    }
}
