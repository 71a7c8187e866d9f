//! The pure half of the oracle: what a kernel left in memory, against the reference and its bounds.

use super::caches::CacheCheck;
use super::rows::{ExpectedRow, Head, heads};
use super::{Agreement, Divergence, SGN_LAMBDA, Tier, Verdict};
use crate::backend::manifest::Manifest;
use crate::bound::{self, Bounds, EmptyRow, Resolved};
use crate::case::values::Role;
use crate::case::{Case, Poison, TensorName};
use crate::float::Dtype;
use crate::outcome::Output;
use crate::reference;
use std::collections::HashMap;
use std::rc::Rc;

/// Judges the output of a run of `case` under `poison`, of a kernel with this manifest.
pub fn judge(case: &Case, manifest: &Manifest, poison: Poison, output: &Output) -> Verdict {
    if manifest.lse.is_some() && output.lse.len() != case.steps as usize {
        return Verdict::Skip("the backend gave no log-sum-exps although the kernel returns them".into());
    }
    let mut k_cache = CacheCheck::of(case, Role::K, poison, &output.k_cache);
    let mut v_cache = CacheCheck::of(case, Role::V, poison, &output.v_cache);
    let mut judging = Judging {
        case,
        manifest,
        output,
        numbers: HashMap::new(),
        agreement: Agreement::default(),
        out: Tally::default(),
        lse: Tally::default(),
    };
    for (request, kv_head) in heads(case) {
        let head = Head::of(case, request, kv_head);
        k_cache.head(&head, &head.k);
        v_cache.head(&head, &head.v);
        head.for_each_row(&mut |row| judging.row(&row));
    }
    let k_divergence = k_cache.divergence(TensorName::KCache);
    if let Some(divergence) = k_divergence.or_else(|| v_cache.divergence(TensorName::VCache)) {
        return Verdict::Diverge(divergence);
    }
    // A wrong output is the more telling where both are wrong.
    match judging.out.divergence().or(judging.lse.divergence()) {
        Some(divergence) => Verdict::Diverge(divergence),
        None => Verdict::Agree(judging.agreement),
    }
}

/// A judgement under way.
struct Judging<'a> {
    case: &'a Case,
    manifest: &'a Manifest,
    output: &'a Output,
    /// The contract's numbers of rows that see so many keys.
    numbers: HashMap<usize, Rc<Resolved>>,
    agreement: Agreement,
    out: Tally,
    lse: Tally,
}

/// What judging one tensor has come to so far.
#[derive(Default)]
struct Tally {
    elements: u64,
    wrong: u64,
    worst: Option<Divergence>,
}

impl Tally {
    fn divergence(&mut self) -> Option<Divergence> {
        self.worst.take().map(|worst| Divergence { wrong: self.wrong, elements: self.elements, ..worst })
    }

    fn wrong(&mut self, divergence: Divergence) {
        self.elements += 1;
        self.wrong += 1;
        if self.worst.as_ref().is_none_or(|worst| divergence.ratio > worst.ratio) {
            self.worst = Some(divergence);
        }
    }
}

/// The bounds of a row; nothing where a right kernel may overflow, or the row is empty and the kernel need not give zeros.
fn bounds_of_row(row: &ExpectedRow<'_>, numbers: &Resolved) -> Option<Bounds> {
    let known = row.reference.elements() > 0 || numbers.empty_row == EmptyRow::Zero;
    (known && bound::domain_ok(&row.reference, numbers)).then(|| bound::bounds(&row.reference, numbers, SGN_LAMBDA))
}

/// The smaller of the two bounds whose violation is a finding.
fn strictest(bounds: &Bounds, dim: usize, signs_are_random: bool) -> (f64, Tier) {
    match (bounds.det[dim], bounds.sgn[dim]) {
        (det, sgn) if signs_are_random && sgn < det => (sgn, Tier::Sgn),
        (det, _) => (det, Tier::Det),
    }
}

/// The errors allowed in a row before it is rounded.
pub(super) struct Allowed {
    /// In each column of the output.
    pub(super) out: Vec<f64>,
    /// In the log-sum-exp, in its own base; nothing if the kernel returns none, or it is minus infinity.
    pub(super) lse: Option<f64>,
    /// Keys that the row sees.
    pub(super) keys: usize,
    /// Whether products of weights and values may underflow in binary32, without vanishing altogether.
    pub(super) underflows: bool,
}

/// Distances from the largest logit, in nats, between which a weight, or what becomes of it on its way through tiles and
/// splits, may be subnormal in binary32: 87 to 104, with room for values from 2^-10 to 2^10 and the factors of relations.
const SUBNORMAL_WEIGHTS: std::ops::Range<f64> = 70.0..125.0;
/// Values smaller than this may underflow with weights that don't.
const SMALL_VALUE: f64 = 1e-18;

