//! `attnfuzz worker`: what [`crate::worker::Isolated`] starts. Not for people.

use super::{Exit, Failure};
use crate::backend::Emulator;
use crate::backend::cuda::Cuda;
use crate::worker::serve;
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
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum WorkerBackend {
    /// The PTX emulator, on the CPU
    Emulator,
    /// A GPU
    Cuda,
}

pub(super) fn run(args: &WorkerArgs) -> Result<Exit, Failure> {
    let (input, output) = (std::io::stdin().lock(), std::io::stdout());
    let served = match args.backend {
        WorkerBackend::Emulator => serve(Ok(Emulator), args.threads, input, output),
        WorkerBackend::Cuda => {
            // A fault in a shared context is nobody's; who asks then asks a worker of one thread.
            let device = if args.threads > 1 { Cuda::open_shared(args.device) } else { Cuda::open(args.device) };
            serve(device.map_err(|error| error.to_string()), args.threads, input, output)
        }
    };
    std::thread::spawn(|| {
        std::thread::sleep(END_LIMIT);
        std::process::abort();
    });
    served.map(|()| Exit::Clean).map_err(Failure::usage)
}
