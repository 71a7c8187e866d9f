//! Changes of a manifest's text, line by line.

/// A line without its comment. A `#` in a string is none, as far as manifests have strings.
fn code(line: &str) -> &str {
    let mut in_string = false;
    let end = line.find(|c| {
        in_string ^= c == '"';
        c == '#' && !in_string
    });
    &line[..end.unwrap_or(line.len())]
}

/// The line with the value `"from"` of `key` replaced by `"to"`, if it has that.
pub(super) fn with_value(line: &str, key: &str, from: &str, to: &str) -> Option<String> {
    let code = code(line);
    let wanted = format!("\"{from}\"");
    let at = code.match_indices(&wanted).map(|(at, _)| at).find(|&at| {
        let before = code[..at].trim_end().strip_suffix('=').map(str::trim_end);
        before.and_then(|before| before.strip_suffix(key)).is_some_and(|rest| !rest.ends_with(is_word))
    })?;
    Some(format!("{}\"{to}\"{}", &line[..at], &line[at + wanted.len()..]))
}

/// The line with another value of `key`, whatever it was, if it is a line of that key.
pub(super) fn with_key(line: &str, key: &str, to: &str) -> Option<String> {
    let (before, _) = code(line).split_once('=')?;
    (before.trim() == key).then(|| format!("{key} = {to}"))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_value_of_the_key_is_replaced() {
        let line = "    { value = \"scale\", type = \"f32\" },  # value = \"scale\"";
        let expected = "    { value = \"1 / scale\", type = \"f32\" },  # value = \"scale\"";
        assert_eq!(with_value(line, "value", "scale", "1 / scale").as_deref(), Some(expected));
        assert_eq!(with_value("{value=\"scale\"}", "value", "scale", "1").as_deref(), Some("{value=\"1\"}"));
        assert_eq!(with_value("# { value = \"scale\" }", "value", "scale", "1"), None);
        assert_eq!(with_value("{ my_value = \"scale\" }", "value", "scale", "1"), None);
        assert_eq!(with_value("{ value = \"scale * 2\" }", "value", "scale", "1"), None);
        assert_eq!(with_key("cache = [\"hnd\"]  # it", "cache", "[\"nhd\"]").as_deref(), Some("cache = [\"nhd\"]"));
        assert_eq!(with_key("cached = 1", "cache", "2"), None);
    }
}