fn underflows(reference: &reference::Reference<'_>) -> bool {
    reference.s.iter().any(|s| SUBNORMAL_WEIGHTS.contains(&(reference.max - s)))
        || reference.v.iter().any(|&v| v != 0.0 && v.abs() < SMALL_VALUE)
}

/// The errors allowed in a row; nothing where [`bounds_of_row`] gives nothing.
pub(super) fn allowed(case: &Case, manifest: &Manifest, row: &ExpectedRow<'_>) -> Option<Allowed> {
    let numbers = manifest.numerics.at_case(row.n, case);
    let bounds = bounds_of_row(row, &numbers)?;
    let out = (0..bounds.det.len()).map(|dim| strictest(&bounds, dim, case.v_is_sign_random()).0).collect();
    let lse = manifest.lse.filter(|_| row.reference.elements() > 0);
    let lse = lse.map(|lse| lse.base.value_and_bound(&row.reference, &numbers, bounds.lse).1);
    Some(Allowed { out, lse, keys: row.n, underflows: underflows(&row.reference) })
}

impl Judging<'_> {
    fn row(&mut self, row: &ExpectedRow<'_>) {
        let numbers = self.numbers.entry(row.n).or_insert_with(|| {
            let numbers = self.manifest.numerics.at_case(row.n, self.case);
            Rc::new(numbers)
        });
        let numbers = numbers.clone();
        let Some(bounds) = bounds_of_row(row, &numbers) else {
            self.agreement.out_of_domain += u64::from(self.case.shape.v_head_dim) + self.output.lse.len().min(1) as u64;
            return;
        };
        self.out_row(row, &bounds);
        self.lse_element(row, &numbers, &bounds);
    }

    fn out_row(&mut self, row: &ExpectedRow<'_>, bounds: &Bounds) {
        let case = self.case;
        let start = case.output_layout().offset(&[row.at[0], row.at[1], 0]);
        let signs_are_random = case.v_is_sign_random();
        let out = &self.output.out[row.step as usize];
        for dim in 0..case.shape.v_head_dim as usize {
            let found = out.value(start + dim);
            let o = row.reference.o[dim];
            let (b, tier) = strictest(bounds, dim, signs_are_random);
            let hm = bounds.hm[dim];
            if signs_are_random && hm < b {
                let (model_ratio, within) = bound::assess(found, o, hm, case.dtype);
                if within {
                    // So it is within the wider bound.
                    self.accept(TensorName::Out, model_ratio * (hm / b));
                    continue;
                }
                self.agreement.model_ratio = self.agreement.model_ratio.max(model_ratio);
            }
            self.element(row, Some(dim as u64), &Element { found, o, b, tier, dtype: case.dtype });
        }
    }

    fn lse_element(&mut self, row: &ExpectedRow<'_>, numbers: &Resolved, bounds: &Bounds) {
        let Some((buffer, lse)) = self.output.lse.get(row.step as usize).zip(self.manifest.lse) else { return };
        let (o, b) = lse.base.value_and_bound(&row.reference, numbers, bounds.lse);
        let found = buffer.value(self.case.lse_layout().offset(&row.at));
        self.element(row, None, &Element { found, o, b, tier: Tier::Det, dtype: Dtype::F32 });
    }

    /// Counts an element that uses so much of its bound.
    fn accept(&mut self, tensor: TensorName, ratio: f64) {
        self.agreement.elements += 1;
        self.agreement.worst_ratio = self.agreement.worst_ratio.max(ratio.min(1.0));
        self.tally(tensor).elements += 1;
    }

    fn tally(&mut self, tensor: TensorName) -> &mut Tally {
        if tensor == TensorName::Lse { &mut self.lse } else { &mut self.out }
    }

    /// Judges one element by its bound: of the output where it has a `dim`, else the log-sum-exp.
    fn element(&mut self, row: &ExpectedRow<'_>, dim: Option<u64>, element: &Element) {
        let &Element { found, o, b, tier, dtype } = element;
        let tensor = if dim.is_some() { TensorName::Out } else { TensorName::Lse };
        let (ratio, accepted) = bound::assess(found, o, b, dtype);
        if accepted {
            return self.accept(tensor, ratio);
        }
        self.agreement.elements += 1;
        let (low, high) = bound::interval(o, b, dtype);
        self.tally(tensor).wrong(Divergence {
            approximate: false,
            relation: None,
            tensor: tensor.to_string(),
            step: row.step,
            at: row.at.into_iter().chain(dim).collect(),
            found,
            expected: o,
            low,
            high,
            ratio,
            tier,
            wrong: 0,
            elements: 0,
        });
    }
}

/// A found number, and what it is judged by.
struct Element {
    found: f64,
    o: f64,
    b: f64,
    tier: Tier,
    dtype: Dtype,
}
