//! From `--backend` and `--isolate` to what examines cases.

use super::{BackendArgs, BackendChoice, Devices, Failure, IsolateChoice, IsolationArgs, Jobs};
use crate::backend::cuda::{Cuda, devices};
use crate::backend::{Backend, BackendKind, Emulator, Kernel};
use crate::oracle::Examiner;
use crate::report::human;
use crate::worker::{Isolated, Options, Sanitizer, Spread, Tool, is_sanitized};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

fn no_gpu(error: impl std::fmt::Display) -> Failure {
    Failure::usage(format!("no GPU to run on: {error}; --backend emulator needs none"))
}

/// Opens what was asked for, in this process.
pub(super) fn open(args: &BackendArgs) -> Result<Vec<Arc<dyn Backend>>, Failure> {
    let cuda = || Cuda::open(args.device.first()).map(|cuda| Arc::new(cuda) as Arc<dyn Backend>);
    Ok(match args.backend {
        BackendChoice::Emulator => vec![Arc::new(Emulator)],
        BackendChoice::Cuda => vec![cuda().map_err(no_gpu)?],
        BackendChoice::All => vec![Arc::new(Emulator), cuda().map_err(no_gpu)?],
        BackendChoice::Auto => vec![cuda().unwrap_or_else(|_| Arc::new(Emulator))],
    })
}

/// Opens what was asked for, where it was asked for; so many threads will use it.
pub(super) fn examiners(
    args: &BackendArgs,
    isolation: &IsolationArgs,
    jobs: Jobs,
) -> Result<Vec<Arc<dyn Examiner>>, Failure> {
    let outputs = args.backend == BackendChoice::All;
    // Each case waits for the emulator then.
    let jobs = if outputs { Jobs { gpu: jobs.emulator, ..jobs } } else { jobs };
    let isolated = |kind, device: usize| {
        let program = program();
        let threads = if kind == BackendKind::Cuda { jobs.gpu } else { jobs.emulator };
        let options = Options { threads, limit: isolation.case_timeout.into(), outputs };
        Isolated::open(kind, options, move |threads| {
            let mut command = Command::new(&program);
            command.args(["worker", "--backend", &kind.to_string()]);
            command.args(["--device", &device.to_string(), "--threads", &threads.to_string()]);
            command
        })
    };
    let gpu = |device: usize| -> Result<Box<dyn Examiner>, String> {
        Ok(match isolation.isolate {
            IsolateChoice::Auto | IsolateChoice::Yes => Box::new(isolated(BackendKind::Cuda, device)?),
            IsolateChoice::No => Box::new(Cuda::open(device).map_err(|error| error.to_string())?),
        })
    };
    let cuda = || -> Result<Arc<dyn Examiner>, String> {
        let (first, rest) = match &args.device {
            Devices::These { first, rest } => (*first, rest.clone()),
            Devices::All => (0, (1..devices().map_err(|error| error.to_string())?.len()).collect()),
        };
        let first = gpu(first)?;
        if rest.is_empty() {
            return Ok(Arc::from(first));
        }
        Ok(Arc::new(Spread::new(first, rest.into_iter().map(gpu).collect::<Result<Vec<_>, _>>()?)))
    };
    let emulator = || -> Result<Arc<dyn Examiner>, Failure> {
        Ok(match isolation.isolate {
            IsolateChoice::Yes => Arc::new(isolated(BackendKind::Emulator, 0).map_err(Failure::usage)?),
            IsolateChoice::Auto | IsolateChoice::No => Arc::new(Emulator),
        })
    };
    Ok(match args.backend {
        BackendChoice::Emulator => vec![emulator()?],
        BackendChoice::Cuda => vec![cuda().map_err(no_gpu)?],
        BackendChoice::All => vec![emulator()?, cuda().map_err(no_gpu)?],
        BackendChoice::Auto => vec![cuda().or_else(|_| emulator())?],
    })
}

/// For each of `backends`, how cases run under compute-sanitizer on it, or why they can't; nothing if that was not asked for.
pub(super) fn sanitizers(
    args: &BackendArgs,
    isolation: &IsolationArgs,
    tools: &[Tool],
    backends: &[Arc<dyn Examiner>],
) -> Vec<Result<Arc<Sanitizer>, String>> {
    if tools.is_empty() {
        return Vec::new();
    }
    let device = args.device.first();
    let of = |backend: &Arc<dyn Examiner>| {
        if backend.kind() != BackendKind::Cuda {
            return Err("compute-sanitizer watches GPUs only; the emulator has checks of its own".into());
        }
        let worker = move |kernel: &Kernel, limit: Duration| {
            let mut words: Vec<OsString> = vec![program_for_others().into()];
            words.extend(["worker", "--backend", "cuda", "--device"].map(OsString::from));
            words.push(device.to_string().into());
            words.extend(["--bare".into(), kernel.reference().into()]);
            words.extend(["--content".into(), kernel.content_hash().to_string().into()]);
            words.extend(["--limit".into(), format!("{}s", limit.as_secs().max(1)).into()]);
            words
        };
        let on = (backend.kind(), &*backend.describe());
        let limit = isolation.case_timeout.into();
        Ok(Arc::new(Sanitizer::new(Sanitizer::find()?, tools.to_vec(), on, limit, worker)))
    };
    backends.iter().map(of).collect()
}

