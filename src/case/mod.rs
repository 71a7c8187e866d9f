//! Shape and Case: everything needed to run one test once, decoded.
//!
//! A [`Case`] is a value without hidden state: the same Case gives the same tensors on every machine
//! (see [`values`]), is one printable line (see [`codec`]) and one table of a TOML file (through serde).
//! A Case that breaks an invariant can't be built: [`Case::new`] is the only way in.
//!
//! Deliberately absent: which kernel runs it and what that kernel supports. That is a [`Domain`].

mod cache;
pub mod codec;
mod domain;
mod features;
mod inputs;
mod knobs;
mod only;
mod recipe;
mod relation;
mod require;
pub mod values;
pub mod variables;
mod view;

pub use cache::{Cache, CacheMap, CacheOrder, NO_PAGE, Pages, Storage, StorageKind};
pub use codec::{CaseId, ParseError};
pub use domain::{Domain, Range, default_scale};
pub use features::Features;
pub use inputs::{Inputs, StepInputs, TensorName};
pub use knobs::{KnobName, Knobs, MAX_KNOBS};
pub use only::{Axis, Element, FEW, MAX_REGIONS, Only, Region, Span};
pub use recipe::Recipe;
pub use relation::Relation;
pub use require::Require;
pub use values::Values;
pub use view::View;

use crate::float::Dtype;
use crate::tensor::Layout;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Deref;

/// One request of the batch, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Tokens already in the KV cache before the first step. May be 0.
    pub past_len: u32,
    /// Query tokens of each step; 1 in decoding. May be 0, but not for every request.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub q_len: u32,
}

/// The extents of a grouped-query attention problem. `num_q_heads` is derived, so no wrong one can be written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// KV heads.
    pub num_kv_heads: u32,
    /// Query heads that share one KV head.
    pub q_per_kv: u32,
    /// Elements of a query or key row.
    pub head_dim: u32,
    /// Elements of a value row.
    pub v_head_dim: u32,
    /// The batch.
    pub requests: Vec<Request>,
}

/// What fills memory that must not be read, and outputs before they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Poison {
    /// A quiet NaN with a payload of its own.
    Nan,
    /// Positive infinity.
    Inf,
    /// A large finite number, about 2^14.
    Huge,
}

/// Everything a run needs, not yet checked. [`Case::new`] checks it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseParts {
    /// Storage type of every tensor.
    pub dtype: Dtype,
    /// Factor of the logits, passed to the kernel in binary32.
    pub scale: f32,
    /// Consecutive calls; each appends `q_len` tokens to every request. One if nothing is appended.
    pub steps: u32,
    /// Fill of everything that must not be read.
    pub poison: Poison,
    /// Decides the order in which an emulator runs warps and blocks.
    pub schedule_seed: u32,
    /// Extents.
    pub shape: Shape,
    /// Cache layout.
    pub cache: Cache,
    /// Masks and changes of the logits.
    #[serde(default, skip_serializing_if = "Features::is_plain")]
    pub features: Features,
    /// Element values.
    pub values: Values,
    /// The elements that keep those values, where not all do; every other one is 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<Only>,
    /// Value of each of the kernel's knobs; none for a kernel without.
    #[serde(default, skip_serializing_if = "Knobs::is_empty")]
    pub knobs: Knobs,
    /// What becomes of those values; nothing unless the case is derived from another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<View>,
    /// A property that is judged too, by running a case derived from this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relation: Option<Relation>,
}

/// A checked case. Reads like [`CaseParts`]; its `Debug` is the one-line codec, which parses back.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "CaseParts", into = "CaseParts")]
pub struct Case(CaseParts);

/// Why parts are not a Case.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{field}: expected {expected}, found {found}")]
pub struct Invalid {
    /// Field at fault.
    pub field: &'static str,
    /// What a legal value is.
    pub expected: String,
    /// What was given.
    pub found: String,
}

/// Most elements any one tensor of a case may have; keeps a hostile case from asking for all memory.
pub const MAX_TENSOR_ELEMENTS: u64 = 1 << 31;
/// Most tokens a request's cache may hold.
pub const MAX_TOKENS: u32 = 1 << 20;

