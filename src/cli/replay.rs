//! `attnfuzz replay`.

use super::{Exit, Failure, Format, ReplayArgs, backends, inputs};
use crate::backend::{Backend, Kernel};
use crate::case::Case;
use crate::oracle::{Verdict, examine};
use crate::regression::{Finding, Replayed, replay};
use crate::report::{human, jsonl};
use std::path::{Path, PathBuf};

pub(super) fn run(args: &ReplayArgs) -> Result<Exit, Failure> {
    let default = PathBuf::from("proptest-regressions/cases");
    let (mut findings, mut cases) = (Vec::new(), Vec::new());
    if args.paths.is_empty() && default.exists() {
        findings = Finding::load_all(&default).map_err(Failure::usage)?;
    }
    for path in &args.paths {
        if inputs::is_input(path) {
            cases.push((path, inputs::read(path, None)?));
        } else {
            findings.extend(Finding::load_all(path).map_err(Failure::usage)?);
        }
    }
    if findings.is_empty() && cases.is_empty() {
        let places = if args.paths.is_empty() { default.display().to_string() } else { "the paths given".into() };
        eprintln!("nothing to replay: there is no finding in {places}");
        return Ok(Exit::NothingRan);
    }
    let backends = backends::open(&args.backend)?;
    let (mut still, mut differently, mut fixed, mut not_run) = (0, 0, 0, 0);
    for (file, finding) in &findings {
        for backend in &backends {
            let result = match finding.open_kernel(file) {
                Ok(kernel) => replay(finding, &kernel, &**backend),
                Err(error) => Replayed::CannotRun(error.to_string()),
            };
            *match result {
                Replayed::StillFails(_) => &mut still,
                Replayed::FailsDifferently(..) => &mut differently,
                Replayed::Fixed => &mut fixed,
                Replayed::CannotRun(_) => &mut not_run,
            } += 1;
            let (word, detail) = words(finding, &result);
            tell(args.format, file, (&finding.kernel, &finding.line), &backend.describe(), (word, &detail));
        }
    }
    for (file, (kernel, case)) in &cases {
        for backend in &backends {
            let (word, detail) = judged(kernel, case, &**backend);
            *match word {
                "fails" => &mut still,
                "agrees" => &mut fixed,
                _ => &mut not_run,
            } += 1;
            let name = kernel.reference();
            tell(args.format, file, (&name, &case.to_string()), &backend.describe(), (word, &detail));
        }
    }
    Ok(match (still, differently, fixed, not_run) {
        (1.., ..) => Exit::Findings,
        (0, 1.., ..) => Exit::Differently,
        (0, 0, _, 0) => Exit::Clean,
        (0, 0, 0, _) => Exit::NothingRan,
        _ => Exit::Partly,
    })
}

/// What became of an input.
fn judged(kernel: &Kernel, case: &Case, backend: &dyn Backend) -> (&'static str, String) {
    match examine(backend, kernel, case).map(|examined| examined.verdict) {
        Ok(Verdict::Agree(_)) => ("agrees", String::new()),
        Ok(Verdict::Diverge(divergence)) => ("fails", divergence.to_string()),
        Ok(Verdict::Fault(fault)) => ("fails", format!("{}: {}", fault.kind, fault.detail)),
        Ok(Verdict::Skip(why)) => ("cannot run", why),
        Err(error) => ("cannot run", error.to_string()),
    }
}

fn words(finding: &Finding, result: &Replayed) -> (&'static str, String) {
    match result {
        Replayed::StillFails(what) => ("still fails", what.clone()),
        Replayed::FailsDifferently(signature, what) => {
            ("fails differently", format!("{what} (now {signature}, saved as {})", finding.signature))
        }
        Replayed::Fixed => ("fixed", String::new()),
        Replayed::CannotRun(why) => ("cannot run", why.clone()),
    }
}

fn tell(format: Format, file: &Path, case: (&str, &str), backend: &str, (word, detail): (&str, &str)) {
    let file = file.display().to_string();
    match format {
        Format::Jsonl => println!("{}", jsonl::replayed(&file, case, backend, &word.replace(' ', "-"), detail)),
        Format::Human => println!("{}", human::replayed(word, &file, case, backend, detail)),
    }
}
