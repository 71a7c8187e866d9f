//! From `--backend` to backends.

use super::{BackendArgs, BackendChoice, Failure};
use crate::backend::cuda::Cuda;
use crate::backend::{Backend, Emulator};
use std::sync::Arc;

/// Opens what was asked for.
pub(super) fn open(args: &BackendArgs) -> Result<Vec<Arc<dyn Backend>>, Failure> {
    let cuda = || Cuda::open(args.device).map(|cuda| Arc::new(cuda) as Arc<dyn Backend>);
    let asked = |error| Failure::usage(format!("no GPU to run on: {error}; --backend emulator needs none"));
    Ok(match args.backend {
        BackendChoice::Emulator => vec![Arc::new(Emulator)],
        BackendChoice::Cuda => vec![cuda().map_err(asked)?],
        BackendChoice::All => vec![Arc::new(Emulator), cuda().map_err(asked)?],
        BackendChoice::Auto => vec![cuda().unwrap_or_else(|_| Arc::new(Emulator))],
    })
}
