//! Text for a terminal.

use crate::campaign::{Found, Pace, Row, Summary};
use crate::guide::Reach;
use crate::oracle::{SGN_FAILURE, Tier, Unconfirmed, axes};
use crate::regression::{Bits, Finding, Replayed, Saved};
use comfy_table::{CellAlignment, Table, presets};
use std::fmt::Write;

/// A new finding with what became of it.
pub fn found(found: &Found) -> String {
    let mut text = finding(&found.kernel, &found.finding);
    if found.finding.found_as == found.finding.line {
        let _ = writeln!(text, "   = not shrunk: nothing smaller failed in {} executions", found.executions);
    } else {
        let _ = writeln!(text, "   = shrunk from: {} ({} executions)", found.finding.found_as, found.executions);
    }
    if let Some(hung) = found.hung {
        let seconds = hung.as_secs_f64();
        let _ = writeln!(text, "   = shrinking was ended after {seconds:.1} s of hangs: a smaller case may hang too");
    }
    if let Some(flaky) = found.finding.flaky {
        let _ = writeln!(text, "   = flaky: it fails in {} of {} runs of the same case", flaky.failed, flaky.runs);
    }
    text + &saved(found)
}

/// Another bug, met while one was shrunk.
pub fn met(found: &Found) -> String {
    let finding = &found.finding;
    format!("note: also met, not shrunk: {}\n   = case: {}\n", finding.what(), finding.line) + &saved(found)
}

fn saved(found: &Found) -> String {
    match &found.saved {
        Some(Ok(saved)) => {
            let mut text = format!("   = replay: {}\n", found.finding.replay(saved.path()));
            if let Saved::New { same_signature_as: Some(other), .. } = saved {
                let which = if other.new_is_simpler { "this case is simpler" } else { "that case is no less simple" };
                let file = other.path.display();
                let _ = writeln!(text, "   = perhaps the same bug as {file}, by signature; {which}");
            }
            text
        }
        Some(Err(why)) => format!("   = NOT SAVED: {why}\n"),
        None => String::new(),
    }
}

/// What is wrong, where, and the minimal case.
pub fn finding(kernel: &str, finding: &Finding) -> String {
    let mut text = String::new();
    if let Some(d) = &finding.divergence {
        let place = d.at.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let names = axes(&d.tensor).join(", ");
        match d.relation {
            Some(relation) => {
                let _ = writeln!(text, "error: {relation} doesn't hold in `{kernel}` on {}", finding.backend);
            }
            None => {
                let _ = writeln!(text, "error: wrong value in `{}` of `{kernel}` on {}", d.tensor, finding.backend);
            }
        }
        let _ =
            writeln!(text, "  --> {}[{place}] ({names}) after step {} of {}", d.tensor, d.step + 1, finding.case.steps);
        let _ = writeln!(text, "   = found {:e}, expected {:e}", d.found, d.expected);
        let rule = match d.tier {
            _ if d.relation.is_some() => {
                format!("what follows from another run of a right kernel is {:e} to {:e}", d.low, d.high)
            }
            Tier::Exact => "these bits are only moved and must not change".to_owned(),
            Tier::Det => format!("a right kernel stores {:e} to {:e}, by its numerics contract alone", d.low, d.high),
            Tier::Sgn => {
                format!(
                    "a right kernel stores {:e} to {:e}, but for a chance of {SGN_FAILURE:e} over V's signs",
                    d.low, d.high
                )
            }
        };
        let _ = writeln!(text, "   = {rule}");
        if d.ratio.is_finite() {
            let _ = writeln!(text, "   = the error is {} times its bound", significant(d.ratio));
        }
        let _ = writeln!(text, "   = {} of {} elements are wrong", d.wrong, d.elements);
    } else if let Some(f) = &finding.fault {
        let _ = writeln!(text, "error: {} in `{kernel}` on {}", f.kind.name().replace('-', " "), finding.backend);
        if let Some(site) = &f.site {
            let _ = writeln!(text, "  --> {site}");
        }
        let _ = writeln!(text, "   = {}", f.detail);
        if let Some(other) = &f.other {
            let _ = writeln!(text, "   = and: {other}");
        }
    }
    let _ = writeln!(text, "   = case: {}", finding.line);
    if let Some(only) = &finding.case.only {
        let _ = writeln!(text, "   = non-zero: {}", only.in_words(&finding.case));
    }
    if !finding.irrelevant.is_empty() {
        let keys = finding.irrelevant.join(", ");
        let _ = writeln!(text, "   = irrelevant: {keys}");
    }
    text
}

