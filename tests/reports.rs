//! Reports of a campaign, for people and for other programs.

use attnfuzz::backend::{Backend, Emulator, Kernel, Run};
use attnfuzz::campaign::{Config, Event, Summary, run};
use attnfuzz::oracle::error_map;
use attnfuzz::outcome::Outcome;
use attnfuzz::report::record::{Entry, Record};
use attnfuzz::report::{html, junit, sarif};
use roxmltree::{Document, ParsingOptions};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

const KERNELS: [&str; 3] = [
    "kernels/mutants/gqa_decode/m02_group_padded_to_power_of_two.toml",
    "gqa_decode",
    "kernels/mutants/gqa_decode/p11_padding_not_zeroed.toml",
];

fn campaign(jobs: usize) -> (Summary, Record) {
    let kernels: Vec<_> = KERNELS.iter().map(|name| Arc::new(Kernel::open(name).unwrap())).collect();
    let config = Config {
        cases: Some(40),
        seed: 3,
        jobs,
        max_shrink: 300,
        ..Config::new(kernels.clone(), vec![Arc::new(Emulator)])
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

const MUTANT: &str = "kernels/mutants/gqa_decode/m02_group_padded_to_power_of_two.toml";

fn attnfuzz(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_attnfuzz"));
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap()
}

/// Reads the four reports in a folder and gives the findings that each has.
fn findings_told(folder: &Path) -> [usize; 4] {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let (page, junit, sarif) = (read("r.html"), read("r.xml"), read("r.sarif"));
    let page = xml(&page);
    let headings = page.descendants().filter(|node| node.has_tag_name("h2"));
    let told = headings.filter(|h2| h2.children().any(|n| n.attribute("class") == Some("bad"))).count();
    let junit = xml(&junit);
    let failures = junit.descendants().filter(|node| node.has_tag_name("failure")).count();
    let log: serde_json::Value = serde_json::from_str(&sarif).unwrap();
    assert_eq!(log["version"], "2.1.0");
    assert!(log["$schema"].is_string());
    let [run] = &log["runs"].as_array().unwrap()[..] else { panic!("{log}") };
    assert!(run["tool"]["driver"]["name"].is_string());
    let results = run["results"].as_array().unwrap();
    for result in results {
        assert!(result["message"]["text"].is_string() && result["ruleId"].is_string());
        let place = &result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"];
        assert!(place.is_string(), "{result}");
    }
    let lines: Vec<serde_json::Value> =
        read("r.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["event"], &lines[lines.len() - 1]["event"]), (&"started".into(), &"finished".into()));
    assert!(!lines.iter().any(|line| line["event"] == "progress"));
    let found = lines.iter().filter(|line| line["event"] == "found" || line["event"] == "met").count();
    assert_eq!(lines[lines.len() - 1]["findings"], found);
    [told, failures, results.len(), found]
}

#[test]
fn the_program_writes_every_report_and_a_resumed_campaign_s_has_all_findings() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (journal, found) = (path("journal"), path("found"));
    let mut args = vec!["fuzz", MUTANT, "gqa_decode", "--backend=emulator", "--cases=40", "--max-findings=2"];
    args.extend(["--max-shrink=200", "--journal", &journal, "--regressions", &found]);
    let reports = ["r.html", "r.xml", "r.sarif", "r.jsonl"].map(path);
    reports.iter().for_each(|report| args.extend(["--report", report]));
    let output = attnfuzz(&args);
    assert_eq!(output.status.code(), Some(100), "{output:?}");
    let told = findings_told(folder.path());
    assert!(told[0] >= 1 && told.iter().all(|count| *count == told[0]), "{told:?}");
    // The campaign is at its end: what its reports have now is from its journal.
    reports.iter().for_each(|report| std::fs::remove_file(report).unwrap());
    let output = attnfuzz(&["fuzz", "--resume", &journal]);
    assert_eq!(output.status.code(), Some(100), "{output:?}");
    assert_eq!(findings_told(folder.path()), told);
    assert!(output.stderr.is_empty(), "{output:?}");
    // A finding whose file is gone is missed by name.
    std::fs::remove_dir_all(&found).unwrap();
    let output = attnfuzz(&["fuzz", "--resume", &journal]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(text.matches("is not in the report").count(), told[0], "{text}");
}

#[test]
fn a_report_that_can_not_be_written_is_refused_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    for (name, what) in [("r.txt", "ends in .html, .xml, .sarif or .jsonl"), ("none/r.html", "can't write")] {
        let file = folder.path().join(name).to_string_lossy().into_owned();
        let found = folder.path().to_string_lossy().into_owned();
        let output =
            attnfuzz(&["fuzz", "--backend=emulator", "--time=10m", "--regressions", &found, "--report", &file]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && text.contains(what) && text.contains(&file), "{text}");
    }
}

/// A kernel's rate is of the time that went into it, not of the campaign's, which others share.
#[test]
fn rates_are_of_the_time_that_went_into_a_kernel() {
    let (summary, _) = campaign(2);
    assert_eq!(summary.jobs, 2);
    for row in &summary.rows {
        let rate = row.rate(summary.jobs).unwrap();
        assert!((rate * row.busy.as_secs_f64() / 2.0 - row.cases as f64).abs() < 1e-6);
    }
    let alone = campaign(1).0;
    for row in &alone.rows {
        assert!(row.rate(1).unwrap() > row.cases as f64 / alone.elapsed.as_secs_f64(), "{}", row.kernel);
    }
}
