//! Whether a shrunk case is minimal, by trying every simpler shape.

use attnfuzz::backend::{Emulator, Kernel};
use attnfuzz::case::{Case, Domain, Request};
use attnfuzz::oracle::{Signature, examine};
use attnfuzz::shrink::complexity;

const MAX_SHAPES: usize = 4000;

/// A simpler case than `case`, all but its shape the same, that fails with this signature too; and the shapes tried.
pub(crate) fn that_fails(kernel: &Kernel, case: &Case, signature: &Signature) -> (Option<Case>, usize) {
    let shapes = simpler_shapes(case, &kernel.manifest.domain);
    let tried = shapes.len();
    let fails = |case: &Case| signature_of(kernel, case).is_some_and(|found| found.matches(signature));
    (shapes.into_iter().find(fails), tried)
}

/// How `case` fails, if it does.
pub(crate) fn signature_of(kernel: &Kernel, case: &Case) -> Option<Signature> {
    examine(&Emulator, kernel, case).ok()?.verdict.signature()
}

/// The cases of `domain` that differ from `case` in their shape and knobs only, are simpler, and have no larger number.
fn simpler_shapes(case: &Case, domain: &Domain) -> Vec<Case> {
    let shape = &case.shape;
    let most = |f: fn(&Request) -> u32| shape.requests.iter().map(f).max().unwrap_or(0);
    let (past, q_len) = (most(|r| r.past_len), most(|r| r.q_len));
    let mut axes: Vec<Vec<u32>> = [
        (&domain.num_kv_heads, shape.num_kv_heads),
        (&domain.q_per_kv, shape.q_per_kv),
        (&domain.head_dim, shape.head_dim),
        (domain.v_head_dim.as_ref().unwrap_or(&domain.head_dim), shape.v_head_dim),
        (&domain.steps, case.steps),
    ]
    .map(|(range, most)| (0..=most).filter(|&n| range.contains(n)).collect())
    .into();
    if domain.v_head_dim.is_none() {
        axes[3] = vec![shape.v_head_dim];
    }
    for (name, range) in &domain.knobs {
        axes.push((0..=case.knobs.get(name).copied().unwrap_or(0)).filter(|&n| range.contains(n)).collect());
    }
    let requests = axes.len();
    for _ in &shape.requests {
        // A request may be missing, which is one number more.
        axes.push((0..=past + 1).collect());
        axes.push((0..=q_len).filter(|&n| domain.q_len.contains(n)).collect());
    }
    let total: u128 = axes.iter().map(|axis| axis.len() as u128).product();
    let stride = total.div_ceil(MAX_SHAPES as u128 * 16).max(1);
    let spare = case.cache.capacity - case.needed_capacity();
    let mut simpler: Vec<Case> = (0..total)
        .step_by(usize::try_from(stride).unwrap_or(usize::MAX))
        .filter_map(|mut index| {
            let numbers: Vec<u32> = axes
                .iter()
                .map(|axis| {
                    let n = axis[(index % axis.len() as u128) as usize];
                    index /= axis.len() as u128;
                    n
                })
                .collect();
            let other = case.with(|parts| {
                parts.shape.num_kv_heads = numbers[0];
                parts.shape.q_per_kv = numbers[1];
                parts.shape.head_dim = numbers[2];
                parts.shape.v_head_dim = if domain.v_head_dim.is_some() { numbers[3] } else { numbers[2] };
                parts.steps = numbers[4];
                parts.knobs.values_mut().zip(&numbers[5..]).for_each(|(knob, &n)| *knob = n);
                let lens = numbers[requests..].chunks(2).filter(|lens| lens[0] > 0);
                parts.shape.requests = lens.map(|lens| Request { past_len: lens[0] - 1, q_len: lens[1] }).collect();
                parts.cache.capacity = parts.needed_capacity() + spare;
            });
            other.ok().filter(|other| complexity(other) < complexity(case) && domain.excludes(other).is_none())
        })
        .collect();
    let keep = simpler.len().div_ceil(MAX_SHAPES).max(1);
    let mut place = 0;
    simpler.retain(|_| {
        place += 1;
        place % keep == 0
    });
    simpler
}
