//! `attnfuzz worker`: what [`crate::worker::Isolated`] starts. Not for people.

use super::{Exit, Failure};
use crate::backend::cuda::Cuda;
#[cfg(feature = "cuda")]
use crate::backend::cuda_bare::BareCuda;
use crate::backend::{Backend, BackendError, Emulator, Kernel, Run};
use crate::case::Case;
use crate::worker::{Pace, serve, serve_bare};
use std::time::Duration;

/// How long the driver may take to end the process once its owner has gone, with a kernel that hangs.
const END_LIMIT: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub(super) struct WorkerArgs {
    /// Where kernels run
    #[arg(long, value_enum)]
    backend: WorkerBackend,
    /// Index of the GPU
    #[arg(long, default_value_t = 0, value_name = "N")]
    device: usize,
    /// Cases under way at the same time
    #[arg(long, default_value_t = 1, value_name = "N")]
    threads: usize,
    /// Run cases of this kernel, one a line, and judge nothing: for a memory checker to watch
    #[arg(long, value_name = "KERNEL", requires_all = ["content", "limit"])]
    bare: Option<String>,
    /// What the kernel's content must be
    #[arg(long, value_name = "HASH")]
    content: Option<u64>,
    /// Time after which a case is given up, and the process with it
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    limit: Option<Duration>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum WorkerBackend {
    /// The PTX emulator, on the CPU
    Emulator,
    /// A GPU
    Cuda,
}

pub(super) fn run(args: &WorkerArgs) -> Result<Exit, Failure> {
    if let (Some(name), Some(content), Some(limit)) = (&args.bare, args.content, args.limit) {
        return bare(args, name, content, limit);
    }
    let (input, output) = (std::io::stdin().lock(), std::io::stdout());
    let served = match args.backend {
        WorkerBackend::Emulator => serve(Ok(Emulator), Pace { threads: args.threads, ahead: 1 }, input, output),
        WorkerBackend::Cuda => {
            // A fault in a shared context is nobody's; who asks then asks a worker of one thread.
            let device = if args.threads > 1 { Cuda::open_shared(args.device) } else { Cuda::open(args.device) };
            // More threads than processors would only wait for each other.
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            let threads = args.threads.clamp(1, processors);
            let pace = Pace { threads, ahead: args.threads.div_ceil(threads) };
            serve(device.map_err(|error| error.to_string()), pace, input, output)
        }
    };
    std::thread::spawn(|| {
        std::thread::sleep(END_LIMIT);
        std::process::abort();
    });
    served.map(|()| Exit::Clean).map_err(Failure::usage)
}

fn bare(args: &WorkerArgs, name: &str, content: u64, limit: Duration) -> Result<Exit, Failure> {
    let kernel = Kernel::open(name).map_err(Failure::usage)?;
    if kernel.content_hash() != content {
        return Err(Failure::usage(format!("{name} is no longer the kernel that this started with")));
    }
    let (input, output) = (std::io::stdin().lock(), std::io::stdout());
    let run = bare_device(args)?;
    serve_bare(&kernel, limit, run, input, output).map(|()| Exit::Clean).map_err(Failure::usage)
}

type BareRun = Box<dyn FnMut(&Kernel, &Case) -> Result<(), BackendError>>;

fn bare_device(args: &WorkerArgs) -> Result<BareRun, Failure> {
    match args.backend {
        WorkerBackend::Emulator => {
            Ok(Box::new(|kernel, case| Emulator.run(kernel, case, Run::first(case)).map(|_| ())))
        }
        #[cfg(feature = "cuda")]
        WorkerBackend::Cuda => {
            let device = BareCuda::open(args.device).map_err(Failure::usage)?;
            Ok(Box::new(move |kernel, case| device.launch(kernel, case)))
        }
        #[cfg(not(feature = "cuda"))]
        WorkerBackend::Cuda => Err(Failure::usage("this build has no CUDA backend: the feature `cuda` is off")),
    }
}
