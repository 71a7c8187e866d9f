//! One case through one backend, from bytes to verdict.

use super::relation::{self, Checked};
use super::{Divergence, Examined, Verdict, judge};
use crate::backend::{Backend, BackendError, BackendKind, Begun, Kernel, Run};
use crate::case::{Case, Poison, Recipe, TensorName};
use crate::outcome::{Fault, FaultKind, Outcome, Output};
use crate::tensor::Buffer;

/// One case in so many is also judged with approximate functions that err, by its own seed.
const PERTURBED: u32 = 8;

/// Whether a case's numbers must also hold when approximate functions err.
pub fn is_perturbed(backend: BackendKind, case: &Case) -> bool {
    backend == BackendKind::Emulator && case.schedule_seed.is_multiple_of(PERTURBED)
}

/// Runs `case` twice on `backend` (a third time to explain a difference) and judges it. On the emulator, for one case in
/// `PERTURBED` that agrees, the numbers must also hold when approximate functions err as their documentation allows.
/// A case that agrees but is suspect gets a closer look; one that asks for a relation is judged by it too.
///
/// An error is this program's or the machine's limit, never the kernel's; the caller counts it as a skip or stops.
pub fn examine(backend: &dyn Backend, kernel: &Kernel, case: &Case) -> Result<Examined, BackendError> {
    UnderWay::begin(backend, kernel, case).finish(kernel, case)
}

/// A case that is being examined: its two runs have begun. Where there is a device of its own, a thread that begins several
/// cases before it finishes the first need not wait for it.
pub struct UnderWay<'b> {
    backend: &'b dyn Backend,
    /// Or why there are none.
    runs: Result<Begun<'b>, String>,
}

impl<'b> UnderWay<'b> {
    /// Begins [`examine`].
    pub fn begin(backend: &'b dyn Backend, kernel: &Kernel, case: &Case) -> Self {
        let runs = match kernel.manifest.domain.excludes(case) {
            Some(why) => Err(format!("outside the kernel's domain: {why}")),
            None => Ok(backend.begin(kernel, case, &[Run::first(case), Run::first(case).next()])),
        };
        Self { backend, runs }
    }

    /// The rest of [`examine`]; `kernel` and `case` are those it was begun with.
    ///
    /// # Errors
    /// As for [`examine`].
    pub fn finish(self, kernel: &Kernel, case: &Case) -> Result<Examined, BackendError> {
        match self.runs {
            Ok(runs) => judge_runs(self.backend, kernel, case, runs()?),
            Err(why) => Ok(Examined::plain(Verdict::Skip(why))),
        }
    }
}

/// What is to be said of a case after its first two runs.
fn judge_runs(
    backend: &dyn Backend,
    kernel: &Kernel,
    case: &Case,
    outcomes: Vec<Outcome>,
) -> Result<Examined, BackendError> {
    let without_output = |verdict| Ok(Examined::plain(verdict));
    let first_run = Run::first(case);
    let second_run = first_run.next();
    let mut outputs = Vec::with_capacity(2);
    for outcome in outcomes {
        match outcome {
            Outcome::Output(output) => outputs.push(output),
            Outcome::Fault(fault) => return without_output(Verdict::Fault(fault)),
        }
    }
    let [first, second] = <[Output; 2]>::try_from(outputs).map_err(|outputs| {
        BackendError::Unavailable(format!("expected an outcome for each of 2 runs, found {}", outputs.len()))
    })?;
    if let Some(place) = difference(&first, &second) {
        let fault = match unwritten(case, place, [(&first, first_run.poison), (&second, second_run.poison)]) {
            Some(fault) => fault,
            None => explain(backend, kernel, case, &first, place)?,
        };
        return Ok(Examined { output: Some(first), ..Examined::plain(Verdict::Fault(fault)) });
    }
    let mut verdict = judge(case, &kernel.manifest, first_run.poison, &first);
    if is_perturbed(backend.kind(), case) && matches!(verdict, Verdict::Agree(_)) {
        let run = Run { perturb: Some(case.schedule_seed), ..first_run };
        match backend.run(kernel, case, run)? {
            Outcome::Fault(fault) => return without_output(Verdict::Fault(fault)),
            Outcome::Output(output) => {
                if let Verdict::Diverge(divergence) = judge(case, &kernel.manifest, run.poison, &output) {
                    verdict = Verdict::Diverge(Divergence { approximate: true, ..divergence });
                    return Ok(Examined { output: Some(output), ..Examined::plain(verdict) });
                }
            }
        }
    }
    let closer = match verdict {
        Verdict::Agree(agreement) if agreement.is_suspect() => look_closer(backend, kernel, case)?,
        _ => None,
    };
    let mut relation = None;
    if let (Verdict::Agree(_), Some(asked)) = (&verdict, case.relation) {
        let checked = relation::check(backend, kernel, case, asked, Some(&first))?;
        match &checked {
            Checked::Broken(divergence) => verdict = Verdict::Diverge(divergence.clone()),
            Checked::Fault(fault) => verdict = Verdict::Fault(fault.clone()),
            Checked::Holds(_) | Checked::DoesNotApply(_) => {}
        }
        relation = Some((asked, checked));
    }
    Ok(Examined { verdict, output: Some(first), closer, relation })
}

