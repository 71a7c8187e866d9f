//! (case, outcome) to Verdict.
//!
//! [`examine`] is the one path that every door shares, from proptest to replay: it runs a case, runs it again under
//! other poison and another schedule, and judges. [`judge`] is its pure half.
//!
//! The order of checks is deliberate, from the most telling to the least: a fault, an output that was never written,
//! a result that changes between runs, a cache that holds the wrong bytes, a number outside its bound.
//!
//! Three bounds are kept apart. `det` is a proof from the kernel's contract and `sgn` one over the random signs of V:
//! breaking either is a finding. `hm` assumes that rounding errors are independent, which no kernel promises: breaking
//! it makes a case *suspect*. [`examine`] then runs the same shape with values whose rows are exact in any order, where
//! a wrong key or length can't hide in the rounding, and only what is proven wrong there becomes a finding.

mod caches;
mod error_map;
mod examine;
mod examiner;
mod judge;
pub mod relation;
mod rows;

pub use error_map::{ErrorPlane, error_map};
pub use examine::{UnderWay, examine, is_perturbed, look_closer};
pub(crate) use examiner::caught;
pub use examiner::{Examiner, Unconfirmed};
pub use judge::judge;
pub use rows::{ExpectedRow, for_each_row};

use crate::case::{Case, Relation, TensorName};
use crate::float::bits;
use crate::outcome::{Fault, Output, Site};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What is to be said of one case on one backend.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Every element lies within its bound and no check complained.
    Agree(Agreement),
    /// An element is wrong.
    Diverge(Divergence),
    /// The kernel did something wrong that is not a number.
    Fault(Fault),
    /// The case was not run, or could not be judged at all.
    Skip(String),
}

/// A verdict, and what it was given on.
#[derive(Clone, Debug)]
pub struct Examined {
    /// What is to be said.
    pub verdict: Verdict,
    /// What the first run left in memory, if it ended.
    pub output: Option<Output>,
    /// The case agrees but is suspect ([`Agreement::is_suspect`]), and this other one, of the same shape with values
    /// that leave less room for rounding, fails.
    pub closer: Option<(Case, Verdict)>,
    /// Of a case that agrees and asks for a relation, that relation and what came of it.
    pub relation: Option<(Relation, relation::Checked)>,
}

impl Examined {
    /// A verdict with nothing else to tell.
    pub fn plain(verdict: Verdict) -> Self {
        Self { verdict, output: None, closer: None, relation: None }
    }
}

/// How close an agreeing run came to its bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agreement {
    /// Largest part of its bound that any element's error used, 0 to 1.
    #[serde(with = "bits")]
    pub worst_ratio: f64,
    /// Output elements judged by a bound.
    pub elements: u64,
    /// Output elements of rows in which a right kernel may overflow: only their being written was checked.
    pub out_of_domain: u64,
    /// Largest error over what independent rounding errors would come to (the bound `hm`), where V's signs are random.
    #[serde(with = "bits")]
    pub model_ratio: f64,
}

impl Agreement {
    /// Larger errors than a model of independent rounding allows: no proof of anything, but worth a closer look.
    pub fn is_suspect(&self) -> bool {
        self.model_ratio > 1.0
    }
}

/// The worst wrong element of a tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Divergence {
    /// The tensor, by name.
    pub tensor: String,
    /// Step, from 0.
    pub step: u32,
    /// Coordinate: `[token, q_head, dim]` in an output, `[token, q_head]` in a log-sum-exp, `[request, kv_head, token, dim]` in a cache.
    pub at: Vec<u64>,
    /// The kernel's value.
    pub found: f64,
    /// The reference's value.
    pub expected: f64,
    /// Smallest value a right kernel may store there.
    pub low: f64,
    /// Largest value a right kernel may store there.
    pub high: f64,
    /// Error over bound; infinite for NaN and for elements that must be exact.
    pub ratio: f64,
    /// Which bound was broken.
    pub tier: Tier,
    /// Wrong elements of this tensor.
    pub wrong: u64,
    /// Elements of this tensor that were judged.
    pub elements: u64,
    /// The relation that is broken; then `expected` follows from another run, not from the reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relation: Option<Relation>,
    /// Only so when approximate functions err by what their documentation allows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approximate: bool,
}

/// What a bound rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// The bytes must be the same: data that is only moved.
    Exact,
    /// A proof from the kernel's numerics contract alone.
    Det,
    /// A proof over the random signs of V; a right kernel breaks it with probability at most [`SGN_FAILURE`] an element.
    Sgn,
}

/// Hoeffding's deviation for [`Tier::Sgn`].
pub const SGN_LAMBDA: f64 = 9.0;
/// 6 exp(-lambda^2 / 2), the failure probability that goes with [`SGN_LAMBDA`].
pub const SGN_FAILURE: f64 = 1.6e-17;

/// What makes two findings the same bug: the kind of wrong, and for a fault the place in the kernel.
///
/// Shrinking keeps it. Two backends may see the same bug with and without a place.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// Such as `diverge out nan` or `fault race`.
    pub class: String,
    /// Place of a fault, where known: `file:line` of the CUDA source, which is the same for every dtype, or the PTX line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

impl Verdict {
    /// The signature of a finding; nothing for [`Verdict::Agree`] and [`Verdict::Skip`].
    pub fn signature(&self) -> Option<Signature> {
        match self {
            Self::Agree(_) | Self::Skip(_) => None,
            Self::Diverge(Divergence { relation: Some(relation), .. }) => {
                Some(Signature { class: format!("relation {relation}"), place: None })
            }
            Self::Diverge(d) => {
                let kind = if d.found.is_nan() {
                    "nan"
                } else if d.found.is_infinite() {
                    "infinite"
                } else {
                    "value"
                };
                Some(Signature { class: format!("diverge {} {kind}", d.tensor), place: None })
            }
            Self::Fault(fault) => Some(Signature {
                class: format!("fault {}", fault.kind),
                place: fault.site.as_ref().and_then(Site::place),
            }),
        }
    }
}

impl Signature {
    /// Whether this is the same bug as `other`. A place that only one of them knows tells nothing.
    pub fn matches(&self, other: &Self) -> bool {
        let places = self.place.as_ref().zip(other.place.as_ref());
        self.class == other.class && places.is_none_or(|(a, b)| a == b)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.class)?;
        self.place.as_ref().map_or(Ok(()), |place| write!(f, " at {place}"))
    }
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        write!(f, "{}[{at}] of step {} ", self.tensor, self.step)?;
        if let Some(relation) = self.relation {
            write!(f, "of the case derived by {relation} ")?;
        }
        write!(f, "is {:e}, expected {:e}", self.found, self.expected)?;
        if self.tier == Tier::Exact {
            write!(f, " to the bit")?;
        } else {
            write!(f, " and nothing outside {:e}..={:e}", self.low, self.high)?;
        }
        if self.ratio.is_finite() {
            write!(f, " ({:.3e} times the bound)", self.ratio)?;
        }
        write!(f, "; {} of {} elements are wrong", self.wrong, self.elements)?;
        if self.approximate {
            f.write_str(
                "; so it is only when approximate functions (ex2.approx and the like) err within their documentation",
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exact => "exact",
            Self::Det => "det",
            Self::Sgn => "sgn",
        })
    }
}

/// Axes of a [`Divergence`]'s coordinate.
pub fn axes(tensor: &str) -> &'static [&'static str] {
    if tensor == TensorName::Out.to_string() {
        &["token", "q_head", "dim"]
    } else if tensor == TensorName::Lse.to_string() {
        &["token", "q_head"]
    } else {
        &["request", "kv_head", "token", "dim"]
    }
}
