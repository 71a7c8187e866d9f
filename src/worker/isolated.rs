//! Examines cases in worker processes, and tells what the death of one means.
//!
//! Many cases are under way in one worker, each in a thread of its own. When it dies, no one can tell whose doing that
//! was: all of them are run again, one at a time, in another worker that does nothing else. A case is guilty if a worker
//! that has run nothing before it dies with it, and the worker it was in first died too. After each death the device must get
//! a case right that every device should: one that has gone bad dies with good kernels too, perhaps just as a bad kernel
//! makes it. The guilty kernel stays alone: the search for a smaller case goes through many deaths, and nobody else's case
//! should be under way then. Of a kernel that was found guilty once, a second death of the same kind with a case is enough,
//! workers are started ahead of need, and one that hung gets no longer than many times what any case took that ended.
//!
//! Nor is a case to blame for what it suffers from others: the first failure of its kind of a kernel has to come back alone. What
//! does not is counted and told with its case.

use super::message::{Answer, Question, Wanted};
use super::process::{Cause, Death, NO_ANSWER, Process, Reply, lock};
use crate::backend::{BackendError, BackendKind, Kernel, elements_times_keys};
use crate::case::{Case, ParseError};
use crate::oracle::{Examined, Examiner, Signature, Unconfirmed, Verdict};
use crate::outcome::{Fault, FaultKind, Outcome};
use std::collections::{HashMap, HashSet, VecDeque};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time that a case gets beyond [`Options::limit`] for each query element times key.
const LIMIT_PER_ELEMENT: Duration = Duration::from_micros(1);
/// Of a kernel that hung, a case gets at most so many times what the slowest case took that came to its end, and at least this.
const HANGING: (u32, Duration) = (20, Duration::from_secs(2));
/// How often a worker is started anew if it can't be, and how long to wait in between: a device may need a moment to
/// recover from what happened to the worker before.
const STARTS: (u32, Duration) = (3, Duration::from_secs(1));
/// How often a case that failed beside others may fail alone: one that does so half of the time is missed in 6 %.
const CONFIRMATIONS: u32 = 4;
/// Workers that are started ahead of need. Each holds a context on the device.
const SPARES: usize = 4;
/// The kernel and the case that tell a bad device from a bad kernel.
const HEALTHY_KERNEL: &str = "gqa_decode";
const HEALTHY_CASE: &str = "kv=1 g=1 d=8 past=1 dtype=f32 cache=hnd:2 scale=1 values=flat:0";

/// How cases are examined.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Cases that may be under way at the same time.
    pub threads: usize,
    /// How long a case may take; large ones get more.
    pub limit: Duration,
    /// Whether outputs are handed over, as comparing backends takes.
    pub outputs: bool,
}

/// A device whose cases are examined in other processes.
pub struct Isolated {
    kind: BackendKind,
    device: String,
    options: Options,
    /// The command that starts a worker with so many threads.
    launch: Arc<dyn Fn(usize) -> Command + Send + Sync>,
    /// Where cases are under way together.
    shared: Mutex<Option<Arc<Process>>>,
    /// Where one is under way alone.
    alone: Mutex<Option<Alone>>,
    /// Workers of one thread that are being started, oldest first; none before the first death.
    spares: Mutex<VecDeque<Spare>>,
    /// Content of the kernels that have killed a worker, and the kinds of their deaths.
    fragile: Mutex<HashMap<u64, HashSet<String>>>,
    /// Content of the kernels that failed while they were alone, and how.
    convicted: Mutex<HashSet<(u64, Signature)>>,
    unconfirmed: Mutex<Unconfirmed>,
    /// What the slowest case took that came to its end, of any kernel.
    slowest: Mutex<Duration>,
    /// What proves a device healthy.
    healthy: (Kernel, Case),
}

/// A worker that is being started.
type Spare = JoinHandle<Result<Process, String>>;

/// A worker that runs one case at a time.
struct Alone {
    process: Process,
    /// Whether nothing has run in it but what proves it healthy.
    fresh: bool,
}

