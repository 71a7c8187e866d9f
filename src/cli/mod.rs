//! Arguments, commands, exit codes. The only room that prints.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this room is the program's face")]

mod backends;
mod cases;
mod check;
mod compile;
mod corpus;
mod coverage;
mod doctor;
mod emulate;
mod fuzz;
mod init;
mod inputs;
mod kernels;
mod mutate;
mod replay;
mod reports;
mod rule_out;
mod show;
mod shrink;
mod worker;

use crate::backend::BackendKind;
use crate::oracle::Examiner;
use crate::worker::Tool;
use clap::{Parser, Subcommand, ValueEnum};
use std::collections::HashSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// How the program ended; the number is the process's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// Nothing is wrong.
    Clean = 0,
    /// This program went wrong.
    Internal = 1,
    /// The arguments or a file are wrong, or something needed is not there.
    Usage = 2,
    /// Nothing is known to be wrong, but not everything could be run.
    Partly = 3,
    /// No case could be run, so nothing is known.
    NothingRan = 4,
    /// A kernel is wrong.
    Findings = 100,
    /// A kernel is wrong, but not in the way it was.
    Differently = 101,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

const EXAMPLES: &str = "\
Examples:
  attnfuzz                                            a short campaign over every shipped kernel
  attnfuzz fuzz gqa_decode --time 60s --jobs 8        one kernel for a minute
  attnfuzz fuzz my/kernel.toml --cases 100000         a kernel of yours, by its manifest
  attnfuzz fuzz --backend cuda --time 8h              overnight on a GPU
  attnfuzz replay                                     every saved regression
  attnfuzz shrink found/cases/my_kernel/1f0c.toml     a finding made smaller, perhaps with a larger budget
  attnfuzz show 'kv=4 g=7 d=128 past=1 dtype=f32 cache=hnd:2 scale=0.088388346 values=normal:0'

Exit codes: 0 clean, 1 internal error, 2 usage, 3 not everything ran, 4 nothing ran, 100 findings, 101 a finding replayed\nfails differently.";

/// Finds the shape a grouped-query attention CUDA kernel gets wrong.
#[derive(Parser)]
#[command(name = "attnfuzz", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Search for failing cases, shrink and save them
    Fuzz(FuzzArgs),
    /// Run saved findings again
    Replay(ReplayArgs),
    /// Is this kernel the culprit? Try one by one what an attention kernel gets wrong
    RuleOut(rule_out::RuleOutArgs),
    /// Make failing cases smaller
    Shrink(ShrinkArgs),
    /// Plant small faults in a kernel and count those that the cases and the oracle notice
    Mutate(mutate::MutateArgs),
    /// Show what the cases of a kernel reach in its source, and what they miss
    Coverage(coverage::CoverageArgs),
    /// Make a corpus of cases smaller
    Corpus(corpus::CorpusArgs),
    /// Print the cases a campaign draws, or what they are like in numbers
    Cases(CasesArgs),
    /// Explain a case or a kernel, and write a case's tensors to a file
    Show(ShowArgs),
    /// List the shipped kernels and what they claim
    Kernels,
    /// Say what this machine has, and what each missing piece costs
    Doctor,
    /// Write the manifest of a kernel of yours, as far as its code tells
    Init(init::InitArgs),
    /// Say what a manifest comes to, run three tiny cases and guess at what is wrong with it
    Check(check::CheckArgs),
    /// Make a kernel's PTX from its source, or check that it is fresh
    Compile(CompileArgs),
    /// Run one launch of any kernel's PTX in the emulator, with arguments of yours
    Emulate(emulate::EmulateArgs),
    /// Examine cases for another process of this program
    #[command(hide = true)]
    Worker(worker::WorkerArgs),
}

/// Where kernels run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BackendChoice {
    /// The GPU if there is one, else the emulator
    Auto,
    /// The PTX emulator, on the CPU
    Emulator,
    /// A GPU
    Cuda,
    /// Both, and compare them
    All,
}

/// Whether kernels run in processes of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum IsolateChoice {
    /// On a GPU yes, in the emulator no
    Auto,
    /// A kernel that hangs, spoils the device or kills its process costs that process only
    Yes,
    /// In this process: what such a kernel does is the end of the run
    No,
}

/// The default of `--case-timeout`.
const CASE_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
struct DrawArgs {
    /// Which cases; of mutants, which if not all
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Cases under way at the same time [default: as many as there are processors, on GPUs four times as many]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
}

impl DrawArgs {
    /// Threads that do nothing but compute.
    fn jobs(&self) -> usize {
        self.jobs.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from)
    }

    fn jobs_by_kind(&self, isolation: &IsolationArgs) -> Jobs {
        let processors = self.jobs();
        // The process of a GPU begins cases ahead; in this one they come one at a time.
        let ahead = self.jobs.is_none() && isolation.isolate != IsolateChoice::No;
        Jobs { emulator: processors, gpu: if ahead { AHEAD * processors } else { processors } }
    }
}

