//! [`Relation::LsesMerged`]: attention over the first keys and over the rest, put together.
//!
//! With `l` and `l'` the log-sum-exps of the two parts in nats, `o` and `o'` their outputs and
//! `w = 1 / (1 + exp(l - l'))` the second part's weight:
//!
//! ```text
//! o + w (o' - o)         log-sum-exp  max(l, l') + ln(1 + exp(-|l - l'|))
//! ```
//!
//! `w` has a slope of at most 1/4, and the log-sum-exp moves by no more than the larger of its parts does.

use super::{Checked, Tally, allowed_rows, derive, half_cell};
use crate::backend::{BackendError, Kernel};
use crate::case::{Case, Relation, TensorName};
use crate::float::Dtype;
use crate::outcome::{Outcome, Output};

/// Runs `case` and its parts, and compares.
pub(super) fn check(
    kernel: &Kernel,
    case: &Case,
    run: impl Fn(&Case) -> Result<Outcome, BackendError>,
) -> Result<Checked, BackendError> {
    let Some(returned) = kernel.manifest.lse else {
        return Ok(Checked::DoesNotApply("the kernel returns no log-sum-exp".into()));
    };
    let [whole, front, back] = match derive::halves(case, &kernel.manifest.domain) {
        Ok(halves) => halves,
        Err(why) => return Ok(Checked::DoesNotApply(why.into())),
    };
    let mut outputs = Vec::new();
    for case in [&whole, &front, &back] {
        match run(case)? {
            Outcome::Output(output) => outputs.push(output),
            Outcome::Fault(fault) => return Ok(Checked::Fault(fault)),
        }
    }
    let rows = [&whole, &front, &back].map(|case| allowed_rows(kernel, case));
    let mut tally = Tally::new(Relation::LsesMerged, false);
    for (&(step, token, head), whole) in &rows[0] {
        let [Some(first), Some(second)] = [&rows[1], &rows[2]].map(|rows| rows.get(&(step, token, head))) else {
            continue;
        };
        let (Some(bound), Some(first_bound), Some(second_bound)) = (whole.lse, first.lse, second.lse) else { continue };
        let lse = |output: &Output| output.lse[step as usize].value(case.lse_layout().offset(&[token, head]));
        let [all, l, m] = [0, 1, 2].map(|i| lse(&outputs[i]));
        let [l_error, m_error] = [(l, first_bound), (m, second_bound)].map(|(x, b)| b + half_cell(Dtype::F32, x));
        let nats = |x: f64| x / returned.base.of_nats(1.0);
        let weight = 1.0 / (1.0 + libm::exp(nats(l - m)));
        let weight_error = nats(l_error + m_error) / 4.0;
        let sum = l.max(m) + returned.base.of_nats(libm::log1p(libm::exp(-nats((l - m).abs()))));
        let tolerance = bound + half_cell(Dtype::F32, all) + l_error.max(m_error);
        tally.near(TensorName::Lse, step, vec![token, head], all, sum, tolerance);

        let start = case.output_layout().offset(&[token, head, 0]);
        for dim in 0..whole.out.len() {
            let value = |i: usize| outputs[i].out[step as usize].value(start + dim);
            let [found, o, p] = [0, 1, 2].map(value);
            let [found_error, o_error, p_error] =
                [(found, whole), (o, first), (p, second)].map(|(x, row)| row.out[dim] + half_cell(case.dtype, x));
            let tolerance = found_error
                + (1.0 - weight) * o_error
                + weight * p_error
                + weight_error * ((p - o).abs() + o_error + p_error);
            let merged = o + weight * (p - o);
            tally.near(TensorName::Out, step, vec![token, head, dim as u64], found, merged, tolerance);
        }
    }
    Ok(tally.result())
}
