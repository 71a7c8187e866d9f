//! `attnfuzz replay`.

use super::{Exit, Failure, Format, ReplayArgs, backends};
use crate::regression::{Finding, Replayed, replay};
use crate::report::{human, jsonl};
use std::path::{Path, PathBuf};

pub(super) fn run(args: &ReplayArgs) -> Result<Exit, Failure> {
    let default = PathBuf::from("proptest-regressions/cases");
    let mut findings = Vec::new();
    if args.paths.is_empty() && default.exists() {
        findings = Finding::load_all(&default).map_err(Failure::usage)?;
    }
    for path in &args.paths {
        findings.extend(Finding::load_all(path).map_err(Failure::usage)?);
    }
    if findings.is_empty() {
        let places = if args.paths.is_empty() { default.display().to_string() } else { "the paths given".into() };
        eprintln!("nothing to replay: there is no finding in {places}");
        return Ok(Exit::NothingRan);
    }
    let backends = backends::examiners(&args.backend, &args.isolation, 1)?;
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
            tell(args.format, file, finding, &backend.describe(), &result);
        }
    }
    backends::tell_unconfirmed(&backends);
    Ok(match (still, differently, fixed, not_run) {
        (1.., ..) => Exit::Findings,
        (0, 1.., ..) => Exit::Differently,
        (0, 0, _, 0) => Exit::Clean,
        (0, 0, 0, _) => Exit::NothingRan,
        _ => Exit::Partly,
    })
}

fn tell(format: Format, file: &Path, finding: &Finding, backend: &str, result: &Replayed) {
    let file = file.display().to_string();
    let (word, detail) = match result {
        Replayed::StillFails(what) => ("still fails", what.clone()),
        Replayed::FailsDifferently(signature, what) => {
            ("fails differently", format!("{what} (now {signature}, saved as {})", finding.signature))
        }
        Replayed::Fixed => ("fixed", String::new()),
        Replayed::CannotRun(why) => ("cannot run", why.clone()),
    };
    match format {
        Format::Jsonl => println!("{}", jsonl::replayed(&file, finding, backend, &word.replace(' ', "-"), &detail)),
        Format::Human => println!("{}", human::replayed(word, &file, finding, backend, &detail)),
    }
}
