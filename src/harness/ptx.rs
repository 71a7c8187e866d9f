//! Texts for the PTX reader from a fuzzer's bytes, and what must hold of any text.

use crate::backend::{Kernel, shipped_names};
use crate::ptx::{self, Guard, Module, Program};
use arbitrary::Unstructured;
use std::sync::LazyLock;

/// Edits of a kernel's text.
const MAX_EDITS: usize = 8;

/// Words and numbers at the edges of what the reader accepts.
const EDGES: [&str; 24] = [
    "0",
    "1",
    "-1",
    "64",
    "65536",
    "67108864",
    "2147483648",
    "4294967296",
    "9223372036854775808",
    "18446744073709551615",
    "0f7FC00000",
    "0d7FF8000000000000",
    "1.5",
    "%r0",
    "%rd1",
    "%p1",
    "%tid.x",
    ".v4",
    ".u64",
    ".b8",
    "{",
    "}",
    "[",
    ";",
];

/// The PTX of each shipped kernel.
static SHIPPED: LazyLock<Vec<Sections>> = LazyLock::new(|| {
    let texts = shipped_names().into_iter().filter_map(|name| Kernel::open(name).ok());
    texts.filter_map(|kernel| kernel.ptx().map(sections).ok()).collect()
});

/// Any bytes to a text: those bytes, or if the first isn't ASCII a shipped kernel with the edits that the rest says.
/// So a PTX file is its own seed.
pub fn text(bytes: &[u8]) -> String {
    let edited = match bytes.split_first() {
        Some((0x80.., edits)) => edited(&mut Unstructured::new(edits)).ok(),
        _ => None,
    };
    edited.unwrap_or_else(|| String::from_utf8_lossy(bytes).into_owned())
}

/// Reads, lowers, prints and reads `text` again.
///
/// # Errors
/// The printed text is refused, or isn't the same module, or lowers to something else.
pub fn check(text: &str) -> Result<(), String> {
    let Ok(module) = ptx::parse(text) else { return Ok(()) };
    let printed = module.to_string();
    let again = ptx::parse(&printed).map_err(|e| format!("the printed text is refused: {e}\n{printed}"))?;
    if !module.is_same_as(&again) {
        return Err(format!("the printed text is another module:\n{printed}"));
    }
    for entry in module.entries() {
        let [first, second] = [lowered(&module, entry), lowered(&again, entry)];
        if first != second {
            return Err(format!("`{entry}` of the printed text lowers to something else:\n{printed}"));
        }
    }
    Ok(())
}

/// A program without line numbers, or which kind of error there is instead.
fn lowered(module: &Module, entry: &str) -> Result<String, std::mem::Discriminant<ptx::Error>> {
    let program = module.lower(entry).map_err(|e| std::mem::discriminant(&e))?;
    let code = program.code().iter().map(|inst| {
        let guard = match inst.guard {
            Guard::Always => String::new(),
            guard => format!("{guard:?} "),
        };
        format!("{guard}{:?} {:?}\n", inst.op, inst.source)
    });
    Ok(code.collect::<String>() + &layout(&program))
}

fn layout(program: &Program) -> String {
    let (params, shared, slots) = (program.params(), program.shared_variables(), program.slots());
    let bytes = (program.param_bytes(), program.static_shared_bytes(), program.local_bytes());
    let block = (program.max_threads(), program.required_block());
    let constants = (program.constants(), program.specials());
    let globals: Vec<_> = program.globals().iter().map(|g| (&g.name, g.space, g.address, g.bytes.len())).collect();
    format!("{params:?} {shared:?} {slots:?} {bytes:?} {block:?} {constants:?} {globals:?}")
}

/// What precedes the first entry of a text, and each entry, in lines.
struct Sections {
    header: Vec<String>,
    entries: Vec<Vec<String>>,
}

fn sections(text: &str) -> Sections {
    let (mut header, mut entries) = (Vec::new(), Vec::<Vec<String>>::new());
    for line in text.lines() {
        if line.contains(".entry") {
            entries.push(Vec::new());
        }
        entries.last_mut().unwrap_or(&mut header).push(line.to_owned());
    }
    Sections { header, entries }
}

fn edited(bytes: &mut Unstructured<'_>) -> arbitrary::Result<String> {
    let Sections { header, entries } = bytes.choose(&SHIPPED)?;
    let mut lines = header.clone();
    lines.extend(bytes.choose(entries)?.iter().cloned());
    for _ in 0..bytes.int_in_range(1..=MAX_EDITS)? {
        let [from, to] = [bytes.choose_index(lines.len())?, bytes.choose_index(lines.len())?];
        match bytes.int_in_range(0..=5u8)? {
            0 if lines.len() > 1 => drop(lines.remove(to)),
            1 => lines.insert(to, lines[from].clone()),
            2 => lines.swap(from, to),
            3 => {
                let edge = (*bytes.choose(&EDGES)?).to_owned();
                lines[to] = with_word(&lines[to], bytes, &edge)?;
            }
            4 => {
                let words = words(&lines[from]);
                let word = if words.is_empty() {
                    String::new()
                } else {
                    lines[from][bytes.choose(&words)?.clone()].to_owned()
                };
                lines[to] = with_word(&lines[to], bytes, &word)?;
            }
            _ => {
                let cut = bytes.choose_index(lines[to].len() + 1)?;
                lines[to] = String::from_utf8_lossy(&lines[to].as_bytes()[..cut]).into_owned();
            }
        }
    }
    Ok(lines.join("\n"))
}

/// `line` with one of its words replaced.
fn with_word(line: &str, bytes: &mut Unstructured<'_>, word: &str) -> arbitrary::Result<String> {
    let words = words(line);
    if words.is_empty() {
        return Ok(word.to_owned());
    }
    let place = bytes.choose(&words)?;
    Ok(format!("{}{word}{}", &line[..place.start], &line[place.end..]))
}

/// Where the words of a line are: names, numbers, and modifiers with their dot.
fn words(line: &str) -> Vec<std::ops::Range<usize>> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%');
    let mut out: Vec<std::ops::Range<usize>> = Vec::new();
    for (at, c) in line.char_indices() {
        match out.last_mut() {
            Some(last) if last.end == at && is_word(c) => last.end = at + 1,
            _ if is_word(c) || c == '.' => out.push(at..at + 1),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_text_come_out() {
        assert_eq!(text(b".version"), ".version");
        let edited = text(&[0x81; 64]);
        assert!(edited.contains(".entry") && edited.len() > 1000, "{edited}");
    }

    #[test]
    fn words_of_a_line() {
        let line = "ld.global.f32 %f1, [%rd2+4];";
        let found: Vec<&str> = words(line).into_iter().map(|r| &line[r]).collect();
        assert_eq!(found, ["ld", ".global", ".f32", "%f1", "%rd2", "4"]);
    }
}
