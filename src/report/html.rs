//! A campaign as one HTML page: no script, nothing from elsewhere, light and dark, well-formed as XML too.

use super::human::rate;
use super::markup::Text;
use super::record::{Entry, Record};
use super::svg::{self, Shade};
use crate::campaign::{Row, Statistic};
use std::fmt::Write;

const STYLE: &str = "\
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#57606a;--line:#d0d7de;--low:#dbeafe;--high:#1d4ed8;--bad:#c62828;--good:#b7dfc0;--none:#eceff2}
@media screen and (prefers-color-scheme:dark){:root{--bg:#0f1318;--fg:#e4e8ec;--dim:#98a2ad;--line:#333b44;--low:#1b2b44;--high:#7db0ff;--bad:#ff6b60;--good:#24543a;--none:#20262d}}
*{box-sizing:border-box}
body{font:15px/1.45 system-ui,sans-serif;background:var(--bg);color:var(--fg);max-width:72rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem;border-top:1px solid var(--line);padding-top:1rem;overflow-wrap:anywhere}h3{font-size:1rem;margin:1rem 0 .3rem}
.wide{overflow-x:auto}table{border-collapse:collapse}th,td{padding:.25rem .7rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
pre,code{font:13px/1.4 ui-monospace,monospace;overflow-wrap:anywhere}pre{white-space:pre-wrap;border-left:3px solid var(--line);padding-left:.8rem}
table.why td{overflow-wrap:anywhere}.bad{color:var(--bad);font-weight:600}.dim{color:var(--dim)}
.plots{display:flex;flex-wrap:wrap;gap:1.5rem}figure{margin:0}figcaption{color:var(--dim);font-size:.85rem;max-width:24rem}
svg{display:block;max-width:100%;height:auto}svg text{font:10px system-ui,sans-serif;fill:var(--dim)}svg .bad{fill:var(--bad)}svg .good{fill:var(--good)}svg .none{fill:var(--none)}svg .low{fill:var(--low)}svg .high{fill:var(--high)}
@page{margin:1.5cm}@media print{:root{color-scheme:light}body{max-width:none;margin:0}.wide{overflow:visible}h2,h3,tr,pre,figure{break-inside:avoid}h2,h2+p,h3{break-after:avoid}svg{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
";

/// The whole page.
pub fn html(record: &Record) -> String {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><meta name=\"viewport\" content=\"width=device-width\"/>\
         <title>attnfuzz: {} findings</title><style>{STYLE}</style></head>\n<body>\n",
        record.findings.len()
    );
    overview(&mut page, record);
    for entry in &record.findings {
        finding(&mut page, entry);
    }
    for row in &record.summary.rows {
        kernel(&mut page, row);
    }
    page + "</body></html>\n"
}

fn overview(page: &mut String, record: &Record) {
    let summary = &record.summary;
    let seconds = summary.elapsed.as_secs_f64();
    let cases: u64 = summary.rows.iter().map(|row| row.cases).sum();
    let class = if record.findings.is_empty() { "" } else { " class=\"bad\"" };
    let _ = writeln!(
        page,
        "<h1>attnfuzz</h1>\n<p><span{class}>{} findings</span> in {cases} cases, {seconds:.1} s{}.</p>",
        record.findings.len(),
        if summary.interrupted { ", ended early" } else { "" }
    );
    page.push_str("<div class=\"wide\"><table><thead><tr><th>kernel</th><th>backend</th><th class=\"n\">cases</th><th class=\"n\">cases/s</th><th class=\"n\">skipped</th><th class=\"n\">worst error/bound</th><th class=\"n\">failing</th><th class=\"n\">findings</th></tr></thead>\n");
    for row in &summary.rows {
        let rate = rate(row.rate(summary.jobs));
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{rate}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            Text(&row.kernel),
            Text(&row.device),
            row.cases,
            row.skipped.values().sum::<u64>(),
            if row.cases == row.failing { "-".into() } else { format!("{:.3}", row.worst_ratio) },
            row.failing,
            row.findings
        );
    }
    page.push_str("</table></div>\n");
    for (kernel, c) in &summary.comparisons {
        let _ = writeln!(
            page,
            "<p>Hardware against emulator, {}: {} of {} elements identical in {} cases, at most {} ulp apart.</p>",
            Text(kernel),
            c.identical,
            c.elements,
            c.cases,
            c.max_ulps
        );
    }
    for (device, unconfirmed) in &summary.unconfirmed {
        let _ = writeln!(page, "<p>{}</p>", Text(super::human::unconfirmed(device, unconfirmed)));
    }
    for (kernel, line, message) in &record.internal_errors {
        let _ = writeln!(
            page,
            "<p class=\"bad\">Internal error, please report it: {}: <code>{}</code>: {}</p>",
            Text(kernel),
            Text(line),
            Text(message)
        );
    }
}

fn finding(page: &mut String, entry: &Entry) {
    let finding = &entry.found.finding;
    let _ = writeln!(
        page,
        "<h2><span class=\"bad\">{}</span> {} on {}</h2>",
        Text(&finding.signature),
        Text(&entry.found.kernel),
        Text(&finding.backend)
    );
    let line = entry.line.map(|line| format!(":{line}")).unwrap_or_default();
    let _ = writeln!(
        page,
        "<p><code>{}{line}</code></p>\n<pre>{}</pre>\n<p>Again: <code>{}</code></p>",
        Text(&entry.file),
        Text(entry.text()),
        Text(entry.replay())
    );
    match &entry.map {
        Ok(planes) => {
            page.push_str("<h3>Wrong elements</h3>\n<div class=\"plots\">\n");
            page.push_str(&svg::error_map(planes));
            page.push_str("</div>\n");
        }
        Err(why) => {
            let _ = writeln!(page, "<p class=\"dim\">No map of wrong elements: {}.</p>", Text(why));
        }
    }
}

fn kernel(page: &mut String, row: &Row) {
    let _ = writeln!(page, "<h2>{} on {}</h2>", Text(&row.kernel), Text(&row.device));
    if let Some(case) = &row.worst_case {
        let _ = writeln!(page, "<p>Closest to its bound, {:.3}: <code>{}</code></p>", row.worst_ratio, Text(case));
    }
    if row.out_of_domain > 0 {
        let _ = writeln!(
            page,
            "<p>Not judged by value, where a right kernel may overflow: {} of {} elements.</p>",
            row.out_of_domain,
            row.elements + row.out_of_domain
        );
    }
    for line in super::human::sanitized(row).lines() {
        let _ = writeln!(page, "<p>{}</p>", Text(line));
    }
    if !row.skipped.is_empty() {
        page.push_str("<h3>Skipped</h3><table class=\"why\">");
        for (why, count) in &row.skipped {
            let _ = write!(page, "<tr><td class=\"n\">{count}</td><td>{}</td></tr>", Text(why));
        }
        page.push_str("</table>\n");
    }
    plots(page, &row.statistic);
    if !row.relations.is_empty() {
        page.push_str("<h3>Relations</h3><div class=\"wide\"><table><thead><tr><th>relation</th><th class=\"n\">holds</th><th class=\"n\">broken</th><th class=\"n\">does not apply</th><th class=\"n\">worst difference/tolerance</th></tr></thead>");
        for (relation, count) in &row.relations {
            let _ = write!(
                page,
                "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{:.3}</td></tr>",
                Text(relation),
                count.holds,
                count.broken,
                count.does_not_apply,
                count.held.worst_ratio
            );
        }
        page.push_str("</table></div>\n");
    }
}

fn plots(page: &mut String, statistic: &Statistic) {
    if statistic.cases == 0 {
        return;
    }
    page.push_str("<h3>Where cases ran</h3>\n<div class=\"plots\">\n");
    for (plane, [x, y]) in statistic.planes.iter().zip(Statistic::PLANES) {
        let most = plane.values().flat_map(|row| row.values()).map(|cell| cell.cases).max().unwrap_or(1);
        let cells =
            |shade: &dyn Fn(&crate::campaign::Cell) -> (Shade, String)| svg::grid([x.name(), y.name()], plane, shade);
        let density = cells(&|cell| {
            // By the logarithm: most cases are small.
            let part = (1.0 + cell.cases as f64).ln() / (1.0 + most as f64).ln();
            let text = format!("{} cases, {} failing", cell.cases, cell.failing);
            (if cell.failing > 0 { Shade::Bad } else { Shade::Part(part) }, text)
        });
        let _ = writeln!(
            page,
            "<figure>{density}<figcaption>Cases by {x} and {y}; darker or brighter is more, up to {most}; red: some fail.</figcaption></figure>"
        );
        let worst = cells(&|cell| {
            let agree = cell.cases > cell.failing;
            let text = if agree { format!("worst error/bound {:.3}", cell.worst_ratio) } else { "none agrees".into() };
            (if agree { Shade::Part(cell.worst_ratio) } else { Shade::Bad }, text)
        });
        let _ = writeln!(
            page,
            "<figure>{worst}<figcaption>Worst error/bound by {x} and {y}, from 0 to 1.</figcaption></figure>"
        );
    }
    page.push_str("</div>\n<p class=\"dim\">");
    let ranges = statistic.met.iter().map(|(extent, met)| format!("{extent} {} to {}", met.low, met.high));
    let choices = statistic.choices.iter().map(|(name, count)| format!("{name} {count}"));
    let _ = writeln!(
        page,
        "{}.<br/>Cases with {}.</p>",
        Text(ranges.collect::<Vec<_>>().join(", ")),
        Text(choices.collect::<Vec<_>>().join(", "))
    );
}
