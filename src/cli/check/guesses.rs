//! Common mistakes in manifests: each a change of its text with which the kernel might agree.

use super::edits::{with_key, with_value};
use crate::backend::{Emulator, Kernel};
use crate::oracle::{Examined, Examiner, Verdict};

/// A manifest that differs in a few lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Guess {
    /// What would have to be so.
    pub(super) what: String,
    /// The lines that differ, from 1, as they would be.
    pub(super) lines: Vec<(usize, String)>,
    text: String,
}

/// Whether the kernel agrees with the changed manifest on tiny cases of it.
pub(super) fn helps(guess: &Guess, kernel: &Kernel) -> bool {
    let Some(changed) = kernel.driven_by(&guess.text) else { return false };
    super::tiny(&changed)
        .iter()
        .all(|case| matches!(Emulator.examine(&changed, case), Ok(Examined { verdict: Verdict::Agree(_), .. })))
}

/// Two guesses at once, each pair that has no line in common.
pub(super) fn pairs(text: &str, guesses: &[Guess]) -> Vec<Guess> {
    let numbers = |guess: &Guess| guess.lines.iter().map(|(number, _)| *number).collect::<Vec<_>>();
    let both = |a: &Guess, b: &Guess| {
        let apart = numbers(a).iter().all(|number| !numbers(b).contains(number));
        let mut lines = [a.lines.clone(), b.lines.clone()].concat();
        lines.sort_unstable();
        apart.then(|| guess(text, &format!("{}, and {}", a.what, b.what), lines))
    };
    let later = |(index, a)| guesses[index + 1..].iter().filter_map(move |b| both(a, b));
    guesses.iter().enumerate().flat_map(later).collect()
}

/// Everything that is worth a try with this text.
pub(super) fn all(text: &str) -> Vec<Guess> {
    let mut guesses = Vec::new();
    let of = |what: &str, change: &dyn Fn(&str) -> Option<String>| whole(text, what, change);
    for (from, to) in [("hnd", "nhd"), ("nhd", "hnd")] {
        let claims = |line: &str| line.contains(&format!("\"{from}\"")) && !line.contains(&format!("\"{to}\""));
        guesses.extend(of(&format!("the cache is {to}, not {from}"), &|line| {
            with_key(line, "cache", &format!("[\"{to}\"]")).filter(|_| claims(line))
        }));
    }
    for (a, b) in [("k_cache", "v_cache"), ("k_new", "v_new"), ("q", "out")] {
        guesses.extend(of(&format!("{a} and {b} change places"), &|line| swapped(line, "tensor", a, b)));
    }
    guesses.extend(of("keys and values change places, new and cached", &|line| {
        swapped(line, "tensor", "k_cache", "v_cache").or_else(|| swapped(line, "tensor", "k_new", "v_new"))
    }));
    guesses.extend(scales(text));
    guesses.extend(lengths(text));
    for (a, b) in [("num_q_heads", "num_kv_heads"), ("num_kv_heads", "q_per_kv"), ("num_q_heads", "q_per_kv")] {
        guesses.extend(of(&format!("{a} and {b} change places"), &|line| swapped(line, "value", a, b)));
        guesses.extend(each(text, &format!("it takes {b} where {a} is"), &|line| with_value(line, "value", a, b)));
        guesses.extend(each(text, &format!("it takes {a} where {b} is"), &|line| with_value(line, "value", b, a)));
    }
    let strides = |line: &str, tensor: &str, a: &str, b: &str| {
        let [a, b] = [a, b].map(|axis| format!("{tensor}_stride_{axis}"));
        swapped(line, "value", &a, &b)
    };
    for (a, b) in [("head", "token"), ("request", "head"), ("request", "token")] {
        for tensor in ["k", "v"] {
            let what = format!("{tensor}_stride_{a} and {tensor}_stride_{b} change places");
            guesses.extend(of(&what, &|line| strides(line, tensor, a, b)));
        }
        guesses.extend(of(&format!("the strides of {a} and {b} change places, of keys and of values"), &|line| {
            strides(line, "k", a, b).or_else(|| strides(line, "v", a, b))
        }));
    }
    guesses.dedup_by(|a, b| a.text == b.text);
    guesses
}