impl Isolated {
    /// Starts a first worker with the command that `launch` gives for so many threads; it must [`serve`](super::serve) a
    /// backend of this kind on its standard input and output.
    ///
    /// # Errors
    /// Why there is no worker: the program can't be started, or there is no device.
    pub fn open(
        kind: BackendKind,
        options: Options,
        launch: impl Fn(usize) -> Command + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let healthy = (
            Kernel::open(HEALTHY_KERNEL).map_err(|error| error.to_string())?,
            HEALTHY_CASE.parse().map_err(|error: ParseError| error.to_string())?,
        );
        let first = Process::start(launch(options.threads))?;
        Ok(Self {
            kind,
            device: first.device.clone(),
            options,
            launch: Arc::new(launch),
            shared: Mutex::new(Some(Arc::new(first))),
            alone: Mutex::default(),
            spares: Mutex::default(),
            fragile: Mutex::default(),
            convicted: Mutex::default(),
            unconfirmed: Mutex::default(),
            slowest: Mutex::default(),
            healthy,
        })
    }

    fn start(&self, threads: usize) -> Result<Process, BackendError> {
        let mut tries = 1..=STARTS.0;
        loop {
            let last = tries.next() == Some(STARTS.0);
            match Process::start((self.launch)(threads)) {
                Ok(process) => return Ok(process),
                Err(why) if last => return Err(BackendError::Unavailable(why)),
                Err(_) => std::thread::sleep(STARTS.1),
            }
        }
    }

    /// A worker of one thread; others are started meanwhile.
    fn start_alone(&self) -> Result<Process, BackendError> {
        let oldest = {
            let mut spares = lock(&self.spares);
            while spares.len() < SPARES {
                let launch = self.launch.clone();
                spares.push_back(std::thread::spawn(move || Process::start(launch(1))));
            }
            spares.pop_front()
        };
        match oldest.map(Spare::join) {
            Some(Ok(Ok(process))) if !process.has_ended() => Ok(process),
            _ => self.start(1),
        }
    }

    fn ask(&self, process: &Process, kernel: &Kernel, case: &Case, wanted: Wanted) -> Reply {
        let question = |number| Question {
            number,
            kernel: kernel.reference(),
            content: kernel.content_hash(),
            case: case.to_string(),
            wanted,
        };
        let elements = u32::try_from(elements_times_keys(case)).unwrap_or(u32::MAX);
        let limit = self.limit(kernel) + LIMIT_PER_ELEMENT * elements;
        let start = Instant::now();
        let reply = process.ask(question, case.id().to_string(), limit);
        if matches!(reply, Reply::Answer(_)) {
            let mut slowest = lock(&self.slowest);
            *slowest = start.elapsed().max(*slowest);
        }
        reply
    }

    /// What a small case may take.
    fn limit(&self, kernel: &Kernel) -> Duration {
        let fragile = lock(&self.fragile);
        let hung = fragile.get(&kernel.content_hash()).is_some_and(|kinds| kinds.contains(NO_ANSWER));
        let (times, least) = HANGING;
        if hung { self.options.limit.min(least.max(*lock(&self.slowest) * times)) } else { self.options.limit }
    }

    /// The worker where cases are under way together; a new one if the last has died.
    fn shared(&self) -> Result<Arc<Process>, BackendError> {
        let mut slot = lock(&self.shared);
        if let Some(process) = slot.take().filter(|process| !process.has_ended()) {
            return Ok(slot.insert(process).clone());
        }
        Ok(slot.insert(Arc::new(self.start(self.options.threads)?)).clone())
    }

    /// Examines a case beside others, and alone where that is not safe.
    fn examine_somewhere(&self, kernel: &Kernel, case: &Case, wanted: Wanted) -> Result<Examined, BackendError> {
        if lock(&self.fragile).contains_key(&kernel.content_hash()) {
            return self.examine_alone(kernel, case, wanted, false).map(|(examined, _)| examined);
        }
        loop {
            match self.ask(&*self.shared()?, kernel, case, wanted) {
                Reply::Gone => {}
                Reply::Answer(answer) => return self.confirmed(received(*answer)?, kernel, case, wanted),
                Reply::Died(death) => {
                    let trial = self.examine_alone(kernel, case, wanted, true);
                    let guilty = trial.as_ref().map_or(true, |(_, guilty)| *guilty);
                    if death.settle(guilty) {
                        self.not_confirmed(case, &death);
                    }
                    return trial.map(|(examined, _)| examined);
                }
            }
        }
    }