/// What examines the case of a finding that was found on a device of this description: `device`, or `sanitizer` where
/// compute-sanitizer found it, for on a GPU nothing else sees it. The emulator has checks of its own.
///
/// # Errors
/// There is no sanitizer to see it with.
pub(super) fn for_finding(
    found_on: &str,
    device: &Arc<dyn Examiner>,
    sanitizer: Option<&Result<Arc<Sanitizer>, String>>,
) -> Result<Arc<dyn Examiner>, String> {
    if !is_sanitized(found_on) || device.kind() != BackendKind::Cuda {
        return Ok(device.clone());
    }
    let sanitizer = sanitizer.ok_or("compute-sanitizer found it: expected --sanitize")?.clone()?;
    Ok(sanitizer)
}

/// Says what went wrong in workers without telling anything of a kernel.
pub(super) fn tell_unconfirmed(backends: &[Arc<dyn Examiner>]) {
    for backend in backends {
        let unconfirmed = backend.unconfirmed();
        if !unconfirmed.is_empty() {
            eprint!("{}", human::unconfirmed(&backend.describe(), &unconfirmed));
        }
    }
}

/// This program's file, even if another one has taken its place since it was started.
fn program() -> PathBuf {
    let own = Path::new("/proc/self/exe");
    if own.exists() { own.into() } else { std::env::current_exe().unwrap_or_else(|_| "attnfuzz".into()) }
}

/// The same for another program to start.
fn program_for_others() -> PathBuf {
    let own = PathBuf::from(format!("/proc/{}/exe", std::process::id()));
    std::env::current_exe().ok().filter(|path| path.exists()).unwrap_or(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::BackendError;
    use crate::case::Case;
    use crate::oracle::{Agreement, Examined, Verdict};
    use crate::outcome::Outcome;

    /// A device that agrees with everything.
    struct Agrees(BackendKind);

    impl Examiner for Agrees {
        fn kind(&self) -> BackendKind {
            self.0
        }

        fn describe(&self) -> String {
            "a device".into()
        }

        fn examine(&self, _: &Kernel, _: &Case) -> Result<Examined, BackendError> {
            Ok(Examined::plain(Verdict::Agree(Agreement::default())))
        }

        fn run_first(&self, _: &Kernel, _: &Case) -> Result<Outcome, BackendError> {
            Err(BackendError::Unsupported("not asked for".into()))
        }
    }

    #[test]
    fn what_compute_sanitizer_found_is_never_asked_of_a_gpu_alone() {
        let gpu: Arc<dyn Examiner> = Arc::new(Agrees(BackendKind::Cuda));
        let emulator: Arc<dyn Examiner> = Arc::new(Agrees(BackendKind::Emulator));
        let sanitizer = |on: &str| {
            let none = |_: &Kernel, _: Duration| Vec::new();
            Sanitizer::new("tool".into(), vec![Tool::Racecheck], (BackendKind::Cuda, on), Duration::ZERO, none)
        };
        let sanitized = sanitizer("a device").describe();
        let asked = |found_on: &str, device, sanitizer| {
            for_finding(found_on, device, sanitizer).map(|examiner: Arc<dyn Examiner>| examiner.describe())
        };
        let (there, missing) = (Ok(Arc::new(sanitizer("a device"))), Err("not installed".to_owned()));
        assert_eq!(asked(&sanitized, &gpu, None), Err("compute-sanitizer found it: expected --sanitize".into()));
        assert_eq!(asked(&sanitized, &gpu, Some(&missing)), Err("not installed".into()));
        assert_eq!(asked(&sanitized, &gpu, Some(&there)), Ok(sanitized.clone()));
        // What the GPU itself found is asked of it, whether there is a sanitizer or not; and the emulator sees it all.
        assert_eq!(asked("a device", &gpu, Some(&there)), Ok("a device".into()));
        assert_eq!(asked("a device", &gpu, None), Ok("a device".into()));
        assert_eq!(asked(&sanitized, &emulator, None), Ok("a device".into()));
    }
}