/// Cases under way for each processor where GPUs run them.
const AHEAD: usize = 4;

/// Cases under way at the same time, by what runs them.
#[derive(Clone, Copy)]
struct Jobs {
    emulator: usize,
    gpu: usize,
}

impl Jobs {
    /// One at a time.
    const ONE: Self = Self { emulator: 1, gpu: 1 };

    /// As many as suit all of these.
    fn on(self, backends: &[Arc<dyn Examiner>]) -> usize {
        if backends.iter().all(|backend| backend.kind() == BackendKind::Cuda) { self.gpu } else { self.emulator }
    }
}

#[derive(clap::Args)]
struct IsolationArgs {
    /// Whether kernels run in processes of their own
    #[arg(long, value_enum, default_value = "auto")]
    isolate: IsolateChoice,
    /// How long one case may take in such a process, such as 5m; large cases get more
    #[arg(long, value_name = "TIME", default_value_t = CASE_TIMEOUT.into())]
    case_timeout: humantime::Duration,
}

/// The tools of `compute-sanitizer`, where none are named.
const EVERY_TOOL: &str = "memcheck,racecheck,initcheck,synccheck";

/// How to tell what happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Human,
    /// One JSON object a line
    Jsonl,
}

#[derive(clap::Args)]
struct BackendArgs {
    /// Where kernels run
    #[arg(long, value_enum, default_value = "auto")]
    backend: BackendChoice,
    /// GPUs by their index, comma-separated, or `all`; a campaign spreads its cases over them, other commands use the first
    #[arg(long, default_value = "0", value_name = "N,..")]
    device: Devices,
}

/// Which GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Devices {
    All,
    These { first: usize, rest: Vec<usize> },
}

impl Devices {
    const FIRST: Self = Self::These { first: 0, rest: Vec::new() };

    /// The one that a single case runs on.
    fn first(&self) -> usize {
        match self {
            Self::All => 0,
            Self::These { first, .. } => *first,
        }
    }
}

impl FromStr for Devices {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if s == "all" {
            return Ok(Self::All);
        }
        let wrong = |_| format!("expected indices of GPUs such as 0 or 0,1, or all, found {s:?}");
        let mut indices = s.split(',').map(str::parse::<usize>).collect::<Result<Vec<_>, _>>().map_err(wrong)?;
        let first = indices.remove(0);
        let mut seen = HashSet::from([first]);
        match indices.iter().find(|&&index| !seen.insert(index)) {
            Some(twice) => Err(format!("GPU {twice} is named twice in {s:?}")),
            None => Ok(Self::These { first, rest: indices }),
        }
    }
}

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  attnfuzz fuzz
  attnfuzz fuzz gqa_decode --cases 10000 --seed 7
  attnfuzz fuzz kernels/mutants/gqa_decode/m01_head_mod.toml --regressions found
  attnfuzz fuzz my/kernel.toml --time 10m --format jsonl
  attnfuzz fuzz --backend cuda --time 8h --journal night.journal
  attnfuzz fuzz --resume night.journal
  attnfuzz fuzz my/kernel.toml --guided --corpus corpus --time 10m
  attnfuzz fuzz --cases 5000 --report attnfuzz.html --report junit.xml
  attnfuzz fuzz --backend cuda --time 1h --sanitize=memcheck,racecheck

The same seed and number of cases give the same cases and the same findings, whatever --jobs is.
Without --cases and --time a campaign lasts 60 s. An interrupt (Ctrl-C) ends it with what was found so far, a second one at
once.

