//! Cases under NVIDIA's `compute-sanitizer`, which sees on hardware what no result shows.
//!
//! The tool is started with a worker in it (`attnfuzz worker --bare`, [`serve_bare`]) that runs a few cases, each tensor an
//! allocation of its own that is as large and initialised just where the case says so. When it has ended, its log is read. It is
//! ten to a hundred times slower than the GPU alone, and most of that is its start: cases that are probably right go together,
//! and one by one only where something was found.

mod bare;
mod log;

pub use bare::serve_bare;

use self::bare::Ran;
use crate::backend::{BackendError, BackendKind, Kernel};
use crate::case::Case;
use crate::oracle::{Agreement, Examined, Examiner, Verdict};
use crate::outcome::{Fault, Outcome};
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// How many times longer a case may take than without the tool.
const SLOWDOWN: u32 = 20;
/// How long the tool and the worker may take to start and to end.
const START_LIMIT: Duration = Duration::from_secs(120);
/// Names a tool where it is not found by itself.
const VARIABLE: &str = "ATTNFUZZ_COMPUTE_SANITIZER";
/// Characters of the tool's and the worker's last words that are kept.
const WORDS: usize = 300;

/// What `compute-sanitizer` looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// Accesses out of bounds and misaligned, in global, shared and local memory.
    Memcheck,
    /// Races in shared memory.
    Racecheck,
    /// Reads of global memory that nothing has written.
    Initcheck,
    /// Barriers that not all threads reach.
    Synccheck,
}

impl Tool {
    /// Every tool, the quickest first.
    pub const ALL: [Self; 4] = [Self::Memcheck, Self::Racecheck, Self::Initcheck, Self::Synccheck];

    /// What `--tool` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memcheck => "memcheck",
            Self::Racecheck => "racecheck",
            Self::Initcheck => "initcheck",
            Self::Synccheck => "synccheck",
        }
    }

    /// Its options. Calls of the driver are not the kernel's, and a race's hazards tell threads where the analysis doesn't.
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Memcheck => &["--report-api-errors", "no"],
            Self::Racecheck => &["--racecheck-report", "all"],
            Self::Initcheck | Self::Synccheck => &[],
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Tool {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let expected = || format!("expected some of {}, found {name:?}", Self::ALL.map(Self::name).join(", "));
        Self::ALL.into_iter().find(|tool| tool.name() == name).ok_or_else(expected)
    }
}

/// A device whose cases run under `compute-sanitizer`.
pub struct Sanitizer {
    program: PathBuf,
    tools: Vec<Tool>,
    kind: BackendKind,
    device: String,
    limit: Duration,
    worker: Box<Words>,
}

/// Program and arguments of the worker for a kernel, and what a case may take.
type Words = dyn Fn(&Kernel, Duration) -> Vec<OsString> + Send + Sync;

/// The mark of what a [`Sanitizer`] found, in the description of its device.
const UNDER: &str = " under compute-sanitizer";

/// Whether a finding of the device with this description was found by a [`Sanitizer`].
pub fn is_sanitized(device: &str) -> bool {
    device.contains(UNDER)
}

/// What one run of the tool tells.
struct Told {
    fault: Option<Fault>,
    /// Of each case, whether it ran.
    ran: Vec<Result<(), BackendError>>,
}

