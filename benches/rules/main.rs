//! Others' acceptance rules on the same outputs as ours: which planted bugs each notices, and how often each accuses a
//! right kernel.
//!
//!     cargo bench --bench rules                       50 cases a kernel
//!     ATTNFUZZ_CASES=10 cargo bench --bench rules     fewer; ATTNFUZZ_SEED for others
//!     cargo bench --bench rules -- mutants            and a table of the cases in which each mutant is noticed
//!
//! The subjects are the planted bugs of the shipped kernels, and as right kernels those and `kernels/variants`. A case runs
//! in the emulator with every check off that can be, so that a kernel that reads or races where it must not still leaves
//! numbers; all rules judge these same numbers. What stops a run all the same (an access out of bounds, a barrier that
//! diverges, an output never written) leaves the other rules nothing to judge: that is counted as not noticed by them, and
//! shown. `ours` is the verdict of a campaign, faults and caches included; `ours, values` looks at nothing but the numbers
//! that the others see.
//!
//! A rule notices a mutant in a case if it refuses the mutant's output and not that of the kernel it was made of: what it
//! would refuse anyway is no discovery. The others see no log-sum-exp, so the bugs in that alone are ours to notice.

#[path = "../common/mod.rs"]
mod common;
mod low_precision;
mod peers;
#[path = "../common/right.rs"]
mod right;

use attnfuzz::backend::{BackendError, Emulator, Kernel, Run, shipped_names};
use attnfuzz::case::{Case, Inputs};
use attnfuzz::emulator::Checks;
use attnfuzz::float::Dtype;
use attnfuzz::oracle::{Verdict, examine, judge};
use attnfuzz::outcome::{Outcome, Output};
use comfy_table::{Table, presets};
use low_precision::Expected;
use peers::{Rule, Step};
use rayon::prelude::*;
use std::collections::HashMap;

/// Ours, ours by values alone, and the others'.
const RULES: usize = 2 + Rule::ALL.len();

/// What one case of one kernel came to.
struct Trial {
    dtype: Dtype,
    /// Whether each rule refuses the kernel.
    refused: [bool; RULES],
    /// Whether the run left numbers to judge.
    has_output: bool,
}

#[expect(clippy::print_stdout, reason = "a benchmark's result")]
fn main() {
    let (cases, seed) = (common::number("ATTNFUZZ_CASES", 50), common::number("ATTNFUZZ_SEED", 0));
    let open = |path: std::path::PathBuf| Kernel::open(&path.display().to_string()).expect("a planted bug opens");
    let folders = shipped_names().into_iter().map(|name| format!("kernels/mutants/{name}"));
    let mutants: Vec<Kernel> = folders.flat_map(|folder| common::manifests(&folder)).map(open).collect();
    let right = right::right_kernels();
    let drawn = |kernel: &Kernel| -> Vec<Case> { (0..cases).map(|i| kernel.space().case_at(seed, i)).collect() };
    let expected: HashMap<String, Expected> = right
        .iter()
        .flat_map(drawn)
        .map(|case| (case.to_string(), case))
        .collect::<HashMap<String, Case>>()
        .into_par_iter()
        .map(|(line, case)| (line, Expected::of(&case)))
        .collect();
    let try_all = |kernels: &[Kernel]| -> Vec<Vec<Trial>> {
        let one = |kernel: &Kernel, case: &Case| trial(kernel, case, &expected[&case.to_string()]);
        kernels.par_iter().map(|kernel| drawn(kernel).iter().map(|case| one(kernel, case)).collect()).collect()
    };
    let (of_mutants, of_right) = (try_all(&mutants), try_all(&right));
    // A mutant is named after its kernel, which was drawn the same cases.
    let original = |mutant: &Kernel| {
        let name = mutant.name().split('.').next().unwrap_or_default();
        let place = right.iter().position(|kernel| kernel.name() == name).expect("a mutant's kernel is shipped");
        &of_right[place][..]
    };
    let of_mutants: Vec<Mutant<'_>> = mutants
        .iter()
        .zip(of_mutants)
        .map(|(kernel, trials)| Mutant { kernel, trials, original: original(kernel) })
        .collect();

    println!("{} planted bugs and {} right kernels, {cases} cases each of seed {seed}", mutants.len(), right.len());
    println!("{}", table_of_rules(&of_mutants, &of_right));
    let runs = || of_mutants.iter().flat_map(|mutant| &mutant.trials);
    let without = runs().filter(|trial| !trial.has_output).count();
    println!("{without} of {} runs of planted bugs left no numbers", runs().count());
    if std::env::args().any(|arg| arg == "mutants") {
        println!("{}", table_of_mutants(&of_mutants));
    }
}

