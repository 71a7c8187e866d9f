//! What stands for a device, to try the oracle with outputs that are wrong by a known amount, and cases of every feature.

use crate::generate::wide_domain;
use attnfuzz::backend::Run;
use attnfuzz::case::codec::fnv1a;
use attnfuzz::case::{Case, Domain, Inputs, Pages, Range, Storage, StorageKind};
use attnfuzz::float::Dtype;
use attnfuzz::generate::Space;
use attnfuzz::oracle::{ExpectedRow, for_each_row};
use attnfuzz::outcome::{Outcome, Output};
use attnfuzz::tensor::Buffer;

/// A run that leaves right caches and log-sum-exps (in nats), and in each row's column what `value` says.
pub(crate) fn outcome(case: &Case, run: Run, value: impl Fn(&ExpectedRow<'_>, usize) -> f64) -> Outcome {
    let layout = case.output_layout();
    let mut steps = vec![vec![0.0; layout.span()]; case.steps as usize];
    let mut lses = vec![vec![0.0; case.lse_layout().span()]; case.steps as usize];
    for_each_row(case, |row| {
        let start = layout.offset(&[row.at[0], row.at[1], 0]);
        for dim in 0..row.reference.v_head_dim {
            steps[row.step as usize][start + dim] = value(&row, dim);
        }
        lses[row.step as usize][case.lse_layout().offset(&row.at)] = row.reference.lse;
    });
    let (k_cache, v_cache) = Inputs::final_caches(case, run.poison);
    let out = steps.iter().map(|values| Buffer::of_values(case.dtype, values)).collect();
    let lse = lses.iter().map(|values| Buffer::of_values(Dtype::F32, values)).collect();
    Outcome::Output(Output { out, lse, k_cache, v_cache })
}

/// The wide domain of a kernel that takes every feature, and appends or not.
pub(crate) fn featured_domain(append: bool) -> Domain {
    let packed = (!append).then_some(StorageKind::Packed);
    Domain {
        append,
        q_len: Range::Span(0, 64),
        v_head_dim: Some(Range::Span(1, 512)),
        causal: vec![true, false],
        window: Some(Range::Span(1, 65536)),
        softcap: true,
        sinks: true,
        storage: [StorageKind::PerRequest, StorageKind::Paged].into_iter().chain(packed).collect(),
        page_size: Some(Range::Span(1, 64)),
        ..wide_domain()
    }
}

/// The `index`-th case of `space` with any features that its domain has.
pub(crate) fn featured_case(space: &Space, index: u64) -> Case {
    let mut parts = space.case_at(7, index).into_parts();
    let pick = |what: &str, below: u32| (fnv1a(format!("{what} {index}").as_bytes()) >> 20) as u32 % below;
    let longest = parts.shape.requests.iter().map(|r| r.past_len).max().unwrap_or(0);
    let width = 1 + pick("width", 2 * longest.min(30_000) + 2);
    parts.features.causal = pick("causal", 3) > 0;
    parts.features.window = (pick("window", 3) == 0).then_some(width);
    parts.features.softcap = [None, None, Some(30.0), Some(1.0)][pick("softcap", 4) as usize];
    parts.features.sinks = pick("sinks", 3) == 0;
    let emptied = pick("emptied", 6) as usize;
    if parts.shape.requests.len() > 1
        && let Some(request) = parts.shape.requests.get_mut(emptied)
    {
        request.q_len = 0;
    }
    let pages =
        Pages { size: 1 + pick("size", 9), seed: pick("seed", 4), spare: pick("spare", 3), shared: pick("shared", 4) };
    parts.cache.storage = [Storage::PerRequest, Storage::Packed, Storage::Paged(pages), Storage::Paged(pages)]
        [pick("storage", 4) as usize];
    space.legalize(parts)
}
