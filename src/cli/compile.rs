//! `attnfuzz compile`.

use super::{CompileArgs, Exit, Failure};
use crate::backend::compile::{self, Freshness};
use crate::backend::nvrtc::Nvrtc;
use crate::backend::{CompileJob, OpenError};

pub(super) fn run(args: &CompileArgs) -> Result<Exit, Failure> {
    let nvrtc = Nvrtc::find();
    let mut stale = 0;
    for name in &args.kernels {
        let job = CompileJob::open(name).map_err(|e: OpenError| Failure::usage(e))?;
        let file = job.ptx_file.display();
        if args.check {
            let stored = std::fs::read_to_string(&job.ptx_file)
                .map_err(|e| Failure::usage(format!("can't read {file}: {e}")))?;
            let freshness = compile::check(&stored, &job.source, &job.spec, nvrtc.as_ref())
                .map_err(|e| Failure::usage(format!("{name}: {e}")))?;
            println!("{file}: {freshness}");
            stale += usize::from(!freshness.is_acceptable());
            if matches!(freshness, Freshness::Unstamped) {
                println!("  make it again with: attnfuzz compile {name}");
            }
        } else {
            let nvrtc = nvrtc.as_ref().map_err(Failure::usage)?;
            let ptx =
                compile::compile(nvrtc, &job.source, &job.spec).map_err(|e| Failure::usage(format!("{name}: {e}")))?;
            std::fs::write(&job.ptx_file, ptx).map_err(|e| Failure::usage(format!("can't write {file}: {e}")))?;
            println!("{file}: written");
        }
    }
    Ok(if stale > 0 { Exit::Findings } else { Exit::Clean })
}
