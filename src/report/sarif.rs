//! SARIF 2.1.0 of a campaign: a rule for each class of signature, a result for each finding.
//!
//! A fault is located in the CUDA source, where the PTX names its line; else a finding is located in the file that names the
//! kernel: its PTX or manifest.

use super::record::{Entry, Record};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The whole file.
pub fn sarif(record: &Record) -> String {
    let mut rules: BTreeMap<String, Value> = BTreeMap::new();
    for entry in &record.findings {
        let class = &entry.found.finding.signature.class;
        let rule = || json!({ "id": rule_id(class), "shortDescription": { "text": describe(class) } });
        rules.entry(rule_id(class)).or_insert_with(rule);
    }
    let ids: Vec<String> = rules.keys().cloned().collect();
    let results: Vec<Value> = record.findings.iter().map(|entry| result(entry, &ids)).collect();
    let notification = |(kernel, line, message): &(String, String, String)| json!({ "level": "error", "message": { "text": format!("{kernel}: {line}: {message}") } });
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "attnfuzz", "version": env!("CARGO_PKG_VERSION"), "rules": rules.into_values().collect::<Vec<_>>(),
            }},
            "invocations": [{
                "executionSuccessful": record.internal_errors.is_empty(),
                "toolExecutionNotifications": record.internal_errors.iter().map(notification).collect::<Vec<_>>(),
            }],
            "results": results,
        }],
    });
    format!("{log:#}\n")
}

fn rule_id(class: &str) -> String {
    class.replace(' ', "/")
}

fn describe(class: &str) -> String {
    match class.split_once(' ') {
        Some(("fault", kind)) => format!("The kernel did something wrong that is not a number: {kind}"),
        Some(("relation", name)) => format!("A property of attention that needs no reference does not hold: {name}"),
        Some(("diverge", what)) => format!("An element is outside its bound: {what}"),
        _ => class.to_owned(),
    }
}

fn result(entry: &Entry, rules: &[String]) -> Value {
    let finding = &entry.found.finding;
    let id = rule_id(&finding.signature.class);
    let mut place = json!({ "artifactLocation": { "uri": uri(&entry.file) } });
    if let Some(line) = entry.line {
        place["region"] = json!({ "startLine": line });
    }
    let index = rules.iter().position(|rule| *rule == id);
    json!({
        "ruleId": id, "ruleIndex": index, "level": "error",
        "message": { "text": format!("{}: {}\ncase: {}\n{}", entry.found.kernel, finding.what(), finding.line, entry.replay()) },
        "locations": [{
            "physicalLocation": place,
            "logicalLocations": [{ "name": entry.found.kernel, "kind": "function" }],
        }],
        "partialFingerprints": { "attnfuzzCase/v1": format!("{}:{}", finding.case.id(), finding.signature) },
    })
}

/// A path as a URI reference: what may not stand in one is percent-encoded.
fn uri(path: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    path.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn paths_become_uris() {
        assert_eq!(super::uri("a b/kernel<1>.cu"), "a%20b/kernel%3C1%3E.cu");
    }
}