/// A scale that is baked in as well, missing, inverted or for another base.
fn scales(text: &str) -> Vec<Guess> {
    let log2e = "1.4426950408889634";
    let to = |from: &'static str, to: String, what: &str| {
        each(text, what, &move |line| with_value(line, "value", from, &to))
    };
    let mut guesses =
        to("scale", "scale * head_dim ^ 0.5".into(), "the kernel multiplies by 1/sqrt(head_dim) by itself");
    guesses.extend(to("scale", format!("scale * {log2e}"), "the kernel takes powers of 2, with log2(e) in the scale"));
    guesses.extend(to("scale", "1 / scale".into(), "the kernel divides by what it is given"));
    guesses.extend(to("scale", "1".into(), "the kernel multiplies by the scale by itself"));
    for form in ["scale * 1.4426950408889634", "scale * 1.44269504", "scale * 1.442695"] {
        guesses.extend(to(form, "scale".into(), "the kernel multiplies by log2(e) by itself, or takes powers of e"));
    }
    if !text.lines().any(|line| with_key(line, "any_scale", "false").is_some_and(|_| line.contains("false"))) {
        let is_domain = |line: &str| line.split('#').next().is_some_and(|code| code.trim() == "[domain]");
        let has_key = text.lines().any(|line| with_key(line, "any_scale", "").is_some());
        guesses.extend(whole(text, "the kernel multiplies by 1/sqrt(head_dim), whatever the scale is", &|line| {
            if has_key {
                with_key(line, "any_scale", "false")
            } else {
                is_domain(line).then(|| format!("{line}\nany_scale = false"))
            }
        }));
    }
    guesses
}

/// A length that is one token off, or that of before the step instead of after it.
fn lengths(text: &str) -> Vec<Guess> {
    let mut guesses = Vec::new();
    for (from, to) in [("past_len", "kv_len"), ("kv_len", "past_len")] {
        let what = format!("it takes {to} where {from} is");
        guesses.extend(each(text, &what, &|line| with_value(line, "lengths", from, to)));
        let [from, to] = [from, to].map(|length| format!("{length}_max"));
        guesses.extend(each(text, &what, &|line| with_value(line, "value", &from, &to)));
        for (to, what) in [(format!("{from} - 1"), "one token less"), (format!("{from} + 1"), "one token more")] {
            let what = format!("the kernel counts {what} than {from}");
            guesses.extend(each(text, &what, &|line| with_value(line, "value", &from, &to)));
        }
    }
    guesses
}

fn swapped(line: &str, key: &str, a: &str, b: &str) -> Option<String> {
    with_value(line, key, a, b).or_else(|| with_value(line, key, b, a))
}

/// The text with every line changed that can be; nothing if none can.
fn whole(text: &str, what: &str, change: &dyn Fn(&str) -> Option<String>) -> Option<Guess> {
    let lines: Vec<(usize, String)> =
        text.lines().zip(1..).filter_map(|(line, number)| Some((number, change(line)?))).collect();
    (!lines.is_empty()).then(|| guess(text, what, lines))
}

/// For each line that can be changed, the text with that one changed.
fn each(text: &str, what: &str, change: &dyn Fn(&str) -> Option<String>) -> Vec<Guess> {
    let lines = text.lines().zip(1..).filter_map(|(line, number)| Some((number, change(line)?)));
    lines.map(|line| guess(text, what, vec![line])).collect()
}

fn guess(text: &str, what: &str, lines: Vec<(usize, String)>) -> Guess {
    let changed = text.lines().zip(1..).map(|(line, number)| {
        let new = lines.iter().find(|(n, _)| *n == number).map_or(line, |(_, new)| new.as_str());
        format!("{new}\n")
    });
    let text = changed.collect();
    Guess { what: what.to_owned(), text, lines }
}
