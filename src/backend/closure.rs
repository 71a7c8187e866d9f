//! A subject that is a closure of the caller's: it gets the tensors of a step and gives what its kernel made of them.
//!
//! What it runs is the caller's business: their own launcher on a GPU, a library call, a kernel for another API. It is
//! judged like any other kernel, but nobody sees inside: reads of what nobody wrote and races show only where they change
//! a result.

mod inputs;
mod panics;
mod tensor;

pub use inputs::{Inputs, Outputs};
pub use tensor::{Storable, Tensor};

use super::manifest::Manifest;
use super::{Backend, BackendError, BackendKind, Kernel, Run};
use crate::case::{self, Case};
use crate::outcome::{Fault, FaultKind, Outcome, Output, Site};
use inputs::Caches;

/// Runs a closure where other backends run a kernel's code.
pub(crate) struct Closure<F>(pub(crate) F);

impl<F: Fn(&Case, Inputs) -> Outputs + Send + Sync> Backend for Closure<F> {
    fn kind(&self) -> BackendKind {
        BackendKind::Closure
    }

    fn describe(&self) -> String {
        BackendKind::Closure.to_string()
    }

    fn run(&self, kernel: &Kernel, case: &Case, run: Run) -> Result<Outcome, BackendError> {
        Ok(match self.steps(&kernel.manifest, case, run) {
            Ok(output) => Outcome::Output(output),
            Err(fault) => Outcome::Fault(*fault),
        })
    }
}

impl<F: Fn(&Case, Inputs) -> Outputs> Closure<F> {
    /// Every step of `case`, each from the caches that the one before it left.
    fn steps(&self, manifest: &Manifest, case: &Case, run: Run) -> Result<Output, Box<Fault>> {
        let mut made = case::Inputs::of(case, run.poison);
        let mut caches = Caches::of(&made);
        let (mut out, mut lse) = (Vec::new(), Vec::new());
        for (step, tensors) in (0..).zip(std::mem::take(&mut made.steps)) {
            let with_lse = manifest.lse.is_some();
            let inputs = Inputs::of(case, step, tensors, made.sinks.as_ref(), &caches, with_lse, run.poison);
            let given = panics::caught(|| (self.0)(case, inputs));
            let fault = |kind, what: String| Box::new(Fault::new(kind, format!("{what} (step {})", step + 1)));
            let given = given.map_err(|panic| {
                Box::new(Fault {
                    site: panic.place.map(|place| Site { source: Some(place), ..Site::of("panic") }),
                    ..*fault(FaultKind::Panic, panic.message)
                })
            })?;
            let checked = given.check(case, with_lse, &mut caches);
            let (step_out, step_lse) = checked.map_err(|what| fault(FaultKind::MalformedOutput, what))?;
            out.push(step_out);
            lse.extend(step_lse);
        }
        let [k_cache, v_cache] = [caches.k.to_buffer(), caches.v.to_buffer()];
        Ok(Output { out, lse, k_cache, v_cache })
    }
}
