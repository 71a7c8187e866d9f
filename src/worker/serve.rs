//! The worker's side: answers questions until there are no more.

use super::message::{Answer, Findings, Message, PROTOCOL, Question, Wanted, read_line, write_message};
use super::process::lock;
use crate::backend::{Backend, BackendError, Kernel};
use crate::case::Case;
use crate::oracle::{Agreement, Examined, Examiner, Verdict};
use crate::outcome::Outcome;
use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::sync::{Arc, Mutex, mpsc};

/// Answers the questions on `input` on `output` with so many threads, until `input` ends; what is under way then is given
/// up. `backend` is what kernels run on, or why there is nothing: then that is all it says.
///
/// # Errors
/// `input` or `output` can't be used, or what is on `input` is no question.
pub fn serve<B: Backend + 'static>(
    backend: Result<B, String>,
    threads: usize,
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
    for _ in 0..threads.max(1) {
        let shared = shared.clone();
        // Not waited for: a thread may be stuck in a kernel that hangs.
        std::thread::spawn(move || {
            let (backend, kernels, receiver, output) = &*shared;
            // Not in the loop's head, where the lock would be held while the question is answered.
            let next = || lock(receiver).recv();
            while let Ok(question) = next() {
                let answer = Message::Answer(Box::new(answer(backend, kernels, question)));
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

fn answer<B: Backend>(backend: &B, kernels: &Kernels, question: Question) -> Answer {
    let mut name = String::new();
    let examined = kernels.open(&question).and_then(|kernel| {
        let case = question.case.parse::<Case>();
        let case = case.map_err(|error| BackendError::Internal(format!("a worker can't read a case: {error}")))?;
        name = case.id().to_string();
        if question.wanted != Wanted::FirstRun {
            return Examiner::examine(backend, &kernel, &case);
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
