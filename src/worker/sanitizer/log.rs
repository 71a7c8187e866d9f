//! What `compute-sanitizer` prints, as faults of the kernel.
//!
//! Its output is for people and changes from release to release, so little of it is relied on: a record starts with a line that
//! is not indented, and its first words tell what it is. What is not understood stays in the detail of the record it belongs
//! to, and a record that is not known at all is a fault too where the tool counts an error: it never counts as one that found none.

use crate::outcome::{Fault, FaultKind, Site};

/// How lines that are the tool's begin; one `=` more or less is from other releases.
const PREFIX: &str = "=======";
/// Beginnings of lines that belong to the record above even where they are not indented.
const DETAILS: [&str; 16] = [
    "at ",
    "by thread",
    "and is ",
    "and Read access",
    "and Write access",
    "and Atomic access",
    "in ",
    "Access ",
    "Address ",
    "Device Frame",
    "Host Frame",
    "Saved host backtrace",
    "Current Value",
    "Write Thread",
    "Read Thread",
    "Atomic Thread",
];

/// A log, read.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// What is wrong with the kernel, in the order of the log.
    pub(super) faults: Vec<Fault>,
    /// Errors that are not the kernel's: of calls of the driver, and of the tool.
    pub(super) others: Vec<String>,
    /// How many errors the tool says there were, if it came to its end.
    pub(super) errors: Option<u64>,
}

/// Reads a log.
pub(super) fn read(text: &str) -> Log {
    let mut log = Log::default();
    let mut record: Vec<&str> = Vec::new();
    for line in text.lines() {
        let Some(line) = line.starts_with(PREFIX).then(|| line.trim_start_matches('=')) else { continue };
        let text = line.trim();
        let is_detail = line.starts_with("  ") || DETAILS.iter().any(|detail| text.starts_with(detail));
        if !is_detail || record.is_empty() {
            log.add(&std::mem::take(&mut record));
        }
        if !text.is_empty() {
            record.push(text);
        }
    }
    log.add(&record);
    if log.errors.is_none() {
        // What a tool that gave up says last is about itself.
        let (own, known) = log.faults.into_iter().partition(|fault| fault.kind == FaultKind::DeviceError);
        (log.others, log.faults) = (log.others.into_iter().chain(details(own)).collect(), known);
    }
    log
}

fn details(faults: Vec<Fault>) -> impl Iterator<Item = String> {
    faults.into_iter().map(|fault| fault.detail)
}

impl Log {
    fn add(&mut self, record: &[&str]) {
        let Some((&head, details)) = record.split_first() else { return };
        if let Some((_, summary)) = head.split_once(" SUMMARY: ") {
            // Of a leak's summary nothing is asked.
            if !head.starts_with("LEAK") {
                self.errors = Some(errors(summary).unwrap_or(1));
            }
            return;
        }
        if is_remark(head) {
            return;
        }
        match kind(head, details) {
            Some(kind) => self.faults.push(fault(kind, head, details)),
            None => self.others.push(shown(head, details)),
        }
    }
}

/// The number of errors in `2 errors` and in `3 hazards displayed (2 errors, 1 warning)`.
fn errors(summary: &str) -> Option<u64> {
    let counted = summary.split_once('(').map_or(summary, |(_, inner)| inner);
    counted.split_whitespace().next()?.replace(',', "").parse().ok()
}

/// What says nothing of an error: banners, and what racecheck calls a warning or mentions only.
fn is_remark(head: &str) -> bool {
    let marks = ["COMPUTE-SANITIZER", "Compute Sanitizer", "Warning:", "WARN:", "Info:", "INFO:"];
    marks.iter().any(|mark| head.starts_with(mark))
}

/// Which fault a record is; nothing if it is not the kernel's.
fn kind(head: &str, details: &[&str]) -> Option<FaultKind> {
    let tells = |words: &str| head.contains(words) || details.iter().any(|detail| detail.contains(words));
    if head.contains("Program hit") || head.contains("process didn't") || head.contains("Target application") {
        return None;
    }
    Some(if head.starts_with("Invalid __") || head.contains("isaligned") {
        if tells("isaligned") { FaultKind::Misaligned } else { FaultKind::OutOfBounds }
    } else if head.starts_with("Uninitialized __") {
        FaultKind::UninitialisedRead
    } else if head.starts_with("Barrier error") {
        if tells("Invalid arguments") { FaultKind::WarpMask } else { FaultKind::DivergentBarrier }
    } else if head.contains("Race reported between") || head.contains("hazard detected") {
        FaultKind::Race
    } else {
        FaultKind::DeviceError
    })
}

