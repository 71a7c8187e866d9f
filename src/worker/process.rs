//! One worker process: its birth, questions under way, and how it ended.

use super::message::{Answer, MARK, Message, PROTOCOL, Question, read_line};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::{self, BufRead, BufReader, PipeWriter, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a worker may take until it can be asked. A GPU's driver may take its time.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long to wait for a process that ended, or was killed, to be gone, and for its last words.
const END_LIMIT: Duration = Duration::from_secs(5);
/// Lines of a worker's other output that are kept, and characters of each.
const LAST_WORDS: (usize, usize) = (6, 300);

/// The kind of the deaths of workers that had to be killed because they did not answer in time.
pub(super) const NO_ANSWER: &str = "no answer";

/// A worker process. Ends with this value.
pub(super) struct Process {
    input: Mutex<PipeWriter>,
    state: Arc<State>,
    /// What it runs kernels on.
    pub(super) device: String,
}

/// What the threads of a worker's owner and the reader of its output share.
struct State {
    child: Mutex<Child>,
    asked: Mutex<Asked>,
    last_words: Mutex<VecDeque<String>>,
}

/// The questions under way.
enum Asked {
    Open { next: u64, waiting: HashMap<u64, (String, Sender<Answer>)> },
    Ended(Arc<Death>),
}

/// How a worker ended.
#[derive(Debug)]
pub(super) struct Death {
    pub(super) cause: Cause,
    /// What it printed last.
    last_words: String,
    /// Cases that were under way in it and have not been run again yet.
    unsettled: AtomicUsize,
    /// Whether one of them was found guilty.
    settled: AtomicBool,
}

/// Why a worker ended.
#[derive(Clone, Debug)]
pub(super) enum Cause {
    /// The process ended.
    Exited(ExitStatus),
    /// It was killed because it did not answer within this time.
    TimedOut(Duration),
    /// Its device can't be used any more, as it said with this answer.
    Lost(Box<Answer>),
    /// What it said made no sense.
    Nonsense(String),
    /// It was not needed any more.
    Dropped,
}

/// What came of a question.
pub(super) enum Reply {
    /// An answer.
    Answer(Box<Answer>),
    /// The worker ended with the question under way.
    Died(Arc<Death>),
    /// The worker had ended before.
    Gone,
}

impl Process {
    /// Starts a worker and waits until it can be asked.
    ///
    /// # Errors
    /// Why there is none: the program can't be started, or there is no device.
    pub(super) fn start(mut command: Command) -> Result<Self, String> {
        // An interrupt from the terminal is for the owner, who may still have use for its workers.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let program = command.get_program().to_string_lossy().into_owned();
        let no_worker = |why: &dyn fmt::Display| format!("the worker process {program} can't be used: {why}");
        let (questions, input) = io::pipe().map_err(|error| no_worker(&error))?;
        command.stdin(questions.try_clone().map_err(|error| no_worker(&error))?);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| no_worker(&error))?;
        let (output, errors) = (child.stdout.take(), child.stderr.take());
        let asked = Asked::Open { next: 0, waiting: HashMap::new() };
        let (child, asked, last_words) = (Mutex::new(child), Mutex::new(asked), Mutex::default());
        let state = Arc::new(State { child, asked, last_words });
        let (greet, greeting) = mpsc::channel();
        // Its end tells that all last words are in.
        let (ended, words_end) = mpsc::channel::<()>();
        let (reader, listener) = (state.clone(), state.clone());
        if let (Some(output), Some(errors)) = (output, errors) {
            std::thread::spawn(move || listener.listen(errors, ended));
            std::thread::spawn(move || {
                reader.read(BufReader::new(output), greet, &words_end);
                // As long as somebody can read, nobody who asks a dead worker is blocked, or killed by SIGPIPE.
                io::copy(&mut { questions }, &mut io::sink())
            });
        }
        let mut process = Self { input: Mutex::new(input), state, device: String::new() };
        match greeting.recv_timeout(START_LIMIT) {
            Ok(Message::Ready { protocol: PROTOCOL, device }) => {
                process.device = device;
                Ok(process)
            }
            Ok(Message::Ready { protocol, .. }) => {
                Err(no_worker(&format!("expected messages of version {PROTOCOL}, found {protocol}")))
            }
            Ok(Message::Unavailable(why)) => Err(why),
            Ok(Message::Answer(_)) => Err(no_worker(&"it answered before it was asked")),
            Err(RecvTimeoutError::Timeout) => {
                Err(no_worker(&format!("it was not ready within {} s", START_LIMIT.as_secs())))
            }
            Err(RecvTimeoutError::Disconnected) => {
                let death = process.state.end(Cause::Dropped);
                Err(no_worker(&format!("it ended before it was ready: {death}")))
            }
        }
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&self) -> bool {
        matches!(&*lock(&self.state.asked), Asked::Ended(_))
    }

    /// Asks, and waits for the answer; a worker that takes longer than `limit` is killed. `question` makes the question
    /// with this number, about the case of this name.
    pub(super) fn ask(&self, question: impl FnOnce(u64) -> Question, case: String, limit: Duration) -> Reply {
        let (sender, receiver) = mpsc::channel();
        let number = match &mut *lock(&self.state.asked) {
            Asked::Ended(_) => return Reply::Gone,
            Asked::Open { next, waiting } => {
                *next += 1;
                waiting.insert(*next, (case, sender));
                *next
            }
        };
        let line = serde_json::to_string(&question(number)).unwrap_or_default() + "\n";
        // A worker that reads no more has ended or will be found to hang.
        let _ = lock(&self.input).write_all(line.as_bytes());
        match receiver.recv_timeout(limit) {
            Ok(answer) => Reply::Answer(Box::new(answer)),
            Err(RecvTimeoutError::Timeout) => Reply::Died(self.state.end(Cause::TimedOut(limit))),
            Err(RecvTimeoutError::Disconnected) => Reply::Died(self.state.end(Cause::Dropped)),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.state.end(Cause::Dropped);
    }
}

impl State {
    /// Reads what the worker says until it ends.
    fn read(&self, mut output: impl BufRead, greet: Sender<Message>, words_end: &mpsc::Receiver<()>) {
        let mut greet = Some(greet);
        let cause = loop {
            let line = match read_line(&mut output) {
                Ok(Some(line)) => line,
                Ok(None) => break None,
                Err(error) => break Some(Cause::Nonsense(error.to_string())),
            };
            let Some(message) = line.strip_prefix(MARK) else {
                self.heard(&line);
                continue;
            };
            match (serde_json::from_str(message), &mut greet) {
                (Ok(Message::Answer(answer)), _) => {
                    if let Err(cause) = self.answered(*answer) {
                        break Some(cause);
                    }
                }
                (Ok(message), greeted @ Some(_)) => {
                    // Nobody waits for a greeting that came too late.
                    greeted.take().map(|greet| greet.send(message));
                }
                (Ok(_), None) => break Some(Cause::Nonsense("it greeted twice".into())),
                (Err(error), _) => break Some(Cause::Nonsense(format!("{error}: {}", shortened(message)))),
            }
        };
        let cause = cause.unwrap_or_else(|| self.ended_by_itself());
        let _ = lock(&self.child).kill();
        let _ = words_end.recv_timeout(END_LIMIT);
        self.end(cause);
    }

    /// Hands an answer to who waits for it, unless it means that the worker can't go on: then its question counts as under
    /// way when the worker ended, as all others do.
    fn answered(&self, answer: Answer) -> Result<(), Cause> {
        if answer.is_last() {
            return Err(Cause::Lost(Box::new(answer)));
        }
        if let Asked::Open { waiting, .. } = &mut *lock(&self.asked) {
            let case = waiting.get(&answer.number).map(|(case, _)| case);
            if case != Some(&answer.case) {
                let asked = case.map_or("nothing".into(), |case| format!("the case {case}"));
                let (number, found) = (answer.number, &answer.case);
                return Err(Cause::Nonsense(format!(
                    "question {number} was about {asked}, the answer about {found:?}"
                )));
            }
            if let Some((_, sender)) = waiting.remove(&answer.number) {
                // Who asked may have given up in this moment.
                let _ = sender.send(answer);
            }
        }
        Ok(())
    }

    /// Keeps what the worker prints besides its messages.
    fn listen(&self, errors: impl Read, _ended: Sender<()>) {
        let mut errors = BufReader::new(errors);
        while let Ok(Some(line)) = read_line(&mut errors) {
            self.heard(&line);
        }
    }

    fn heard(&self, line: &str) {
        if line.trim().is_empty() {
            return;
        }
        let mut words = lock(&self.last_words);
        words.push_back(shortened(line.trim_end()));
        if words.len() > LAST_WORDS.0 {
            words.pop_front();
        }
    }

    /// The worker says nothing any more: usually because it ended.
    fn ended_by_itself(&self) -> Cause {
        let start = Instant::now();
        while start.elapsed() < END_LIMIT {
            match lock(&self.child).try_wait() {
                Ok(Some(status)) => return Cause::Exited(status),
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                Err(error) => return Cause::Nonsense(error.to_string()),
            }
        }
        Cause::Nonsense("it closed its output and went on".into())
    }

    /// Ends the worker if it still runs, and tells everybody who waits. Only the first cause counts.
    fn end(&self, cause: Cause) -> Arc<Death> {
        let (death, _waiting) = {
            let mut asked = lock(&self.asked);
            let waiting = match &mut *asked {
                Asked::Ended(death) => return death.clone(),
                Asked::Open { waiting, .. } => std::mem::take(waiting),
            };
            let death = Arc::new(Death {
                cause,
                last_words: Vec::from(lock(&self.last_words).clone()).join(" / "),
                unsettled: AtomicUsize::new(waiting.len()),
                settled: AtomicBool::new(false),
            });
            *asked = Asked::Ended(death.clone());
            (death, waiting)
        };
        let mut child = lock(&self.child);
        // Neither can fail in a way that matters: a process that is gone is what is wanted.
        let _ = child.kill();
        let start = Instant::now();
        // A process that the driver holds in the kernel is left behind: it can't be waited for.
        while matches!(child.try_wait(), Ok(None)) && start.elapsed() < END_LIMIT {
            std::thread::sleep(Duration::from_millis(1));
        }
        death
    }
}

impl Death {
    /// To be called once for each case that was under way, after it was run again: whether it was the last, and none of
    /// them was guilty.
    pub(super) fn settle(&self, guilty: bool) -> bool {
        self.settled.fetch_or(guilty, Ordering::SeqCst);
        self.unsettled.fetch_sub(1, Ordering::SeqCst) == 1 && !self.settled.load(Ordering::SeqCst)
    }
}

impl Death {
    /// What the deaths of one bug have in common: how the process ended, or what it said its device did.
    pub(super) fn kind(&self) -> String {
        match &self.cause {
            Cause::Exited(status) => status.to_string(),
            Cause::TimedOut(_) => NO_ANSWER.into(),
            Cause::Lost(answer) => answer.kind(),
            Cause::Nonsense(_) => "nonsense".into(),
            Cause::Dropped => "ended".into(),
        }
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Exited(status) => write!(f, "the process that ran it ended with {status}")?,
            Cause::TimedOut(limit) => write!(f, "no answer within {:.1} s", limit.as_secs_f64())?,
            Cause::Lost(answer) => f.write_str(&answer.what())?,
            Cause::Nonsense(what) => write!(f, "the worker process spoke nonsense: {what}")?,
            Cause::Dropped => f.write_str("the worker process was ended")?,
        }
        if self.last_words.is_empty() { Ok(()) } else { write!(f, "; its last words: {}", self.last_words) }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(LAST_WORDS.1).collect()
}

/// Takes a lock whose data stays good even if a thread panicked while it held it.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
