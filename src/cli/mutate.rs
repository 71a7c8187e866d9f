//! `attnfuzz mutate`.

use super::{DrawArgs, Exit, Failure, Format};
use crate::backend::{Kernel, shipped_names};
use crate::mutate::{self, Config, Mutant, Progress, Report, Tally};
use crate::report::mutation;
use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  attnfuzz mutate gqa_decode
  attnfuzz mutate my/kernel.toml --budget 10m --fail-under 95
  attnfuzz mutate gqa_decode --list
  attnfuzz mutate gqa_decode --only relation:1217:le-lt

The score is the share of the killed among the killed and the survivors. Runs in the emulator.
docs/mutation.md says how to read what is printed.")]
pub(super) struct MutateArgs {
    /// A shipped kernel's name or the path of a kernel.toml; none means every shipped kernel
    kernels: Vec<String>,
    /// Wall-clock time for the mutants of one kernel, such as 60s or 10m
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    budget: Duration,
    /// Cases to try mutants on [default: as many as the budget allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    cases: Option<u64>,
    #[command(flatten)]
    draw: DrawArgs,
    /// How many mutants of each kernel: a number, drawn by the seed, or all
    #[arg(long, value_name = "N|all", default_value = "all", value_parser = parse_mutants)]
    mutants: usize,
    /// Print the mutants and run none
    #[arg(long)]
    list: bool,
    /// The mutant with this name; may be given several times
    #[arg(long, value_name = "ID", conflicts_with = "mutants")]
    only: Vec<String>,
    /// Exit with 100 if a kernel's score is below this
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    fail_under: Option<f64>,
    /// How to tell what happens
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
}

fn parse_mutants(text: &str) -> Result<usize, String> {
    match text {
        "all" => Ok(usize::MAX),
        _ => text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "expected a number from 1, or all".into()),
    }
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let percent = text.parse().ok().filter(|p| (0.0..=100.0).contains(p));
    percent.ok_or_else(|| "expected a number from 0 to 100".into())
}

pub(super) fn run(args: &MutateArgs) -> Result<Exit, Failure> {
    let shipped = || shipped_names().into_iter().map(String::from).collect();
    let names: Vec<String> = if args.kernels.is_empty() { shipped() } else { args.kernels.clone() };
    let mut work = Vec::new();
    for name in &names {
        let kernel = Kernel::open(name).map_err(Failure::usage)?;
        let mutants = chosen(args, &kernel)?;
        work.push((kernel, mutants));
    }
    if let Some(unknown) = args.only.iter().find(|id| !work.iter().any(|(_, list)| list.iter().any(|m| m.id == **id))) {
        return Err(Failure::usage(format!("--only: no mutant is called {unknown:?}; --list prints their names")));
    }
    if args.list {
        for (kernel, mutants) in &work {
            for mutant in mutants {
                println!("{}", described(args.format, kernel, mutant));
            }
        }
        return Ok(Exit::Clean);
    }
    let config = Config { budget: args.budget, cases: args.cases, seed: args.draw.seed, jobs: args.draw.jobs() };
    let reports: Vec<Report> =
        work.into_iter().map(|(kernel, mutants)| tell(args.format, &kernel, mutants, &config)).collect();
    let scores: Vec<f64> = reports.iter().filter_map(|report| Tally::of(&report.results).score()).collect();
    Ok(if scores.is_empty() {
        Exit::NothingRan
    } else if scores.iter().any(|score| args.fail_under.is_some_and(|least| *score < least)) {
        Exit::Findings
    } else {
        Exit::Clean
    })
}

fn chosen(args: &MutateArgs, kernel: &Kernel) -> Result<Vec<Mutant>, Failure> {
    let mut mutants = mutate::mutants(kernel).map_err(Failure::usage)?;
    if !args.only.is_empty() {
        mutants.retain(|mutant| args.only.contains(&mutant.id));
    }
    Ok(mutate::sample(mutants, args.mutants, args.draw.seed))
}

fn described(format: Format, kernel: &Kernel, mutant: &Mutant) -> String {
    match format {
        Format::Human => mutation::mutant(mutant),
        Format::Jsonl => mutation::mutant_line(kernel.name(), mutant),
    }
}

fn tell(format: Format, kernel: &Kernel, mutants: Vec<Mutant>, config: &Config) -> Report {
    match format {
        Format::Jsonl => {
            let report = mutate::run(kernel, mutants, config, &|_| {});
            mutation::lines(&report).iter().for_each(|line| println!("{line}"));
            report
        }
        Format::Human => {
            println!("mutating {} on emulator (seed {})", kernel.name(), config.seed);
            let bar = bar(mutants.len());
            let report = mutate::run(kernel, mutants, config, &|progress| show(&bar, progress));
            bar.finish_and_clear();
            print!("{}", mutation::report(&report));
            report
        }
    }
}

fn bar(mutants: usize) -> ProgressBar {
    let bar = ProgressBar::new(mutants as u64);
    let template = "{spinner} {elapsed} [{bar:30}] {human_pos}/{human_len} killed {msg}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("=> "));
    bar
}

fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_position(progress.killed as u64);
    bar.set_message(format!("in {} trials on {} cases", progress.trials, progress.cases));
}