impl Case {
    /// Checks the invariants that hold for every kernel.
    pub fn new(parts: CaseParts) -> Result<Self, Invalid> {
        let shape = &parts.shape;
        within("num_kv_heads", shape.num_kv_heads, 1, 1024)?;
        within("q_per_kv", shape.q_per_kv, 1, 1024)?;
        within("head_dim", shape.head_dim, 1, 4096)?;
        within("v_head_dim", shape.v_head_dim, 1, 4096)?;
        within("batch", u32::try_from(shape.requests.len()).unwrap_or(u32::MAX), 1, 1 << 20)?;
        within("steps", parts.steps, 1, 1024)?;
        within("row_pad", parts.cache.row_pad, 0, 4096)?;
        within("capacity", parts.cache.capacity, 1, MAX_TOKENS)?;
        within("number of knobs", u32::try_from(parts.knobs.len()).unwrap_or(u32::MAX), 0, MAX_KNOBS as u32)?;
        parts.features.check()?;
        parts.cache.storage.check()?;
        for (index, request) in shape.requests.iter().enumerate() {
            within("q_len", request.q_len, 0, MAX_TOKENS)?;
            within("past_len", request.past_len, 0, MAX_TOKENS)?;
            let appended = u64::from(parts.steps) * u64::from(parts.appended_len(index));
            let needed = u64::from(request.past_len) + appended;
            if needed > u64::from(parts.cache.capacity) {
                let terms = if parts.features.append { "past_len + steps * q_len" } else { "past_len" };
                return Err(Invalid {
                    field: "capacity",
                    expected: format!("at least {terms} = {needed}"),
                    found: parts.cache.capacity.to_string(),
                });
            }
        }
        if !parts.features.append && parts.steps != 1 {
            let expected = "1 if no token is appended".into();
            return Err(Invalid { field: "steps", expected, found: parts.steps.to_string() });
        }
        if parts.features.append && parts.cache.storage == Storage::Packed {
            let (expected, found) = ("append=no with a packed cache".into(), "yes".into());
            return Err(Invalid { field: "append", expected, found });
        }
        if !parts.scale.is_finite() || parts.scale <= 0.0 {
            return Err(Invalid {
                field: "scale",
                expected: "a finite number above 0".into(),
                found: parts.scale.to_string(),
            });
        }
        let dim = u64::from(shape.head_dim.max(shape.v_head_dim)) + u64::from(parts.cache.row_pad);
        let heads = u64::from(shape.num_kv_heads);
        let queries: u64 = shape.requests.iter().map(|r| u64::from(r.q_len)).sum();
        if queries == 0 {
            let expected = "a request with a query token".into();
            return Err(Invalid { field: "q_len", expected, found: "0 for every request".into() });
        }
        let cached = parts.cached_tokens();
        let table = [shape.requests.len() as u64, u64::from(parts.pages_per_request())];
        let query = [heads * u64::from(shape.q_per_kv), dim];
        for elements in [product(cached, &[heads, dim]), product(queries, &query), product(1, &table)] {
            if elements.is_none_or(|n| n > MAX_TENSOR_ELEMENTS) {
                return Err(Invalid {
                    field: "shape",
                    expected: format!("tensors of at most {MAX_TENSOR_ELEMENTS} elements"),
                    found: elements.map_or("more than 2^64".into(), |n| n.to_string()),
                });
            }
        }
        Ok(Self(parts))
    }

    /// The parts, to change and check again.
    pub fn into_parts(self) -> CaseParts {
        self.0
    }

    /// A copy with `change` applied, or why that is no Case.
    pub fn with(&self, change: impl FnOnce(&mut CaseParts)) -> Result<Self, Invalid> {
        let mut parts = self.0.clone();
        change(&mut parts);
        Self::new(parts)
    }
}

fn product(first: u64, rest: &[u64]) -> Option<u64> {
    rest.iter().try_fold(first, |n, &m| n.checked_mul(m))
}

fn within(field: &'static str, found: u32, low: u32, high: u32) -> Result<(), Invalid> {
    if (low..=high).contains(&found) {
        return Ok(());
    }
    Err(Invalid { field, expected: format!("{low} to {high}"), found: found.to_string() })
}

impl Shape {
    /// Query heads: `num_kv_heads * q_per_kv`.
    pub fn num_q_heads(&self) -> u32 {
        self.num_kv_heads * self.q_per_kv
    }

    /// Requests.
    pub fn batch(&self) -> u32 {
        self.requests.len() as u32
    }

    /// Query tokens of one step, over the batch.
    pub fn total_q_len(&self) -> u32 {
        self.requests.iter().map(|r| r.q_len).sum()
    }
}

impl CaseParts {
    /// Layout of the queries and outputs of a step: `[token, q_head, dim]`, tokens of all requests in a row.
    pub fn query_layout(&self) -> Layout {
        let shape = &self.shape;
        Layout::contiguous(&[shape.total_q_len(), shape.num_q_heads(), shape.head_dim])
    }

    /// Layout of the outputs of a step: `[token, q_head, v_dim]`.
    pub fn output_layout(&self) -> Layout {
        let shape = &self.shape;
        Layout::contiguous(&[shape.total_q_len(), shape.num_q_heads(), shape.v_head_dim])
    }

    /// Layout of the log-sum-exps of a step: `[token, q_head]`.
    pub fn lse_layout(&self) -> Layout {
        Layout::contiguous(&[self.shape.total_q_len(), self.shape.num_q_heads()])
    }

    /// Layout of a step's new keys (or values, with `v_head_dim`): `[token, kv_head, dim]`.
    pub fn new_token_layout(&self, dim: u32) -> Layout {
        Layout::contiguous(&[self.shape.total_q_len(), self.shape.num_kv_heads, dim])
    }
}

impl Deref for Case {
    type Target = CaseParts;

    fn deref(&self) -> &CaseParts {
        &self.0
    }
}

impl TryFrom<CaseParts> for Case {
    type Error = Invalid;

    fn try_from(parts: CaseParts) -> Result<Self, Invalid> {
        Self::new(parts)
    }
}

impl From<Case> for CaseParts {
    fn from(case: Case) -> Self {
        case.0
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Poison {
    /// Every pattern.
    pub const ALL: [Self; 3] = [Self::Nan, Self::Inf, Self::Huge];

    /// The next pattern, used by a second run whose result must not depend on it.
    pub fn next(self) -> Self {
        match self {
            Self::Nan => Self::Inf,
            Self::Inf => Self::Huge,
            Self::Huge => Self::Nan,
        }
    }

    /// Bits of one poisoned element.
    pub fn bits(self, dtype: Dtype) -> u32 {
        match (self, dtype) {
            (Self::Nan, Dtype::F32) => 0x7fe5_5a5a,
            (Self::Nan, Dtype::F16) => 0x7f5a,
            (Self::Nan, Dtype::Bf16) => 0x7fe5,
            (Self::Inf, _) => dtype.encode(f64::INFINITY),
            // Not a value that any recipe generates, so that an output that still holds it is known to be unwritten.
            (Self::Huge, _) => dtype.encode(16448.0),
        }
    }
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_one(n: &u32) -> bool {
    *n == 1
}
