//! What `attnfuzz emulate` says, as text.

use super::element;
use super::prepare::{Buffer, parameter_list};
use crate::emulator::{Coverage, Memory, Stats, Violation};
use crate::ptx::op::Op;
use crate::ptx::{Guard, Module, Program, Type};
use std::collections::BTreeSet;
use std::fmt::Write;

/// Elements of a line of a buffer.
const LINE: usize = 8;

/// Each kernel of a module, with what a launch needs to know of it.
pub(super) fn listing(module: &Module) -> String {
    let mut text = String::new();
    for entry in module.entries() {
        match module.lower(entry) {
            Ok(program) => {
                let _ = writeln!(text, "{entry}: {}, {}", shared(&program), threads(&program));
                for line in parameter_list(&program).lines().skip(1) {
                    let _ = writeln!(text, "{line}");
                }
            }
            Err(why) => {
                let _ = writeln!(text, "{entry}: can't be run: {why}");
            }
        }
    }
    text
}

fn shared(program: &Program) -> String {
    format!("{} bytes of static shared memory", program.static_shared_bytes())
}

fn threads(program: &Program) -> String {
    match (program.required_block(), program.max_threads()) {
        (Some([x, y, z]), _) => format!("blocks of {x},{y},{z}"),
        (None, Some(max)) => format!("at most {max} threads a block"),
        (None, None) => "at most 1024 threads a block".into(),
    }
}

/// A broken rule: what, where, and the second party.
pub(super) fn violation(kernel: &str, violation: &Violation) -> String {
    let mut text = format!("error: {} in `{kernel}`\n", words(violation.kind.name()));
    let _ = writeln!(text, "  --> {}", violation.site);
    let _ = writeln!(text, "   = {}", violation.detail);
    if let Some(other) = &violation.other {
        let _ = writeln!(text, "   = and: {other}");
    }
    text
}

/// `SharedRace` as `shared race`.
fn words(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

/// A finished launch in a line.
pub(super) fn finished(kernel: &str, stats: &Stats) -> String {
    let (warp, lane) = (stats.warp_instructions, stats.lane_instructions);
    format!("{kernel}: no rule broken, {warp} warp instructions, {lane} lane instructions")
}

/// How full the warps were, and what was written.
pub(super) fn trace(stats: &Stats, program: &Program, memory: &Memory, buffers: &[Buffer], seconds: f64) -> String {
    let mut text = String::new();
    let (code, locals) = (program.code().len(), program.local_bytes());
    let _ = writeln!(text, "program   {code} operations, {}, {locals} bytes of local memory a thread", shared(program));
    let full = 100.0 * stats.lane_instructions as f64 / (stats.warp_instructions * 32).max(1) as f64;
    let rate = stats.warp_instructions as f64 / seconds.max(1e-9) / 1e6;
    let _ = writeln!(text, "warps     {full:.1}% of lanes active on average");
    let _ = writeln!(text, "time      {seconds:.3} s, {rate:.1} million warp instructions a second");
    for buffer in buffers {
        let written = memory.written(buffer.region).count();
        let size = memory.bytes(buffer.region).len();
        let _ = writeln!(text, "buffer    {}: {written} of {size} bytes written", buffer.name);
    }
    text
}

/// Each guard and comparison of the program, and whether it held for none, some or all of a warp's active lanes.
pub(super) fn coverage(program: &Program, coverage: &Coverage) -> String {
    let points: BTreeSet<u32> = coverage.points().collect();
    let (mut text, mut reached, mut all) = (String::new(), 0, 0);
    for (inst, index) in program.code().iter().zip(0u32..) {
        let is_comparison = matches!(inst.op, Op::Compare32 { d: Some(_), .. } | Op::Compare64 { d: Some(_), .. });
        for (what, first, is_there) in [("guard", 0, inst.guard != Guard::Always), ("result", 3, is_comparison)] {
            if !is_there {
                continue;
            }
            let held = |(name, bit): (&'static str, u32)| points.contains(&(index * 8 + first + bit)).then_some(name);
            let outcomes: Vec<&str> = [("none", 0), ("some", 1), ("all", 2)].into_iter().filter_map(held).collect();
            all += 1;
            reached += usize::from(!outcomes.is_empty());
            let outcomes = if outcomes.is_empty() { "never reached".into() } else { outcomes.join(", ") };
            let _ = writeln!(text, "  ptx {}: {what} {outcomes}: {}", inst.line, program.line(inst.line));
        }
    }
    format!("coverage  {reached} of {all} guards and comparisons reached; lanes they held for:\n{text}")
}

/// The first `count` elements of a buffer; those that nothing wrote are `?`.
pub(super) fn contents(buffer: &Buffer, memory: &Memory, ty: Type, count: Option<usize>) -> String {
    const SHOWN: usize = 64;
    let (bytes, initialised) = (memory.bytes(buffer.region), memory.initialised(buffer.region));
    let size = ty.size_bytes();
    let all = bytes.len() / size;
    let shown = count.unwrap_or(SHOWN).min(all);
    let mut text = format!("{}: {all} elements of {}", buffer.name, element::name(ty));
    if shown < all {
        let _ = write!(text, ", the first {shown}");
    }
    for index in 0..shown {
        if index % LINE == 0 {
            let _ = write!(text, "\n{index:>8}:");
        }
        let at = index * size;
        let mut word = [0; 8];
        word[..size].copy_from_slice(&bytes[at..at + size]);
        let element = match initialised.first_clear(at, size) {
            Some(_) => "?".to_owned(),
            None => element::text(ty, u64::from_le_bytes(word)),
        };
        let _ = write!(text, " {element}");
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_of_rules_become_words() {
        assert_eq!(super::words("UninitialisedRead"), "uninitialised read");
    }
}
