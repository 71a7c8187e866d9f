//! Judges a [`Relation`]: runs the cases that follow from a case, and compares their outputs with each other.
//!
//! What is expected of a run comes from another run, or from a formula of its own; the reference lends no more than the
//! size of what rounding may do. So a mistake that the reference shared with a kernel would show here.
//!
//! # Tolerance
//! With `B` and `B'` the bounds of the two runs' elements, `h` and `h'` half the width of what rounds to the numbers
//! stored, and `a` the factor between them (1, -1 or a power of two), the outputs may differ by
//! `|a| (B + h) + B' + h'`. What a formula says is compared as the reference is: by containment after rounding. Where a
//! relation holds to the bit, only numbers that underflow may differ, by what underflow costs. Of a row in which a weight
//! may underflow nothing is exact when V is scaled: the least part decides a tie.

mod derive;
mod merge;

use super::judge::{Allowed, allowed};
use super::{Divergence, Tier};
use super::{ExpectedRow, for_each_row};
use crate::backend::{Backend, BackendError, Kernel, Run};
use crate::bound;
use crate::case::values::{Role, RowAt};
use crate::case::{Case, Relation, TensorName};
use crate::float::{Dtype, bits};
use crate::outcome::{Fault, Outcome, Output};
use derive::{Pair, base_row, expected, factor};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// What came of judging a relation.
#[derive(Clone, Debug, PartialEq)]
pub enum Checked {
    /// It holds.
    Holds(Held),
    /// It doesn't: the element of the derived run that is furthest off.
    Broken(Divergence),
    /// A derived run did something wrong that is not a number.
    Fault(Fault),
    /// It says nothing about this case, for this reason.
    DoesNotApply(Cow<'static, str>),
}

/// How closely a relation holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// Elements compared.
    pub elements: u64,
    /// Of them, those that are equal.
    pub equal: u64,
    /// Largest part of its tolerance that any difference used, 0 to 1.
    #[serde(with = "bits")]
    pub worst_ratio: f64,
}

/// Judges `relation` on `given`. `output` is what the kernel made of that case itself, if it has been run.
///
/// An error is this program's or the machine's limit, never the kernel's.
pub fn check(
    backend: &dyn Backend,
    kernel: &Kernel,
    given: &Case,
    relation: Relation,
    output: Option<&Output>,
) -> Result<Checked, BackendError> {
    let run = |case: &Case| {
        // The case itself has been run already; asking for a relation changes nothing in a run.
        let known = case.with(|parts| parts.relation = given.relation).is_ok_and(|case| case == *given);
        match output.filter(|_| known) {
            Some(output) => Ok(Outcome::Output(output.clone())),
            None => backend.run(kernel, case, Run::first(case)),
        }
    };
    if relation == Relation::LsesMerged {
        return merge::check(kernel, given, run);
    }
    let moves_exponents = matches!(relation, Relation::ValuesScaled | Relation::FactorsMoved);
    if moves_exponents && kernel.manifest.numerics.at_case(1, given).u > BINARY32_ROUNDOFF {
        return Ok(Checked::DoesNotApply("accumulators narrower than binary32 have too few exponents".into()));
    }
    let pair = match derive::pair(relation, given, &kernel.manifest.domain) {
        Ok(pair) => pair,
        Err(why) => return Ok(Checked::DoesNotApply(why.into())),
    };
    let base = match run(&pair.base)? {
        Outcome::Output(output) => output,
        Outcome::Fault(fault) => return Ok(Checked::Fault(fault)),
    };
    if derive::has_formula(relation) {
        return Ok(compare_with_formula(kernel, relation, &pair.base, &base));
    }
    Ok(match run(&pair.other)? {
        Outcome::Output(other) => compare(kernel, relation, &pair, &base, &other),
        Outcome::Fault(fault) => Checked::Fault(fault),
    })
}

/// Errors allowed in each row of a run, by step, token and query head; nothing where a right kernel may overflow.
type AllowedRows = BTreeMap<(u32, u64, u64), Allowed>;

fn allowed_rows(kernel: &Kernel, case: &Case) -> AllowedRows {
    let mut all = AllowedRows::new();
    for_each_row(case, |row| {
        if let Some(allowed) = allowed(case, &kernel.manifest, &row) {
            all.insert((row.step, row.at[0], row.at[1]), allowed);
        }
    });
    all
}

/// Half the width of what rounds to `x`.
fn half_cell(dtype: Dtype, x: f64) -> f64 {
    dtype.spacing(x) / 2.0
}

