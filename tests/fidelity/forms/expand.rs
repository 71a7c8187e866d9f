//! Brace expansion, as a shell does it: `a{b,c}d` is `abd` and `acd`. Braces don't nest.

/// Every text a pattern stands for, in order. `{{` and `}}` are literal braces.
pub(crate) fn expand(pattern: &str) -> Vec<String> {
    let mut texts = vec![String::new()];
    let mut rest = pattern;
    while let Some(at) = rest.find(['{', '}']) {
        let (plain, tail) = rest.split_at(at);
        texts.iter_mut().for_each(|t| t.push_str(plain));
        if let Some(after) = tail.strip_prefix("{{").or_else(|| tail.strip_prefix("}}")) {
            texts.iter_mut().for_each(|t| t.push_str(&tail[..1]));
            rest = after;
            continue;
        }
        let (choices, after) = tail[1..].split_once('}').expect("every brace is closed");
        texts = texts.iter().flat_map(|t| choices.split(',').map(move |c| format!("{t}{c}"))).collect();
        rest = after;
    }
    texts.iter_mut().for_each(|t| t.push_str(rest));
    texts
}
