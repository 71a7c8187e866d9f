//! What a kernel's cases reached, as annotated source and as JSON lines.
//!
//! JSON lines: `missed` for each point that no case reached, `failing` for each signature, and `coverage` last.

use crate::backend::{PointKind, Points};
use crate::coverage::{File, Line, Listing, Measured, Miss, MissKind, Share, Totals};
use serde_json::{Value, json};
use std::fmt::Write;

/// Lines shown around one that something is missing of.
const CONTEXT: u32 = 2;
/// As many lines in a row that nothing ran are shown at each end; those between are counted.
const SHOWN: u32 = 4;
/// Names of entries in a note, at most.
const NAMES: usize = 3;

/// The lines that something is missing of, with those around them; `all`: every line.
pub fn listing(listing: &Listing, all: bool) -> String {
    let mut text = String::new();
    if !listing.unlaunched.is_empty() {
        let (count, of) = (listing.unlaunched.len(), listing.unlaunched.len() + listing.launched.len());
        let _ = writeln!(text, "never launched: {count} of {of} entries: {}", listing.unlaunched.join(", "));
    }
    for file in &listing.files {
        let unrun = file.lines.values().filter(|line| line.is_unrun()).count();
        let _ = writeln!(text, "{}: {unrun} of {} lines never run", file.source.path.display(), file.lines.len());
        let shown = if all { vec![(1, file.last())] } else { windows(file) };
        for (index, (first, last)) in shown.iter().enumerate() {
            if index > 0 {
                text.push_str("      ...\n");
            }
            window(&mut text, file, (*first, *last), all, listing.launched.len());
        }
    }
    text
}

impl File {
    fn last(&self) -> u32 {
        let of_lines = self.lines.keys().next_back().copied().unwrap_or(0);
        of_lines.max(u32::try_from(self.source.text.len()).unwrap_or(u32::MAX))
    }
}

/// Ranges of lines to show, first and last, in order and apart.
fn windows(file: &File) -> Vec<(u32, u32)> {
    let mut windows: Vec<(u32, u32)> = Vec::new();
    for (&number, _) in file.lines.iter().filter(|(_, line)| line.missed().next().is_some()) {
        let (first, last) = (number.saturating_sub(CONTEXT).max(1), number.saturating_add(CONTEXT).min(file.last()));
        match windows.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last,
            _ => windows.push((first, last)),
        }
    }
    windows
}

fn window(text: &mut String, file: &File, (first, last): (u32, u32), all: bool, launched: usize) {
    let mut number = first;
    while number <= last {
        let end = unrun_until(file, number, last);
        if !all && end - number > 2 * SHOWN {
            (number..number + SHOWN).for_each(|number| line(text, file, number, launched));
            let _ = writeln!(text, "          ... {} lines, never run", end - number - 2 * SHOWN);
            number = end - SHOWN;
        }
        line(text, file, number, launched);
        number += 1;
    }
}

/// The end of the stretch of lines from `number` on that no case ran, those without code included.
fn unrun_until(file: &File, number: u32, last: u32) -> u32 {
    let is_unrun = |number: &u32| file.lines.get(number).is_none_or(Line::is_unrun);
    let stretch = (number..=last).take_while(is_unrun).filter(|number| file.lines.contains_key(number));
    stretch.last().map_or(number, |last| last + 1)
}

fn line(text: &mut String, file: &File, number: u32, launched: usize) {
    let says = file.source.text.get(number as usize - 1).map_or("", String::as_str);
    let count = match file.lines.get(&number) {
        None => "-".to_owned(),
        Some(line) if line.is_unrun() => "#####".to_owned(),
        Some(line) => line.cases.to_string(),
    };
    let _ = writeln!(text, "{}", format!("{count:>9} {number:>5} | {says}").trim_end());
    for miss in file.lines.get(&number).into_iter().flat_map(Line::missed) {
        if let Some(note) = note(&file.lines[&number], miss, launched) {
            let _ = writeln!(text, "                | = {note}");
        }
    }
}

