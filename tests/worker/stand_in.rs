//! A worker that misbehaves, played by this test program: [`launch`] starts it with the one "test" below.

use attnfuzz::backend::{Backend, BackendError, BackendKind, Emulator, Kernel, Run};
use attnfuzz::case::Case;
use attnfuzz::outcome::{Fault, FaultKind, Outcome};
use attnfuzz::worker::{Pace, serve};
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

const MODE: &str = "ATTNFUZZ_TEST_STAND_IN";
const FILE: &str = "ATTNFUZZ_TEST_STAND_IN_FILE";

/// What the stand-in does when it meets a case of more than four query heads a KV head.
pub(super) const MODES: [&str; 17] = [
    "abort",
    "exit",
    "hang",
    "spoil",
    "abort-once",
    "sick",
    "sick-later",
    "sick-alike",
    "panic",
    "killed",
    "garbage",
    "twice",
    "other-case",
    "silence",
    "late",
    "suffers",
    "wrong",
];

/// The command that starts a stand-in with so many threads. `file` is where it may remember something.
pub(super) fn launch(mode: &'static str, file: &Path) -> impl Fn(usize) -> Command + Send + Sync + 'static {
    assert!(MODES.contains(&mode));
    let file = file.to_owned();
    move |threads| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "worker::stand_in::play", "--nocapture"]);
        command.env(MODE, format!("{mode} {threads}")).env(FILE, &file);
        command
    }
}

#[test]
#[ignore = "the part of the worker in the tests beside it, which start it"]
fn play() {
    let Ok(mode) = std::env::var(MODE) else { return };
    let (mode, threads) = mode.split_once(' ').unwrap();
    let alone = threads == "1";
    let hostile = Hostile { mode: mode.into(), alone, spoiled: AtomicBool::new(false) };
    let output = Mangled(mode.into());
    let pace = Pace { threads: threads.parse().unwrap(), ahead: 1 };
    serve(Ok(hostile), pace, io::stdin().lock(), output).unwrap();
}

/// Deaths after which the devices of `sick-later` and `sick-alike` get nothing right any more.
const DEATHS: u64 = 20;

/// Set once a case of more than four query heads was met.
static MET: AtomicBool = AtomicBool::new(false);

struct Hostile {
    mode: String,
    alone: bool,
    spoiled: AtomicBool,
}

impl Backend for Hostile {
    fn kind(&self) -> BackendKind {
        BackendKind::Cuda
    }

    fn describe(&self) -> String {
        "stand-in".into()
    }

    fn run(&self, kernel: &Kernel, case: &Case, run: Run) -> Result<Outcome, BackendError> {
        let file = std::env::var_os(FILE).unwrap();
        if self.mode == "sick" && Path::new(&file).exists() {
            std::process::abort();
        }
        let deaths = std::fs::metadata(&file).map_or(0, |file| file.len());
        if self.mode == "sick-later" && deaths >= DEATHS {
            std::process::exit(7);
        }
        if self.mode == "sick-alike" && deaths >= DEATHS {
            std::process::abort();
        }
        if self.spoiled.load(Ordering::SeqCst) {
            return Err(BackendError::Unavailable("spoiled".into()));
        }
        if case.shape.q_per_kv <= 4 {
            return Emulator.run(kernel, case, run);
        }
        MET.store(true, Ordering::SeqCst);
        match &*self.mode {
            "abort" => {
                io::stderr().write_all(b"the device fell off the bus\n").unwrap();
                std::process::abort()
            }
            "sick-later" | "sick-alike" => {
                let mut file = std::fs::File::options().append(true).create(true).open(file).unwrap();
                file.write_all(b"x").unwrap();
                std::process::abort()
            }
            "exit" => std::process::exit(3),
            "hang" => loop {
                std::thread::park();
            },
            "spoil" => {
                self.spoiled.store(true, Ordering::SeqCst);
                Ok(Outcome::Fault(Fault::new(FaultKind::OutOfBounds, "illegal address")))
            }
            "abort-once" | "sick" if !Path::new(&file).exists() => {
                std::fs::write(file, "met").unwrap();
                std::process::abort()
            }
            "suffers" if !self.alone => Ok(spoilt(Emulator.run(kernel, case, run)?)),
            "wrong" => Ok(spoilt(Emulator.run(kernel, case, run)?)),
            "panic" => panic!("a bug of this program"),
            "killed" => {
                Command::new("kill").args(["-9", &std::process::id().to_string()]).status().unwrap();
                loop {
                    std::thread::park();
                }
            }
            _ => Emulator.run(kernel, case, run),
        }
    }

    fn lost(&self) -> Option<String> {
        self.spoiled.load(Ordering::SeqCst).then(|| "spoiled".into())
    }
}

/// With another number in the first element.
fn spoilt(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Output(mut output) => {
            let value = output.out[0].value(0);
            output.out[0].set_values(0, &[value + 1e3]);
            Outcome::Output(output)
        }
        fault @ Outcome::Fault(_) => fault,
    }
}

/// The worker's output, which says something else once a case of more than four query heads was met.
struct Mangled(String);

impl Write for Mangled {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        let mut out = io::stdout().lock();
        match &*self.0 {
            mode if !MET.swap(false, Ordering::SeqCst) || mode.is_empty() => out.write_all(message)?,
            // A kernel may print what it likes.
            "garbage" => out.write_all(b"\xff printed by a kernel\n@{\"answer\":{\"number\":\n")?,
            "twice" => out.write_all(&[message, message].concat())?,
            "other-case" => {
                let text = String::from_utf8_lossy(message).replace("\"case\":\"", "\"case\":\"0");
                out.write_all(text.as_bytes())?;
            }
            "silence" => {}
            "late" => {
                let mut later = Command::new("sh");
                later.args(["-c", "sleep 6; cat"]).stdin(Stdio::piped());
                let mut later = later.spawn()?;
                later.stdin.take().unwrap().write_all(message)?;
            }
            _ => out.write_all(message)?,
        }
        out.flush()?;
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
