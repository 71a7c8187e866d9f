//! `attnfuzz fuzz`.

use super::reports::Reports;
use super::{
    BackendArgs, BackendChoice, CASE_TIMEOUT, Cli, Command, Devices, DrawArgs, Exit, Failure, Format, FuzzArgs,
    IsolateChoice, IsolationArgs, backends,
};
use crate::backend::{Emulator, Kernel, shipped_names};
use crate::campaign::{Config, Event, Guidance, Head, Journal, Sanitizing, Session, run_session};
use crate::case::Relation;
use crate::corpus::Entry;
use crate::oracle::Examiner;
use crate::regression::Store;
use crate::report::{human, jsonl};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

const DEFAULT_TIME: Duration = Duration::from_secs(60);
const SHORT_TIME: Duration = Duration::from_secs(20);
/// The default of `--progress`.
const PROGRESS: Duration = Duration::from_secs(30);

/// What the program does without arguments.
pub(super) fn short_campaign() -> FuzzArgs {
    FuzzArgs {
        resume: None,
        journal: None,
        kernels: Vec::new(),
        backend: BackendArgs { backend: BackendChoice::Auto, device: Devices::FIRST },
        isolation: IsolationArgs { isolate: IsolateChoice::Auto, case_timeout: CASE_TIMEOUT.into() },
        cases: None,
        time: Some(SHORT_TIME),
        draw: DrawArgs { seed: 0, jobs: None },
        regressions: PathBuf::from("proptest-regressions"),
        relations: Vec::new(),
        sanitize: Vec::new(),
        sanitize_every: 256,
        progress: PROGRESS,
        guided: false,
        corpus: None,
        max_findings: 1,
        max_shrink: 2000,
        format: Format::Human,
        report: Vec::new(),
    }
}

/// Runs the campaign of `args`, which were read from the command line `raw`, or the one whose journal they name.
pub(super) fn run(args: &FuzzArgs, raw: &[OsString]) -> Result<Exit, Failure> {
    let Some(path) = &args.resume else {
        let config = config(args)?;
        let create = |path: &PathBuf| Journal::create(path, &head(&config, raw)?).map_err(Failure::usage);
        let journal = args.journal.as_ref().map(create).transpose()?;
        return campaign(args, &config, journal, args.journal.as_deref());
    };
    let (written, journal) = Journal::open(path).map_err(Failure::usage)?;
    let cli = Cli::try_parse_from(&written.arguments).ok();
    let Some(Command::Fuzz(args)) = cli.and_then(|cli| cli.command) else {
        let found = written.arguments.join(" ");
        return Err(Failure::usage(format!("{}: expected the arguments of a campaign, found {found}", path.display())));
    };
    let config = config(&args)?;
    let raw: Vec<OsString> = written.arguments.iter().map(OsString::from).collect();
    journal.check(&written, &head(&config, &raw)?).map_err(Failure::usage)?;
    campaign(&args, &config, Some(journal), Some(path))
}

fn head(config: &Config, raw: &[OsString]) -> Result<Head, Failure> {
    let text = |arg: &OsString| {
        let wrong = || Failure::usage(format!("--journal: expected arguments in UTF-8, found {arg:?}"));
        arg.to_str().map(String::from).ok_or_else(wrong)
    };
    let arguments = raw.iter().map(text).collect::<Result<_, _>>()?;
    Head::new(config, arguments).map_err(|error| Failure::usage(format!("--journal: {error}")))
}

fn config(args: &FuzzArgs) -> Result<Config, Failure> {
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
    let kernels: Vec<Arc<Kernel>> = kernels.collect::<Result<_, _>>()?;
    let jobs = args.draw.jobs_by_kind(&args.isolation);
    let backends =
        if args.guided { vec![emulator(args)?] } else { backends::examiners(&args.backend, &args.isolation, jobs)? };
    Ok(Config {
        guidance: if args.guided { Some(guidance(args, &kernels)?) } else { None },
        jobs: jobs.on(&backends),
        backends,
        kernels,
        cases: args.cases,
        time: args.time.or_else(|| args.cases.is_none().then_some(DEFAULT_TIME)),
        seed: args.draw.seed,
        relations: relations(&args.relations)?,
        max_findings: usize::from(args.max_findings),
        max_shrink: args.max_shrink,
        store: Some(store),
    })
}

/// What a guided campaign runs on.
fn emulator(args: &FuzzArgs) -> Result<Arc<dyn Examiner>, Failure> {
    if matches!(args.backend.backend, BackendChoice::Cuda | BackendChoice::All) {
        return Err(Failure::usage(
            "--guided: expected --backend emulator: a GPU doesn't tell what a case reached in the kernel",
        ));
    }
    if args.isolation.isolate == IsolateChoice::Yes {
        return Err(Failure::usage(
            "--guided: expected --isolate no: a worker process doesn't tell what a case reached in the kernel",
        ));
    }
    Ok(Arc::new(Emulator))
}

/// What a guided campaign begins with. Says which files of the corpus are no entries.
fn guidance(args: &FuzzArgs, kernels: &[Arc<Kernel>]) -> Result<Guidance, Failure> {
    for kernel in kernels {
        kernel.ptx().map_err(|error| Failure::usage(format!("--guided: {error}")))?;
    }
    let Some(folder) = &args.corpus else { return Ok(Guidance::default()) };
    std::fs::create_dir_all(folder)
        .map_err(|error| Failure::usage(format!("--corpus: can't make {}: {error}", folder.display())))?;
    let entries = super::corpus::read(folder)?.into_iter().map(|(_, entry)| entry);
    let is_meant = |entry: &Entry| kernels.iter().any(|kernel| kernel.name() == entry.kernel);
    Ok(Guidance { corpus: entries.filter(is_meant).collect(), folder: Some(folder.clone()) })
}

