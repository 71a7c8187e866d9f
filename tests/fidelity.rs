//! The emulator against the meaning of each instruction form, written down independently.

#[path = "fidelity/forms/mod.rs"]
mod forms;
#[path = "fidelity/model/mod.rs"]
mod model;

use forms::expand::expand;
use forms::form::{BLOCK, Form};
use std::collections::BTreeSet;

const CASES: usize = 4096;

/// Forms that the emulator refuses.
const LACKING: &[&str] = &[];

/// Forms whose meaning isn't modelled here: approximations, tensor cores, 8-bit floats.
const UNMODELLED: &[&str] = &[];

fn names(patterns: &[&str]) -> BTreeSet<String> {
    patterns.iter().flat_map(|p| expand(p)).collect()
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
fn the_emulator_lacks_exactly_the_listed_forms() {
    let lacking = |form: &Form| {
        let cases = forms::operands::cases(form, BLOCK, BLOCK);
        forms::emulate::run(form, &cases[..BLOCK]).is_err()
    };
    let found: BTreeSet<String> = all().into_iter().filter(lacking).map(|f| f.name).collect();
    let listed = names(LACKING);
    assert!(found == listed, "{}", difference(&found, &listed));
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
        let differs = |(want, have): (&Vec<Option<u64>>, &Vec<u64>)| {
            want.iter().zip(have).any(|(w, h)| w.is_some_and(|w| w != *h))
        };
        let bad: Vec<usize> = (0..cases.len()).filter(|i| differs((&expected[*i], &found[*i]))).collect();
        if let Some(&first) = bad.first() {
            let (case, want, have) = (&cases[first], &expected[first], &found[first]);
            wrong.push(format!(
                "{} ({} of {}): {case:x?} gives {have:x?}, not {want:x?}",
                form.name,
                bad.len(),
                cases.len()
            ));
        }
    }
    assert!(wrong.is_empty(), "{} forms differ:\n{}", wrong.len(), wrong.join("\n"));
    let listed = names(UNMODELLED);
    assert!(unmodelled == listed, "{}", difference(&unmodelled, &listed));
}
