//! `attnfuzz replay`.

use super::{Exit, Failure, Format, Jobs, ReplayArgs, backends, inputs};
use crate::backend::Kernel;
use crate::case::Case;
use crate::oracle::{Examiner, Verdict};
use crate::regression::{Bits, Finding, Replayed, replay_times};
use crate::report::{human, jsonl};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

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
    let backends = backends::examiners(&args.backend, &args.isolation, Jobs::ONE)?;
    let sanitizers = backends::sanitizers(&args.backend, &args.isolation, &args.sanitize, &backends);
    let (mut still, mut differently, mut fixed, mut not_run) = (0, 0, 0, 0);
    for (file, finding) in &findings {
        for (index, backend) in backends.iter().enumerate() {
            let examiner = backends::for_finding(&finding.backend, backend, sanitizers.get(index));
            let kernel = finding.open_kernel(file).map_err(|error| error.to_string());
            let (result, bits) = match examiner.and_then(|examiner| Ok((examiner, kernel?))) {
                Ok((examiner, kernel)) => replay_times(finding, &kernel, &*examiner, args.repeat),
                Err(why) => (Replayed::CannotRun(why), Bits::Unknown),
            };
            *match result {
                Replayed::StillFails(_) => &mut still,
                Replayed::FailsDifferently(..) => &mut differently,
                Replayed::Fixed => &mut fixed,
                Replayed::CannotRun(_) => &mut not_run,
            } += 1;
            let tell = match args.format {
                Format::Jsonl => jsonl::replayed,
                Format::Human => human::replayed,
            };
            println!("{}", tell(&file.display().to_string(), finding, &backend.describe(), &result, bits, args.repeat));
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
            let (name, case) = (kernel.reference(), case.to_string());
            let tell = match args.format {
                Format::Jsonl => jsonl::judged,
                Format::Human => human::judged,
            };
            println!("{}", tell(&file.display().to_string(), &name, &case, &backend.describe(), word, &detail));
        }
    }
    backends::tell_unconfirmed(&backends);
    tell_same_signatures(args.format, &findings);
    Ok(match (still, differently, fixed, not_run) {
        (1.., ..) => Exit::Findings,
        (0, 1.., ..) => Exit::Differently,
        (0, 0, _, 0) => Exit::Clean,
        (0, 0, 0, _) => Exit::NothingRan,
        _ => Exit::Partly,
    })
}

/// What became of an input.
fn judged(kernel: &Kernel, case: &Case, backend: &dyn Examiner) -> (&'static str, String) {
    match backend.examine(kernel, case).map(|examined| examined.verdict) {
        Ok(Verdict::Agree(_)) => ("agrees", String::new()),
        Ok(Verdict::Diverge(divergence)) => ("fails", divergence.to_string()),
        Ok(Verdict::Fault(fault)) => ("fails", format!("{}: {}", fault.kind, fault.detail)),
        Ok(Verdict::Skip(why)) => ("cannot run", why),
        Err(error) => ("cannot run", error.to_string()),
    }
}

/// Says which of the findings may be one bug. The same case of the same file, given twice, is no news.
fn tell_same_signatures(format: Format, findings: &[(PathBuf, Finding)]) {
    let mut groups: BTreeMap<(&str, String), BTreeSet<String>> = BTreeMap::new();
    for (file, finding) in findings {
        let group = groups.entry((&finding.kernel, finding.signature.to_string())).or_default();
        group.insert(file.display().to_string());
    }
    for ((kernel, signature), files) in groups.into_iter().filter(|(_, files)| files.len() > 1) {
        let files: Vec<String> = files.into_iter().collect();
        match format {
            Format::Jsonl => println!("{}", jsonl::same_signature(kernel, &signature, &files)),
            Format::Human => println!("{}", human::same_signature(kernel, &signature, &files)),
        }
    }
}
