//! How small shrunk findings are, and what they cost: planted bugs, some starting findings each, against a search of every
//! smaller shape.
//!
//!     cargo bench --bench shrinking                        5 findings a planted bug
//!     ATTNFUZZ_FINDINGS=2 cargo bench --bench shrinking    fewer
//!     cargo bench --bench shrinking -- prefill m01         planted bugs whose names contain one of these
//!
//!     cargo bench --bench shrinking -- --others FILE.tsv   one finding each, shrunk by us, by plain proptest strategies
//!                                                          (`plain.rs`) and, in the file, by Hypothesis
//!                                                          (`hypothesis_shrink.py`)
//!
//! Each finding is the first failing case of a seed of its own, shrunk with at most 2,000 executions as a campaign does.
//! Then every shape is tried that is simpler by `shrink::complexity`, no number of which is above the shrunk case's, all else
//! (values, dtype, layout, features) as it is there: if any fails with the same signature, the shrunk case was not
//! minimal. Where there are more than 4,000 such shapes, so many of them, evenly spread, are tried.
//!
//! The aim: minimal in 95 % of the findings, with at most 300 executions in the median and 1,000 at the 95th percentile.

#[path = "../common/mod.rs"]
mod common;
mod others;
mod plain;
mod simpler;

use attnfuzz::backend::{Emulator, Kernel, shipped_names};
use attnfuzz::campaign::minimise;
use attnfuzz::case::Case;
use attnfuzz::oracle::{Verdict, examine};
use comfy_table::{Table, presets};
use rayon::prelude::*;
use std::collections::BTreeMap;

const MAX_SHRINK: u32 = 2000;
/// Cases of a seed in which a bug must show, or there is no finding to shrink.
const MAX_CASES: u64 = 400;

/// What came of one planted bug.
struct Shrunk {
    kernel: String,
    name: String,
    /// Executions of each finding.
    executions: Vec<u32>,
    /// Elements of Q, K, V and sinks that aren't 0, of each finding to which values matter.
    elements: Vec<u64>,
    /// Of findings that are not minimal, the line and a simpler one that fails.
    larger: Vec<(String, String)>,
    /// Seeds none of whose cases failed.
    without: u64,
    /// Shapes tried.
    shapes: usize,
}

fn main() {
    let findings = common::number("ATTNFUZZ_FINDINGS", 5);
    let (files, wanted): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).partition(|arg| arg.ends_with(".tsv"));
    let mutants: Vec<Kernel> = shipped_names()
        .into_iter()
        .flat_map(|name| common::manifests(&format!("kernels/mutants/{name}")))
        .map(|path| Kernel::open(&path.display().to_string()).expect("a planted bug opens"))
        .filter(|kernel| wanted.is_empty() || wanted.iter().any(|text| kernel.name().contains(text)))
        .collect();
    if std::env::args().any(|arg| arg == "--others") {
        others::compare(&mutants, &files);
    } else {
        let all: Vec<Shrunk> = mutants.par_iter().map(|kernel| shrunk(kernel, findings)).collect();
        tell(&all);
    }
}

#[expect(clippy::print_stdout, reason = "a benchmark's result")]
fn tell(all: &[Shrunk]) {
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
        "non-zero elements: median, most (findings)",
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
            elements_in_short(of.iter().flat_map(|one| &one.elements).copied().collect()),
        ]);
    }
    println!("{table}");
    for one in all {
        for (found, simpler) in &one.larger {
            println!("{}: {found}\n    but this fails too: {simpler}", one.name);
        }
    }
}

/// The first failing case of a campaign with this seed.
fn first_failing(kernel: &Kernel, seed: u64) -> Option<(Case, Verdict)> {
    (0..MAX_CASES).find_map(|index| {
        let case = kernel.space().case_at(seed, index);
        let verdict = examine(&Emulator, kernel, &case).ok()?.verdict;
        verdict.signature().is_some().then_some((case, verdict))
    })
}

fn elements_in_short(mut elements: Vec<u64>) -> String {
    elements.sort_unstable();
    let Some(most) = elements.last() else { return "-".into() };
    format!("{}, {most} ({})", elements[elements.len() / 2], elements.len())
}

fn shrunk(kernel: &Kernel, findings: u64) -> Shrunk {
    let name = kernel.name().to_owned();
    let mut one = Shrunk {
        kernel: name.split('.').next().unwrap_or_default().to_owned(),
        name,
        executions: Vec::new(),
        elements: Vec::new(),
        larger: Vec::new(),
        without: 0,
        shapes: 0,
    };
    // Findings often end in the same case.
    let mut known: BTreeMap<String, Option<String>> = BTreeMap::new();
    for seed in 0..findings {
        let Some((case, verdict)) = first_failing(kernel, seed) else {
            one.without += 1;
            continue;
        };
        let minimised = minimise(kernel, &Emulator, &case, &verdict, "benchmark".into(), MAX_SHRINK);
        let minimised = minimised.expect("a failing verdict has a signature");
        one.executions.push(minimised.executions);
        let finding = minimised.finding;
        one.elements.extend(finding.case.only.is_some().then(|| finding.case.kept_elements()));
        let simpler = known.entry(finding.line.clone()).or_insert_with(|| {
            let (simpler, shapes) = simpler::that_fails(kernel, &finding.case, &finding.signature);
            one.shapes += shapes;
            simpler.map(|case| case.to_string())
        });
        one.larger.extend(simpler.clone().map(|simpler| (finding.line, simpler)));
    }
    one
}
