//! What `attnfuzz rule-out` says: text, and JSON lines `suspect`, `found` and `ruled_out`.
//!
//! `standing` of a `suspect` is one of `ruled-out`, `too-little`, `not-claimed`, `guilty`, `open`, `not-run`; `why` has the
//! reason, `who` the suspects that an open one depends on, `minimal` the cases that a guilty one is blamed for, `telling` how
//! many cases could have shown it and `needs` how many it takes. `verdict` of `ruled_out`, which comes last, is `ruled-out`,
//! `guilty` or `none`.

use super::human::{self, significant};
use super::jsonl;
use crate::campaign::{Event, Extent, Statistic};
use crate::rule_out::{Account, NEEDED, Report, Standing};
use serde_json::{Value, json};
use std::fmt::Write;

/// Lines about one suspect. What a later suspect brings to light may change its standing, so a report prints all at its end.
pub fn account(account: &Account) -> String {
    let mut text = format!("{}: {}\n", account.suspect, account.standing);
    let _ = writeln!(text, "   {}", account.what);
    if matches!(account.standing, Standing::NotClaimed(_)) {
        return text;
    }
    let cases = account.statistic.cases;
    let _ = write!(text, "   {cases} case{}", if cases == 1 { "" } else { "s" });
    if account.telling < cases {
        let _ = write!(text, ", of which {} could show it", account.telling);
    }
    if account.worst_case.is_some() {
        let _ = write!(text, ", worst error/bound {:.3}", account.worst_ratio);
    }
    let _ = writeln!(text, ": {}", account.tried_with);
    if cases > 0 {
        let _ = writeln!(text, "   over {}", space(&account.statistic));
    }
    let relations: Vec<String> = account
        .relations
        .iter()
        .filter(|(_, count)| count.holds + count.broken > 0)
        .map(|(relation, count)| match count.broken {
            0 => format!("{relation} holds in {}", count.holds),
            broken => format!("{relation} holds in {}, broken in {broken}", count.holds),
        })
        .collect();
    if !relations.is_empty() {
        let _ = writeln!(text, "   relations: {}", relations.join(", "));
    }
    for (why, count) in &account.skipped {
        let _ = writeln!(text, "   skipped: {count}: {why}");
    }
    if let Standing::Guilty(lines) = &account.standing {
        for line in lines {
            let _ = writeln!(text, "   fails, and would not without it: {line}");
        }
    }
    text
}

/// Ranges and choices that cases had.
fn space(statistic: &Statistic) -> String {
    let range = |(extent, met): (&Extent, &crate::campaign::Met)| match (met.low, met.high) {
        (low, high) if low == high => format!("{extent} {low}"),
        (low, high) => format!("{extent} {low} to {high}"),
    };
    // Said once where rows of V are as long as those of K.
    let met = |extent: Extent| statistic.met.get(&extent);
    let as_k = |extent: &Extent| *extent == Extent::VHeadDim && met(*extent) == met(Extent::HeadDim);
    let mut parts: Vec<String> = statistic.met.iter().filter(|(extent, _)| !as_k(extent)).map(range).collect();
    parts.extend(
        statistic.choices.iter().filter(|(name, _)| !name.starts_with("values ")).map(|(name, _)| name.clone()),
    );
    parts.join(", ")
}

/// All of it: suspects, findings, limits, verdict.
pub fn report(report: &Report) -> String {
    let mut text = String::new();
    for one in &report.accounts {
        text += &account(one);
    }
    for found in report.accounts.iter().flat_map(|account| &account.found) {
        let _ = write!(text, "\n{}", human::found(found));
    }
    let _ = writeln!(text, "\nnot covered:");
    for limit in &report.limits {
        let _ = writeln!(text, "   {limit}");
    }
    for (line, message) in &report.internal_errors {
        let _ = writeln!(text, "internal error, please report it: {line}: {message}");
    }
    text + "\n" + &verdict(report) + "\n"
}

