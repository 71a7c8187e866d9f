//! What stands for a device, to try the oracle with outputs that are wrong by a known amount.

use attnfuzz::backend::Run;
use attnfuzz::case::{Case, Inputs};
use attnfuzz::oracle::{ExpectedRow, for_each_row};
use attnfuzz::outcome::{Outcome, Output};
use attnfuzz::tensor::Buffer;

/// A run that leaves right caches, and in each row's column what `value` says.
pub(crate) fn outcome(case: &Case, run: Run, value: impl Fn(&ExpectedRow<'_>, usize) -> f64) -> Outcome {
    let layout = case.output_layout();
    let mut steps = vec![vec![0.0; layout.span()]; case.steps as usize];
    for_each_row(case, |row| {
        let start = layout.offset(&[row.at[0], row.at[1], 0]);
        for dim in 0..row.reference.v_head_dim {
            steps[row.step as usize][start + dim] = value(&row, dim);
        }
    });
    let (k_cache, v_cache) = Inputs::final_caches(case, run.poison);
    let out = steps.iter().map(|values| Buffer::of_values(case.dtype, values)).collect();
    Outcome::Output(Output { out, lse: Vec::new(), k_cache, v_cache })
}
