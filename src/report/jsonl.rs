//! One JSON object a line, for programs.
//!
//! Every line has a string `event`: `started`, `progress`, `sanitizing`, `shrinking`, `found`, `met`, `backend_lost`, `journal_lost`,
//! `corpus_lost`, `internal`, then one `row` for each kernel and backend, `comparison` where hardware and emulator both ran, `reach`
//! for each kernel of a guided campaign, `unconfirmed` for each device where something went wrong and did not come back,
//! and `finished` last; of a replay `replayed` for each finding and then `same_signature` for those that may be one bug.
//! `nonzero` of a finding lists the elements of its inputs that aren't 0 (at most 8; null where all are a recipe's or more
//! may be), with the axes of [`Role::axes`](crate::case::values::Role::axes).
//! Numbers that JSON lacks (NaN, infinities) are strings.

use crate::campaign::{Event, Found, Pace, RelationCount, Summary};
use crate::case::{Case, FEW, Relation};
use crate::guide::Reach;
use crate::regression::{Bits, Finding, Replayed, Saved};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The line of an event.
pub fn event(event: &Event) -> String {
    match event {
        Event::Started { kernels, backends, cases, seed } => {
            json!({"event": "started", "kernels": kernels, "backends": backends, "cases": cases, "seed": seed})
        }
        Event::Progress { cases, worst_ratio, findings, paces, reach } => {
            let reach = reach.map(self::reach);
            let rows: Vec<Value> = paces.iter().map(pace).collect();
            json!({
                "event": "progress", "cases": cases, "worst_ratio": worst_ratio, "findings": findings, "rows": rows,
                "reach": reach,
            })
        }
        Event::Sanitizing { kernel, cases } => json!({"event": "sanitizing", "kernel": kernel, "cases": cases}),
        Event::Shrinking { kernel, line } => json!({"event": "shrinking", "kernel": kernel, "case": line}),
        Event::Found(found) => found_object("found", found),
        Event::Met(found) => found_object("met", found),
        Event::BackendLost { backend, why } => json!({"event": "backend_lost", "backend": backend, "why": why}),
        Event::CorpusLost { why } => json!({"event": "corpus_lost", "why": why}),
        Event::JournalLost { why } => json!({"event": "journal_lost", "why": why}),
        Event::Internal { kernel, line, message } => {
            json!({"event": "internal", "kernel": kernel, "case": line, "message": message})
        }
    }
    .to_string()
}

/// The lines that end a campaign.
pub fn summary(summary: &Summary) -> Vec<String> {
    let seconds = summary.elapsed.as_secs_f64();
    let rows = summary.rows.iter().map(|row| {
        json!({
            "event": "row", "kernel": row.kernel, "backend": row.backend.to_string(), "device": row.device,
            "cases": row.cases, "cases_per_s": row.rate(summary.jobs), "busy_s": row.busy.as_secs_f64(),
            "elements": row.elements, "out_of_domain": row.out_of_domain, "skipped": row.skipped,
            "worst_ratio": row.worst_ratio, "worst_case": row.worst_case,
            "suspect": row.suspect, "worst_model_ratio": row.worst_model_ratio, "suspect_case": row.suspect_case, "relations": relations(&row.relations), "failing": row.failing, "findings": row.findings,
            "sanitized": row.sanitized, "unsanitized": row.unsanitized,
        })
    });
    let comparisons = summary.comparisons.iter().map(|(kernel, c)| {
        json!({
            "event": "comparison", "kernel": kernel, "cases": c.cases, "elements": c.elements,
            "identical": c.identical, "max_ulps": c.max_ulps,
        })
    });
    let deaths = summary.unconfirmed.iter().map(|(device, unconfirmed)| {
        json!({
            "event": "unconfirmed", "backend": device, "deaths": unconfirmed.deaths, "failures": unconfirmed.failures,
            "last": unconfirmed.last,
        })
    });
    let reached = summary
        .reach
        .iter()
        .map(|(kernel, reach)| json!({"event": "reach", "kernel": kernel, "reach": self::reach(*reach)}));
    let findings: usize = summary.rows.iter().map(|row| row.findings).sum();
    let end = json!({
        "event": "finished", "elapsed_s": seconds, "findings": findings, "internal_errors": summary.internal_errors,
        "interrupted": summary.interrupted, "journal_lost": summary.journal_lost, "corpus_lost": summary.corpus_lost,
    });
    rows.chain(comparisons).chain(reached).chain(deaths).chain([end]).map(|value| value.to_string()).collect()
}

