//! The worker's side: answers questions until there are no more.

use super::message::{Answer, Findings, Message, PROTOCOL, Question, Wanted, read_line, write_message};
use super::process::lock;
use crate::backend::{Backend, BackendError, Kernel};
use crate::case::Case;
use crate::oracle::{Agreement, Examined, Examiner, UnderWay, Verdict, caught};
use crate::outcome::Outcome;
use std::collections::{HashMap, VecDeque};
use std::io::{self, BufRead, Write};
use std::sync::{Arc, Mutex, TryLockError, mpsc};

/// How many cases are under way at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Threads that judge.
    pub threads: usize,
    /// Cases that each of them begins before it finishes the first.
    pub ahead: usize,
}

/// Answers the questions on `input` on `output` until `input` ends; what is under way then is given up. `backend` is what
/// kernels run on, or why there is nothing: then that is all it says.
///
/// # Errors
/// `input` or `output` can't be used, or what is on `input` is no question.
pub fn serve<B: Backend + 'static>(
    backend: Result<B, String>,
    pace: Pace,
    mut input: impl BufRead,
    mut output: impl Write + Send + 'static,
) -> io::Result<()> {
    let backend = match backend {
        Ok(backend) => backend,
        Err(why) => return write_message(&mut output, &Message::Unavailable(why)),
    };
    let ready = Message::Ready { protocol: PROTOCOL, device: Backend::describe(&backend) };
    write_message(&mut output, &ready)?;
    let (sender, receiver) = mpsc::channel::<Question>();
    let (receiver, output) = (Mutex::new(receiver), Mutex::new(output));
    let shared = Arc::new((backend, Kernels::default(), receiver, output));
    for _ in 0..pace.threads.max(1) {
        let shared = shared.clone();
        // Not waited for: a thread may be stuck in a kernel that hangs.
        std::thread::spawn(move || {
            let (backend, kernels, receiver, output) = &*shared;
            let mut under_way = VecDeque::new();
            loop {
                let question =
                    if under_way.len() < pace.ahead.max(1) { next(receiver, under_way.is_empty()) } else { None };
                if let Some(question) = question {
                    under_way.push_back(Asked::begin(backend, kernels, question));
                    continue;
                }
                let Some(asked) = under_way.pop_front() else { break };
                // Before the output is locked: others have answers too.
                let answer = Message::Answer(Box::new(asked.answer()));
                if write_message(&mut *lock(output), &answer).is_err() {
                    // Nobody listens any more.
                    break;
                }
            }
        });
    }
    while let Some(line) = read_line(&mut input)? {
        sender.send(serde_json::from_str(&line)?).map_err(io::Error::other)?;
    }
    Ok(())
}

