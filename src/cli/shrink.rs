//! `attnfuzz shrink`.

use super::{Exit, Failure, Format, Jobs, ShrinkArgs, backends, inputs};
use crate::backend::Kernel;
use crate::campaign::{Event, Found, met, minimise};
use crate::case::Case;
use crate::oracle::{Examiner, Verdict};
use crate::regression::{Finding, Store};
use crate::report::{human, jsonl};
use std::path::Path;
use std::sync::Arc;

/// Executions that a case is shrunk with, unless told otherwise; under compute-sanitizer one takes seconds.
const MAX_SHRINK: u32 = 10_000;
const MAX_SANITIZED: u32 = 200;

/// A failing case to be made smaller.
struct Start {
    case: Case,
    kernel: Kernel,
    /// Description of the device that it was found on, if it was.
    found_on: String,
    /// Where it comes from, for people and for the finding.
    from: String,
}

pub(super) fn run(args: &ShrinkArgs) -> Result<Exit, Failure> {
    let store = Store::new(&args.regressions);
    store
        .check_writable()
        .map_err(|e| Failure::usage(format!("--regressions: can't write below {}: {e}", args.regressions.display())))?;
    let mut starts = Vec::new();
    for what in &args.what {
        starts.extend(read(what, args.kernel.as_deref())?);
    }
    if starts.is_empty() {
        return Err(Failure::usage("nothing to shrink: there is no finding in the paths given"));
    }
    let backends = backends::examiners(&args.backend, &args.isolation, Jobs::ONE)?;
    let sanitizers = backends::sanitizers(&args.backend, &args.isolation, &args.sanitize, &backends);
    let (mut failing, mut clean, mut not_run) = (0, 0, 0);
    for start in &starts {
        for (index, device) in backends.iter().enumerate() {
            let sanitizer = sanitizers.get(index);
            let backend = match sanitizer {
                Some(sanitizer) => sanitizer.clone().map(|sanitizer| sanitizer as Arc<dyn Examiner>),
                None => backends::for_finding(&start.found_on, device, None),
            };
            let examined = backend
                .as_ref()
                .map_err(String::clone)
                .and_then(|backend| backend.examine(&start.kernel, &start.case).map_err(|error| error.to_string()));
            let verdict = examined.map_or_else(Verdict::Skip, |examined| examined.verdict);
            let backend = backend.as_ref().unwrap_or(device);
            match verdict {
                Verdict::Skip(why) => {
                    not_run += 1;
                    eprintln!("{}: cannot run on {}: {why}", start.from, backend.describe());
                }
                Verdict::Agree(_) => {
                    clean += 1;
                    eprintln!("{}: does not fail on {}", start.from, backend.describe());
                }
                Verdict::Diverge(_) | Verdict::Fault(_) => {
                    failing += 1;
                    let max_shrink = if sanitizer.is_some() { MAX_SANITIZED } else { MAX_SHRINK };
                    let max_shrink = args.max_shrink.unwrap_or(max_shrink);
                    shrink(args.format, start, &**backend, &verdict, (&store, max_shrink));
                }
            }
        }
    }
    backends::tell_unconfirmed(&backends);
    Ok(match (failing, clean, not_run) {
        (1.., ..) => Exit::Findings,
        (0, _, 0) => Exit::Clean,
        (0, 0, _) => Exit::NothingRan,
        _ => Exit::Partly,
    })
}

/// The findings below a path, or the case in a line.
fn read(what: &str, kernel: Option<&str>) -> Result<Vec<Start>, Failure> {
    let path = Path::new(what);
    if !path.exists() {
        let case = what.parse::<Case>().map_err(|error| {
            let looks_like_a_case = what.contains('=');
            Failure::usage(if looks_like_a_case {
                error.to_string()
            } else {
                format!("expected the path of a finding or a case in one line, found {what:?}")
            })
        })?;
        let name = kernel.ok_or_else(|| Failure::usage("expected --kernel, which a case in one line needs"))?;
        let kernel = Kernel::open(name).map_err(Failure::usage)?;
        return Ok(vec![Start { case, kernel, found_on: String::new(), from: what.to_owned() }]);
    }
    if inputs::is_input(path) {
        let (kernel, case) = inputs::read(path, kernel)?;
        return Ok(vec![Start { case, kernel, found_on: String::new(), from: what.to_owned() }]);
    }
    let findings = Finding::load_all(path).map_err(Failure::usage)?;
    let start = |(file, finding): (std::path::PathBuf, Finding)| {
        let kernel = match kernel {
            Some(name) => Kernel::open(name),
            None => finding.open_kernel(&file),
        };
        let kernel = kernel.map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
        Ok(Start { case: finding.case, kernel, found_on: finding.backend, from: file.display().to_string() })
    };
    findings.into_iter().map(start).collect()
}

fn shrink(
    format: Format,
    start: &Start,
    backend: &dyn Examiner,
    verdict: &Verdict,
    (store, max_shrink): (&Store, u32),
) {
    let found_by = format!("shrink of {}", start.from);
    let Some(minimised) = minimise(&start.kernel, backend, &start.case, verdict, found_by, max_shrink) else {
        return;
    };
    let id = minimised.finding.case.id();
    let save =
        |finding: Finding, executions: u32| Box::new(Found::saved(&start.kernel, finding, executions, Some(store)));
    let found = Found { hung: minimised.hung, ..*save(minimised.finding, minimised.executions) };
    tell(format, &Event::Found(Box::new(found)));
    for (case, message) in minimised.internal_errors {
        let kernel = start.kernel.name().to_owned();
        tell(format, &Event::Internal { kernel, line: case.to_string(), message });
    }
    for (case, verdict) in minimised.others {
        if let Some(finding) = met(&start.kernel, backend, &case, &verdict, id) {
            tell(format, &Event::Met(save(finding, 0)));
        }
    }
}

fn tell(format: Format, event: &Event) {
    match (format, event) {
        (Format::Jsonl, event) => println!("{}", jsonl::event(event)),
        (Format::Human, Event::Found(found)) => print!("{}", human::found(found)),
        (Format::Human, Event::Met(found)) => print!("{}", human::met(found)),
        (Format::Human, Event::Internal { kernel, line, message }) => {
            eprintln!("internal error, please report it: {kernel}: {line}: {message}");
        }
        (Format::Human, _) => {}
    }
}