/// A planted bug, and what its cases and the right kernel's came to.
struct Mutant<'a> {
    kernel: &'a Kernel,
    trials: Vec<Trial>,
    original: &'a [Trial],
}

fn trial(kernel: &Kernel, case: &Case, expected: &Expected) -> Trial {
    let fail = |error: BackendError| -> ! { panic!("{} {case}: {error}", kernel.name()) };
    let mut refused = [false; RULES];
    let examined = match examine(&Emulator, kernel, case) {
        Ok(examined) => examined,
        // Some planted bugs keep only part of their kernel's entries; nobody notices anything where there is nothing to run.
        Err(BackendError::NoEntry(_)) => return Trial { dtype: case.dtype, refused, has_output: false },
        Err(error) => fail(error),
    };
    refused[0] = examined.verdict.signature().is_some() || examined.closer.is_some();
    let run = Run::first(case);
    let (outcome, _) = Emulator.measure(kernel, case, run, UNCHECKED).unwrap_or_else(|error| fail(error));
    let Outcome::Output(output) = outcome else { return Trial { dtype: case.dtype, refused, has_output: false } };
    for (index, out) in output.out.iter().enumerate() {
        let found: Vec<f64> = (0..out.len()).map(|i| out.value(i)).collect();
        let step = Step {
            dtype: case.dtype,
            found: &found,
            exact: &expected.exact[index],
            low_precision: &expected.low_precision[index],
            empty_cache: (0..case.shape.requests.len()).all(|r| case.past_len_at(r, index as u32) == 0),
        };
        for (rule, refused) in Rule::ALL.iter().zip(&mut refused[2..]) {
            *refused |= rule.refuses(&step);
        }
    }
    // The others look at outputs only.
    let (k_cache, v_cache) = Inputs::final_caches(case, run.poison);
    let values = judge(case, &kernel.manifest, run.poison, &Output { k_cache, v_cache, ..output });
    refused[1] = matches!(values, Verdict::Diverge(_));
    Trial { dtype: case.dtype, refused, has_output: true }
}

const UNCHECKED: Checks = Checks {
    alignment: false,
    uninitialised: false,
    read_only: false,
    shared_races: false,
    global_races: false,
    non_coherent: false,
};

fn names() -> Vec<String> {
    let ours = ["ours", "ours, values"].map(str::to_owned);
    ours.into_iter().chain(Rule::ALL.map(Rule::name)).collect()
}

/// In which of its cases a rule notices a mutant.
fn noticed<'a>(rule: usize, mutant: &'a Mutant<'_>) -> impl Iterator<Item = bool> + 'a {
    mutant.trials.iter().zip(mutant.original).map(move |(wrong, right)| wrong.refused[rule] && !right.refused[rule])
}

fn table_of_rules(of_mutants: &[Mutant<'_>], of_right: &[Vec<Trial>]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header([
        "rule",
        "mutants noticed",
        "mean share of cases",
        "false alarms",
        "f32",
        "f16",
        "bf16",
    ]);
    for (rule, name) in names().into_iter().enumerate() {
        let mutants = of_mutants.iter().filter(|mutant| noticed(rule, mutant).any(|noticed| noticed)).count();
        let cases = percent(of_mutants.iter().flat_map(|mutant| noticed(rule, mutant)));
        let alarms = [None, Some(Dtype::F32), Some(Dtype::F16), Some(Dtype::Bf16)].map(|dtype| {
            let trials = of_right.iter().flatten().filter(|trial| dtype.is_none_or(|dtype| trial.dtype == dtype));
            percent(trials.map(|trial| trial.refused[rule]))
        });
        table.add_row([name, mutants.to_string(), cases].into_iter().chain(alarms));
    }
    table
}

fn table_of_mutants(of_mutants: &[Mutant<'_>]) -> Table {
    let mut table = Table::new();
    let header = ["mutant".to_owned(), "no output".to_owned()].into_iter().chain(names());
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(header);
    for mutant in of_mutants {
        let name = mutant.kernel.name().to_owned();
        let silent = mutant.trials.iter().filter(|trial| !trial.has_output).count();
        let counts = (0..RULES).map(|rule| noticed(rule, mutant).filter(|&noticed| noticed).count());
        table.add_row([name, silent.to_string()].into_iter().chain(counts.map(|count| count.to_string())));
    }
    table
}

/// The share of what holds, in percent.
fn percent(holds: impl Iterator<Item = bool>) -> String {
    let (mut held, mut all) = (0u64, 0u64);
    for holds in holds {
        held += u64::from(holds);
        all += 1;
    }
    format!("{:.1} %", 100.0 * held as f64 / all.max(1) as f64)
}