The exit code is 1 if attnfuzz itself went wrong, else 100 if a kernel is wrong, 4 if no case could be run, 3 if the campaign
was ended early, and 0 if all is well.")]
struct FuzzArgs {
    /// Go on with the campaign that wrote this journal, with its arguments, from where it ended
    #[arg(long, value_name = "FILE", exclusive = true)]
    resume: Option<PathBuf>,
    /// New file to write down how far the campaign is, for --resume
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// A shipped kernel's name or the path of a kernel.toml; none means every shipped kernel
    kernels: Vec<String>,
    #[command(flatten)]
    backend: BackendArgs,
    #[command(flatten)]
    isolation: IsolationArgs,
    /// Change cases that reached new code of the kernel, besides drawing some (emulator only)
    #[arg(long, conflicts_with = "journal")]
    guided: bool,
    /// Folder of cases to begin with, and to keep those in that reached new code; may be that of the fuzz target attention_diff
    #[arg(long, value_name = "DIR", requires = "guided")]
    corpus: Option<PathBuf>,
    /// Cases of each kernel
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    cases: Option<u64>,
    /// Wall-clock limit, such as 60s, 10m or 8h
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    time: Option<Duration>,
    #[command(flatten)]
    draw: DrawArgs,
    /// Judge every case by these relations too, in turn, comma-separated, or `all`; without, one case in eight by one.
    #[arg(long, value_name = "RELATION", value_delimiter = ',')]
    relations: Vec<String>,
    /// Run failing and suspect cases of a GPU, and one in so many others, under compute-sanitizer too [tools if none are named:
    /// memcheck,racecheck,initcheck,synccheck]
    #[arg(long, value_name = "TOOL,..", num_args = 0..=1, require_equals = true, default_missing_value = EVERY_TOOL, value_delimiter = ',')]
    sanitize: Vec<Tool>,
    /// One case of a kernel in so many runs under compute-sanitizer
    #[arg(long, value_name = "N", default_value_t = 256, requires = "sanitize", value_parser = clap::value_parser!(u64).range(1..))]
    sanitize_every: u64,
    /// Folder that findings are saved below
    #[arg(long, value_name = "DIR", default_value = "proptest-regressions")]
    regressions: PathBuf,
    /// Different findings after which a kernel is left alone
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    max_findings: u16,
    /// Executions that a finding may be shrunk with
    #[arg(long, value_name = "N", default_value_t = 2000)]
    max_shrink: u32,
    /// File to write a report to at the end, by its ending: .html, .xml (JUnit), .sarif or .jsonl; may be given several times
    #[arg(long, value_name = "FILE")]
    report: Vec<PathBuf>,
    /// How to tell what happens
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
    /// Where the progress bar is not seen: how often to print a line for each kernel, such as 5m
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    progress: Duration,
}

#[derive(clap::Args)]
#[command(after_help = "\
Each finding is answered with one of four words: still fails, fails differently, fixed, cannot run.
A flaky finding is run until it fails again, at most 24 times.

A file that is no .toml is an input of the fuzz target attention_diff, such as fuzz/artifacts/attention_diff/crash-..., and
is decoded as there, for the kernel that ATTNFUZZ_KERNEL names if it is set: it fails, agrees or cannot run.

A finding of the emulator holds a digest of the bits that its case left. One that still fails with other bits says so: the
kernel or this program has changed. With --repeat the bits must also be the same each time; where they are not, a finding
that doesn't fail fails differently. At the end those that may be one bug, by kernel and signature, are told.

The exit code is 100 if any fails or still fails, else 101 if any fails differently, else 4 if none could be run, 3 if some could
not, and 0 if all agree or are fixed.")]
struct ReplayArgs {
    /// Files or folders of findings, or inputs of a fuzz target [default: proptest-regressions/cases]
    paths: Vec<PathBuf>,
    /// Times to run each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Run findings of compute-sanitizer under it again, with these tools [default: memcheck,racecheck,initcheck,synccheck]
    #[arg(long, value_name = "TOOL,..", num_args = 0..=1, require_equals = true, default_missing_value = EVERY_TOOL, value_delimiter = ',')]
    sanitize: Vec<Tool>,
    #[command(flatten)]
    backend: BackendArgs,
    #[command(flatten)]
    isolation: IsolationArgs,
    /// How to tell what happens
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
}

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  attnfuzz shrink proptest-regressions/cases/gqa_decode --max-shrink 20000
  attnfuzz shrink --kernel my/kernel.toml 'kv=4 g=7 d=128 past=33 dtype=f16 cache=nhd:40 scale=1 values=normal:42'
  attnfuzz shrink --backend cuda --sanitize=racecheck found/cases/my_kernel/1f0c.toml

What is found is saved beside other findings, and the files given stay as they are. The exit code is 100 if a case fails, 0
if none does (any more), 3 if some could not be run, 4 if none could.")]
struct ShrinkArgs {
    /// Files or folders of findings, inputs of a fuzz target, or a case in one line
    #[arg(required = true, value_name = "PATH|CASE")]
    what: Vec<String>,
    /// Kernel for cases, and for findings and inputs instead of their own
    #[arg(long, value_name = "KERNEL")]
    kernel: Option<String>,
    #[command(flatten)]
    backend: BackendArgs,
    #[command(flatten)]
    isolation: IsolationArgs,
    /// Shrink by what these tools of compute-sanitizer say, on a GPU, instead of results [tools if none are named:
    /// memcheck,racecheck,initcheck,synccheck]
    #[arg(long, value_name = "TOOL,..", num_args = 0..=1, require_equals = true, default_missing_value = EVERY_TOOL, value_delimiter = ',')]
    sanitize: Vec<Tool>,
    /// Executions that each may be shrunk with [default: 10000, under compute-sanitizer 200]
    #[arg(long, value_name = "N")]
    max_shrink: Option<u32>,
    /// Folder that findings are saved below
    #[arg(long, value_name = "DIR", default_value = "proptest-regressions")]
    regressions: PathBuf,
    /// How to tell what happens
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
}

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  attnfuzz cases gqa_decode --cases 5
  attnfuzz cases gqa_decode --cases 10000 --statistics")]