/// What became of an input of a fuzz target: `word` is fails, agrees or cannot run.
pub fn judged(file: &str, kernel: &str, case: &str, backend: &str, word: &str, detail: &str) -> String {
    let detail = if detail.is_empty() { String::new() } else { format!("\n   = {detail}") };
    format!("{word}: {file}\n   = {kernel} on {backend}: {case}{detail}")
}

/// What became of a saved finding that was run so many times.
pub fn replayed(file: &str, finding: &Finding, backend: &str, result: &Replayed, bits: Bits, runs: u32) -> String {
    let other = match (result, bits) {
        (Replayed::StillFails(_), Bits::Other(_)) => ", with other bits than when it was saved",
        (_, Bits::Varying(..)) => ", with other bits from run to run",
        _ => "",
    };
    let mut text = format!("{}{other}: {file}\n   = {} on {backend}: {}", result.word(), finding.kernel, finding.line);
    let detail = result.detail(finding);
    if !detail.is_empty() {
        let _ = write!(text, "\n   = {detail}");
    }
    match (finding.digest, bits) {
        _ if other.is_empty() => {}
        (Some(saved), Bits::Other(now)) => {
            let _ = write!(text, "\n   = digest of the bits: {now}, saved as {saved}");
        }
        (_, Bits::Varying(one, another)) => {
            let _ = write!(text, "\n   = digests of the bits: {one}, {another} in {runs} runs");
        }
        _ => {}
    }
    text
}

/// Findings of one kernel that share a signature.
pub fn same_signature(kernel: &str, signature: &str, files: &[String]) -> String {
    format!(
        "perhaps one bug: {} findings of {kernel} share the signature `{signature}`:\n   {}",
        files.len(),
        files.join("\n   ")
    )
}

/// How far guided cases got.
pub fn reach(reach: Reach) -> String {
    format!("{} cases kept, {} of {} points reached", reach.kept, reach.reached, reach.existing)
}

/// The table that ends a campaign, and what it means.
pub fn summary(summary: &Summary) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["kernel", "backend", "cases", "cases/s", "skipped", "worst error/bound", "findings"]);
    for column in 2..6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for row in &summary.rows {
        table.add_row([
            row.kernel.clone(),
            row.device.clone(),
            row.cases.to_string(),
            rate(row.rate(summary.jobs)),
            row.skipped.values().sum::<u64>().to_string(),
            if row.cases == row.failing { "-".into() } else { format!("{:.3}", row.worst_ratio) },
            row.findings.to_string(),
        ]);
    }
    let mut text = format!("{table}\n");
    for row in &summary.rows {
        for (why, count) in &row.skipped {
            let _ = writeln!(text, "skipped: {count} of {} on {}: {why}", row.kernel, row.device);
        }
        if row.out_of_domain > 0 {
            let all = row.elements + row.out_of_domain;
            let _ = writeln!(
                text,
                "not judged by value: {} of {all} elements of {} on {}, where a right kernel may overflow",
                row.out_of_domain, row.kernel, row.device
            );
        }
        if let Some(case) = &row.suspect_case {
            let _ = writeln!(
                text,
                "suspect: {} of {} on {} err more than independent roundings would, up to {} times, with {case}; that proves nothing by itself",
                row.suspect,
                row.kernel,
                row.device,
                significant(row.worst_model_ratio)
            );
        }
        text += &sanitized(row);
        text += &relations_in_short(row);
        if let Some(case) = &row.worst_case {
            let _ = writeln!(text, "closest to its bound: {} on {} with {case}", row.kernel, row.device);
        }
    }
    for (kernel, c) in &summary.comparisons {
        let _ = writeln!(
            text,
            "hardware against emulator: {kernel}: {} of {} elements identical in {} cases, at most {} ulp apart",
            c.identical, c.elements, c.cases, c.max_ulps
        );
    }
    for (kernel, reach) in &summary.reach {
        let _ = writeln!(text, "guided: {kernel}: {}", self::reach(*reach));
    }
    if let Some(why) = &summary.corpus_lost {
        let _ = writeln!(text, "NOT SAVED: cases that were kept after the corpus could not be written: {why}");
    }
    for (device, unconfirmed) in &summary.unconfirmed {
        text += &self::unconfirmed(device, unconfirmed);
    }
    text + &verdict(summary) + "\n"
}

/// What went wrong on a device and tells nothing of any kernel, in a line.
pub fn unconfirmed(device: &str, unconfirmed: &Unconfirmed) -> String {
    let Unconfirmed { deaths, failures, last } = unconfirmed;
    let mut text = String::from("not confirmed: ");
    if *deaths > 0 {
        let _ =
            write!(text, "{deaths} times a worker process of {device} ended and did not again with the same cases; ");
    }
    if *failures > 0 {
        let _ = write!(
            text,
            "{failures} times a case failed on {device} beside others and did not alone, as when a kernel writes into another \
             case's memory (--sanitize sees that); "
        );
    }
    text + "last: " + last.as_deref().unwrap_or("-") + "\n"
}

