//! The model of independent roundings: what exceeds it is looked at more closely, and accused only with proof.

use crate::fabricated::outcome;
use attnfuzz::backend::{Backend, BackendError, BackendKind, Kernel, Run};
use attnfuzz::bound::bounds;
use attnfuzz::campaign::{Config, Event, run};
use attnfuzz::case::{Case, Recipe};
use attnfuzz::oracle::{SGN_LAMBDA, Verdict, examine, for_each_row};
use attnfuzz::outcome::Outcome;
use attnfuzz::tensor::Buffer;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};

/// Answers with the exact result, or with one that leaves a key out of every long row. It stands for a device, to try
/// the oracle with outputs that are wrong by a known amount.
struct Fabricated {
    leaves_out: Option<usize>,
}

impl Backend for Fabricated {
    fn kind(&self) -> BackendKind {
        BackendKind::Cuda
    }

    fn describe(&self) -> String {
        "fabricated".into()
    }

    fn run(&self, _: &Kernel, case: &Case, run: Run) -> Result<Outcome, BackendError> {
        Ok(outcome(case, run, |row, dim| {
            let (o, p, dims) = (row.reference.o[dim], &row.reference.p, row.reference.v_head_dim);
            match self.leaves_out {
                Some(key) if row.n > 1000 => (o - p[key] * row.reference.v[key * dims + dim]) / (1.0 - p[key]),
                _ => o,
            }
        }))
    }
}

/// Many keys of much the same weight: leaving one out is far below what the proofs have to allow for.
fn long_case(recipe: &str) -> Case {
    format!("kv=1 g=2 d=64 past=40000 dtype=f32 cache=hnd:40001 scale=0.125 values={recipe}:3").parse().unwrap()
}

#[test]
fn a_key_left_out_of_a_long_row_is_suspect_and_then_proven() {
    let kernel = Kernel::open("gqa_decode").unwrap();
    let examined = examine(&Fabricated { leaves_out: Some(777) }, &kernel, &long_case("normal")).unwrap();
    let Verdict::Agree(agreement) = examined.verdict else { panic!("not hidden: {:?}", examined.verdict) };
    assert!(agreement.is_suspect(), "{agreement:?}");
    let (closer, verdict) = examined.closer.expect("a closer look fails");
    assert_eq!(closer.values.recipe.to_string(), "flat");
    assert!(matches!(verdict, Verdict::Diverge(_)));
}

#[test]
fn exact_results_are_not_suspect() {
    let kernel = Kernel::open("gqa_decode").unwrap();
    for recipe in ["normal", "mixed", "sink"] {
        let examined = examine(&Fabricated { leaves_out: None }, &kernel, &long_case(recipe)).unwrap();
        let Verdict::Agree(agreement) = examined.verdict else { panic!("{:?}", examined.verdict) };
        assert!(!agreement.is_suspect() && examined.closer.is_none(), "{recipe}: {agreement:?}");
    }
}

#[test]
fn values_without_random_signs_are_never_suspect() {
    let kernel = Kernel::open("gqa_decode").unwrap();
    let examined = examine(&Fabricated { leaves_out: Some(777) }, &kernel, &long_case("ones")).unwrap();
    let Verdict::Agree(agreement) = examined.verdict else { panic!("{:?}", examined.verdict) };
    assert_eq!(agreement.model_ratio, 0.0);
}

/// Errs a little in every case of random signs, and grossly where such a case is looked at again.
struct FailsWhenLookedAt {
    erred: Mutex<HashSet<u32>>,
}

impl Backend for FailsWhenLookedAt {
    fn kind(&self) -> BackendKind {
        BackendKind::Cuda
    }

    fn describe(&self) -> String {
        "fabricated".into()
    }

    fn run(&self, kernel: &Kernel, case: &Case, run: Run) -> Result<Outcome, BackendError> {
        let Outcome::Output(mut output) = (Fabricated { leaves_out: None }).run(kernel, case, run)? else {
            unreachable!("it always gives an output")
        };
        let mut erred = self.erred.lock().unwrap();
        let (again, layout) = (erred.contains(&case.values.seed), case.output_layout());
        for_each_row(case, |row| {
            let numbers = kernel.manifest.numerics.at_dtype(row.n, case.shape.head_dim as usize, case.dtype);
            let bounds = bounds(&row.reference, &numbers, SGN_LAMBDA);
            let at = layout.offset(&[row.at[0], row.at[1], 0]);
            let error = match case.values.recipe {
                Recipe::Flat if again => 1.0,
                Recipe::Normal => 0.9 * bounds.sgn[0],
                _ => return,
            };
            let out = &mut output.out[row.step as usize];
            let mut values: Vec<f64> = (0..out.len()).map(|i| out.value(i)).collect();
            values[at] += error;
            *out = Buffer::of_values(case.dtype, &values);
            if case.values.recipe == Recipe::Normal {
                erred.insert(case.values.seed);
            }
        });
        Ok(Outcome::Output(output))
    }
}

#[test]
fn a_campaign_reports_the_case_that_proves_a_suspicion() {
    let backend = Arc::new(FailsWhenLookedAt { erred: Mutex::default() });
    let config = Config {
        cases: Some(400),
        seed: 3,
        max_shrink: 0,
        ..Config::new(vec![Arc::new(Kernel::open("gqa_decode").unwrap())], vec![backend.clone()])
    };
    let mut found = Vec::new();
    let summary = run(&config, &mut |event| {
        if let Event::Found(event) = event {
            found.push(*event);
        }
    });
    let [found] = &found[..] else { panic!("{:?}", summary.rows) };
    assert_eq!(found.finding.case.values.recipe, Recipe::Flat);
    assert!(summary.rows[0].suspect >= 1 && summary.rows[0].suspect_case.as_ref().unwrap().contains("values=normal"));
}
