//! `attnfuzz rule-out`.

use super::{BackendArgs, DrawArgs, Exit, Failure, Format, IsolationArgs, backends};
use crate::backend::Kernel;
use crate::regression::Store;
use crate::report::rule_out as report;
use crate::rule_out::{Config, Heads, Report, SUSPECTS, rule_out};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Cases of each suspect where neither a number nor a time is given.
const DEFAULT_CASES: u64 = 200;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  attnfuzz rule-out gqa_decode
  attnfuzz rule-out gqa_decode --shape 28:4:128 --time 60s
  attnfuzz rule-out my/kernel.toml --backend cuda --time 10m

Tries one by one the things an attention kernel gets wrong. What fails is shrunk, saved, and blamed on those without which the
minimal case agrees. With --cases the same seed gives the same report, whatever --jobs is.

A suspect is ruled out by 29 cases that could show it: with fewer, a fault that shows in one of ten would be missed too often.

The exit code is 100 if the kernel is guilty, else 1 if attnfuzz itself went wrong, 4 if no case was run, 3 if too little ran
to rule out some suspect, and 0 if the kernel is ruled out.")]
pub(super) struct RuleOutArgs {
    /// A shipped kernel's name or the path of a kernel.toml
    kernel: String,
    /// Heads and dims of the model, Q_HEADS:KV_HEADS:HEAD_DIM[:V_HEAD_DIM] such as 28:4:128; without, all that the kernel claims
    #[arg(long, value_name = "SHAPE")]
    shape: Option<Heads>,
    #[command(flatten)]
    backend: BackendArgs,
    #[command(flatten)]
    isolation: IsolationArgs,
    /// Cases of each suspect [default: 200, if no --time is given]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    cases: Option<u64>,
    /// Wall-clock limit of all suspects together, shrinking not counted, such as 60s or 10m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    time: Option<Duration>,
    #[command(flatten)]
    draw: DrawArgs,
    /// Folder that findings are saved below
    #[arg(long, value_name = "DIR", default_value = "proptest-regressions")]
    regressions: PathBuf,
    /// Executions that a finding may be shrunk with
    #[arg(long, value_name = "N", default_value_t = 2000)]
    max_shrink: u32,
    /// How to tell what happens
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
}

pub(super) fn run(args: &RuleOutArgs) -> Result<Exit, Failure> {
    let store = Store::new(&args.regressions);
    store
        .check_writable()
        .map_err(|e| Failure::usage(format!("--regressions: can't write below {}: {e}", args.regressions.display())))?;
    let kernel = Arc::new(Kernel::open(&args.kernel).map_err(Failure::usage)?);
    if let Some(heads) = &args.shape {
        heads.restrict(&kernel.manifest.domain).map_err(|why| Failure::usage(format!("--shape: {why}")))?;
    }
    let jobs = args.draw.jobs_by_kind(&args.isolation);
    let backends = backends::examiners(&args.backend, &args.isolation, jobs)?;
    let mut exits = Vec::new();
    for backend in &backends {
        let config = Config {
            kernel: kernel.clone(),
            backend: backend.clone(),
            heads: args.shape,
            cases: args.cases.or_else(|| args.time.is_none().then_some(DEFAULT_CASES)),
            time: args.time.map(|time| time / backends.len() as u32),
            seed: args.draw.seed,
            jobs: jobs.on(std::slice::from_ref(backend)),
            max_shrink: args.max_shrink,
            store: Some(store.clone()),
        };
        let report = inquire(args.format, &config)?;
        exits.push(exit(&report));
    }
    backends::tell_unconfirmed(&backends);
    // The worst of what the devices say.
    let order = [Exit::Findings, Exit::Internal, Exit::Partly, Exit::NothingRan, Exit::Clean];
    let both = exits.contains(&Exit::NothingRan) && exits.contains(&Exit::Clean);
    Ok(if both {
        Exit::Partly
    } else {
        order.into_iter().find(|exit| exits.contains(exit)).unwrap_or(Exit::NothingRan)
    })
}

fn inquire(format: Format, config: &Config) -> Result<Report, Failure> {
    let failed = |error: crate::generate::EmptyDomain| Failure::usage(format!("--shape: {error}"));
    match format {
        Format::Jsonl => {
            let found = rule_out(config, &mut |_| ()).map_err(failed)?;
            report::lines(&found).iter().for_each(|line| println!("{line}"));
            Ok(found)
        }
        Format::Human => {
            println!("trying {} on {} (seed {})", config.kernel.name(), config.backend.describe(), config.seed);
            let bar = ProgressBar::new(SUSPECTS.len() as u64);
            let style = ProgressStyle::with_template("{spinner} {elapsed} [{bar:30}] {human_pos}/{human_len} {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            let found = rule_out(config, &mut |account| {
                bar.inc(1);
                bar.set_message(format!("{}: {}", account.suspect, account.standing));
            })
            .map_err(failed)?;
            bar.finish_and_clear();
            print!("{}", report::report(&found));
            Ok(found)
        }
    }
}

fn exit(report: &Report) -> Exit {
    if report.is_guilty() {
        Exit::Findings
    } else if !report.internal_errors.is_empty() {
        Exit::Internal
    } else if report.cases() == 0 {
        Exit::NothingRan
    } else if !report.is_complete() {
        Exit::Partly
    } else {
        Exit::Clean
    }
}