/// Compares each row of `other` with the one of `base` that it follows from.
fn compare(kernel: &Kernel, relation: Relation, pair: &Pair, base: &Output, other: &Output) -> Checked {
    let exact = relation.is_exact() || kernel.manifest.exact_relations.contains(&relation);
    let base_rows = allowed_rows(kernel, &pair.base);
    let factor = factor(relation).abs();
    let mut tally = Tally::new(relation, exact);
    for ((step, token, head), row) in allowed_rows(kernel, &pair.other) {
        let Some((base_step, base_token)) = base_row(relation, &pair.base, &pair.other, step, token) else { continue };
        let Some(base_row) = base_rows.get(&(base_step, base_token, head)) else { continue };
        // Where a sum is halfway between two numbers, something as small as can be decides which, if it is there at all.
        let exact_out = exact && !(relation == Relation::ValuesScaled && (row.underflows || base_row.underflows));
        let from = pair.base.output_layout().offset(&[base_token, head, 0]);
        let to = pair.other.output_layout().offset(&[token, head, 0]);
        for (dim, bound) in row.out.iter().enumerate() {
            let base_dim = if relation == Relation::ColumnsReversed { row.out.len() - 1 - dim } else { dim };
            let x = base.out[base_step as usize].value(from + base_dim);
            let y = other.out[step as usize].value(to + dim);
            let rounding = factor * half_cell(pair.base.dtype, x) + half_cell(pair.other.dtype, y);
            let tolerance = if !exact_out {
                factor * base_row.out[base_dim] + bound + rounding
            } else if x.abs() <= pair.base.dtype.min_positive_normal() {
                // The smallest normal number may have been rounded up from between it and the largest subnormal one.
                factor * UNDERFLOW + rounding
            } else {
                factor * UNDERFLOW
            };
            tally.near(
                TensorName::Out,
                step,
                vec![token, head, dim as u64],
                y,
                expected(relation, x, row.keys),
                tolerance,
            );
        }
        let lses = base.lse.get(base_step as usize).zip(other.lse.get(step as usize));
        let bounds = base_row.lse.zip(row.lse);
        if let (Some((base_lse, lse)), Some((base_bound, bound)), Some(returned)) = (lses, bounds, kernel.manifest.lse)
        {
            let x = base_lse.value(pair.base.lse_layout().offset(&[base_token, head]));
            let y = lse.value(pair.other.lse_layout().offset(&[token, head]));
            let shift = returned.base.of_nats(derive::lse_shift(relation, &pair.base));
            let rounding = half_cell(Dtype::F32, x) + half_cell(Dtype::F32, y);
            let tolerance = if exact { 0.0 } else { base_bound + bound + rounding };
            tally.near(TensorName::Lse, step, vec![token, head], y, x + shift, tolerance);
        }
    }
    tally.result()
}

/// Unit roundoff of binary32.
const BINARY32_ROUNDOFF: f64 = f32::EPSILON as f64 / 2.0;

/// What underflow of weights and products may cost a sum of values around 1, however long: far below what any dtype
/// sees there, far above `2^-149` times the longest row.
const UNDERFLOW: f64 = 1e-36;

/// Compares each row of a run with what a formula says.
fn compare_with_formula(kernel: &Kernel, relation: Relation, case: &Case, output: &Output) -> Checked {
    let mut tally = Tally::new(relation, false);
    for_each_row(case, |row| {
        let Some(allowed) = allowed(case, &kernel.manifest, &row) else { return };
        let start = case.output_layout().offset(&[row.at[0], row.at[1], 0]);
        let probe = (relation == Relation::ScaleProbe).then(|| Probe::of(case, &row));
        for (dim, bound) in allowed.out.into_iter().enumerate() {
            let found = output.out[row.step as usize].value(start + dim);
            let (low, high, own_error) = match &probe {
                Some(probe) => {
                    let (value, error) = probe.value(dim);
                    (value, value, error)
                }
                None if relation == Relation::WeightsSumToOne && row.n > 0 => (1.0, 1.0, 0.0),
                None => (row.reference.v_min[dim], row.reference.v_max[dim], 0.0),
            };
            let at = vec![row.at[0], row.at[1], dim as u64];
            let bound = bound + own_error;
            let nearest = if found < low { low } else { found.min(high) };
            let ratio = bound::ratio(found, nearest, bound, case.dtype);
            let (from, to) = (bound::interval(low, bound, case.dtype).0, bound::interval(high, bound, case.dtype).1);
            let tensor = TensorName::Out;
            tally.element(Element { tensor, step: row.step, at, found, expected: nearest, low: from, high: to, ratio });
        }
    });
    tally.result()
}

/// A row of two keys and perhaps a sink: `sum_j w_j v_j / sum_j w_j` with `w_j = exp(s_j)`, `s_j` the scaled and capped
/// product of the query with a key, or the sink's logit, whose value is 0.
struct Probe {
    /// Weights of the keys.
    weights: [f64; 2],
    /// Error of a weight in f64.
    error: f64,
    values: [Vec<f64>; 2],
}