    /// What is to be said of a case that was examined beside others.
    fn confirmed(
        &self,
        examined: Examined,
        kernel: &Kernel,
        case: &Case,
        wanted: Wanted,
    ) -> Result<Examined, BackendError> {
        // In the emulator no case reaches another's memory.
        let company = self.options.threads > 1 && self.kind != BackendKind::Emulator;
        let Some(failure) = failure(&examined).filter(|_| company) else { return Ok(examined) };
        let accused = (kernel.content_hash(), failure);
        if lock(&self.convicted).contains(&accused) {
            return Ok(examined);
        }
        let mut alone = examined;
        for _ in 0..CONFIRMATIONS {
            alone = self.examine_alone(kernel, case, wanted, false)?.0;
            if let Some(failure) = self::failure(&alone) {
                lock(&self.convicted).insert((kernel.content_hash(), failure));
                return Ok(alone);
            }
        }
        let mut unconfirmed = lock(&self.unconfirmed);
        unconfirmed.failures += 1;
        unconfirmed.last = Some(format!("{}, with the case {case}", accused.1));
        Ok(alone)
    }

    /// Examines a case while no other is under way beside it. `suspect`: whether a worker has died with it before.
    fn examine_alone(&self, kernel: &Kernel, case: &Case, wanted: Wanted, mut suspect: bool) -> Trial {
        let mut slot = lock(&self.alone);
        let mut seen: Option<Arc<Death>> = None;
        loop {
            let Alone { process, fresh } = match slot.take().filter(|alone| !alone.process.has_ended()) {
                Some(alone) => alone,
                None => Alone { process: self.start_alone()?, fresh: true },
            };
            let death = match self.ask(&process, kernel, case, wanted) {
                Reply::Gone => continue,
                Reply::Answer(answer) => {
                    *slot = Some(Alone { process, fresh: false });
                    if let Some(death) = seen {
                        self.not_confirmed(case, &death);
                    }
                    return Ok((received(*answer)?, false));
                }
                Reply::Died(death) => death,
            };
            drop(process);
            *slot = Some(Alone { process: self.start_healthy(case, &death)?, fresh: true });
            let known = self.has_died_so(kernel, &death);
            if suspect && (fresh || known) || fresh && known {
                lock(&self.fragile).entry(kernel.content_hash()).or_default().insert(death.kind());
                return Ok((self.meaning(case, &death)?, true));
            }
            suspect = true;
            seen = Some(death);
        }
    }

    /// Whether a kernel was found guilty of such a death before.
    fn has_died_so(&self, kernel: &Kernel, death: &Death) -> bool {
        lock(&self.fragile).get(&kernel.content_hash()).is_some_and(|kinds| kinds.contains(&death.kind()))
    }

    /// A new worker, on a device that gets a small case of a good kernel right.
    fn start_healthy(&self, case: &Case, death: &Death) -> Result<Process, BackendError> {
        let process = self.start_alone()?;
        let unhealthy = |why: &dyn std::fmt::Display| {
            let device = &self.device;
            BackendError::Unavailable(format!(
                "{device} does not get a case right that any should ({HEALTHY_KERNEL}, {HEALTHY_CASE}): {why}; that was \
                 after a worker died with the case {case}: {death}"
            ))
        };
        let (kernel, good) = &self.healthy;
        match self.ask(&process, kernel, good, Wanted::Examination) {
            Reply::Answer(answer) => match received(*answer).map_err(|error| unhealthy(&error))?.verdict {
                Verdict::Agree(_) => Ok(process),
                verdict => Err(unhealthy(&format!("{verdict:?}"))),
            },
            Reply::Died(death) => Err(unhealthy(&death)),
            Reply::Gone => Err(unhealthy(&"the worker ended")),
        }
    }

