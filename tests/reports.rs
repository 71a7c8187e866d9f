//! Reports of a campaign, for people and for other programs.

use attnfuzz::backend::{Backend, Emulator, Kernel, Run};
use attnfuzz::campaign::{Config, Event, Summary, run};
use attnfuzz::oracle::{Examiner, error_map};
use attnfuzz::outcome::Outcome;
use attnfuzz::report::record::{Entry, Record};
use attnfuzz::report::{html, junit, sarif};
use roxmltree::{Document, ParsingOptions};
use std::sync::Arc;

const KERNELS: [&str; 3] = [
    "kernels/mutants/gqa_decode/m02_group_padded_to_power_of_two.toml",
    "gqa_decode",
    "kernels/mutants/gqa_decode/p11_padding_not_zeroed.toml",
];

fn campaign(jobs: usize) -> (Summary, Record) {
    let kernels: Vec<_> = KERNELS.iter().map(|name| Arc::new(Kernel::open(name).unwrap())).collect();
    let config = Config {
        kernels: kernels.clone(),
        backends: vec![Arc::new(Emulator) as Arc<dyn Examiner>],
        cases: Some(40),
        time: None,
        seed: 3,
        relations: Vec::new(),
        jobs,
        max_findings: 1,
        max_shrink: 300,
        store: None,
        guidance: None,
    };
    let mut findings = Vec::new();
    let summary = run(&config, &mut |event| {
        if let Event::Found(found) | Event::Met(found) = event {
            let kernel = kernels.iter().find(|kernel| kernel.name() == found.kernel).unwrap();
            let case = &found.finding.case;
            let map = match Emulator.run(kernel, case, Run::first(case)) {
                Ok(Outcome::Output(output)) => Ok(error_map(kernel, case, &output)),
                other => Err(format!("{other:?}")),
            };
            findings.push(Entry::new(*found, Some(kernel), map));
        }
    });
    (summary.clone(), Record { summary, findings, internal_errors: Vec::new() })
}

/// The record with names that would break out of any markup that does not escape them.
fn hostile() -> Record {
    const NAME: &str = "</title><script>alert(\"k\")</script> & 'x'\u{1b}";
    let (_, mut record) = campaign(2);
    for row in &mut record.summary.rows {
        row.kernel = NAME.into();
        row.device = format!("\"/>{}", row.device);
        row.skipped.insert("<b>&amp;".into(), 3);
    }
    for entry in &mut record.findings {
        entry.found.kernel = NAME.into();
        entry.found.finding.backend = record.summary.rows[0].device.clone();
        entry.file = "a <b> \"c\".cu".into();
    }
    record.internal_errors.push((NAME.into(), "kv=1 <".into(), "]]>".into()));
    record
}

fn xml(text: &str) -> Document<'_> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn junit_counts_what_failed_passed_and_was_skipped() {
    let (_, mut record) = campaign(2);
    // The right kernel's cases all skipped, once.
    for skipped in [false, true] {
        if skipped {
            record.summary.rows[1].cases = 0;
            record.summary.rows[1].skipped.insert("no such device".into(), 40);
        }
        let text = junit::junit(&record);
        let document = xml(&text);
        let root = document.root_element();
        let count = |name: &str| document.descendants().filter(|node| node.has_tag_name(name)).count();
        let number =
            |node: roxmltree::Node<'_, '_>, name: &str| node.attribute(name).unwrap().parse::<usize>().unwrap();
        assert_eq!(count("testsuite"), 3);
        assert_eq!(count("failure"), record.findings.len());
        assert_eq!(count("skipped"), usize::from(skipped));
        assert_eq!(number(root, "tests"), count("testcase"));
        assert_eq!(number(root, "failures"), count("failure"));
        for suite in root.children().filter(roxmltree::Node::is_element) {
            let of = |name: &str| suite.descendants().filter(|node| node.has_tag_name(name)).count();
            assert_eq!(
                ["tests", "failures", "skipped"].map(|key| number(suite, key)),
                ["testcase", "failure", "skipped"].map(of)
            );
        }
        let failed: Vec<_> = document.descendants().filter(|node| node.has_tag_name("failure")).collect();
        for entry in &record.findings {
            let told = failed.iter().filter(|node| node.text().unwrap().contains(&entry.found.finding.line));
            assert!(told.count() >= 1, "{}", entry.found.finding.line);
        }
    }
}

