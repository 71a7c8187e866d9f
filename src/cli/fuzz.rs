//! `attnfuzz fuzz`.

use super::{
    BackendArgs, BackendChoice, CASE_TIMEOUT, Exit, Failure, Format, FuzzArgs, IsolateChoice, IsolationArgs, backends,
};
use crate::backend::{Kernel, shipped_names};
use crate::campaign::{self, Config, Event};
use crate::case::Relation;
use crate::regression::Store;
use crate::report::{human, jsonl};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const DEFAULT_TIME: Duration = Duration::from_secs(60);
const SHORT_TIME: Duration = Duration::from_secs(20);

/// What the program does without arguments.
pub(super) fn short_campaign() -> FuzzArgs {
    FuzzArgs {
        kernels: Vec::new(),
        backend: BackendArgs { backend: BackendChoice::Auto, device: 0 },
        isolation: IsolationArgs { isolate: IsolateChoice::Auto, case_timeout: CASE_TIMEOUT.into() },
        cases: None,
        time: Some(SHORT_TIME),
        seed: 0,
        jobs: None,
        regressions: PathBuf::from("proptest-regressions"),
        relations: Vec::new(),
        max_findings: 1,
        max_shrink: 2000,
        format: Format::Human,
    }
}

pub(super) fn run(args: &FuzzArgs) -> Result<Exit, Failure> {
    let store = Store::new(&args.regressions);
    store
        .check_writable()
        .map_err(|e| Failure::usage(format!("--regressions: can't write below {}: {e}", args.regressions.display())))?;
    let mut names: Vec<String> = if args.kernels.is_empty() {
        shipped_names().into_iter().map(String::from).collect()
    } else {
        args.kernels.clone()
    };
    let mut seen = HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    let kernels = names.iter().map(|name| Kernel::open(name).map(Arc::new).map_err(Failure::usage));
    let jobs = args.jobs.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);
    let config = Config {
        kernels: kernels.collect::<Result<_, _>>()?,
        backends: backends::examiners(&args.backend, &args.isolation, jobs)?,
        cases: args.cases,
        time: args.time.or_else(|| args.cases.is_none().then_some(DEFAULT_TIME)),
        seed: args.seed,
        relations: relations(&args.relations)?,
        jobs,
        max_findings: usize::from(args.max_findings),
        max_shrink: args.max_shrink,
        store: Some(store),
    };
    let summary = match args.format {
        Format::Jsonl => {
            let summary = campaign::run(&config, &mut |event| println!("{}", jsonl::event(&event)));
            jsonl::summary(&summary).iter().for_each(|line| println!("{line}"));
            summary
        }
        Format::Human => {
            let mut screen = Screen::new(&config);
            let summary = campaign::run(&config, &mut |event| screen.show(&event));
            screen.bar.finish_and_clear();
            if !config.relations.is_empty() {
                print!("{}", human::relations(&summary));
            }
            print!("{}", human::summary(&summary));
            summary
        }
    };
    Ok(if summary.internal_errors > 0 {
        Exit::Internal
    } else if summary.has_findings() {
        Exit::Findings
    } else if summary.anything_ran() {
        Exit::Clean
    } else {
        Exit::NothingRan
    })
}

/// The relations that the names stand for.
fn relations(names: &[String]) -> Result<Vec<Relation>, Failure> {
    if names.iter().any(|name| name == "all") {
        return Ok(Relation::ALL.to_vec());
    }
    let parsed = names.iter().map(|name| {
        name.parse().map_err(|_| {
            let known = Relation::ALL.map(Relation::name).join(", ");
            Failure::usage(format!("--relations: expected all, or some of {known}; found {name:?}"))
        })
    });
    parsed.collect()
}

/// The progress bar, and the lines that pass above it.
struct Screen {
    bar: ProgressBar,
}

impl Screen {
    fn new(config: &Config) -> Self {
        let total = config.cases.map(|cases| cases.saturating_mul(config.kernels.len() as u64));
        let (bar, template) = match total {
            Some(total) => (
                ProgressBar::new(total),
                "{spinner} {elapsed} [{bar:30}] {human_pos}/{human_len} cases {per_sec} {msg}",
            ),
            None => (ProgressBar::no_length(), "{spinner} {elapsed} {human_pos} cases {per_sec} {msg}"),
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        Self { bar }
    }

    fn show(&mut self, event: &Event) {
        match event {
            Event::Started { kernels, backends, seed, .. } => {
                self.say(&format!("fuzzing {} on {} (seed {seed})", kernels.join(", "), backends.join(" and ")));
            }
            Event::Progress { cases, worst_ratio, findings } => {
                self.bar.set_position(*cases);
                self.bar.set_message(format!("worst error/bound {worst_ratio:.3}, findings {findings}"));
            }
            Event::Shrinking { kernel, line } => self.bar.set_message(format!("shrinking {kernel}: {line}")),
            Event::Found(found) => self.say(&human::found(found)),
            Event::Met(found) => self.say(&human::met(found)),
            Event::BackendLost { backend, why } => {
                self.say(&format!("warning: {backend} is left alone from here on: {why}"))
            }
            Event::Internal { kernel, line, message } => {
                self.say(&format!("internal error, please report it: {kernel}: {line}: {message}"));
            }
        }
    }

    /// Prints lines that stay. `suspend` because the bar itself is drawn only on a terminal.
    fn say(&self, text: &str) {
        self.bar.suspend(|| println!("{}", text.trim_end()));
    }
}
