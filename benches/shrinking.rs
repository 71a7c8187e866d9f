//! How small shrunk findings are, and what they cost: planted bugs, some starting findings each, against a search of every
//! smaller shape.
//!
//!     cargo bench --bench shrinking                        5 findings a planted bug
//!     ATTNFUZZ_FINDINGS=2 cargo bench --bench shrinking    fewer
//!     cargo bench --bench shrinking -- prefill m01         planted bugs whose names contain one of these
//!
//! Each finding is the first failing case of a seed of its own, shrunk with at most 2,000 executions as a campaign does.
//! Then every shape is tried that is simpler by [`complexity`], no number of which is above the shrunk case's, all else
//! (values, dtype, layout, features) as it is there: if any fails with the same signature, the shrunk case was not
//! minimal. Where there are more than 4,000 such shapes, so many of them, evenly spread, are tried.
//!
//! The aim: minimal in 95 % of the findings, with at most 300 executions in the median and 1,000 at the 95th percentile.

mod common;

use attnfuzz::backend::{Emulator, Kernel, shipped_names};
use attnfuzz::campaign::minimise;
use attnfuzz::case::{Case, Domain, Request};
use attnfuzz::oracle::{Signature, Verdict, examine};
use attnfuzz::shrink::complexity;
use comfy_table::{Table, presets};
use rayon::prelude::*;
use std::collections::BTreeMap;

const MAX_SHRINK: u32 = 2000;
/// Cases of a seed in which a bug must show, or there is no finding to shrink.
const MAX_CASES: u64 = 400;
const MAX_SHAPES: usize = 4000;

/// What came of one planted bug.
struct Shrunk {
    kernel: String,
    name: String,
    /// Executions of each finding.
    executions: Vec<u32>,
    /// Of findings that are not minimal, the line and a simpler one that fails.
    larger: Vec<(String, String)>,
    /// Seeds none of whose cases failed.
    without: u64,
    /// Shapes tried.
    shapes: usize,
}

#[expect(clippy::print_stdout, reason = "a benchmark's result")]
fn main() {
    let findings = common::number("ATTNFUZZ_FINDINGS", 5);
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let mutants: Vec<Kernel> = shipped_names()
        .into_iter()
        .flat_map(|name| common::manifests(&format!("kernels/mutants/{name}")))
        .map(|path| Kernel::open(&path.display().to_string()).expect("a planted bug opens"))
        .filter(|kernel| wanted.is_empty() || wanted.iter().any(|text| kernel.name().contains(text)))
        .collect();
    let all: Vec<Shrunk> = mutants.par_iter().map(|kernel| shrunk(kernel, findings)).collect();

    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header([
        "kernel",
        "bugs",
        "findings",
        "minimal",
        "executions: median",
        "p95",
        "most",
        "shapes tried",
        "seeds without",
    ]);
    let mut kernels: Vec<&str> = all.iter().map(|one| one.kernel.as_str()).collect();
    kernels.dedup();
    for kernel in kernels.into_iter().chain([""]) {
        let of: Vec<&Shrunk> = all.iter().filter(|one| kernel.is_empty() || one.kernel == kernel).collect();
        let mut executions: Vec<u32> = of.iter().flat_map(|one| &one.executions).copied().collect();
        executions.sort_unstable();
        let quantile =
            |q: f64| executions.get((executions.len() as f64 * q) as usize).map_or("-".into(), u32::to_string);
        let larger: usize = of.iter().map(|one| one.larger.len()).sum();
        let minimal = executions.len() - larger;
        table.add_row([
            if kernel.is_empty() { "together".into() } else { kernel.to_owned() },
            of.len().to_string(),
            executions.len().to_string(),
            format!("{minimal} ({:.1} %)", 100.0 * minimal as f64 / executions.len().max(1) as f64),
            quantile(0.5),
            quantile(0.95),
            executions.last().map_or("-".into(), u32::to_string),
            of.iter().map(|one| one.shapes).sum::<usize>().to_string(),
            of.iter().map(|one| one.without).sum::<u64>().to_string(),
        ]);
    }
    println!("{table}");
    for one in &all {
        for (found, simpler) in &one.larger {
            println!("{}: {found}\n    but this fails too: {simpler}", one.name);
        }
    }
}

fn shrunk(kernel: &Kernel, findings: u64) -> Shrunk {
    let name = kernel.name().to_owned();
    let mut one = Shrunk {
        kernel: name.split('.').next().unwrap_or_default().to_owned(),
        name,
        executions: Vec::new(),
        larger: Vec::new(),
        without: 0,
        shapes: 0,
    };
    // Findings often end in the same case.
    let mut known: BTreeMap<String, Option<String>> = BTreeMap::new();
    for seed in 0..findings {
        let failing = (0..MAX_CASES).find_map(|index| {
            let case = kernel.space().case_at(seed, index);
            let verdict = examine(&Emulator, kernel, &case).ok()?.verdict;
            verdict.signature().is_some().then_some((case, verdict))
        });
        let Some((case, verdict)) = failing else {
            one.without += 1;
            continue;
        };
        let minimised = minimise(kernel, &Emulator, &case, &verdict, "benchmark".into(), MAX_SHRINK);
        let minimised = minimised.expect("a failing verdict has a signature");
        one.executions.push(minimised.executions);
        let finding = minimised.finding;
        let simpler = known.entry(finding.line.clone()).or_insert_with(|| {
            let shapes = simpler_shapes(&finding.case, &kernel.manifest.domain);
            one.shapes += shapes.len();
            shapes.into_iter().find(|case| fails(kernel, case, &finding.signature)).map(|case| case.to_string())
        });
        one.larger.extend(simpler.clone().map(|simpler| (finding.line, simpler)));
    }
    one
}

fn fails(kernel: &Kernel, case: &Case, signature: &Signature) -> bool {
    let verdict = examine(&Emulator, kernel, case).map_or_else(|e| Verdict::Skip(e.to_string()), |e| e.verdict);
    verdict.signature().is_some_and(|found| found.matches(signature))
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
