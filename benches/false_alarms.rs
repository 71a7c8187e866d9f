//! Right kernels against their bounds: whether any is accused, and how much of its bound any uses.
//!
//!     cargo bench --bench false_alarms                       3,000 cases a kernel, in the emulator
//!     ATTNFUZZ_CASES=500 cargo bench --bench false_alarms    fewer; ATTNFUZZ_SEED for others
//!     ATTNFUZZ_BACKEND=cuda cargo bench --bench false_alarms on a GPU
//!     cargo bench --bench false_alarms -- split warp         kernels whose names contain one of these
//!
//! The subjects are the shipped kernels and those of `kernels/variants`, whose arithmetic differs. Each case goes through
//! [`examine`] as in a campaign, against the contract of the kernel's manifest (`own`), and its first run is judged once
//! more by the contract that assumes nothing (`any`). A case's number is the largest part of its bound that an element's
//! error used.
//!
//! The aim: no finding, so a maximum below 1, since a bound that accuses a right kernel is worthless. And for each dtype
//! a maximum of at least 1/50 by the own contract, since a bound that no right kernel comes near to sees little.

mod common;
#[path = "common/right.rs"]
mod right;

use attnfuzz::backend::cuda::Cuda;
use attnfuzz::backend::manifest::Manifest;
use attnfuzz::backend::{Backend, Emulator, Kernel};
use attnfuzz::bound::Contract;
use attnfuzz::float::Dtype;
use attnfuzz::oracle::{Agreement, Verdict, examine, judge};
use comfy_table::{Table, presets};
use rayon::prelude::*;
use std::process::ExitCode;
use std::time::Instant;

/// The least that right kernels should use of the bound in the case that uses most of it.
const AIM: f64 = 1.0 / 50.0;
const CONTRACTS: [&str; 2] = ["own", "any"];

/// What one case of one kernel came to.
struct Judged {
    dtype: Dtype,
    /// By each of [`CONTRACTS`]; the text of a finding otherwise.
    by: [Result<Agreement, String>; 2],
}

#[expect(clippy::print_stdout, reason = "a benchmark's result")]
fn main() -> ExitCode {
    let (cases, seed) = (common::number("ATTNFUZZ_CASES", 3000), common::number("ATTNFUZZ_SEED", 0));
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let backend = backend();
    println!("{cases} cases a kernel of seed {seed} on {}", backend.describe());
    let start = Instant::now();
    let (mut table, mut findings, mut elements) = (Table::new(), Vec::new(), 0);
    let mut worst = [0.0f64; Dtype::ALL.len()];
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header([
        "kernel", "contract", "dtype", "cases", "elements", "findings", "suspect", "median", "p95", "p99.9", "max",
    ]);
    let chosen = |kernel: &Kernel| wanted.is_empty() || wanted.iter().any(|text| kernel.name().contains(text));
    for kernel in right::right_kernels().iter().filter(|kernel| chosen(kernel)) {
        let judged: Vec<Judged> =
            (0..cases).into_par_iter().map(|index| judged(&*backend, kernel, seed, index)).collect();
        for (contract, name) in CONTRACTS.iter().enumerate() {
            for (slot, dtype) in Dtype::ALL.into_iter().enumerate() {
                let of: Vec<_> = judged.iter().filter(|j| j.dtype == dtype).map(|j| &j.by[contract]).collect();
                if of.is_empty() {
                    continue;
                }
                findings.extend(of.iter().filter_map(|by| by.as_ref().err().cloned()));
                let mut agreed: Vec<Agreement> = of.iter().filter_map(|by| by.as_ref().ok().copied()).collect();
                agreed.sort_by(|a, b| a.worst_ratio.total_cmp(&b.worst_ratio));
                let quantile = |q: f64| {
                    let at = ((agreed.len() as f64 * q) as usize).min(agreed.len().saturating_sub(1));
                    agreed.get(at).map_or(f64::NAN, |agreement| agreement.worst_ratio)
                };
                let judged_elements: u64 = agreed.iter().map(|agreement| agreement.elements).sum();
                if contract == 0 {
                    elements += judged_elements;
                    worst[slot] = worst[slot].max(quantile(1.0));
                }
                let counts = [
                    of.len() as u64,
                    judged_elements,
                    (of.len() - agreed.len()) as u64,
                    agreed.iter().filter(|agreement| agreement.is_suspect()).count() as u64,
                ];
                let mut row = vec![kernel.name().to_owned(), (*name).to_owned(), dtype.to_string()];
                row.extend(counts.map(|count| count.to_string()));
                row.extend([0.5, 0.95, 0.999, 1.0].map(|q| format!("{:.4}", quantile(q))));
                table.add_row(row);
            }
        }
    }
    println!("{table}");
    for finding in &findings {
        println!("finding: {finding}");
    }
    println!("{} findings in {elements} elements ({:.0} s)", findings.len(), start.elapsed().as_secs_f64());
    for (dtype, worst) in Dtype::ALL.into_iter().zip(worst) {
        let verdict = if findings.is_empty() && (AIM..1.0).contains(&worst) { "as aimed" } else { "missed" };
        println!("{dtype}: the largest part of an own bound is {worst:.3}, aimed at {AIM} to below 1: {verdict}");
    }
    if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn backend() -> Box<dyn Backend> {
    match std::env::var("ATTNFUZZ_BACKEND").as_deref() {
        Err(_) | Ok("emulator") => Box::new(Emulator),
        Ok("cuda") => Box::new(Cuda::open(0).unwrap_or_else(|error| panic!("no GPU to run on: {error}"))),
        Ok(other) => panic!("ATTNFUZZ_BACKEND: expected emulator or cuda, found {other:?}"),
    }
}

fn judged(backend: &dyn Backend, kernel: &Kernel, seed: u64, index: u64) -> Judged {
    let case = kernel.space().case_at(seed, index);
    let examined = examine(backend, kernel, &case).unwrap_or_else(|error| panic!("{} {case}: {error}", kernel.name()));
    let name = |contract: &str| format!("{} by its contract `{contract}`, {case}", kernel.name());
    let own = match (examined.verdict, examined.closer) {
        (Verdict::Agree(agreement), None) => Ok(agreement),
        (verdict, closer) => Err(format!("{}: {verdict:?}, a closer look: {closer:?}", name(CONTRACTS[0]))),
    };
    let any = Manifest { numerics: Contract::default(), ..kernel.manifest.clone() };
    let any = match examined.output.map(|output| judge(&case, &any, case.poison, &output)) {
        Some(Verdict::Agree(agreement)) => Ok(agreement),
        other => Err(format!("{}: {other:?}", name(CONTRACTS[1]))),
    };
    Judged { dtype: case.dtype, by: [own, any] }
}