/// Runs the shape of a suspect case with values that leave little or no room for rounding, and gives what fails.
pub fn look_closer(
    backend: &dyn Backend,
    kernel: &Kernel,
    case: &Case,
) -> Result<Option<(Case, Verdict)>, BackendError> {
    for recipe in [Recipe::Flat, Recipe::Select, Recipe::Sparse] {
        let mut parts = case.clone().into_parts();
        parts.values.recipe = recipe;
        parts.relation = None;
        let Ok(closer) = Case::try_from(parts) else { continue };
        let run = Run::first(&closer);
        let verdict = match backend.run(kernel, &closer, run)? {
            Outcome::Output(output) => judge(&closer, &kernel.manifest, run.poison, &output),
            Outcome::Fault(fault) => Verdict::Fault(fault),
        };
        if verdict.signature().is_some() {
            return Ok(Some((closer, verdict)));
        }
    }
    Ok(None)
}

/// An element of an output.
#[derive(Clone, Copy)]
struct Place {
    tensor: TensorName,
    step: usize,
    element: usize,
}

impl Place {
    fn buffer(self, output: &Output) -> &Buffer {
        let steps = if self.tensor == TensorName::Lse { &output.lse } else { &output.out };
        &steps[self.step]
    }

    fn name(self, case: &Case) -> String {
        let layout = if self.tensor == TensorName::Lse { case.lse_layout() } else { case.output_layout() };
        let at = layout.coordinate(self.element).unwrap_or_default();
        let at = at.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        format!("{}[{at}] of step {}", self.tensor, self.step)
    }
}

/// First element in which the outputs differ. Caches hold poison and are judged against their own.
fn difference(a: &Output, b: &Output) -> Option<Place> {
    let first = |tensor, a: &[Buffer], b: &[Buffer]| {
        let mut steps = a.iter().zip(b).enumerate();
        steps.find_map(|(step, (a, b))| Some(Place { tensor, step, element: a.first_difference(b)? }))
    };
    first(TensorName::Out, &a.out, &b.out).or_else(|| first(TensorName::Lse, &a.lse, &b.lse))
}

/// The first element of the step in `place` that still holds the poison of its run, in both runs.
fn unwritten(case: &Case, place: Place, runs: [(&Output, Poison); 2]) -> Option<Fault> {
    let buffer = place.buffer(runs[0].0);
    let holds = |place: Place, output: &Output, poison: Poison| {
        place.buffer(output).bits(place.element) == poison.bits(buffer.dtype())
    };
    let mut places = (0..buffer.len()).map(|element| Place { element, ..place });
    let place = places.find(|&place| runs.iter().all(|&(output, poison)| holds(place, output, poison)))?;
    Some(Fault::new(FaultKind::NotWritten, format!("{} was never written", place.name(case))))
}

/// Two runs differ: was it the poison, or would any two runs differ?
fn explain(
    backend: &dyn Backend,
    kernel: &Kernel,
    case: &Case,
    first: &Output,
    place: Place,
) -> Result<Fault, BackendError> {
    let again = Run { poison: case.poison, ..Run::first(case).next() };
    let name = place.name(case);
    let same_poison_agrees = match backend.run(kernel, case, again)? {
        Outcome::Output(third) => difference(first, &third).is_none(),
        Outcome::Fault(fault) => return Ok(fault),
    };
    Ok(if same_poison_agrees {
        let detail = format!("{name} changes with the content of memory that must not be read");
        Fault::new(FaultKind::ReadsPoison, detail)
    } else {
        Fault::new(FaultKind::NotRepeatable, format!("{name} differs between two runs of the same case"))
    })
}
