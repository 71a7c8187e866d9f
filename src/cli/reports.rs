//! `--report FILE`: what is written when a campaign ends.

use super::Failure;
use crate::backend::Kernel;
use crate::campaign::{Config, Earlier, Event, Found, Summary};
use crate::oracle::{ErrorPlane, error_map};
use crate::outcome::Outcome;
use crate::report::record::{Entry, Record};
use crate::report::{html, jsonl, junit, sarif};
use crate::worker::is_sanitized;
use std::fs;
use std::path::{Path, PathBuf};

/// The files asked for, and what is to stand in them.
pub(super) struct Reports {
    files: Vec<(PathBuf, Kind)>,
    /// What was found in earlier parts of the campaign, until this one starts.
    earlier: Vec<Event>,
    found: Vec<Found>,
    internal_errors: Vec<(String, String, String)>,
    /// The lines of the events, if any file wants them.
    lines: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Html,
    Junit,
    Sarif,
    Jsonl,
}

impl Reports {
    /// Finds out before the work, not after it, whether the files can be written. Says which findings of earlier parts of the
    /// campaign can't be read any more.
    pub(super) fn open(files: &[PathBuf], earlier: &[Earlier]) -> Result<Self, Failure> {
        let open = |file: &PathBuf| {
            let kind = match file.extension().and_then(|extension| extension.to_str()) {
                Some("html") => Kind::Html,
                Some("xml") => Kind::Junit,
                Some("sarif") => Kind::Sarif,
                Some("jsonl") => Kind::Jsonl,
                _ => {
                    let found = file.display();
                    let message =
                        format!("--report: expected a file that ends in .html, .xml, .sarif or .jsonl, found {found}");
                    return Err(Failure::usage(message));
                }
            };
            write(file, "")?;
            Ok((file.clone(), kind))
        };
        let files = files.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let earlier = earlier.iter().filter(|_| !files.is_empty()).filter_map(|earlier| {
            earlier
                .event()
                .inspect_err(|error| {
                    eprintln!("warning: a finding of an earlier part of the campaign is not in the report: {error}");
                })
                .ok()
        });
        let earlier = earlier.collect();
        Ok(Self { files, earlier, found: Vec::new(), internal_errors: Vec::new(), lines: Vec::new() })
    }

    pub(super) fn note(&mut self, event: &Event) {
        if self.files.is_empty() {
            return;
        }
        match event {
            Event::Found(found) | Event::Met(found) => self.found.push((**found).clone()),
            Event::Internal { kernel, line, message } => {
                self.internal_errors.push((kernel.clone(), line.clone(), message.clone()));
            }
            _ => {}
        }
        if self.files.iter().any(|(_, kind)| *kind == Kind::Jsonl) && !matches!(event, Event::Progress { .. }) {
            self.lines.push(jsonl::event(event));
        }
        if matches!(event, Event::Started { .. }) {
            std::mem::take(&mut self.earlier).iter().for_each(|event| self.note(event));
        }
    }

    pub(super) fn write(self, config: &Config, summary: &Summary) -> Result<(), Failure> {
        if self.files.is_empty() {
            return Ok(());
        }
        let maps = self.files.iter().any(|(_, kind)| *kind == Kind::Html);
        let entry = |found: Found| {
            let kernel = config.kernels.iter().find(|kernel| kernel.reference() == found.finding.kernel).map(|k| &**k);
            let map = if maps { map(config, kernel, &found) } else { Err("none was asked for".into()) };
            Entry::new(found, kernel, map)
        };
        let findings = self.found.into_iter().map(entry).collect();
        let record = Record { summary: summary.clone(), findings, internal_errors: self.internal_errors };
        for (file, kind) in &self.files {
            let text = match kind {
                Kind::Html => html::html(&record),
                Kind::Junit => junit::junit(&record),
                Kind::Sarif => sarif::sarif(&record),
                Kind::Jsonl => [&self.lines[..], &jsonl::summary(summary)[..]].concat().join("\n") + "\n",
            };
            write(file, &text)?;
        }
        Ok(())
    }
}

fn write(file: &Path, text: &str) -> Result<(), Failure> {
    fs::write(file, text).map_err(|e| Failure::usage(format!("--report: can't write {}: {e}", file.display())))
}

/// Runs a finding's case once more, for the elements that are wrong.
fn map(config: &Config, kernel: Option<&Kernel>, found: &Found) -> Result<Vec<ErrorPlane>, String> {
    let finding = &found.finding;
    if finding.divergence.as_ref().is_some_and(|divergence| divergence.relation.is_some()) {
        return Err(
            "the case itself agrees with the reference, and what is wrong shows in comparison with another".into()
        );
    }
    if is_sanitized(&finding.backend) {
        return Err("compute-sanitizer tells of what a kernel does, not of what it leaves".into());
    }
    let kernel = kernel.ok_or("the kernel is not one of this campaign's")?;
    let backend = config.backends.iter().find(|backend| backend.describe() == finding.backend);
    let backend = backend.ok_or("the device is not one of this campaign's")?;
    match backend.run_first(kernel, &finding.case) {
        Ok(Outcome::Output(output)) => Ok(error_map(kernel, &finding.case, &output)),
        Ok(Outcome::Fault(fault)) => {
            Err(format!("the run ended in a fault ({}), before there was a result", fault.kind))
        }
        Err(error) => Err(error.to_string()),
    }
}
