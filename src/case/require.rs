//! Conditions that tie the fields of a domain to each other.

use super::variables::{VARIABLES, variables};
use super::{Case, Domain, KnobName};
use crate::expr::{Expr, ExprError};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::OnceLock;

/// A condition that every case of a domain meets.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Require {
    /// An expression that is not 0 where the condition is met, in every step.
    pub expr: String,
    /// Why the kernel asks for it.
    pub because: String,
    /// The expression, once it was needed; nothing if it is none.
    #[serde(skip)]
    parsed: OnceLock<Option<Expr>>,
}

/// What it says, whether it was needed yet or not.
impl fmt::Debug for Require {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} because {:?}", self.expr, self.because)
    }
}

impl PartialEq for Require {
    fn eq(&self, other: &Self) -> bool {
        self.expr == other.expr && self.because == other.because
    }
}

impl Require {
    /// A condition. What is wrong with its expression is told by [`Require::parse`].
    pub fn new(expr: impl Into<String>, because: impl Into<String>) -> Self {
        Self { expr: expr.into(), because: because.into(), parsed: OnceLock::new() }
    }

    /// Its expression over the variables of manifests and the domain's knobs.
    pub fn parse(&self, domain: &Domain) -> Result<Expr, ExprError> {
        let names: Vec<&str> = VARIABLES.into_iter().chain(domain.knobs.keys().map(KnobName::as_str)).collect();
        Expr::parse(&self.expr, &names)
    }

    /// Whether `case` meets it. One that can't be read is met by none.
    pub fn is_met(&self, domain: &Domain, case: &Case) -> bool {
        let Some(expr) = self.parsed.get_or_init(|| self.parse(domain).ok()) else { return false };
        let is_true = |value: f64| value != 0.0 && !value.is_nan();
        (0..case.steps).all(|step| is_true(expr.value(&variables(domain, case, step))))
    }
}
