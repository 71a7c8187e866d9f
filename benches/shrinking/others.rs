//! The same bugs, shrunk by others.
//!
//! Each shrinker starts from the first failing case of its own generator, since a shrinker can't be given another's. To ours
//! a smaller case fails if it fails with the signature of the first; to the others, as they are used, if it fails at all.

use super::{MAX_CASES, MAX_SHRINK, first_failing, plain, simpler};
use attnfuzz::backend::{Emulator, Kernel};
use attnfuzz::campaign::minimise;
use attnfuzz::case::Case;
use attnfuzz::oracle::Signature;
use comfy_table::{Table, presets};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use rayon::prelude::*;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

/// A finding of one bug.
struct Finding {
    start: Case,
    shrunk: Case,
    /// Distinct cases examined after the first that failed.
    executions: u32,
}

/// What there is to say of a finding.
struct Judged {
    executions: u32,
    minimal: bool,
    changed: bool,
    size: u64,
    start_size: u64,
}

#[expect(clippy::print_stdout, reason = "a benchmark's result")]
pub(super) fn compare(mutants: &[Kernel], files: &[String]) {
    let mut shrinkers: Vec<(String, Vec<Option<Judged>>)> = vec![
        ("attnfuzz".into(), mutants.par_iter().map(|kernel| Some(judged(kernel, &by_us(kernel)?))).collect()),
        (
            "proptest, strategies put together".into(),
            mutants.par_iter().map(|kernel| Some(judged(kernel, &by_proptest(kernel)?))).collect(),
        ),
    ];
    for file in files {
        let of = read(file);
        let judge = |kernel: &Kernel| of.get(kernel.name()).map(|finding| judged(kernel, finding));
        shrinkers.push((file.clone(), mutants.par_iter().map(judge).collect()));
    }
    let common: Vec<usize> =
        (0..mutants.len()).filter(|&i| shrinkers.iter().all(|(_, all)| all[i].is_some())).collect();
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header([
        "shrinker",
        "bugs with a finding",
        "minimal",
        "executions: median",
        "p95",
        "size: median",
        "of the start",
        "p95",
        "another signature",
    ]);
    for (name, all) in &shrinkers {
        let of: Vec<&Judged> = common.iter().filter_map(|&i| all[i].as_ref()).collect();
        let share = |count: usize| format!("{count} ({:.1} %)", 100.0 * count as f64 / of.len().max(1) as f64);
        let of_all = |number: fn(&Judged) -> u64, q: f64| {
            let mut numbers: Vec<u64> = of.iter().map(|one| number(one)).collect();
            numbers.sort_unstable();
            numbers.get((numbers.len() as f64 * q) as usize).map_or("-".into(), u64::to_string)
        };
        table.add_row([
            name.clone(),
            all.iter().flatten().count().to_string(),
            share(of.iter().filter(|one| one.minimal).count()),
            of_all(|one| u64::from(one.executions), 0.5),
            of_all(|one| u64::from(one.executions), 0.95),
            of_all(|one| one.size, 0.5),
            of_all(|one| one.start_size, 0.5),
            of_all(|one| one.size, 0.95),
            share(of.iter().filter(|one| one.changed).count()),
        ]);
    }
    println!(
        "{} bugs of which every shrinker has a finding; all columns but the first are of these\n{table}",
        common.len()
    );
}

fn by_us(kernel: &Kernel) -> Option<Finding> {
    let (start, verdict) = first_failing(kernel, 0)?;
    let minimised = minimise(kernel, &Emulator, &start, &verdict, "benchmark".into(), MAX_SHRINK)?;
    Some(Finding { start, shrunk: minimised.finding.case, executions: minimised.executions })
}

fn by_proptest(kernel: &Kernel) -> Option<Finding> {
    let config = Config {
        cases: MAX_CASES as u32,
        max_shrink_iters: MAX_SHRINK,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let known: RefCell<HashMap<String, bool>> = RefCell::default();
    let start = RefCell::new(None);
    let executions = RefCell::new(0);
    let result = runner.run(&plain::cases(&kernel.manifest.domain), |case| {
        let fails = *known.borrow_mut().entry(case.to_string()).or_insert_with(|| {
            *executions.borrow_mut() += u32::from(start.borrow().is_some());
            simpler::signature_of(kernel, &case).is_some()
        });
        if fails {
            start.borrow_mut().get_or_insert(case);
            return Err(TestCaseError::fail("it fails"));
        }
        Ok(())
    });
    let Err(TestError::Fail(_, shrunk)) = result else { return None };
    Some(Finding { start: start.into_inner()?, shrunk, executions: executions.into_inner() })
}

/// The findings of a file as `hypothesis_shrink.py` writes it, by the kernel's name.
fn read(file: &str) -> BTreeMap<String, Finding> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{file}: {e}"));
    let finding = |(number, line): (usize, &str)| {
        let wrong = |why: &str| -> ! { panic!("{file}:{}: expected {why}, found {line:?}", number + 1) };
        let fields: Vec<&str> = line.split('\t').collect();
        let [kernel, start, _, shrunk, _, executions] = fields[..] else { wrong("six fields") };
        let kernel = Kernel::open(kernel).unwrap_or_else(|e| panic!("{file}:{}: {e}", number + 1));
        let case = |text: &str| text.parse().unwrap_or_else(|_| wrong("a case"));
        let executions = executions.parse().unwrap_or_else(|_| wrong("a number of executions"));
        (kernel.name().to_owned(), Finding { start: case(start), shrunk: case(shrunk), executions })
    };
    text.lines().enumerate().map(finding).collect()
}

fn judged(kernel: &Kernel, finding: &Finding) -> Judged {
    let signature = |case: &Case| -> Signature {
        simpler::signature_of(kernel, case).unwrap_or_else(|| panic!("{} does not fail: {case}", kernel.name()))
    };
    let (first, last) = (signature(&finding.start), signature(&finding.shrunk));
    Judged {
        executions: finding.executions,
        minimal: simpler::that_fails(kernel, &finding.shrunk, &last).0.is_none(),
        changed: !first.matches(&last),
        size: size(&finding.shrunk),
        start_size: size(&finding.start),
    }
}

/// Query heads times head_dim times one more than all tokens: elements of the outputs and caches, roughly.
fn size(case: &Case) -> u64 {
    let shape = &case.shape;
    let tokens: u64 = shape.requests.iter().map(|r| u64::from(r.past_len) + u64::from(case.steps * r.q_len)).sum();
    u64::from(shape.num_q_heads()) * u64::from(shape.head_dim) * (1 + tokens)
}