/// The next question; none if there are no more, or none now and the thread has something else to do than `wait`.
fn next(receiver: &Mutex<mpsc::Receiver<Question>>, wait: bool) -> Option<Question> {
    if wait {
        return lock(receiver).recv().ok();
    }
    // Whoever holds the lock waits for a question.
    match receiver.try_lock() {
        Ok(receiver) => receiver.try_recv().ok(),
        Err(TryLockError::Poisoned(receiver)) => receiver.into_inner().try_recv().ok(),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// A question that is being answered.
struct Asked<'b, B> {
    backend: &'b B,
    question: Question,
    /// Name of its case, once that could be read.
    case: String,
    begun: Result<(Arc<Kernel>, Case, Option<UnderWay<'b>>), BackendError>,
}

impl<'b, B: Backend> Asked<'b, B> {
    fn begin(backend: &'b B, kernels: &Kernels, question: Question) -> Self {
        let mut name = String::new();
        let begun = kernels.open(&question).and_then(|kernel| {
            let case = question.case.parse::<Case>();
            let case = case.map_err(|error| BackendError::Internal(format!("a worker can't read a case: {error}")))?;
            name = case.id().to_string();
            let begins = question.wanted != Wanted::FirstRun;
            let under_way = caught(|| Ok(begins.then(|| UnderWay::begin(backend, &kernel, &case))))?;
            Ok((kernel, case, under_way))
        });
        Self { backend, question, case: name, begun }
    }

    fn answer(self) -> Answer {
        let Self { backend, question, case: name, begun } = self;
        let examined = begun.and_then(|(kernel, case, under_way)| {
            if let Some(under_way) = under_way {
                return caught(|| under_way.finish(&kernel, &case));
            }
            let agreement = Examined::plain(Verdict::Agree(Agreement::default()));
            Ok(match backend.run_first(&kernel, &case)? {
                Outcome::Output(output) => Examined { output: Some(output), ..agreement },
                Outcome::Fault(fault) => Examined::plain(Verdict::Fault(fault)),
            })
        });
        Answer {
            number: question.number,
            case: name,
            examined: examined.map(|examined| Findings::new(examined, question.wanted != Wanted::Examination)),
            lost: backend.lost(),
        }
    }
}

/// Kernels that were asked about, by name and content.
#[derive(Default)]
struct Kernels(Mutex<HashMap<(String, u64), Arc<Kernel>>>);

impl Kernels {
    fn open(&self, question: &Question) -> Result<Arc<Kernel>, BackendError> {
        let mut kernels = lock(&self.0);
        let key = (question.kernel.clone(), question.content);
        if let Some(kernel) = kernels.get(&key) {
            return Ok(kernel.clone());
        }
        let changed = |why: &str| {
            let name = &question.kernel;
            BackendError::Unavailable(format!("{name} is no longer the kernel that this started with: {why}"))
        };
        let kernel = Kernel::open(&question.kernel).map_err(|error| changed(&error.to_string()))?;
        if kernel.content_hash() != question.content {
            return Err(changed("its manifest or PTX has changed since"));
        }
        let kernel = Arc::new(kernel);
        kernels.insert(key, kernel.clone());
        Ok(kernel)
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::MARK;
    use super::*;
    use crate::backend::{BackendKind, Begun, Run};
    use std::io::{BufReader, Read};
    use std::sync::Condvar;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    /// What was begun and finished, in order.
    #[derive(Default)]
    struct Log(Mutex<Vec<String>>, Condvar);

    impl Log {
        fn add(&self, what: String) {
            lock(&self.0).push(what);
            self.1.notify_all();
        }
    }

    #[derive(Default)]
    struct Logging {
        log: Arc<Log>,
        begun: AtomicUsize,
        /// How many finish at the same time, if so many should.
        together: Option<usize>,
    }

    impl Backend for Logging {
        fn kind(&self) -> BackendKind {
            BackendKind::Cuda
        }

        fn describe(&self) -> String {
            "logging".into()
        }

        fn run(&self, _: &Kernel, _: &Case, _: Run) -> Result<Outcome, BackendError> {
            unreachable!("all cases are begun")
        }

        fn begin(&self, _: &Kernel, _: &Case, _: &[Run]) -> Begun<'_> {
            let number = self.begun.fetch_add(1, Ordering::SeqCst);
            self.log.add(format!("begin {number}"));
            Box::new(move || {
                self.log.add(format!("finish {number}"));
                if let Some(count) = self.together {
                    let alone =
                        |lines: &mut Vec<String>| lines.iter().filter(|l| l.starts_with("finish")).count() < count;
                    let (lines, limit) = (lock(&self.log.0), Duration::from_secs(20));
                    let waited = self.log.1.wait_timeout_while(lines, limit, alone).unwrap().1;
                    return Err(BackendError::TooSlow(if waited.timed_out() { "alone" } else { "together" }.into()));
                }
                if number == 1 { panic!("on purpose") } else { Err(BackendError::TooSlow(number.to_string())) }
            })
        }
    }

    /// An input that ends when so many lines were written to the output beside it.
    struct Until(Arc<Log>, usize, io::Cursor<Vec<u8>>);

    impl Read for Until {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let read = self.2.read(buffer)?;
            if read == 0 {
                let lines = lock(&self.0.0);
                drop(self.0.1.wait_while(lines, |lines| lines.len() < self.1).unwrap());
            }
            Ok(read)
        }
    }

    struct Lines(Arc<Log>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.add(String::from_utf8(bytes.to_vec()).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What `backend` was asked and answers to so many questions.
    fn answers(backend: Logging, pace: Pace, count: u64) -> Vec<(u64, BackendError)> {
        let kernel = Kernel::open("gqa_decode").unwrap();
        let question = |number| Question {
            number,
            kernel: kernel.reference(),
            content: kernel.content_hash(),
            case: kernel.space().case_at(0, 0).to_string(),
            wanted: Wanted::Examination,
        };
        let questions: String =
            (0..count).map(|number| serde_json::to_string(&question(number)).unwrap() + "\n").collect();
        let written = Arc::new(Log::default());
        let lines = 1 + count as usize;
        let input = BufReader::new(Until(written.clone(), lines, io::Cursor::new(questions.into_bytes())));
        serve(Ok(backend), pace, input, Lines(written.clone())).unwrap();
        let lines = lock(&written.0).clone();
        let answer = |line: &String| match serde_json::from_str(line.trim().trim_start_matches(MARK)).unwrap() {
            Message::Answer(answer) => Some((answer.number, answer.examined.unwrap_err())),
            _ => None,
        };
        lines.iter().filter_map(answer).collect()
    }

    #[test]
    fn threads_judge_at_the_same_time() {
        let backend = Logging { together: Some(3), ..Logging::default() };
        let answers = answers(backend, Pace { threads: 3, ahead: 1 }, 3);
        assert!(answers.iter().all(|(_, error)| *error == BackendError::TooSlow("together".into())), "{answers:?}");
    }

    #[test]
    fn a_thread_begins_cases_ahead_and_answers_them_in_order() {
        let backend = Logging::default();
        let log = backend.log.clone();
        let answers = answers(backend, Pace { threads: 1, ahead: 3 }, 6);
        let log = lock(&log.0).clone();
        let at = |what: &str, number: u64| log.iter().position(|line| *line == format!("{what} {number}")).unwrap();
        for number in 0..6 {
            let begun = log[..at("finish", number)].iter().filter(|line| line.starts_with("begin")).count() as u64;
            // The first may be all there is when the thread looks for more.
            assert!(begun > number && begun <= number + 3, "{log:?}");
        }
        assert!(at("begin", 5) < at("finish", 4), "{log:?}");
        assert_eq!(answers.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        for (number, error) in answers {
            let panicked = BackendError::Internal("on purpose".into());
            let expected = if number == 1 { panicked } else { BackendError::TooSlow(number.to_string()) };
            assert_eq!(error, expected);
        }
    }
}
