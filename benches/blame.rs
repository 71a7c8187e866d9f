//! Whom `attnfuzz rule-out` blames for each planted bug: the suspect that the bug is of alone, that one among others, or others
//! only. `cargo bench --bench blame`; arguments keep to bugs whose path contains one of them. `ATTNFUZZ_CASES` sets the cases of
//! each suspect (60).

#[expect(dead_code, reason = "other benchmarks use the rest")]
#[path = "common/mod.rs"]
mod common;

use attnfuzz::backend::{Emulator, Kernel};
use attnfuzz::rule_out::{Config, Standing, rule_out};
use comfy_table::{Table, presets};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Each planted bug and the suspects that it may be said to be of, with `|` between them.
const PLANTED: &str = include_str!("../tests/rule_out/planted.tsv");

#[expect(clippy::print_stdout, reason = "a benchmark's result")]
fn main() {
    let cases = common::number("ATTNFUZZ_CASES", 60);
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let planted = PLANTED.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('\t'));
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(["planted bug", "is of", "blamed", ""]);
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    let start = Instant::now();
    for (bug, of) in planted.filter(|(bug, _)| wanted.is_empty() || wanted.iter().any(|part| bug.contains(part))) {
        let blamed = blamed(&format!("kernels/mutants/{bug}.toml"), cases);
        let is_right = |name: &&&str| of.split('|').any(|right| right == **name);
        let word = match (blamed.iter().filter(is_right).count(), blamed.len()) {
            (_, 0) => "not noticed",
            (0, _) => "missed",
            (right, all) if right == all => "alone",
            _ => "among others",
        };
        *counts.entry(word).or_default() += 1;
        println!("{bug}\t{of}\t{}\t{word}", blamed.join(", "));
        if word != "alone" {
            table.add_row([bug, of, &blamed.join(", "), word]);
        }
    }
    println!("{table}");
    println!("{counts:?}, {cases} cases of each suspect, {:.0} s", start.elapsed().as_secs_f64());
}

/// The suspects that are found guilty, in order.
fn blamed(path: &str, cases: u64) -> Vec<&'static str> {
    let config = Config {
        kernel: Arc::new(Kernel::open(path).expect("a planted bug opens")),
        backend: Arc::new(Emulator),
        heads: None,
        cases: Some(cases),
        time: None,
        seed: 0,
        jobs: std::thread::available_parallelism().map_or(1, usize::from),
        max_shrink: 1000,
        store: None,
    };
    let report = rule_out(&config, &mut |_| ()).expect("a kernel with cases");
    let guilty = report.accounts.iter().filter(|account| matches!(account.standing, Standing::Guilty(_)));
    guilty.map(|account| account.suspect).collect()
}
