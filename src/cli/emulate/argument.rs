//! The grammar of `--arg`: text to an [`Argument`]. Knows no kernel.

use super::element;
use crate::ptx::Type;
use std::path::PathBuf;

/// Braces inside braces.
const MAX_DEPTH: usize = 8;

/// One `--arg`, or one field of a struct.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Argument {
    /// As written.
    pub(super) text: String,
    /// Name in reports, `--print` and `--write`.
    pub(super) name: Option<String>,
    pub(super) value: Value,
}

/// What an argument stands for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// A number of a type, as bits.
    Scalar { ty: Type, bits: u64 },
    /// The null pointer.
    Null,
    /// The argument's own bytes.
    Bytes(Vec<u8>),
    /// The address of new elements in global memory.
    Filled { rights: Rights, ty: Type, count: usize, fill: Fill },
    /// The address of a file's bytes in global memory, or those bytes.
    File { rights: Option<Rights>, path: PathBuf },
    /// An address inside another argument's buffer.
    Pointer { name: String, offset: u64 },
    /// A struct, laid out as C does.
    Fields(Vec<Argument>),
}

/// What the kernel may do with a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rights {
    Read,
    ReadWrite,
}

/// What a buffer holds at launch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fill {
    Zero,
    Iota,
    Random(Option<u64>),
    /// These bits everywhere.
    Every(u64),
    Uninitialised,
}

/// Reads one argument. The error says what was expected and found, and not where.
pub(super) fn parse(text: &str) -> Result<Argument, String> {
    nested(text, 0)
}

fn nested(text: &str, depth: usize) -> Result<Argument, String> {
    let text = text.trim();
    let (name, value) = match text.split_once('=') {
        Some((name, rest)) if is_name(name) => (Some(name.to_owned()), rest),
        _ => (None, text),
    };
    let value = match value.strip_prefix('{') {
        Some(inside) => fields(inside, depth)?,
        None => simple(value)?,
    };
    Ok(Argument { text: text.to_owned(), name, value })
}

/// Whether `text` may name an argument: a letter or `_`, then letters, digits, `_`, `$` or `.`.
pub(super) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'.'))
}