/// What to say of a miss; nothing if the line's count says it all.
fn note(line: &Line, miss: &Miss, launched: usize) -> Option<String> {
    let (what, which) = match miss.kind {
        MissKind::Run if line.is_unrun() && line.entries == launched => return None,
        MissKind::Run if line.is_unrun() => return Some(format!("in {} of {launched} entries only", line.entries)),
        MissKind::Run => return Some(format!("missed in {}", entries(line, miss))),
        MissKind::Taken => ("never taken", "branches"),
        MissKind::NotTaken => ("always taken", "branches"),
        MissKind::Held => ("never holds", "conditions"),
        MissKind::NotHeld => ("always holds", "conditions"),
    };
    let (ptx_line, instruction) = &miss.example;
    let count = if miss.of == 1 { String::new() } else { format!(" {} of {} {which},", miss.instructions, miss.of) };
    Some(format!("{what}:{count} in {}: ptx {ptx_line}: {instruction}", entries(line, miss)))
}

fn entries(line: &Line, miss: &Miss) -> String {
    let names = miss.entries.iter().take(NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = if miss.entries.len() > NAMES { ", ..." } else { "" };
    match (miss.entries.len(), line.entries) {
        (1, 1) => names,
        (missing, all) if missing == all => format!("all {all} entries"),
        (missing, all) => format!("{missing} of {all} entries ({names}{more})"),
    }
}

/// What failed, and the line that ends it.
pub fn summary(measured: &Measured, totals: &Totals) -> String {
    let mut text = String::new();
    for (line, message) in &measured.internal {
        let _ = writeln!(text, "internal error, please report it: {}: {line}: {message}", measured.kernel);
    }
    for (signature, failing) in &measured.failing {
        let (kernel, cases) = (&measured.kernel, failing.cases);
        let _ = writeln!(text, "error: {kernel}: {signature}, in {cases} cases, first {}", failing.line);
        let _ = writeln!(text, "   = not shrunk and not saved: attnfuzz shrink --kernel {kernel} does both");
    }
    for (why, count) in &measured.skipped {
        let _ = writeln!(text, "skipped {count} cases: {why}");
    }
    let share =
        |what: &str, share: Share| format!("{what} {} of {} ({:.1} %)", share.reached, share.existing, share.percent());
    let parts = [
        share("instructions", totals.instructions),
        share("edges", totals.edges),
        share("branch outcomes", totals.branches),
        share("predicate outcomes", totals.predicates),
    ];
    let seconds = measured.elapsed.as_secs_f64();
    let cases = measured.cases;
    let _ = writeln!(text, "coverage of {}: {}; {cases} cases, {seconds:.1} s", measured.kernel, parts.join(", "));
    text
}

/// The lines of a kernel.
pub fn lines(points: &Points, measured: &Measured, totals: &Totals) -> Vec<String> {
    let kernel = &measured.kernel;
    let missed = points.iter().filter(|point| measured.reached[point.number as usize] == 0).map(|point| {
        let inst = &point.program.code()[point.pc];
        let source = point.program.file(inst.source.0).map(|file| format!("{file}:{}", inst.source.1));
        let (kind, held) = match point.kind {
            PointKind::Block => ("block", None),
            PointKind::Branch(held) => ("branch", Some(held)),
            PointKind::Guard(held) => ("guard", Some(held)),
            PointKind::Decision(held) => ("decision", Some(held)),
        };
        json!({
            "event": "missed", "kernel": kernel, "point": point.number, "entry": point.entry, "kind": kind,
            "held": held.map(|held| held.to_string()), "ptx_line": inst.line, "source": source,
            "instruction": point.program.line(inst.line),
        })
    });
    let failing = measured.failing.iter().map(|(signature, failing)| {
        json!({
            "event": "failing", "kernel": kernel, "signature": signature, "cases": failing.cases, "case": failing.line,
        })
    });
    let internal = measured
        .internal
        .iter()
        .map(|(line, message)| json!({"event": "internal", "kernel": kernel, "case": line, "message": message}));
    let end = json!({
        "event": "coverage", "kernel": kernel, "seed": measured.seed, "cases": measured.cases,
        "skipped": measured.skipped, "points": share(totals.points), "instructions": share(totals.instructions),
        "edges": share(totals.edges), "branch_outcomes": share(totals.branches),
        "predicate_outcomes": share(totals.predicates), "elapsed_s": measured.elapsed.as_secs_f64(),
    });
    missed.chain(failing).chain(internal).chain([end]).map(|value| value.to_string()).collect()
}

fn share(share: Share) -> Value {
    json!({"reached": share.reached, "existing": share.existing})
}