fn fault(kind: FaultKind, head: &str, details: &[&str]) -> Fault {
    let detail = shown(head, details);
    if kind == FaultKind::Race {
        // The block of a hazard stands in its head, the threads beside the accesses.
        let block = triple_after(head, "in block");
        let accesses = std::iter::once(&head).chain(details).filter(|line| is_access(line));
        let mut sites = accesses.filter_map(|line| Some(Site { block, ..site(line, line)? }));
        let (site, other) = (sites.next(), sites.next());
        return Fault { kind, detail, site, other };
    }
    let thread = details.iter().find(|line| line.starts_with("by thread")).copied().unwrap_or_default();
    let place = details.iter().find(|line| line.starts_with("at "));
    Fault { kind, detail, site: place.and_then(|line| site(line, thread)), other: None }
}

/// Whether a line of a race's record tells of one of its two accesses.
fn is_access(line: &str) -> bool {
    ["Read", "Write", "Atomic"]
        .iter()
        .any(|how| line.contains(&format!("{how} access at")) || line.contains(&format!("{how} Thread")))
}

/// The record in one line, but for frames of the host, which are always this program's.
fn shown(head: &str, details: &[&str]) -> String {
    let of_host =
        |line: &&&str| line.contains("Host Frame") || line.starts_with("Saved host backtrace") || in_file(line);
    let kept = std::iter::once(&head).chain(details.iter().filter(|line| !of_host(line)));
    kept.copied().collect::<Vec<_>>().join("; ")
}

/// The second line of a host frame, in older releases.
fn in_file(line: &str) -> bool {
    line.starts_with("in /") && !line.contains(':')
}

/// The place after the first `at ` of a line, and the thread and block that another line names. The forms of the place are
/// `FUNCTION+0x90 in FILE:LINE`, and in older releases `0x90 in FILE:LINE:FUNCTION`, both without the file where there are no
/// lines.
fn site(line: &str, thread: &str) -> Option<Site> {
    let place = line.strip_prefix("at ").or_else(|| line.split_once(" at ").map(|(_, place)| place))?.trim();
    let place = place.split(" [").next().unwrap_or(place);
    let (function, offset, source) = match place.rsplit_once("+0x") {
        Some((function, rest)) => {
            let (offset, source) = rest.split_once(" in ").unwrap_or((rest, ""));
            (function, offset, file_and_line(source))
        }
        None => {
            let (offset, rest) = place.strip_prefix("0x")?.split_once(" in ")?;
            match file_and_line(rest) {
                Some((source, function)) => (function.unwrap_or(rest), offset, Some((source, None))),
                None => (rest, offset, None),
            }
        }
    };
    if offset.is_empty() || !offset.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let function = name(function);
    // With a thread of y or z above 0, it takes the block's extents to say which warp it is in.
    let x = triple_after(thread, "hread").and_then(|[x, y, z]| (y == 0 && z == 0).then_some(x));
    Some(Site {
        ptx_line: None,
        instruction: format!("{function}+0x{offset}"),
        source: source.map(|(source, _)| source),
        block: triple_after(thread, "in block"),
        warp: x.map(|x| x / 32),
        lane: x.map(|x| x % 32),
    })
}

/// A function's name without its parameters, and of a clone what was cloned.
fn name(function: &str) -> &str {
    let function = function.rsplit("] ").next().unwrap_or(function);
    let mut depth = 0_i32;
    let end = function.find(|c| {
        depth += i32::from(c == '<') - i32::from(c == '>');
        c == '(' && depth == 0
    });
    function[..end.unwrap_or(function.len())].trim()
}

/// `FILE:LINE`, the file without its folders, and what follows it after another colon.
fn file_and_line(text: &str) -> Option<(String, Option<&str>)> {
    let name = &text[text.find(':').map_or(0, |colon| text[..colon].rfind(['/', '\\']).map_or(0, |slash| slash + 1))..];
    let (file, rest) = name.split_once(':')?;
    let (line, function) = rest.split_once(':').map_or((rest, None), |(line, function)| (line, Some(function)));
    let line: u32 = line.trim().parse().ok()?;
    Some((format!("{file}:{line}"), function))
}

