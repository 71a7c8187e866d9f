//! Arithmetic expressions in manifests: grid sizes, strides, depths.
//!
//! `+ - * / ^`, comparisons, `&& || !`, parentheses, `mod(a, b)` and the functions of `exmex` (`ceil`, `floor`, `min(a, b)`,
//! `max(a, b)`, `log2`, ...) over named variables, in f64: whole numbers are exact up to 2^53. What is true is 1, what is
//! false 0.

use exmex::{BinOp, Express, FlatEx, FloatOpsFactory, MakeOperators, Operator};
use std::fmt;
use std::sync::Arc;

/// A parsed expression whose variables are all known.
#[derive(Clone)]
pub struct Expr {
    text: String,
    /// Not in place: it is several kilobytes, and manifests of many would not fit on a thread's stack.
    parsed: Arc<FlatEx<f64, Operators>>,
    /// For each variable of `parsed`, its index in the names given to [`Expr::parse`].
    slots: Vec<usize>,
}

/// What expressions are made of, beside variables and numbers.
#[derive(Clone, Debug)]
struct Operators;

impl MakeOperators<f64> for Operators {
    fn make<'a>() -> Vec<Operator<'a, f64>> {
        fn truth(holds: bool) -> f64 {
            f64::from(u8::from(holds))
        }
        let binary = |text, prio, apply| Operator::make_bin(text, BinOp { apply, prio, is_commutative: false });
        let mut operators = FloatOpsFactory::<f64>::make();
        operators.extend([
            // As in C, all of these bind less tightly than a sum does.
            binary("||", -4, |a, b| truth(a != 0.0 || b != 0.0)),
            binary("&&", -3, |a, b| truth(a != 0.0 && b != 0.0)),
            binary("==", -2, |a, b| truth(a == b)),
            binary("!=", -2, |a, b| truth(a != b)),
            binary("<=", -1, |a, b| truth(a <= b)),
            binary(">=", -1, |a, b| truth(a >= b)),
            binary("<", -1, |a, b| truth(a < b)),
            binary(">", -1, |a, b| truth(a > b)),
            // A function like `min`: where `%` binds beside `*` and `/`, everybody remembers differently.
            binary("mod", 0, |a, b| a % b),
            Operator::make_unary("!", |a| truth(a == 0.0)),
        ]);
        operators
    }
}

/// Why a text is no expression, or an expression no number of the wanted kind.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ExprError {
    /// The text can't be read.
    #[error("expected an expression, found {text:?}: {why}")]
    Syntax {
        /// The text.
        text: String,
        /// What the parser said.
        why: String,
    },
    /// A variable that means nothing here.
    #[error("unknown variable {name:?} in {text:?}, expected one of {expected}")]
    UnknownVariable {
        /// The text.
        text: String,
        /// The variable.
        name: String,
        /// The variables there are.
        expected: String,
    },
    /// The value is not a whole number in range.
    #[error("expected {text:?} to be a whole number from {low} to {high}, found {found}")]
    NotWhole {
        /// The text.
        text: String,
        /// Smallest legal value.
        low: i64,
        /// Largest legal value.
        high: i64,
        /// What it came to.
        found: f64,
    },
}

/// Longest expression that is read, in bytes.
const MAX_TEXT: usize = 1000;

impl Expr {
    /// Reads `text`, whose variables must be among `names`.
    pub fn parse(text: &str, names: &[&str]) -> Result<Self, ExprError> {
        let syntax = |why: String| ExprError::Syntax { text: text.chars().take(60).collect(), why };
        if text.len() > MAX_TEXT {
            return Err(syntax(format!("it is {} bytes long, at most {MAX_TEXT} are read", text.len())));
        }
        let parsed = FlatEx::<f64, Operators>::parse(text).map_err(|e| syntax(e.msg().to_owned()))?;
        let slots = parsed
            .var_names()
            .iter()
            .map(|name| {
                names.iter().position(|n| n == name).ok_or_else(|| ExprError::UnknownVariable {
                    text: text.into(),
                    name: name.clone(),
                    expected: names.join(", "),
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { text: text.into(), parsed: Arc::new(parsed), slots })
    }

    /// The value for `values`, in the order of the names given to [`Expr::parse`]. NaN if it has none.
    pub fn value(&self, values: &[f64]) -> f64 {
        let picked: Vec<f64> = self.slots.iter().map(|&slot| values[slot]).collect();
        self.parsed.eval(&picked).unwrap_or(f64::NAN)
    }

    /// The value as a whole number from `low` to `high`.
    pub fn whole(&self, values: &[f64], low: i64, high: i64) -> Result<i64, ExprError> {
        let found = self.value(values);
        // Both limits are compared in f64; beyond 2^53 that is as exact as the value itself.
        if found.fract() == 0.0 && found >= low as f64 && found <= high as f64 {
            return Ok(found as i64);
        }
        Err(ExprError::NotWhole { text: self.text.clone(), low, high, found })
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_evaluated_over_named_variables() {
        let expr = Expr::parse("batch * ceil(q_per_kv / 8) + max(batch, 5)", &["q_per_kv", "batch"]).unwrap();
        assert_eq!(expr.whole(&[9.0, 3.0], 0, 100), Ok(11));
    }

    #[test]
    fn conditions_are_one_or_zero_and_bind_as_in_c() {
        for (text, expected) in [
            ("d <= 128 || n == 1", 1.0),
            ("d <= 127 || n == 2", 0.0),
            ("n + 1 < 3 && mod(d, 16) == 0", 1.0),
            ("n + 1 < 2 && mod(d, 16) == 0", 0.0),
            ("n == 1 || n == 2 && d == 0", 1.0),
            ("!(n > d) && n != d", 1.0),
            ("n >= d", 0.0),
            ("7 - mod(5 + n, 4) * 2", 3.0),
            ("2 * mod(7, 4) / 3", 2.0),
            ("log2(e) * 2", 2.0 * std::f64::consts::LOG2_E),
        ] {
            assert_eq!(Expr::parse(text, &["n", "d"]).unwrap().value(&[1.0, 128.0]), expected, "{text}");
        }
        assert!(Expr::parse("n < ", &["n"]).is_err() && Expr::parse("n <", &["n"]).is_err());
    }

    #[test]
    fn errors_say_what_was_found() {
        let error = |text| Expr::parse(text, &["n", "d"]).unwrap_err().to_string();
        assert_eq!(error("n + m"), "unknown variable \"m\" in \"n + m\", expected one of n, d");
        assert!(error("n *").starts_with("expected an expression, found \"n *\": "));
        assert!(error(&"(".repeat(5000)).ends_with("5000 bytes long, at most 1000 are read"));
        let half = Expr::parse("n / 2", &["n"]).unwrap();
        assert_eq!(
            half.whole(&[3.0], 0, 9).unwrap_err().to_string(),
            "expected \"n / 2\" to be a whole number from 0 to 9, found 1.5"
        );
        assert!(half.whole(&[f64::NAN], 0, 9).is_err());
    }

    #[test]
    fn an_expression_is_small_where_it_is_kept() {
        assert!(size_of::<Expr>() <= 64, "{}", size_of::<Expr>());
    }
}