impl Probe {
    fn of(case: &Case, row: &ExpectedRow<'_>) -> Self {
        let head = row.at[1] as u32;
        let request = (0..case.shape.requests.len()).rfind(|&r| derive::first_token(case, r) <= row.at[0]).unwrap_or(0);
        let [kv_head, member] = [head / case.shape.q_per_kv, head % case.shape.q_per_kv];
        let at = RowAt { request: request as u32, kv_head, member, token: 0 };
        let read = |role: Role, member: u32, token: u32| {
            let mut row = Vec::new();
            case.row(role, RowAt { member, token, ..at }, &mut row);
            row
        };
        let q = read(Role::Q, member, 0);
        let scale = f64::from(case.scale);
        let [first, second] = [0, 1].map(|token| {
            let products: Vec<f64> = q.iter().zip(read(Role::K, 0, token)).map(|(q, k)| q * k).collect();
            let logit = scale * products.iter().sum::<f64>();
            let capped = case.features.softcap.map(f64::from).map_or(logit, |cap| cap * libm::tanh(logit / cap));
            (capped, scale * products.iter().map(|x| x.abs()).sum::<f64>())
        });
        let sink = case.sink(kv_head, member);
        let sum = |own: f64| -> f64 {
            [Some(first.0), Some(second.0), sink].into_iter().flatten().map(|logit| libm::exp(logit - own)).sum()
        };
        let roundings = f64::from(case.shape.head_dim) + 8.0;
        Self {
            weights: [first, second].map(|(logit, _)| 1.0 / sum(logit)),
            // A softmax moves by no more than half of what its logits do, and capping makes that no more.
            error: f64::EPSILON * (4.0 + roundings * (first.1 + second.1) / 2.0),
            values: [0, 1].map(|token| read(Role::V, 0, token)),
        }
    }

    /// The output of a column, and how far this computation may be off.
    fn value(&self, dim: usize) -> (f64, f64) {
        let [first, second] = [0, 1].map(|token| self.values[token][dim]);
        let error = (self.error + 4.0 * f64::EPSILON) * (first.abs() + second.abs());
        (first * self.weights[0] + second * self.weights[1], error)
    }
}

struct Element {
    tensor: TensorName,
    step: u32,
    at: Vec<u64>,
    found: f64,
    expected: f64,
    low: f64,
    high: f64,
    /// Difference over tolerance; NaN where there is no number.
    ratio: f64,
}

/// What comparing has come to so far.
struct Tally {
    relation: Relation,
    exact: bool,
    held: Held,
    wrong: u64,
    worst: Option<Divergence>,
}

impl Tally {
    fn new(relation: Relation, exact: bool) -> Self {
        Self { relation, exact, held: Held::default(), wrong: 0, worst: None }
    }

    /// Judges `found` by its distance from what another run makes of it.
    fn near(&mut self, tensor: TensorName, step: u32, at: Vec<u64>, found: f64, expected: f64, tolerance: f64) {
        if [found, expected, tolerance].into_iter().any(f64::is_infinite) {
            // Binary16 overflowed, which is for the comparison with the reference to judge, or anything is allowed.
            return;
        }
        let distance = (found - expected).abs();
        let ratio = if distance == 0.0 { 0.0 } else { distance / tolerance };
        let (low, high) = (expected - tolerance, expected + tolerance);
        self.element(Element { tensor, step, at, found, expected, low, high, ratio });
    }

    fn element(&mut self, e: Element) {
        self.held.elements += 1;
        self.held.equal += u64::from(e.found == e.expected);
        if e.ratio <= 1.0 {
            self.held.worst_ratio = self.held.worst_ratio.max(e.ratio);
            return;
        }
        self.wrong += 1;
        let ratio = if e.ratio.is_nan() { f64::INFINITY } else { e.ratio };
        if self.worst.as_ref().is_none_or(|worst| ratio > worst.ratio) {
            self.worst = Some(Divergence {
                approximate: false,
                relation: Some(self.relation),
                tensor: e.tensor.to_string(),
                step: e.step,
                at: e.at,
                found: e.found,
                expected: e.expected,
                low: e.low,
                high: e.high,
                ratio,
                tier: if self.exact { Tier::Exact } else { Tier::Det },
                wrong: 0,
                elements: 0,
            });
        }
    }

    fn result(self) -> Checked {
        match self.worst {
            Some(divergence) => {
                Checked::Broken(Divergence { wrong: self.wrong, elements: self.held.elements, ..divergence })
            }
            None => Checked::Holds(self.held),
        }
    }
}