fn pace(pace: &Pace) -> Value {
    json!({
        "kernel": pace.kernel, "device": pace.device, "cases": pace.cases, "cases_per_s": pace.rate,
        "skipped": pace.skipped, "worst_ratio": pace.worst_ratio, "findings": pace.findings,
    })
}

fn reach(reach: Reach) -> Value {
    json!({"kept": reach.kept, "reached": reach.reached, "existing": reach.existing})
}

/// The line of an input of a fuzz target: `result` is one of `fails`, `agrees`, `cannot-run`.
pub fn judged(file: &str, kernel: &str, case: &str, backend: &str, word: &str, detail: &str) -> String {
    let result = word.replace(' ', "-");
    json!({
        "event": "judged", "file": file, "kernel": kernel, "backend": backend, "case": case, "result": result,
        "detail": detail,
    })
    .to_string()
}

/// The line of a finding that was run so many times: `result` is one of `still-fails`, `fails-differently`, `fixed`,
/// `cannot-run`, `bits` one of `as-saved`, `other`, `varying` or null, and `digests` those that came.
pub fn replayed(file: &str, finding: &Finding, backend: &str, result: &Replayed, bits: Bits, runs: u32) -> String {
    let (bits, digests) = match bits {
        Bits::Unknown => (None, Vec::new()),
        Bits::AsSaved => (Some("as-saved"), finding.digest.into_iter().collect()),
        Bits::Other(now) => (Some("other"), vec![now]),
        Bits::Varying(one, another) => (Some("varying"), vec![one, another]),
    };
    json!({
        "event": "replayed", "file": file, "kernel": finding.kernel, "backend": backend, "case": finding.line,
        "result": result.word().replace(' ', "-"), "detail": result.detail(finding), "runs": runs,
        "bits": bits, "digests": digests, "digest_saved": finding.digest,
    })
    .to_string()
}

/// The line of findings of one kernel that share a signature.
pub fn same_signature(kernel: &str, signature: &str, files: &[String]) -> String {
    json!({"event": "same_signature", "kernel": kernel, "signature": signature, "files": files}).to_string()
}

fn found_object(event: &str, found: &Found) -> Value {
    let finding = &found.finding;
    let (file, error) = match &found.saved {
        Some(Ok(saved)) => (Some(saved.path().display().to_string()), None),
        Some(Err(why)) => (None, Some(why)),
        None => (None, None),
    };
    let same_signature_as = match &found.saved {
        Some(Ok(Saved::New { same_signature_as: Some(other), .. })) => {
            Some(json!({"file": other.path.display().to_string(), "new_is_simpler": other.new_is_simpler}))
        }
        _ => None,
    };
    let divergence = finding.divergence.as_ref().map(|d| {
        json!({
            "tensor": d.tensor, "step": d.step, "at": d.at, "found": number(d.found), "expected": number(d.expected),
            "low": number(d.low), "high": number(d.high), "ratio": number(d.ratio), "tier": d.tier,
            "wrong": d.wrong, "elements": d.elements, "relation": d.relation,
        })
    });
    json!({
        "event": event, "flaky": finding.flaky.map(|f| json!({ "failed": f.failed, "runs": f.runs })), "kernel": found.kernel, "backend": finding.backend, "signature": finding.signature.to_string(),
        "case": finding.line, "nonzero": nonzero(&finding.case), "irrelevant": finding.irrelevant, "found_as": finding.found_as, "found_by": finding.found_by, "executions": found.executions,
        "hung_s": found.hung.map(|hung| hung.as_secs_f64()), "divergence": divergence, "fault": finding.fault, "file": file, "not_saved": error,
        "same_signature_as": same_signature_as, "digest": finding.digest,
    })
}

/// The elements that aren't 0 where they are few, else null.
fn nonzero(case: &Case) -> Option<Vec<Value>> {
    let elements = case.nonzero_elements(FEW)?.into_iter();
    Some(elements.map(|e| json!({ "tensor": e.role.to_string(), "at": e.at, "value": number(e.value) })).collect())
}

pub(super) fn relations(relations: &BTreeMap<Relation, RelationCount>) -> Value {
    let one = |count: &RelationCount| {
        json!({
            "holds": count.holds, "broken": count.broken, "does_not_apply": count.does_not_apply,
            "elements": count.held.elements, "equal": count.held.equal, "worst_ratio": count.held.worst_ratio,
        })
    };
    relations.iter().map(|(relation, count)| (relation.to_string(), one(count))).collect()
}

fn number(x: f64) -> Value {
    if x.is_finite() { json!(x) } else { json!(x.to_string()) }
}
