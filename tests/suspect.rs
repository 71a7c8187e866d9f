//! The model of independent roundings: what exceeds it is looked at more closely, and accused only with proof.

use attnfuzz::backend::{Backend, BackendError, BackendKind, Kernel, Run};
use attnfuzz::case::{Case, Inputs};
use attnfuzz::oracle::{Verdict, examine, for_each_row};
use attnfuzz::outcome::{Outcome, Output};
use attnfuzz::tensor::Buffer;

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
        let layout = case.output_layout();
        let mut steps = vec![vec![0.0; layout.span()]; case.steps as usize];
        for_each_row(case, |row| {
            let dims = row.reference.v_head_dim;
            let start = layout.offset(&[row.at[0], row.at[1], 0]);
            for dim in 0..dims {
                let (o, p) = (row.reference.o[dim], &row.reference.p);
                steps[row.step as usize][start + dim] = match self.leaves_out {
                    Some(key) if row.n > 1000 => (o - p[key] * row.reference.v[key * dims + dim]) / (1.0 - p[key]),
                    _ => o,
                };
            }
        });
        let (k_cache, v_cache) = Inputs::final_caches(case, run.poison);
        let out = steps.iter().map(|values| Buffer::of_values(case.dtype, values)).collect();
        Ok(Outcome::Output(Output { out, k_cache, v_cache }))
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