/// The last line.
fn verdict(report: &Report) -> String {
    let (cases, seconds) = (report.cases(), report.elapsed.as_secs_f64());
    let names = |wanted: fn(&Standing) -> bool| {
        let named = report.accounts.iter().filter(|a| wanted(&a.standing)).map(|a| a.suspect);
        named.collect::<Vec<_>>()
    };
    if report.is_guilty() {
        let guilty = names(|standing| matches!(standing, Standing::Guilty(_))).join(" and ");
        return format!(
            "verdict: guilty, {guilty} of {}: see the minimal case ({cases} cases, {seconds:.1} s)",
            report.kernel
        );
    }
    if !report.internal_errors.is_empty() {
        return format!(
            "verdict: none, attnfuzz itself went wrong on {} cases; please report it",
            report.internal_errors.len()
        );
    }
    let ruled_out = names(|standing| *standing == Standing::RuledOut);
    let not_run = names(|standing| matches!(standing, Standing::NotRun(_)));
    if cases == 0 && !not_run.is_empty() {
        return "verdict: none, no case could be judged".into();
    }
    if !report.is_complete() {
        let why = report.ended_early.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        let too_little = names(|standing| matches!(standing, Standing::TooLittle(_))).join(", ");
        let too_little = (!too_little.is_empty()).then(|| {
            format!(
                "not ruled out: too little ran of {too_little}; each needs {NEEDED} cases that could show it, which more \
                 --time or --cases give"
            )
        });
        let not_run = (!not_run.is_empty()).then(|| format!("not tried: {}{why}", not_run.join(", ")));
        let said: Vec<_> = too_little.into_iter().chain(not_run).collect();
        let said = if said.is_empty() { format!("none{why}") } else { said.join("; ") };
        return format!("verdict: {said} ({cases} cases agree)");
    }
    let worst = report.accounts.iter().map(|account| account.worst_ratio).fold(0.0, f64::max);
    format!(
        "verdict: {} is ruled out in what was tried: all {cases} cases of {} suspects agree with attention in f64, the worst error {} of what its contract allows, on {} ({seconds:.1} s)",
        report.kernel,
        ruled_out.len(),
        significant(worst),
        report.device,
    )
}

/// The same as JSON lines.
pub fn lines(report: &Report) -> Vec<String> {
    let mut lines: Vec<String> = report.accounts.iter().map(|account| suspect(account).to_string()).collect();
    let found = report.accounts.iter().flat_map(|account| account.found.iter().cloned());
    lines.extend(found.map(|found| jsonl::event(&Event::Found(Box::new(found)))));
    let internal = report.internal_errors.iter().cloned();
    lines.extend(
        internal.map(|(line, message)| jsonl::event(&Event::Internal { kernel: report.kernel.clone(), line, message })),
    );
    let verdict = match (report.is_guilty(), report.cases() > 0 && report.is_complete()) {
        (true, _) => "guilty",
        (false, true) if report.internal_errors.is_empty() => "ruled-out",
        _ => "none",
    };
    let last = json!({
        "event": "ruled_out", "kernel": report.kernel, "backend": report.device, "verdict": verdict,
        "cases": report.cases(), "elapsed_s": report.elapsed.as_secs_f64(), "not_covered": report.limits,
        "ended_early": report.ended_early,
    });
    lines.push(last.to_string());
    lines
}

fn suspect(account: &Account) -> Value {
    let (standing, why) = match &account.standing {
        Standing::RuledOut => ("ruled-out", None),
        Standing::TooLittle(_) => ("too-little", None),
        Standing::NotClaimed(why) => ("not-claimed", Some((*why).to_owned())),
        Standing::Guilty(_) => ("guilty", None),
        Standing::Open(_) => ("open", None),
        Standing::NotRun(why) => ("not-run", Some(why.clone())),
    };
    let who = if let Standing::Open(who) = &account.standing { &who[..] } else { &[] };
    let minimal = if let Standing::Guilty(lines) = &account.standing { &lines[..] } else { &[] };
    json!({
        "event": "suspect", "suspect": account.suspect, "what": account.what, "tried_with": account.tried_with,
        "standing": standing, "why": why, "who": who, "minimal": minimal, "cases": account.statistic.cases,
        "telling": account.telling, "needs": NEEDED, "worst_ratio": account.worst_ratio, "worst_case": account.worst_case, "met": account.statistic.met,
        "choices": account.statistic.choices, "skipped": account.skipped, "relations": jsonl::relations(&account.relations),
    })
}