/// Set by the first interrupt; a second one ends the program at once.
fn interrupts() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let exit = i32::from(Exit::Partly as u8);
        signal_hook::flag::register_conditional_shutdown(signal, exit, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()))
            .map_err(|error| Failure::usage(format!("can't handle signal {signal}: {error}")))?;
    }
    Ok(stop)
}

/// What is assumed of kernels whose manifests state nothing of their arithmetic.
fn assumed(kernels: &[Arc<Kernel>]) -> Option<String> {
    let silent: Vec<&str> = kernels.iter().filter(|k| !k.manifest.numerics_stated).map(|k| k.name()).collect();
    (!silent.is_empty()).then(|| {
        format!(
            "numerics of {}: nothing stated, assumed: binary32 accumulation in any order and tiling, fast math, weights \
             rounded to the storage type (the preset `any`, docs/manifest.md)",
            silent.join(", ")
        )
    })
}

fn campaign(args: &FuzzArgs, config: &Config, journal: Option<Journal>, path: Option<&Path>) -> Result<Exit, Failure> {
    let by_backend = backends::sanitizers(&args.backend, &args.isolation, &args.sanitize, &config.backends);
    let sanitizing = Sanitizing { by_backend, every: args.sanitize_every };
    let session = Session { stop: interrupts()?, journal, sanitizing };
    let mut reports = Reports::open(&args.report, session.journal.as_ref().map_or(&[], Journal::found))?;
    let summary = match args.format {
        Format::Jsonl => {
            let summary = run_session(config, session, &mut |event| {
                println!("{}", jsonl::event(&event));
                reports.note(&event);
            });
            jsonl::summary(&summary).iter().for_each(|line| println!("{line}"));
            summary
        }
        Format::Human => {
            let mut screen = Screen::new(config, args.progress);
            let summary = run_session(config, session, &mut |event| {
                screen.show(&event);
                reports.note(&event);
            });
            screen.bar.finish_and_clear();
            if !config.relations.is_empty() {
                print!("{}", human::relations(&summary));
            }
            print!("{}", human::summary(&summary));
            if let Some(path) = path.filter(|_| summary.interrupted) {
                println!("to go on: attnfuzz fuzz --resume {}", path.display());
            }
            summary
        }
    };
    reports.write(config, &summary)?;
    Ok(if summary.internal_errors > 0 {
        Exit::Internal
    } else if summary.has_findings() {
        Exit::Findings
    } else if !summary.anything_ran() {
        Exit::NothingRan
    } else if summary.lacks_sanitizer()
        || summary.interrupted
        || summary.journal_lost.is_some()
        || summary.corpus_lost.is_some()
    {
        Exit::Partly
    } else {
        Exit::Clean
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
    start: Instant,
    /// When progress was last told where no bar is drawn, and how often it is.
    last: Instant,
    every: Duration,
    /// What is assumed of the kernels, to be said first.
    assumed: Option<String>,
}

impl Screen {
    fn new(config: &Config, every: Duration) -> Self {
        let total = config.cases.map(|cases| cases.saturating_mul(config.kernels.len() as u64));
        let (bar, template) = match total {
            Some(total) => (
                ProgressBar::new(total),
                "{spinner} {elapsed} [{bar:30}] {human_pos}/{human_len} cases {per_sec}\n{msg}",
            ),
            None => (ProgressBar::no_length(), "{spinner} {elapsed} {human_pos} cases {per_sec}\n{msg}"),
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        let start = Instant::now();
        Self { bar, start, last: start, every, assumed: assumed(&config.kernels) }
    }

    fn show(&mut self, event: &Event) {
        match event {
            Event::Started { kernels, backends, seed, .. } => {
                self.say(&format!("fuzzing {} on {} (seed {seed})", kernels.join(", "), backends.join(" and ")));
                if let Some(assumed) = &self.assumed {
                    self.say(assumed);
                }
            }
            Event::Progress { cases, paces, reach, .. } => {
                let mut lines: Vec<String> = paces.iter().map(human::pace).collect();
                lines.extend(reach.map(human::reach));
                self.bar.set_position(*cases);
                self.bar.set_message(lines.join("\n"));
                if self.bar.is_hidden() && self.last.elapsed() >= self.every {
                    self.last = Instant::now();
                    let seconds = self.start.elapsed().as_secs();
                    lines.iter().for_each(|line| println!("{seconds} s: {line}"));
                }
            }
            Event::Sanitizing { kernel, cases } => {
                self.bar.set_message(format!("{cases} cases of {kernel} under compute-sanitizer"));
            }
            Event::Shrinking { kernel, line } => self.bar.set_message(format!("shrinking {kernel}: {line}")),
            Event::Found(found) => self.say(&human::found(found)),
            Event::Met(found) => self.say(&human::met(found)),
            Event::BackendLost { backend, why } => {
                self.say(&format!("warning: {backend} is left alone from here on: {why}"))
            }
            Event::CorpusLost { why } => self.say(&format!("warning: no more cases are added to the corpus: {why}")),
            Event::JournalLost { why } => self.say(&format!("warning: the campaign ends here: {why}")),
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
