//! `attnfuzz coverage`.

use super::{DrawArgs, Exit, Failure, Format};
use crate::backend::{Kernel, Points, shipped_names};
use crate::case::Case;
use crate::corpus::{Entry, EntryError};
use crate::coverage::{self, Config, Layout, Listing, Measured, Totals};
use crate::report::{coverage as report, lcov};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DEFAULT_TIME: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  attnfuzz coverage gqa_decode --cases 1000
  attnfuzz coverage my/kernel.toml --time 10m --lcov coverage.info
  attnfuzz coverage gqa_prefill --corpus fuzz/corpus/attention_diff --all

Runs in the emulator: a GPU says nothing of what it reached. Without --cases, --time and --corpus it lasts 60 s a kernel.
The exit code is 100 if a case fails; docs/coverage.md says how to read the rest.")]
pub(super) struct CoverageArgs {
    /// A shipped kernel's name or the path of a kernel.toml; none means every shipped kernel
    kernels: Vec<String>,
    /// Cases to draw for each kernel
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    cases: Option<u64>,
    /// Wall-clock limit of each kernel, such as 60s or 10m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    time: Option<Duration>,
    #[command(flatten)]
    draw: DrawArgs,
    /// Run these cases first: a folder of files, each line of which is a case, or a kernel's name and a case
    #[arg(long, value_name = "DIR")]
    corpus: Option<PathBuf>,
    /// Print the whole source with counts, not only what is missed
    #[arg(long)]
    all: bool,
    /// Write an lcov tracefile too
    #[arg(long, value_name = "FILE")]
    lcov: Option<PathBuf>,
    /// How to tell what happens
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
}

pub(super) fn run(args: &CoverageArgs) -> Result<Exit, Failure> {
    let shipped = || shipped_names().into_iter().map(String::from).collect();
    let names: Vec<String> = if args.kernels.is_empty() { shipped() } else { args.kernels.clone() };
    let kernels = names.iter().map(|name| Kernel::open(name).map_err(Failure::usage)).collect::<Result<Vec<_>, _>>()?;
    for kernel in &kernels {
        kernel.ptx().map_err(|error| Failure::usage(format!("coverage counts what is reached in one PTX: {error}")))?;
    }
    let corpus = args.corpus.as_deref().map(read_corpus).transpose()?.unwrap_or_default();
    let write = |text: &str| match &args.lcov {
        None => Ok(()),
        Some(file) => {
            fs::write(file, text).map_err(|e| Failure::usage(format!("--lcov: can't write {}: {e}", file.display())))
        }
    };
    // Found out before the work, not after it.
    write("")?;
    let (mut records, mut exits) = (String::new(), Vec::new());
    for kernel in &kernels {
        let points = Points::of(kernel);
        let layout = Layout::of(&points);
        let config = config(args, kernel, &corpus);
        let measured = measure(args.format, kernel, &points, &layout, &config);
        let totals = Totals::of(&points, &layout, &measured);
        let listing = Listing::of(kernel, &layout, &measured);
        match args.format {
            Format::Jsonl => report::lines(&points, &measured, &totals).iter().for_each(|line| println!("{line}")),
            Format::Human => {
                print!("{}", report::listing(&listing, args.all));
                print!("{}", report::summary(&measured, &totals));
            }
        }
        records += &lcov::records(kernel.name(), &listing);
        exits.push(exit(&measured));
    }
    write(&records)?;
    let worst = [Exit::Internal, Exit::Findings].into_iter().find(|exit| exits.contains(exit));
    Ok(worst.unwrap_or(if exits.contains(&Exit::Clean) { Exit::Clean } else { Exit::NothingRan }))
}

fn exit(measured: &Measured) -> Exit {
    if !measured.internal.is_empty() {
        Exit::Internal
    } else if measured.has_findings() {
        Exit::Findings
    } else if measured.cases == 0 {
        Exit::NothingRan
    } else {
        Exit::Clean
    }
}

fn config(args: &CoverageArgs, kernel: &Kernel, corpus: &[(Option<String>, Case)]) -> Config {
    let is_meant = |name: &Option<String>| name.as_ref().is_none_or(|name| name == kernel.name());
    let only_corpus = args.corpus.is_some() && args.time.is_none();
    let is_open = args.cases.is_none() && !only_corpus;
    Config {
        corpus: corpus.iter().filter(|(name, _)| is_meant(name)).map(|(_, case)| case.clone()).collect(),
        cases: if only_corpus { Some(args.cases.unwrap_or(0)) } else { args.cases },
        time: args.time.or_else(|| is_open.then_some(DEFAULT_TIME)),
        seed: args.draw.seed,
        jobs: args.draw.jobs(),
    }
}

fn measure(format: Format, kernel: &Kernel, points: &Points, layout: &Layout, config: &Config) -> Measured {
    if format == Format::Jsonl {
        return coverage::run(kernel, points, layout, config, &|_| {});
    }
    println!("running {} on emulator (seed {})", kernel.name(), config.seed);
    let bar = match config.cases {
        Some(cases) => ProgressBar::new(cases + config.corpus.len() as u64),
        None => ProgressBar::no_length(),
    };
    let style = ProgressStyle::with_template("{spinner} {elapsed} {human_pos} cases {per_sec}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let measured = coverage::run(kernel, points, layout, config, &|done| bar.set_position(done));
    bar.finish_and_clear();
    measured
}

/// The cases of the files in a folder and those below it, in the order of their names, each with the kernel it names.
fn read_corpus(folder: &Path) -> Result<Vec<(Option<String>, Case)>, Failure> {
    let wrong =
        |path: &Path, what: &dyn std::fmt::Display| Failure::usage(format!("--corpus: {}: {what}", path.display()));
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(&folder).map_err(|e| wrong(&folder, &e))? {
            let item = item.map_err(|e| wrong(&folder, &e))?;
            let kind = item.file_type().map_err(|e| wrong(&item.path(), &e))?;
            if kind.is_dir() {
                folders.push(item.path());
            } else if kind.is_file() {
                files.push(item.path());
            }
        }
    }
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).map_err(|e| wrong(&file, &e))?;
        for (number, line) in text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty()) {
            let wrong = |error: &dyn std::fmt::Display| wrong(&file, &format!("line {}: {error}", number + 1));
            cases.push(match line.parse() {
                Ok(Entry { kernel, case }) => (Some(kernel), case),
                // A case without a kernel's name is for every kernel.
                Err(EntryError::Form(_)) => (None, line.parse().map_err(|error| wrong(&error))?),
                Err(error) => return Err(wrong(&error)),
            });
        }
    }
    Ok(cases)
}