fn fields(inside: &str, depth: usize) -> Result<Value, String> {
    if depth >= MAX_DEPTH {
        return Err(format!("expected at most {MAX_DEPTH} braces inside each other, found more"));
    }
    let inside = inside.strip_suffix('}').ok_or("expected `}` at the end of a struct, found none")?;
    let mut parts = Vec::new();
    let (mut open, mut start) = (0usize, 0);
    for (at, c) in inside.char_indices() {
        match c {
            '{' => open += 1,
            '}' => open = open.checked_sub(1).ok_or("expected as many `{` as `}`, found more `}`")?,
            ',' if open == 0 => {
                parts.push(&inside[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inside[start..]);
    let field = |(part, number): (&str, usize)| nested(part, depth + 1).map_err(|why| format!("field {number}: {why}"));
    Ok(Value::Fields(parts.into_iter().zip(1..).map(field).collect::<Result<_, _>>()?))
}

fn simple(text: &str) -> Result<Value, String> {
    if text == "null" {
        return Ok(Value::Null);
    }
    let (head, rest) = text.split_once(':').unwrap_or((text, ""));
    let rights = match head {
        "ro" => Some(Rights::Read),
        "rw" => Some(Rights::ReadWrite),
        _ => None,
    };
    let (head, rest) = if rights.is_some() { rest.split_once(':').unwrap_or((rest, "")) } else { (head, rest) };
    match head {
        "buf" => filled(rest, rights.unwrap_or(Rights::ReadWrite)),
        "file" if rest.is_empty() => Err("expected a path after `file:`, found nothing".into()),
        "file" => Ok(Value::File { rights, path: rest.into() }),
        _ if rights.is_some() => Err(format!("expected buf: or file: after ro: or rw:, found {head:?}")),
        "hex" => hex(rest),
        "ptr" => pointer(rest),
        _ => match element::named(head) {
            Some(ty) => Ok(Value::Scalar { ty, bits: element::bits(ty, rest)? }),
            None => {
                let types = element::all_names();
                Err(format!("expected buf, file, hex, ptr, null, {{…}} or a type ({types}), found {head:?}"))
            }
        },
    }
}

fn filled(text: &str, rights: Rights) -> Result<Value, String> {
    const FORM: &str = "buf:TYPE:COUNT:FILL";
    let mut parts = text.splitn(3, ':');
    let (Some(ty), Some(count), Some(fill)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(format!("expected {FORM}, found \"buf:{text}\""));
    };
    let ty = element::named(ty)
        .ok_or_else(|| format!("expected a type ({}) in {FORM}, found {ty:?}", element::all_names()))?;
    let digits = !count.is_empty() && count.bytes().all(|b| b.is_ascii_digit());
    let count = count
        .parse::<usize>()
        .ok()
        .filter(|_| digits)
        .ok_or_else(|| format!("expected a number of elements in {FORM}, found {count:?}"))?;
    let fill = match fill {
        "zero" => Fill::Zero,
        "iota" => Fill::Iota,
        "random" => Fill::Random(None),
        "uninit" => Fill::Uninitialised,
        _ => match (fill.strip_prefix("random:"), fill.strip_prefix('=')) {
            (Some(seed), _) => Fill::Random(Some(element::bits(Type::U64, seed)?)),
            (_, Some(number)) => Fill::Every(element::bits(ty, number)?),
            _ => {
                return Err(format!(
                    "expected zero, iota, random, random:SEED, =NUMBER or uninit in {FORM}, found {fill:?}"
                ));
            }
        },
    };
    Ok(Value::Filled { rights, ty, count, fill })
}

fn hex(digits: &str) -> Result<Value, String> {
    let wrong = || format!("expected an even number of hexadecimal digits after `hex:`, found {digits:?}");
    if digits.is_empty() || !digits.len().is_multiple_of(2) || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| wrong());
    Ok(Value::Bytes((0..digits.len()).step_by(2).map(byte).collect::<Result<_, _>>()?))
}

fn pointer(text: &str) -> Result<Value, String> {
    let (name, offset) = text.split_once('+').unwrap_or((text, "0"));
    if name.is_empty() {
        return Err("expected an argument's name or number after `ptr:`, found nothing".into());
    }
    Ok(Value::Pointer { name: name.to_owned(), offset: element::bits(Type::U64, offset)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(text: &str) -> Value {
        parse(text).unwrap_or_else(|e| panic!("{text}: {e}")).value
    }

    #[test]
    fn each_form_is_read() {
        assert_eq!(value("s64:-1"), Value::Scalar { ty: Type::S64, bits: u64::MAX });
        assert_eq!(value("hex:00fF"), Value::Bytes(vec![0, 255]));
        assert_eq!(value("null"), Value::Null);
        assert_eq!(value("ptr:x+16"), Value::Pointer { name: "x".into(), offset: 16 });
        let file = |rights| Value::File { rights, path: "a:b=c".into() };
        assert_eq!(value("file:a:b=c"), file(None));
        let named = parse("k=ro:file:a:b=c").unwrap();
        assert_eq!((named.name.as_deref(), named.value), (Some("k"), file(Some(Rights::Read))));
        let filled = |fill| Value::Filled { rights: Rights::ReadWrite, ty: Type::F32, count: 4, fill };
        for (text, fill) in [
            ("zero", Fill::Zero),
            ("iota", Fill::Iota),
            ("random", Fill::Random(None)),
            ("random:7", Fill::Random(Some(7))),
            ("=1.5", Fill::Every(0x3fc0_0000)),
            ("uninit", Fill::Uninitialised),
        ] {
            assert_eq!(value(&format!("buf:f32:4:{text}")), filled(fill), "{text}");
        }
    }

    #[test]
    fn structs_nest() {
        let Value::Fields(fields) = value("{x=buf:u8:1:=3, {u32:1,f32:2}, u16:0}") else { panic!("a struct") };
        assert_eq!(fields.iter().map(|f| f.name.as_deref()).collect::<Vec<_>>(), [Some("x"), None, None]);
        assert!(matches!(&fields[1].value, Value::Fields(inner) if inner.len() == 2));
        assert!(parse(&"{".repeat(100_000)).is_err());
        assert!(parse(&format!("{}u8:1{}", "{".repeat(9), "}".repeat(9))).unwrap_err().contains("at most 8 braces"));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("", "found \"\""),
            ("7", "expected buf, file, hex, ptr, null"),
            ("u32", "expected an integer of 0 to 4294967295 for u32, found \"\""),
            ("f32:0x3f800000", "b32:0x3f800000"),
            ("ro:u32:7", "expected buf: or file: after ro: or rw:, found \"u32\""),
            ("buf:f32:4", "expected buf:TYPE:COUNT:FILL, found \"buf:f32:4\""),
            ("buf:float:4:zero", "found \"float\""),
            ("buf:f32:-4:zero", "expected a number of elements"),
            ("buf:f32:4:ones", "expected zero, iota"),
            ("buf:f32:4:=x", "expected a decimal number"),
            ("hex:abc", "an even number of hexadecimal digits"),
            ("file:", "expected a path"),
            ("ptr:", "expected an argument's name"),
            ("{u32:1", "expected `}`"),
            ("{u32:1}}", "more `}`"),
            ("{u32:1,}", "field 2: expected"),
        ] {
            let why = parse(text).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z0-9:=+,{}.-]{0,40}|.{0,20}") {
            if let Err(why) = parse(&text) {
                prop_assert!(why.contains("expected") && why.contains("found"), "{}", why);
            }
        }
    }
}