/// The numbers of `WORDS (1,2,3)`.
fn triple_after(line: &str, words: &str) -> Option<[u32; 3]> {
    let rest = &line[line.find(words)? + words.len()..];
    let inner = rest.split_once('(')?.1.split_once(')')?.0;
    let numbers = inner.split(',').map(|number| number.trim().parse().ok()).collect::<Option<Vec<u32>>>()?;
    numbers.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    macro_rules! log {
        ($name:literal) => {
            include_str!(concat!("../../../tests/sanitizer/", $name, ".log"))
        };
    }

    /// The kinds and places of a log's faults.
    fn told(text: &str) -> Vec<String> {
        let place = |site: &Option<Site>| site.as_ref().map_or("nowhere".into(), Site::to_string);
        let told = |fault: &Fault| {
            let other = fault.other.as_ref().map(|_| format!(" and {}", place(&fault.other))).unwrap_or_default();
            format!("{}: {}{other}", fault.kind, place(&fault.site))
        };
        read(text).faults.iter().map(told).collect()
    }

    #[test]
    fn each_tool_s_records_become_faults_with_their_places() {
        assert_eq!(
            told(log!("memcheck")),
            ["out-of-bounds: decode_split.cuh:241, gqa_decode_split_kv_f16+0x1a90 (block 3,1,0 warp 2 lane 5)"]
        );
        assert_eq!(
            told(log!("memcheck_2021")),
            ["out-of-bounds: kernel.cu:118, void decode<float, (int)4>+0x3b0 (block 0,0,0 warp 7 lane 27)"]
        );
        // The warp of a thread of y = 2 depends on the block's extents.
        assert_eq!(told(log!("misaligned")), ["misaligned: gqa_decode_f32+0x6320 (block 0,0,0)"]);
        assert_eq!(
            told(log!("racecheck")),
            ["race: kernel.cu:173, gqa_decode_f32+0x1190 and kernel.cu:212, gqa_decode_f32+0x2100"]
        );
        assert_eq!(
            told(log!("racecheck_hazards")),
            ["race: kernel.cu:212, gqa_decode_f32+0x00001ab0 (block 2,1,0 warp 1 lane 5) \
              and kernel.cu:173, gqa_decode_f32+0x00000f60 (block 2,1,0 warp 3 lane 5)"]
        );
        assert_eq!(
            told(log!("initcheck")),
            ["uninitialised-read: kernel.cu:201, gqa_decode_f32+0x570 (block 1,0,0 warp 0 lane 31)"]
        );
        assert_eq!(
            told(log!("synccheck")),
            [
                "divergent-barrier: kernel.cu:42, outlineSync+0x11f0 (block 0,0,0 warp 1 lane 0)",
                "warp-mask: gqa_decode_f32+0x200 (block 0,0,0 warp 0 lane 16)"
            ]
        );
    }

    #[test]
    fn what_is_not_understood_is_kept_and_never_a_pass() {
        let fault = read(log!("memcheck")).faults.remove(0);
        assert!(fault.detail.contains("Something that this release prints"), "{}", fault.detail);
        assert!(fault.detail.contains("129 bytes after") && !fault.detail.contains("Host Frame"), "{}", fault.detail);
        assert_eq!(told(log!("unknown")), ["device-error: nowhere"]);
        assert!(read(log!("unknown")).faults[0].detail.contains("by thread (1,0,0)"));
        for (text, errors) in
            [(log!("clean"), Some(0)), (log!("clean_racecheck"), Some(0)), (log!("racecheck_warnings"), Some(0))]
        {
            let log = read(text);
            assert!(log.faults.is_empty() && log.others.is_empty() && log.errors == errors, "{text}");
        }
        let log = read(log!("api_error"));
        assert!(log.faults.is_empty() && log.others.len() == 1 && log.errors == Some(1));
        let log = read(log!("unsupported"));
        assert!(log.faults.is_empty() && log.errors.is_none() && log.others[0].contains("not supported"), "{log:?}");
        // A fault that is known is one even if the tool did not come to its end.
        let cut = log!("memcheck").split("=========\n").next().unwrap_or_default();
        assert_eq!((read(cut).faults.len(), read(cut).errors), (1, None));
    }

    proptest! {
        #[test]
        fn any_text_is_read_and_errors_are_never_lost(
            lines in prop::collection::vec("(=========[ ]{1,5})?([A-Za-z_() ,:+0-9\\[\\]-]{0,40}|at 0x1 in é:2:x\\(|Invalid __é)", 0..12),
            errors in 1_u32..9,
        ) {
            let text = format!("{}\n========= ERROR SUMMARY: {errors} errors\n", lines.join("\n"));
            let log = read(&text);
            prop_assert_eq!(log.errors, Some(u64::from(errors)));
        }

        #[test]
        fn a_strange_line_in_a_record_stays_in_its_detail(line in "[a-zé(][a-zé0-9():+, ]{3,40}[a-z]", at in 2_usize..6) {
            prop_assume!(!line.contains("isaligned"));
            let mut lines: Vec<&str> = log!("memcheck").lines().collect();
            let strange = format!("=========     {line}");
            lines.insert(at, &strange);
            let fault = read(&lines.join("\n")).faults.remove(0);
            prop_assert!(fault.detail.contains(&line), "{}", fault.detail);
            prop_assert_eq!(fault.kind, FaultKind::OutOfBounds);
        }
    }
}