impl Sanitizer {
    /// The file of `compute-sanitizer`: what `ATTNFUZZ_COMPUTE_SANITIZER` names, else in `PATH` or a CUDA toolkit.
    ///
    /// # Errors
    /// Where it is not.
    pub fn find() -> Result<PathBuf, String> {
        if let Some(named) = std::env::var_os(VARIABLE) {
            let named = PathBuf::from(named);
            let missing = || format!("compute-sanitizer is not installed: {VARIABLE} names {}", named.display());
            return if named.is_file() { Ok(named) } else { Err(missing()) };
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
        let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
        let mut toolkits: Vec<PathBuf> = std::fs::read_dir("/usr/local").map_or_else(
            |_| Vec::new(),
            |items| items.filter_map(|item| Some(item.ok()?.path())).filter(|path| is_toolkit(path)).collect(),
        );
        // The newest first: their names end in a version.
        toolkits.sort();
        let toolkits = homes.chain(toolkits.into_iter().rev());
        folders.extend(toolkits.flat_map(|toolkit| [toolkit.join("bin"), toolkit.join("compute-sanitizer")]));
        let files = folders.iter().map(|folder| folder.join("compute-sanitizer"));
        files.into_iter().find(|file| file.is_file()).ok_or_else(|| {
            format!("compute-sanitizer is not installed: it is not in PATH, CUDA_HOME, CUDA_PATH or /usr/local/cuda*, and {VARIABLE} is not set")
        })
    }

    /// The tools of `program` on a device of this kind and description. `worker` gives program and arguments of a worker
    /// that runs the cases on its standard input ([`serve_bare`]) on that device and gives none more time than it is told.
    /// `limit` is what a case may take without the tool.
    pub fn new(
        program: PathBuf,
        tools: Vec<Tool>,
        (kind, device): (BackendKind, &str),
        limit: Duration,
        worker: impl Fn(&Kernel, Duration) -> Vec<OsString> + Send + Sync + 'static,
    ) -> Self {
        let names = tools.iter().map(|tool| tool.name()).collect::<Vec<_>>().join(", ");
        let device = format!("{device}{UNDER} ({names})");
        Self { program, tools, kind, device, limit, worker: Box::new(worker) }
    }

    /// Of each case, what some tool found wrong with it, or why it could not be looked at by all of them.
    pub fn check_each(&self, kernel: &Kernel, cases: &[Case]) -> Vec<Result<Option<Fault>, BackendError>> {
        let mut told: Vec<Result<Option<Fault>, BackendError>> = vec![Ok(None); cases.len()];
        for &tool in &self.tools {
            let open: Vec<usize> = (0..cases.len()).filter(|&index| told[index] == Ok(None)).collect();
            let together: Vec<&Case> = open.iter().map(|&index| &cases[index]).collect();
            let first = if together.len() > 1 { self.run(tool, kernel, &together) } else { Err(None) };
            match first {
                Ok(Told { fault: None, ran }) => {
                    let failed = open.iter().zip(ran).filter_map(|(&index, ran)| Some((index, ran.err()?)));
                    failed.for_each(|(index, why)| told[index] = Err(why));
                }
                // The tool itself can't be used: asking again for each case would not help.
                Err(Some(why)) => open.iter().for_each(|&index| told[index] = Err(why.clone())),
                Ok(Told { fault: Some(_), .. }) | Err(None) => {
                    for index in open {
                        told[index] = match self.run(tool, kernel, &[&cases[index]]) {
                            Ok(Told { fault: Some(fault), .. }) => Ok(Some(fault)),
                            Ok(Told { fault: None, ran }) => ran.into_iter().collect::<Result<(), _>>().map(|()| None),
                            Err(why) => Err(why.unwrap_or_else(|| {
                                BackendError::TooSlow(format!(
                                    "compute-sanitizer {tool}: the worker ended before the case was done"
                                ))
                            })),
                        };
                    }
                }
            }
        }
        told
    }

    /// Runs cases under one tool. The error is nothing if the worker had started and did not come to its end: then
    /// one of the cases is the reason.
    fn run(&self, tool: Tool, kernel: &Kernel, cases: &[&Case]) -> Result<Told, Option<BackendError>> {
        let unusable =
            |why: &dyn fmt::Display| Some(BackendError::Unavailable(format!("compute-sanitizer {tool}: {why}")));
        let io = |error: io::Error| unusable(&error);
        let folder = tempfile::tempdir().map_err(io)?;
        let file = |name: &str| {
            File::options().read(true).write(true).create(true).truncate(true).open(folder.path().join(name))
        };
        let (mut questions, mut answers, mut errors) =
            (file("questions").map_err(io)?, file("answers").map_err(io)?, file("errors").map_err(io)?);
        for case in cases {
            writeln!(questions, "{case}").map_err(io)?;
        }
        questions.seek(SeekFrom::Start(0)).map_err(io)?;
        let of_case = self.limit * SLOWDOWN;
        let log = folder.path().join("log");
        let mut command = Command::new(&self.program);
        command.args(["--tool", tool.name()]).args(tool.options()).arg("--log-file").arg(&log);
        command.args((self.worker)(kernel, of_case));
        // An interrupt from the terminal is for the campaign.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.stdin(questions);
        command.stdout(answers.try_clone().map_err(io)?).stderr(errors.try_clone().map_err(io)?);
        let status = wait(command, START_LIMIT + of_case * cases.len() as u32).map_err(io)?;
        let answers = text(&mut answers).map_err(io)?;
        let errors = text(&mut errors).map_err(io)?;
        let printed = std::fs::read(&log).unwrap_or_default();
        let log = log::read(&format!("{}\n{answers}\n{errors}", String::from_utf8_lossy(&printed)));
        let ran = bare::answers(&answers, cases.len());
        if let Some(fault) = log.faults.into_iter().next() {
            let detail = format!("{tool}: {}", fault.detail);
            return Ok(Told { fault: Some(Fault { detail, ..fault }), ran: Vec::new() });
        }
        match (log.errors, ran) {
            (Some(0), Ran::Whole(ran)) => Ok(Told { fault: None, ran }),
            (_, Ran::Partly) => Err(None),
            (errors_told, _) => {
                let what = match errors_told {
                    Some(n) => format!("it counts {n} errors and tells none of the kernel"),
                    None => "it did not come to its end".into(),
                };
                let ended = status.map_or_else(|| "it was ended".into(), |status| status.to_string());
                let words = [&log.others.join("; "), errors.trim(), answers.trim()].join(" / ");
                let words: String = words.chars().take(WORDS).collect();
                Err(unusable(&format!("{what} ({ended}); its last words: {words}")))
            }
        }
    }
}

fn is_toolkit(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("cuda"))
}

/// Waits for a process to end; nothing if it had to be ended.
fn wait(mut command: Command, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let mut child = command.spawn()?;
    let start = Instant::now();
    while start.elapsed() < limit {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // What it has started ends by itself: a worker gives no case more time than it was told.
    child.kill()?;
    child.wait()?;
    Ok(None)
}

fn text(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Agrees with what no tool complains about: nothing is said of values.
impl Examiner for Sanitizer {
    fn kind(&self) -> BackendKind {
        self.kind
    }

    fn describe(&self) -> String {
        self.device.clone()
    }

    fn examine(&self, kernel: &Kernel, case: &Case) -> Result<Examined, BackendError> {
        let told = self.check_each(kernel, std::slice::from_ref(case)).pop().unwrap_or(Ok(None))?;
        Ok(Examined::plain(told.map_or(Verdict::Agree(Agreement::default()), Verdict::Fault)))
    }

    fn run_first(&self, _: &Kernel, _: &Case) -> Result<Outcome, BackendError> {
        Err(BackendError::Unsupported("what a case leaves under compute-sanitizer is not looked at".into()))
    }
}