    /// What it says of a case that a worker has died with it, twice.
    fn meaning(&self, case: &Case, death: &Death) -> Result<Examined, BackendError> {
        let fault = |kind, detail| Ok(Examined::plain(Verdict::Fault(Fault::new(kind, detail))));
        // The emulator has a budget of its own and runs no code but this program's: its death can't be the kernel's doing.
        let emulated = self.kind == BackendKind::Emulator;
        match &death.cause {
            Cause::Lost(answer) => received((**answer).clone()),
            Cause::Exited(status) if is_killed(*status) => {
                // Twice with the same case: most likely the system ran out of memory.
                Err(BackendError::OutOfMemory(format!("this machine, it seems: {death}")))
            }
            Cause::Exited(_) if !emulated => fault(FaultKind::Crash, death.to_string()),
            Cause::TimedOut(limit) if !emulated => {
                let slowest = lock(&self.slowest).as_secs_f64();
                let why = (*limit < self.options.limit).then(|| {
                    let full = self.options.limit.as_secs_f64();
                    format!("; a case of this kernel had hung for {full:.1} s, and the slowest that ended took {slowest:.3} s")
                });
                fault(FaultKind::Hang, format!("{death}{}", why.unwrap_or_default()))
            }
            Cause::TimedOut(_) => Err(BackendError::TooSlow(death.to_string())),
            Cause::Exited(_) | Cause::Nonsense(_) | Cause::Dropped => {
                Err(BackendError::Internal(format!("{death}, with the case {case}")))
            }
        }
    }

    fn not_confirmed(&self, case: &Case, death: &Death) {
        let mut unconfirmed = lock(&self.unconfirmed);
        unconfirmed.deaths += 1;
        unconfirmed.last = Some(format!("{death}, with the case {case}"));
    }
}

/// How a case failed, if it did.
fn failure(examined: &Examined) -> Option<Signature> {
    let closer = examined.closer.iter().map(|(_, verdict)| verdict);
    std::iter::once(&examined.verdict).chain(closer).find_map(Verdict::signature)
}

/// What came of a case that was alone, and whether a worker's death is its doing.
type Trial = Result<(Examined, bool), BackendError>;

fn received(answer: Answer) -> Result<Examined, BackendError> {
    let unreadable = |error| BackendError::Internal(format!("a worker answered with a case that is none: {error}"));
    answer.examined?.examined().map_err(unreadable)
}

/// Whether someone else ended the process, such as the system when memory runs out.
#[cfg(unix)]
fn is_killed(status: ExitStatus) -> bool {
    const HANGUP: i32 = 1;
    const INTERRUPT: i32 = 2;
    const KILL: i32 = 9;
    const TERMINATE: i32 = 15;
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    signal.is_some_and(|signal| [HANGUP, INTERRUPT, KILL, TERMINATE].contains(&signal))
}

/// Whether someone else ended the process. Can't be told here.
#[cfg(not(unix))]
fn is_killed(_: ExitStatus) -> bool {
    false
}

impl Examiner for Isolated {
    fn kind(&self) -> BackendKind {
        self.kind
    }

    fn describe(&self) -> String {
        self.device.clone()
    }

    fn examine(&self, kernel: &Kernel, case: &Case) -> Result<Examined, BackendError> {
        let wanted = if self.options.outputs { Wanted::ExaminationAndOutput } else { Wanted::Examination };
        self.examine_somewhere(kernel, case, wanted)
    }

    fn run_first(&self, kernel: &Kernel, case: &Case) -> Result<Outcome, BackendError> {
        let examined = self.examine_somewhere(kernel, case, Wanted::FirstRun)?;
        match (examined.output, examined.verdict) {
            (Some(output), _) => Ok(Outcome::Output(output)),
            (None, Verdict::Fault(fault)) => Ok(Outcome::Fault(fault)),
            (None, verdict) => {
                Err(BackendError::Internal(format!("a worker ran {case} and told nothing: {verdict:?}")))
            }
        }
    }

    fn unconfirmed(&self) -> Unconfirmed {
        lock(&self.unconfirmed).clone()
    }
}
