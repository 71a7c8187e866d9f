//! Numbers of a contract that depend on the row: expressions in `n`, `d`, the kernel's knobs and named constants.

use super::constants::Constant;
use crate::case::{KnobName, Knobs};
use exmex::{Express, FlatEx};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// An expression in `n` (elements of the row: visible keys), `d` (head dim), the kernel's knobs (lower case) and
/// [`Constant`]s (upper case), e.g. `ceil(n/num_splits) + 4` or `EX2_APPROX`.
///
/// Parsed once. Operators and functions are those of the `exmex` crate: `+ - * / ^`, `ceil`, `floor`,
/// `max(a, b)`, `min(a, b)`, `ln`, `log2`, `sqrt` and so on.
#[derive(Clone)]
pub struct Formula {
    text: String,
    /// Shared, because a parsed expression is several kilobytes and contracts are cloned.
    parsed: Arc<FlatEx<f64>>,
    /// What each variable of `parsed` is, in its order.
    variables: Vec<Variable>,
}

#[derive(Clone)]
enum Variable {
    N,
    D,
    Constant(f64),
    Knob(KnobName),
}

impl Formula {
    /// The formula's value for a row of `n` elements and a head dim of `d`.
    ///
    /// NaN where the expression has none, such as `ln(0 - n)`, or needs a knob that is not in `knobs`.
    pub fn eval(&self, n: usize, d: usize, knobs: &Knobs) -> f64 {
        let value = |variable: &Variable| match variable {
            Variable::N => n as f64,
            Variable::D => d as f64,
            Variable::Constant(value) => *value,
            Variable::Knob(name) => knobs.get(name).map_or(f64::NAN, |&value| f64::from(value)),
        };
        let values: Vec<f64> = self.variables.iter().map(value).collect();
        self.parsed.eval(&values).unwrap_or(f64::NAN)
    }

    /// Whether it is a number of at least 0 for ordinary rows under each of `settings` of the knobs, which must all
    /// have the same knobs.
    pub fn check(&self, settings: &[Knobs]) -> Result<(), FormulaError> {
        let known = |name: &KnobName| settings.iter().all(|knobs| knobs.contains_key(name));
        for variable in &self.variables {
            if let Variable::Knob(name) = variable
                && !known(name)
            {
                let knobs = settings.iter().flat_map(|knobs| knobs.keys()).map(KnobName::as_str);
                let mut expected: Vec<&str> = ["n", "d"].into_iter().chain(knobs).collect();
                expected.dedup();
                return Err(FormulaError::variable(name.as_str(), &self.text, &expected));
            }
        }
        for knobs in settings {
            for (n, d) in [(1, 1), (1, 128), (33, 64), (65_536, 256)] {
                let value = self.eval(n, d, knobs);
                if !value.is_finite() || value < 0.0 {
                    let knobs = knobs.iter().map(|(name, value)| format!(", {name} = {value}")).collect();
                    return Err(FormulaError::Value { text: self.text.clone(), value: value.to_string(), n, d, knobs });
                }
            }
        }
        Ok(())
    }

    /// Whether a knob is one of its variables.
    fn has_knobs(&self) -> bool {
        self.variables.iter().any(|variable| matches!(variable, Variable::Knob(_)))
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
    #[error("expected an expression in {expected}, found variable `{found}` in `{text}`")]
    Variable {
        /// The variable.
        found: String,
        /// The variables there are.
        expected: String,
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
    #[error("expected a value of at least 0, found {value} for n = {n}, d = {d}{knobs} in `{text}`")]
    Value {
        /// The expression.
        text: String,
        /// Its value.
        value: String,
        /// Elements of the row.
        n: usize,
        /// Head dim.
        d: usize,
        /// The knobs, as `, name = value` each.
        knobs: String,
    },
}

impl FormulaError {
    fn variable(found: &str, text: &str, expected: &[&str]) -> Self {
        let constants = Constant::all().map(|constant| constant.name.as_str()).collect::<Vec<_>>().join(", ");
        let expected = format!("{} and constants ({constants})", expected.join(", "));
        Self::Variable { found: found.into(), expected, text: text.into() }
    }
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
        let variable = |name: &String| match (name.as_str(), Constant::named(name)) {
            ("n", _) => Ok(Variable::N),
            ("d", _) => Ok(Variable::D),
            (_, Some(constant)) => Ok(Variable::Constant(constant.value())),
            // Which knobs there are is for the manifest to say.
            (name, None) => name.parse().map(Variable::Knob),
        };
        let mut variables = Vec::new();
        for name in parsed.var_names() {
            match variable(name) {
                Ok(variable) => variables.push(variable),
                Err(_) => return Err(FormulaError::variable(name, &text, &["n", "d", "the kernel's knobs"])),
            }
        }
        let formula = Self { text, parsed: Arc::new(parsed), variables };
        // A wrong expression should be found when the manifest is read, not in the middle of a campaign.
        if !formula.has_knobs() {
            formula.check(&[Knobs::new()])?;
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
        Self { text, parsed: Arc::new(parsed), variables: Vec::new() }
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
    pub fn at(&self, n: usize, d: usize, knobs: &Knobs) -> Option<f64> {
        match self {
            Self::Any => None,
            Self::Max(formula) => Some(formula.eval(n, d, knobs)).filter(|x| x.is_finite()).map(|x| x.max(0.0).ceil()),
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
        f.write_str("a number of at least 0 or an expression in n, d, knobs and constants")
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
        text.parse::<Formula>().unwrap().eval(n, d, &Knobs::new())
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
        assert_eq!(Formula::from(5.0 * 2f64.powi(-24)).eval(1, 1, &Knobs::new()), 5.0 * 2f64.powi(-24));
    }

    #[test]
    fn errors_say_what_was_expected() {
        let error = |text: &str| text.parse::<Depth>().unwrap_err().to_string();
        assert!(error("EXPFF").starts_with("expected an expression in n, d, the kernel's knobs and constants (DIV_"));
        assert!(error("2*EXPFF").ends_with("found variable `EXPFF` in `2*EXPFF`"));
        assert_eq!(error("n - 2"), "expected a value of at least 0, found -1 for n = 1, d = 1 in `n - 2`");
        assert!(
            error("n +").starts_with("expected an expression in n and d, such as \"ceil(n/4) + 4\", found `n +`: ")
        );
        assert!("any".parse::<Depth>().is_ok_and(|depth| depth.at(3, 3, &Knobs::new()).is_none()));
    }

    #[test]
    fn knobs_are_known_when_the_kernel_is() {
        let formula: Formula = "ceil(n / num_splits) - 1".parse().unwrap();
        let splits = |n: u32| Knobs::from([("num_splits".parse().unwrap(), n)]);
        assert_eq!(formula.eval(9, 64, &splits(4)), 2.0);
        assert!(formula.eval(9, 64, &Knobs::new()).is_nan());
        assert_eq!(formula.check(&[splits(1), splits(32)]), Ok(()));
        let error = formula.check(&[Knobs::new()]).unwrap_err().to_string();
        assert!(error.starts_with("expected an expression in n, d and constants ("), "{error}");
        assert!(error.ends_with("found variable `num_splits` in `ceil(n / num_splits) - 1`"), "{error}");
        let error = "4 - num_splits".parse::<Formula>().unwrap().check(&[splits(1), splits(5)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "expected a value of at least 0, found -1 for n = 1, d = 1, num_splits = 5 in `4 - num_splits`"
        );
    }
}
