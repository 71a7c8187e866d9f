//! What a campaign's reports are made of: its summary, its findings and where they are.

use super::human;
use crate::backend::Kernel;
use crate::campaign::{Found, Row, Summary};
use crate::oracle::ErrorPlane;
use crate::outcome::Site;
use crate::regression::quoted;
use crate::worker::is_sanitized;

/// A campaign that has ended.
pub struct Record {
    /// What came of it.
    pub summary: Summary,
    /// Its findings, those that were only met included, in the order in which they came.
    pub findings: Vec<Entry>,
    /// Cases on which this program went wrong: kernel, case and message.
    pub internal_errors: Vec<(String, String, String)>,
}

/// A finding, where it is in files, and what its case leaves.
pub struct Entry {
    /// The finding.
    pub found: Found,
    /// Path of the CUDA source or the PTX, from the current folder where it can be.
    pub file: String,
    /// Line of that file, from 1, where known.
    pub line: Option<u32>,
    /// The wrong elements of a run of its case, or why there are none to show.
    pub map: Result<Vec<ErrorPlane>, String>,
}

impl Record {
    /// The findings of a kernel on a device.
    pub fn findings_of<'a>(&'a self, row: &'a Row) -> impl Iterator<Item = &'a Entry> {
        let of = |entry: &&Entry| entry.found.kernel == row.kernel && is_of(&entry.found.finding.backend, &row.device);
        self.findings.iter().filter(of)
    }
}

impl Entry {
    /// A finding of `kernel`.
    pub fn new(found: Found, kernel: Option<&Kernel>, map: Result<Vec<ErrorPlane>, String>) -> Self {
        let site = found.finding.fault.as_ref().and_then(|fault| fault.site.as_ref());
        let source = kernel.zip(site).and_then(|(kernel, site)| source_of(kernel, site));
        let (file, line) = source.unwrap_or_else(|| {
            // Of PTX that is made for the case there is no file to point into.
            match kernel.map(Kernel::ptx_file) {
                Some(Ok(file)) => (file.display().to_string(), site.and_then(|site| site.ptx_line)),
                Some(Err(_)) => (found.finding.kernel.clone(), None),
                None => (found.finding.kernel.clone(), site.and_then(|site| site.ptx_line)),
            }
        });
        Self { found, file, line, map }
    }

    /// All that is known of it, for people.
    pub fn text(&self) -> String {
        human::found(&self.found)
    }

    /// How to see it again.
    pub fn replay(&self) -> String {
        match &self.found.saved {
            Some(Ok(saved)) => self.found.finding.replay(saved.path()),
            _ => {
                let finding = &self.found.finding;
                format!("attnfuzz show --kernel {} {}", quoted(&finding.kernel), quoted(&finding.line))
            }
        }
    }
}

/// Whether a finding's device is this one, under compute-sanitizer or not.
fn is_of(finding: &str, device: &str) -> bool {
    finding.strip_prefix(device).is_some_and(|rest| rest.is_empty() || is_sanitized(rest))
}

/// File and line of the CUDA source, if the PTX names them.
fn source_of(kernel: &Kernel, site: &Site) -> Option<(String, Option<u32>)> {
    let (name, line) = site.source.as_ref()?.rsplit_once(':')?;
    let (path, _) = kernel.source_file(name)?;
    Some((path.display().to_string(), line.parse().ok()))
}