/// A table of the relations that cases were judged by.
pub fn relations(summary: &Summary) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "kernel",
        "backend",
        "relation",
        "holds",
        "broken",
        "does not apply",
        "equal elements",
        "worst difference/tolerance",
    ]);
    for column in 3..8 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for row in &summary.rows {
        for (relation, count) in &row.relations {
            let (equal, elements) = (count.held.equal, count.held.elements);
            let share = 100.0 * equal as f64 / elements.max(1) as f64;
            table.add_row([
                row.kernel.clone(),
                row.device.clone(),
                relation.to_string(),
                count.holds.to_string(),
                count.broken.to_string(),
                count.does_not_apply.to_string(),
                if elements == 0 { "-".into() } else { format!("{share:.1} %") },
                if elements == 0 { "-".into() } else { format!("{:.3}", count.held.worst_ratio) },
            ]);
        }
    }
    format!("{table}\n")
}

/// What compute-sanitizer looked at, and what it could not.
pub(super) fn sanitized(row: &Row) -> String {
    let mut text = String::new();
    if row.sanitized > 0 {
        let _ =
            writeln!(text, "compute-sanitizer: looked at {} cases of {} on {}", row.sanitized, row.kernel, row.device);
    }
    for (why, count) in &row.unsanitized {
        let _ = writeln!(
            text,
            "NOT looked at by compute-sanitizer: {count} cases of {} on {}: {why}",
            row.kernel, row.device
        );
    }
    text
}

/// What came of the relations that cases asked for, in a line.
fn relations_in_short(row: &Row) -> String {
    let counts = || row.relations.values();
    let (holds, broken) = counts().fold((0, 0), |(holds, broken), count| (holds + count.holds, broken + count.broken));
    if holds + broken == 0 {
        return String::new();
    }
    let equal: u64 = counts().map(|count| count.held.equal).sum();
    let elements: u64 = counts().map(|count| count.held.elements).sum();
    let worst = counts().map(|count| count.held.worst_ratio).fold(0.0, f64::max);
    let broken = if broken > 0 { format!(", broken in {broken}") } else { String::new() };
    format!(
        "relations: {} kinds hold in {holds} cases of {} on {}{broken}; {equal} of {elements} elements equal, worst difference/tolerance {worst:.3}\n",
        row.relations.len(),
        row.kernel,
        row.device
    )
}

/// The campaign's last line.
fn verdict(summary: &Summary) -> String {
    let findings: usize = summary.rows.iter().map(|row| row.findings).sum();
    let cases: u64 = summary.rows.iter().map(|row| row.cases).sum();
    let seconds = summary.elapsed.as_secs_f64();
    if summary.internal_errors > 0 {
        return format!(
            "verdict: none, attnfuzz itself went wrong on {} cases; please report it",
            summary.internal_errors
        );
    }
    let ended = if summary.interrupted || summary.journal_lost.is_some() { " before it was ended early" } else { "" };
    match (findings, cases) {
        (0, 0) => "verdict: none, no case was run".into(),
        (0, _) => format!("verdict: no finding in {cases} cases{ended} ({seconds:.1} s)"),
        (1, _) => format!("verdict: 1 finding in {cases} cases{ended} ({seconds:.1} s)"),
        _ => format!("verdict: {findings} findings in {cases} cases{ended} ({seconds:.1} s)"),
    }
}

/// Cases a second, if there is anything to tell.
pub(super) fn rate(rate: Option<f64>) -> String {
    rate.map_or("-".into(), significant)
}

/// How a kernel on a backend gets on, in a line.
pub fn pace(pace: &Pace) -> String {
    let Pace { kernel, device, cases, skipped, worst_ratio, findings, .. } = pace;
    let rate = rate(pace.rate);
    format!(
        "{kernel} on {device}: {cases} cases, {rate}/s, {skipped} skipped, worst error/bound {worst_ratio:.3}, findings {findings}"
    )
}

/// Three significant digits, without an exponent where a person would not write one.
pub(super) fn significant(x: f64) -> String {
    match x.abs() {
        0.0 => "0".into(),
        a if !(1e-3..1e6).contains(&a) => format!("{x:.2e}"),
        a => format!("{x:.*}", (2 - a.log10().floor() as i32).max(0) as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::significant;

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!([0.0, 0.01234, 12.345, 1234.5, 1.5e7].map(significant), ["0", "0.0123", "12.3", "1234", "1.50e7"]);
    }
}