/// What the schema of SARIF 2.1.0 requires of the objects that are written, and that indices mean what they should.
#[test]
fn sarif_has_what_its_schema_requires_and_names_the_cuda_line() {
    let (_, record) = campaign(2);
    let log: serde_json::Value = serde_json::from_str(&sarif::sarif(&record)).unwrap();
    assert_eq!(log["version"], "2.1.0");
    let run = &log["runs"][0];
    let driver = &run["tool"]["driver"];
    assert_eq!(driver["name"], "attnfuzz");
    assert_eq!(run["invocations"][0]["executionSuccessful"], true);
    let results = run["results"].as_array().unwrap();
    assert_eq!(results.len(), record.findings.len());
    for (result, entry) in results.iter().zip(&record.findings) {
        assert!(result["message"]["text"].as_str().unwrap().contains(&entry.found.finding.line));
        let index = result["ruleIndex"].as_u64().unwrap() as usize;
        assert_eq!(driver["rules"][index]["id"], result["ruleId"]);
        let place = &result["locations"][0]["physicalLocation"];
        assert!(!place["artifactLocation"]["uri"].as_str().unwrap().contains(' '));
        let site = entry.found.finding.fault.as_ref().and_then(|fault| fault.site.as_ref());
        match site.and_then(|site| site.source.as_deref()) {
            Some(source) => {
                let (file, line) = source.rsplit_once(':').unwrap();
                assert!(place["artifactLocation"]["uri"].as_str().unwrap().ends_with(file), "{place}");
                assert_eq!(place["region"]["startLine"], line.parse::<u64>().unwrap());
            }
            None => assert!(site.is_some() || place["region"].is_null()),
        }
    }
    let located = results.iter().any(|r| !r["locations"][0]["physicalLocation"]["region"].is_null());
    assert!(located, "a fault of p11 has a line: {results:?}");
}

#[test]
fn the_page_is_well_formed_holds_every_finding_and_asks_for_nothing_from_elsewhere() {
    let (_, record) = campaign(2);
    assert!(record.findings.len() >= 2);
    let page = html::html(&record);
    let document = xml(&page);
    let text: String = document.descendants().filter(|n| n.is_text()).filter_map(|n| n.text()).collect();
    for entry in &record.findings {
        assert!(text.contains(&entry.found.finding.line) && text.contains(&entry.replay()));
    }
    for row in &record.summary.rows {
        assert!(text.contains(&row.kernel) && text.contains(row.worst_case.as_deref().unwrap_or_default()));
    }
    for node in document.descendants().filter(roxmltree::Node::is_element) {
        let name = node.tag_name().name();
        assert!(!["script", "link", "img", "iframe", "object", "embed", "base", "form"].contains(&name), "{name}");
        for attribute in node.attributes() {
            assert!(!["src", "href", "srcset", "data", "action"].contains(&attribute.name()), "{}", attribute.name());
            assert!(!attribute.name().starts_with("on"));
        }
    }
    assert!(!page.contains("://") && !page.contains("url(") && !page.contains("@import"));
    assert!(page.contains("prefers-color-scheme:dark") && page.contains("@media print"));
}

/// The minimal case of m02 has 6 elements, of which those of the second KV head are wrong.
#[test]
fn the_error_map_marks_the_wrong_elements_and_no_other() {
    let (_, record) = campaign(2);
    let entry = record.findings.iter().find(|entry| entry.found.kernel.contains("m02")).unwrap();
    let divergence = entry.found.finding.divergence.as_ref().unwrap();
    let record = Record { findings: vec![Entry::new(entry.found.clone(), None, entry.map.clone())], ..record };
    let mut summary = record.summary.clone();
    summary.rows.clear();
    let page = html::html(&Record { summary, ..record });
    let document = xml(&page);
    let cells = |class: &str| {
        document.descendants().filter(|n| n.has_tag_name("rect") && n.attribute("class") == Some(class)).count() as u64
    };
    assert_eq!(cells("bad"), divergence.wrong);
    assert_eq!(cells("good"), divergence.elements - divergence.wrong);
    assert_eq!(cells("none"), 0);
}

#[test]
fn hostile_names_stay_text_in_every_format() {
    let record = hostile();
    for text in [html::html(&record), junit::junit(&record)] {
        let document = xml(&text);
        assert!(!document.descendants().any(|node| node.has_tag_name("script") || node.has_tag_name("b")));
        assert!(document.descendants().any(|node| node.text().is_some_and(|t| t.contains("<script>"))
            || node.attributes().any(|a| a.value().contains("<script>"))));
    }
    let log: serde_json::Value = serde_json::from_str(&sarif::sarif(&record)).unwrap();
    let run = &log["runs"][0];
    assert_eq!(run["invocations"][0]["executionSuccessful"], false);
    assert_eq!(
        run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"],
        "a%20%3Cb%3E%20%22c%22.cu"
    );
}

#[test]
fn what_cases_were_like_does_not_depend_on_threads() {
    let statistics = |jobs| campaign(jobs).0.rows.into_iter().map(|row| row.statistic).collect::<Vec<_>>();
    let one = statistics(1);
    assert_eq!(one, statistics(4));
    assert_eq!(one[1].cases, 40);
    let plane = &one[1].planes[0];
    assert_eq!(plane.values().flat_map(|column| column.values()).map(|cell| cell.cases).sum::<u64>(), 40);
}
