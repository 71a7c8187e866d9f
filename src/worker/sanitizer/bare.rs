//! The worker in the tool: runs cases and judges nothing.

use crate::backend::{BackendError, Kernel};
use crate::case::Case;
use crate::worker::message::{MARK, read_line};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// What it answers to each line.
type Answer = Result<(), BackendError>;

/// The first thing it says.
#[derive(Serialize, Deserialize)]
struct Ready {
    ready: bool,
}

/// Runs the cases on `input`, one a line, with `run`, and says of each on `output` whether it ran. Ends the process when one
/// takes longer than `limit`.
///
/// # Errors
/// `input` or `output` can't be used.
pub fn serve_bare(
    kernel: &Kernel,
    limit: Duration,
    mut run: impl FnMut(&Kernel, &Case) -> Answer,
    mut input: impl BufRead,
    mut output: impl Write,
) -> io::Result<()> {
    say(&mut output, &Ready { ready: true })?;
    let (alive, watched) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        loop {
            match watched.recv_timeout(limit) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => std::process::abort(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    });
    while let Some(line) = read_line(&mut input)? {
        let case = line.parse::<Case>();
        let case = case.map_err(|error| BackendError::Internal(format!("a worker can't read a case: {error}")));
        say(&mut output, &case.and_then(|case| run(kernel, &case)))?;
        // The watch has ended only if the process is ending.
        let _ = alive.send(());
    }
    Ok(())
}

fn say(output: &mut impl Write, what: &impl Serialize) -> io::Result<()> {
    output.write_all(format!("\n{MARK}{}\n", serde_json::to_string(what)?).as_bytes())?;
    output.flush()
}

/// How far a worker came.
pub(super) enum Ran {
    /// It never started.
    NotAtAll,
    /// It ended before it was done.
    Partly,
    /// Of each case, whether it ran.
    Whole(Vec<Answer>),
}

/// What a worker said of so many cases.
pub(super) fn answers(text: &str, cases: usize) -> Ran {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(MARK));
    if lines.next().is_none_or(|first| serde_json::from_str::<Ready>(first).is_err()) {
        return Ran::NotAtAll;
    }
    let answers: Vec<Answer> = lines.map_while(|line| serde_json::from_str(line).ok()).collect();
    if answers.len() == cases { Ran::Whole(answers) } else { Ran::Partly }
}