struct CasesArgs {
    /// A shipped kernel's name or the path of a kernel.toml
    kernel: String,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 20)]
    cases: u64,
    /// Which campaign's
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Print how often each feature occurs instead of the cases
    #[arg(long)]
    statistics: bool,
    /// Write a corpus for the fuzz target attention_diff into this folder instead: model presets, and of the cases, made
    /// small, those that reach what no cheaper one reaches
    #[arg(long, value_name = "DIR", conflicts_with = "statistics")]
    seeds: Option<PathBuf>,
}

#[derive(clap::Args)]
struct ShowArgs {
    /// A case in one line, the path of a finding, a shipped kernel's name or the path of a kernel.toml
    case: String,
    /// Write inputs, the reference's output and (with --kernel) the kernel's output as safetensors into this folder
    #[arg(long, value_name = "DIR")]
    dump: Option<PathBuf>,
    /// Run the case on this kernel and say the verdict [default: the finding's kernel]
    #[arg(long, value_name = "KERNEL")]
    kernel: Option<String>,
    #[command(flatten)]
    backend: BackendArgs,
}

#[derive(clap::Args)]
struct CompileArgs {
    /// Names of shipped kernels (in a source tree), or paths of manifests
    #[arg(required = true)]
    kernels: Vec<String>,
    /// Write nothing; say whether the stored PTX is what the source compiles to
    #[arg(long)]
    check: bool,
}

/// A message for the user, and the exit code that goes with it.
struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    fn usage(message: impl ToString) -> Self {
        Self { exit: Exit::Usage, message: message.to_string() }
    }
}

/// Runs the program with `args` (the program's name first) and says how it ended.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    // A reader that has seen enough, such as head, ends the program instead of making it panic.
    sigpipe::reset();
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => {
            // --help and --version come here too; only real errors count as usage.
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Clean };
            let _ = error.print();
            return exit.into();
        }
    };
    let result = match cli.command {
        None => fuzz::run(&fuzz::short_campaign(), &args),
        Some(Command::Fuzz(fuzz)) => fuzz::run(&fuzz, &args),
        Some(Command::Replay(args)) => replay::run(&args),
        Some(Command::RuleOut(args)) => rule_out::run(&args),
        Some(Command::Shrink(args)) => shrink::run(&args),
        Some(Command::Mutate(args)) => mutate::run(&args),
        Some(Command::Coverage(args)) => coverage::run(&args),
        Some(Command::Corpus(args)) => corpus::run(&args),
        Some(Command::Cases(args)) => cases::run(&args),
        Some(Command::Show(args)) => show::run(&args),
        Some(Command::Kernels) => kernels::run(),
        Some(Command::Doctor) => doctor::run(),
        Some(Command::Init(args)) => init::run(&args),
        Some(Command::Check(args)) => check::run(&args),
        Some(Command::Compile(args)) => compile::run(&args),
        Some(Command::Emulate(args)) => emulate::run(&args),
        Some(Command::Worker(args)) => worker::run(&args),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("error: {}", failure.message);
            failure.exit.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_of_a_gpu_has_more_cases_under_way_than_processors() {
        let jobs = |jobs, isolate| {
            let isolation = IsolationArgs { isolate, case_timeout: CASE_TIMEOUT.into() };
            let Jobs { emulator, gpu } = DrawArgs { seed: 0, jobs }.jobs_by_kind(&isolation);
            (emulator, gpu)
        };
        assert_eq!(jobs(Some(3), IsolateChoice::Auto), (3, 3));
        let (processors, ahead) = jobs(None, IsolateChoice::Auto);
        assert_eq!(ahead, 4 * processors);
        assert_eq!(jobs(None, IsolateChoice::No), (processors, processors));
    }

    #[test]
    fn devices_are_indices_or_all() {
        assert_eq!("all".parse(), Ok(Devices::All));
        assert_eq!("2".parse(), Ok(Devices::These { first: 2, rest: vec![] }));
        assert_eq!("1,0,3".parse(), Ok(Devices::These { first: 1, rest: vec![0, 3] }));
        for wrong in ["", "0,", "-1", "0 1", "all,0", "gpu"] {
            let error = wrong.parse::<Devices>().unwrap_err();
            assert!(error.starts_with("expected indices of GPUs") && error.contains(wrong), "{error}");
        }
        assert_eq!("0,1,0".parse::<Devices>(), Err("GPU 0 is named twice in \"0,1,0\"".into()));
    }
}
