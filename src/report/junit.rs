//! JUnit XML of a campaign: one suite for each kernel and backend, in it one test for the campaign itself and one for each
//! finding.
//!
//! The campaign's test passes if a case was judged, and is skipped if none was. A finding is a failure of its own test, whose
//! name is its signature. What this program does wrong is an error.

use super::markup::Text;
use super::record::Record;
use std::fmt::Write;

/// The whole file.
pub fn junit(record: &Record) -> String {
    let summary = &record.summary;
    let seconds = summary.elapsed.as_secs_f64();
    let mut suites = String::new();
    let (mut tests, mut failures) = (0, 0);
    for row in &summary.rows {
        let found: Vec<_> = record.findings_of(row).collect();
        let skipped = usize::from(row.cases == 0);
        let (name, class) = (format!("{} on {}", row.kernel, row.device), Text(&row.kernel));
        (tests, failures) = (tests + 1 + found.len(), failures + found.len());
        let _ = writeln!(
            suites,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"{skipped}\" time=\"{seconds:.3}\">",
            Text(&name),
            1 + found.len(),
            found.len()
        );
        let _ = write!(suites, "    <testcase classname=\"{class}\" name=\"cases\" time=\"{seconds:.3}\">");
        if row.cases == 0 {
            let why = row.skipped.iter().map(|(why, count)| format!("{count}: {why}")).collect::<Vec<_>>().join("; ");
            let why = if why.is_empty() { "no case was run".to_owned() } else { why };
            let _ = write!(suites, "<skipped message=\"{}\"/>", Text(why));
        }
        let text = format!(
            "{} cases, {} skipped, worst error/bound {:.3}",
            row.cases,
            row.skipped.values().sum::<u64>(),
            row.worst_ratio
        );
        let _ = writeln!(suites, "<system-out>{}</system-out></testcase>", Text(text));
        for entry in found {
            let finding = &entry.found.finding;
            let _ = writeln!(
                suites,
                "    <testcase classname=\"{class}\" name=\"{}: {}\"><failure type=\"{}\" message=\"{}\">{}</failure></testcase>",
                Text(&finding.signature),
                Text(finding.case.id()),
                Text(&finding.signature.class),
                Text(finding.what()),
                Text(entry.text())
            );
        }
        suites += "  </testsuite>\n";
    }
    let errors = record.internal_errors.len();
    if errors > 0 {
        let _ = writeln!(
            suites,
            "  <testsuite name=\"attnfuzz\" tests=\"{errors}\" failures=\"0\" errors=\"{errors}\" skipped=\"0\">"
        );
        for (kernel, line, message) in &record.internal_errors {
            let _ = writeln!(
                suites,
                "    <testcase classname=\"{}\" name=\"{}\"><error type=\"internal\" message=\"{}\"/></testcase>",
                Text(kernel),
                Text(line),
                Text(message)
            );
        }
        suites += "  </testsuite>\n";
    }
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"attnfuzz\" tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\" time=\"{seconds:.3}\">\n{suites}</testsuites>\n",
        tests + errors
    )
}
