//! `attnfuzz compile`.

use super::{CompileArgs, Exit, Failure};
use crate::backend::compile::{self, CompileError, Freshness, Unavailable};
use crate::backend::nvrtc::Nvrtc;
use crate::backend::{CompileJob, OpenError};
use rayon::prelude::*;

pub(super) fn run(args: &CompileArgs) -> Result<Exit, Failure> {
    let nvrtc = Nvrtc::find();
    let jobs: Vec<_> = args.kernels.par_iter().map(|name| one(name, args.check, nvrtc.as_ref())).collect();
    let mut stale = 0;
    for job in jobs {
        let (line, is_good) = job?;
        println!("{line}");
        stale += usize::from(!is_good);
    }
    Ok(if stale > 0 { Exit::Findings } else { Exit::Clean })
}

/// What to say of one kernel's PTX, and whether it is as it should be.
fn one(name: &str, check: bool, nvrtc: Result<&Nvrtc, &Unavailable>) -> Result<(String, bool), Failure> {
    let job = CompileJob::open(name).map_err(|e: OpenError| Failure::usage(e))?;
    let file = job.ptx_file.display();
    let wrong = |e: CompileError| Failure::usage(format!("{name}: {e}"));
    if !check {
        let ptx = compile::compile(nvrtc.map_err(Failure::usage)?, &job.source, &job.spec).map_err(wrong)?;
        std::fs::write(&job.ptx_file, ptx).map_err(|e| Failure::usage(format!("can't write {file}: {e}")))?;
        return Ok((format!("{file}: written"), true));
    }
    let stored =
        std::fs::read_to_string(&job.ptx_file).map_err(|e| Failure::usage(format!("can't read {file}: {e}")))?;
    let freshness = compile::check(&stored, &job.source, &job.spec, nvrtc).map_err(wrong)?;
    let advice = match freshness {
        Freshness::Unstamped => format!("\n  make it again with: attnfuzz compile {name}"),
        _ => String::new(),
    };
    Ok((format!("{file}: {freshness}{advice}"), freshness.is_acceptable()))
}
