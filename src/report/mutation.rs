//! What came of a kernel's mutants, for people and machines.
//!
//! JSON lines: one `mutant` for each mutant with its `status` (`killed`, `survived`, `not-executed`, `not-tried`,
//! `equivalent`, `stillborn`), then one `operator` for each operator, and `score` last.

use crate::mutate::{Mutant, MutantResult, Report, Status, Tally};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// One mutant: its name, where it is, and the change.
pub fn mutant(mutant: &Mutant) -> String {
    let mut text = mutant.id.clone();
    if let Some(source) = &mutant.source {
        let _ = write!(text, " ({source})");
    }
    if !mutant.before.is_empty() {
        let _ = write!(text, "\n   - {}", mutant.before);
    }
    let after = if mutant.after.is_empty() { "(nothing)" } else { &mutant.after };
    let _ = write!(text, "\n   + {after}");
    text
}

/// Everything about a kernel's mutants: those that live, the tables, the score.
pub fn report(report: &Report) -> String {
    let mut text = String::new();
    for result in &report.results {
        match &result.status {
            Status::Survived => {
                let _ = writeln!(text, "survived: {}", mutant(&result.mutant));
                let _ = writeln!(text, "   = {}, error/bound up to {:.3}", cases(result.tried), result.worst_ratio);
            }
            Status::NotExecuted => {
                let _ = writeln!(text, "not executed: {}", mutant(&result.mutant));
            }
            Status::Stillborn(why) => {
                let _ = writeln!(text, "stillborn: {}\n   = {why}", mutant(&result.mutant));
            }
            Status::Equivalent(why) => {
                let _ = writeln!(text, "equivalent: {}\n   = {why}", mutant(&result.mutant));
            }
            Status::Killed { .. } | Status::NotTried => {}
        }
    }
    let _ = writeln!(text, "{}\n{}", operators(report), killers(report));
    if let Some(first) = &report.first_unusable {
        let _ = writeln!(text, "of no use: {} of {}, such as {first}", cases(report.unusable as u64), report.kernel);
    }
    let tally = Tally::of(&report.results);
    if tally.not_tried > 0 {
        let _ = writeln!(text, "not tried: {} mutants, for lack of time; a larger --budget has some", tally.not_tried);
    }
    text + &score(report) + "\n"
}

/// The line that ends it.
fn score(report: &Report) -> String {
    let tally = Tally::of(&report.results);
    let Tally { killed, survived, not_executed, equivalent, .. } = tally;
    let score = tally.score().map_or_else(|| "none".to_owned(), |score| format!("{score:.1} %"));
    format!(
        "score of {}: {score} ({killed} killed, {survived} survived; {not_executed} not executed, {equivalent} equivalent; {} trials on {}, {:.1} s)",
        report.kernel,
        report.trials,
        cases(report.cases as u64),
        report.elapsed.as_secs_f64()
    )
}

fn cases(count: u64) -> String {
    if count == 1 { "1 case".into() } else { format!("{count} cases") }
}

fn by_operator(report: &Report) -> BTreeMap<&str, Vec<&MutantResult>> {
    let mut groups: BTreeMap<&str, Vec<&MutantResult>> = BTreeMap::new();
    for result in &report.results {
        groups.entry(result.mutant.operator).or_default().push(result);
    }
    groups
}

fn operators(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "operator",
        "mutants",
        "killed",
        "survived",
        "not executed",
        "not tried",
        "equivalent",
        "stillborn",
        "score",
    ]);
    let mut row = |name: &str, results: &[&MutantResult]| {
        let tally = Tally::of(results.iter().copied());
        let numbers = [
            results.len(),
            tally.killed,
            tally.survived,
            tally.not_executed,
            tally.not_tried,
            tally.equivalent,
            tally.stillborn,
        ];
        let score = tally.score().map_or_else(|| "-".to_owned(), |score| format!("{score:.1} %"));
        table.add_row([name.to_owned()].into_iter().chain(numbers.map(|n| n.to_string())).chain([score]));
    };
    for (name, results) in by_operator(report) {
        row(name, &results);
    }
    row("all", &report.results.iter().collect::<Vec<_>>());
    align_right(&mut table, 1..9);
    table
}

/// What noticed the dead, how often, and after how much.
fn killers(report: &Report) -> Table {
    let mut groups: BTreeMap<&str, Vec<&MutantResult>> = BTreeMap::new();
    for result in &report.results {
        if let Status::Killed { by, .. } = &result.status {
            groups.entry(by).or_default().push(result);
        }
    }
    let mut rows: Vec<_> = groups.into_iter().collect();
    rows.sort_by_key(|(by, results)| (std::cmp::Reverse(results.len()), *by));
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["killed by", "mutants", "mean cases", "most cases"]);
    for (by, results) in rows {
        let tried: u64 = results.iter().map(|result| result.tried).sum();
        let most = results.iter().map(|result| result.tried).max().unwrap_or(0);
        let mean = tried as f64 / results.len() as f64;
        table.add_row([by.to_owned(), results.len().to_string(), format!("{mean:.1}"), most.to_string()]);
    }
    align_right(&mut table, 1..4);
    table
}

fn align_right(table: &mut Table, columns: std::ops::Range<usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// The line of a mutant that was not run.
pub fn mutant_line(kernel: &str, mutant: &Mutant) -> String {
    object(kernel, mutant).to_string()
}

/// The lines of a kernel's mutants, its operators and its score.
pub fn lines(report: &Report) -> Vec<String> {
    let mutants = report.results.iter().map(|result| {
        let mut value = object(&report.kernel, &result.mutant);
        value["status"] = json!(result.status.name());
        value["cases"] = json!(result.tried);
        value["busy_s"] = json!(result.busy.as_secs_f64());
        match &result.status {
            Status::Killed { by, case } => {
                value["by"] = json!(by);
                value["case"] = json!(case);
            }
            Status::Survived => value["worst_ratio"] = json!(result.worst_ratio),
            Status::Equivalent(why) | Status::Stillborn(why) => value["why"] = json!(why),
            Status::NotExecuted | Status::NotTried => {}
        }
        value
    });
    let groups = by_operator(report);
    let operators = groups.iter().map(|(name, results)| {
        let mut value = tally(Tally::of(results.iter().copied()));
        value["event"] = json!("operator");
        value["kernel"] = json!(report.kernel);
        value["operator"] = json!(name);
        value
    });
    let mut end = tally(Tally::of(&report.results));
    end["event"] = json!("score");
    end["kernel"] = json!(report.kernel);
    end["seed"] = json!(report.seed);
    end["cases"] = json!(report.cases);
    end["unusable"] = json!(report.unusable);
    end["trials"] = json!(report.trials);
    end["elapsed_s"] = json!(report.elapsed.as_secs_f64());
    mutants.chain(operators).chain([end]).map(|value| value.to_string()).collect()
}

fn object(kernel: &str, mutant: &Mutant) -> Value {
    json!({
        "event": "mutant", "kernel": kernel, "id": mutant.id, "operator": mutant.operator, "ptx_line": mutant.line,
        "source": mutant.source, "before": mutant.before, "after": mutant.after,
    })
}

fn tally(tally: Tally) -> Value {
    json!({
        "killed": tally.killed, "survived": tally.survived, "not_executed": tally.not_executed,
        "not_tried": tally.not_tried, "equivalent": tally.equivalent, "stillborn": tally.stillborn,
        "score": tally.score(),
    })
}
