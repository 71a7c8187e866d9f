//! The emulator against the meaning of each instruction form, written down independently.

#[path = "fidelity/forms/mod.rs"]
#[expect(dead_code, reason = "the example uses the rest")]
mod forms;
#[path = "fidelity/model/mod.rs"]
mod model;

use forms::form::{BLOCK, Form};
use std::collections::BTreeSet;
use std::path::Path;

const CASES: usize = 4096;

/// Keeps a list of forms exact: one name a line, rewritten when the variable `ATTNFUZZ_BLESS` is set.
fn must_be(found: &BTreeSet<String>, file: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fidelity").join(file);
    if std::env::var_os("ATTNFUZZ_BLESS").is_some() {
        let lines: String = found.iter().map(|name| format!("{name}\n")).collect();
        return std::fs::write(path, lines).unwrap();
    }
    let listed: BTreeSet<String> = std::fs::read_to_string(path).unwrap().lines().map(String::from).collect();
    assert!(*found == listed, "{file}: {}", difference(found, &listed));
}

fn all() -> Vec<Form> {
    forms::form::forms()
}

fn difference(found: &BTreeSet<String>, listed: &BTreeSet<String>) -> String {
    let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect::<Vec<_>>().join("\n");
    format!("not listed:\n{}\nlisted in vain:\n{}", only(found, listed), only(listed, found))
}

#[test]
fn forms_have_different_names() {
    let names: BTreeSet<String> = all().into_iter().map(|f| f.name).collect();
    assert_eq!(names.len(), all().len());
}

#[test]
fn the_emulator_has_every_form() {
    let refused = |form: Form| {
        let cases = forms::operands::cases(&form, BLOCK, BLOCK);
        forms::emulate::run(&form, &cases[..BLOCK]).err().map(|why| format!("{}: {why}", form.name))
    };
    let refused: Vec<String> = all().into_iter().filter_map(refused).collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn every_form_computes_what_its_model_says() {
    let mut unmodelled = BTreeSet::new();
    let mut wrong = Vec::new();
    for form in all() {
        let cases = forms::operands::cases(&form, CASES, BLOCK);
        let Some(expected) = model::expected(&form, &cases) else {
            unmodelled.insert(form.name);
            continue;
        };
        let Ok(found) = forms::emulate::run(&form, &cases) else { continue };
        wrong.extend(differing(&form, &cases, &expected, &found));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Approximations, and tensor cores that don't add exactly.
    must_be(&unmodelled, "unmodelled.txt");
}

/// Where a form gives other results than its model, in words.
fn differing(form: &Form, cases: &[Vec<u64>], expected: &[Vec<Option<u64>>], found: &[Vec<u64>]) -> Option<String> {
    let differs =
        |(want, have): (&Vec<Option<u64>>, &Vec<u64>)| want.iter().zip(have).any(|(w, h)| w.is_some_and(|w| w != *h));
    let bad: Vec<usize> = (0..cases.len()).filter(|i| differs((&expected[*i], &found[*i]))).collect();
    let first = *bad.first()?;
    let (case, want, have) = (&cases[first], &expected[first], &found[first]);
    let share = format!("{} of {}", bad.len(), cases.len());
    Some(format!("{} ({share}): {case:x?} gives {have:x?}, not {want:x?}", form.name))
}

/// Without a GPU the reason is told, and nothing is said about hardware.
#[cfg(feature = "cuda")]
#[test]
fn a_gpu_computes_what_the_models_say_or_its_absence_is_told() {
    let cuda = match attnfuzz::backend::cuda_raw::RawCuda::open(0) {
        Ok(cuda) => cuda,
        Err(absent) => {
            println!("not compared with hardware: {absent}");
            return assert!(absent.to_string().contains("CUDA"), "{absent}");
        }
    };
    let mut wrong = Vec::new();
    for form in all() {
        let cases = forms::operands::cases(&form, CASES, BLOCK);
        let Some(expected) = model::expected(&form, &cases) else { continue };
        match forms::device::run(&cuda, &form, &cases) {
            Ok(found) => wrong.extend(differing(&form, &cases, &expected, &found)),
            Err(why) => wrong.push(format!("{}: {why}", form.name)),
        }
    }
    assert!(wrong.is_empty(), "{} on {}:\n{}", wrong.len(), cuda.name(), wrong.join("\n"));
}
