//! The log-sum-exp a kernel returns: judged by its bound, and like every output written, repeatable and free of poison.

use attnfuzz::backend::manifest::Lse;
use attnfuzz::backend::{Backend, BackendError, BackendKind, Emulator, Kernel, Run};
use attnfuzz::bound::{LseBase, lse_bound};
use attnfuzz::case::Case;
use attnfuzz::float::Dtype;
use attnfuzz::oracle::{ExpectedRow, Tier, Verdict, examine, for_each_row, judge};
use attnfuzz::outcome::{FaultKind, Outcome, Output};
use proptest::prelude::*;
use std::sync::LazyLock;

static SPLIT_KV: LazyLock<Kernel> = LazyLock::new(|| Kernel::open("gqa_decode_split_kv").unwrap());

/// What the kernel gives.
fn right(case: &Case) -> Output {
    match Emulator.run(&SPLIT_KV, case, Run::first(case)).unwrap() {
        Outcome::Output(output) => output,
        Outcome::Fault(fault) => panic!("{case}: {fault:?}"),
    }
}

/// Judges the kernel's output with each log-sum-exp replaced by what `change` makes of the reference's, in nats, and
/// its bound in `base`.
fn judged(case: &Case, base: LseBase, change: &dyn Fn(&ExpectedRow<'_>, f64) -> f64) -> Verdict {
    let mut manifest = SPLIT_KV.manifest.clone();
    manifest.lse = Some(Lse { base });
    let mut output = right(case);
    for_each_row(case, |row| {
        let numbers = manifest.numerics.at_case(row.n, case);
        let (_, bound) = base.value_and_bound(&row.reference, &numbers, lse_bound(&row.reference, &numbers));
        let at = case.lse_layout().offset(&row.at);
        output.lse[row.step as usize].set_values(at, &[change(&row, bound)]);
    });
    judge(case, &manifest, case.poison, &output)
}

const CASE: &str =
    "kv=2 g=3 d=16 past=70,0 dtype=f16 cache=nhd:72 scale=0.25 steps=2 knobs=num_splits:3 values=normal:5";

#[track_caller]
fn is_wrong(verdict: &Verdict) {
    let Verdict::Diverge(divergence) = verdict else { panic!("{verdict:?}") };
    assert_eq!((divergence.tensor.as_str(), divergence.tier, divergence.at.len()), ("lse", Tier::Det, 2));
    assert_eq!(divergence.elements, 2 * 2 * 6);
    let class = verdict.signature().unwrap().class;
    assert!(class.starts_with("diverge lse "), "{class}");
}

#[test]
fn wrong_bases_and_missing_parts_are_caught() {
    let case: Case = CASE.parse().unwrap();
    let (e, two) = (LseBase::E, LseBase::Two);
    let nats = |row: &ExpectedRow<'_>, _: f64| row.reference.lse;
    let bits = |row: &ExpectedRow<'_>, _: f64| row.reference.lse * std::f64::consts::LOG2_E;
    assert!(matches!(judged(&case, e, &nats), Verdict::Agree(_)));
    assert!(matches!(judged(&case, two, &bits), Verdict::Agree(_)));
    is_wrong(&judged(&case, e, &bits));
    is_wrong(&judged(&case, two, &nats));
    is_wrong(&judged(&case, e, &|row, _| row.reference.lse + std::f64::consts::LN_2));
    is_wrong(&judged(&case, e, &|row, _| row.reference.lse - row.reference.max));
    is_wrong(&judged(&case, e, &|row, _| row.reference.max));
    is_wrong(&judged(&case, e, &|row, _| -row.reference.lse));
    is_wrong(&judged(&case, e, &|_, _| f64::NAN));
    is_wrong(&judged(&case, e, &|_, _| f64::NEG_INFINITY));
}

#[test]
fn a_wrong_output_is_told_before_a_wrong_log_sum_exp() {
    let case: Case = CASE.parse().unwrap();
    let mut output = right(&case);
    output.lse[1].set_values(0, &[9.0]);
    output.out[0].set_values(3, &[9.0]);
    let Verdict::Diverge(divergence) = judge(&case, &SPLIT_KV.manifest, case.poison, &output) else { panic!() };
    assert_eq!((divergence.tensor.as_str(), divergence.wrong, divergence.elements), ("out", 1, 2 * 2 * 6 * 16));
}

#[test]
fn a_backend_that_gives_none_is_not_taken_for_a_pass() {
    let case: Case = CASE.parse().unwrap();
    let output = Output { lse: Vec::new(), ..right(&case) };
    assert!(matches!(judge(&case, &SPLIT_KV.manifest, case.poison, &output), Verdict::Skip(_)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_within_the_bound_passes_and_what_is_beyond_does_not(index in 0..100_000_u64, up: bool, two: bool) {
        let case = SPLIT_KV.space().case_at(77, index);
        let base = if two { LseBase::Two } else { LseBase::E };
        let sign = if up { 1.0 } else { -1.0 };
        let value = |row: &ExpectedRow<'_>| base.of_nats(row.reference.lse);
        let near = judged(&case, base, &|row, bound| value(row) + 0.99 * sign * bound);
        prop_assert!(matches!(near, Verdict::Agree(_)), "{}: {:?}", case, near);
        // Beyond the bound, and by more than the store can round away.
        let far = judged(&case, base, &|row, bound| {
            let spacing = Dtype::F32.unit_roundoff() * 4.0 * value(row).abs();
            value(row) + sign * (1.01 * bound + spacing)
        });
        let Verdict::Diverge(divergence) = &far else { return Err(TestCaseError::fail(format!("{case}: {far:?}"))) };
        prop_assert_eq!(divergence.tensor.as_str(), "lse");
    }
}

/// The emulator, with the log-sum-exps of each run changed.
struct Changed<F>(F);

impl<F: Fn(&mut Output, Run) + Send + Sync> Backend for Changed<F> {
    fn kind(&self) -> BackendKind {
        BackendKind::Cuda
    }

    fn describe(&self) -> String {
        "changed".into()
    }

    fn run(&self, kernel: &Kernel, case: &Case, run: Run) -> Result<Outcome, BackendError> {
        let mut outcome = Emulator.run(kernel, case, run)?;
        if let Outcome::Output(output) = &mut outcome {
            (self.0)(output, run);
        }
        Ok(outcome)
    }
}

#[test]
fn it_must_be_written_repeatable_and_free_of_poison() {
    let case: Case = CASE.parse().unwrap();
    let fault = |backend: &dyn Backend| match examine(backend, &SPLIT_KV, &case).unwrap().verdict {
        Verdict::Fault(fault) => (fault.kind, fault.detail),
        verdict => panic!("{verdict:?}"),
    };
    let unwritten = Changed(|output: &mut Output, run: Run| output.lse[1].set_bits(7, run.poison.bits(Dtype::F32)));
    let (kind, detail) = fault(&unwritten);
    assert_eq!((kind, detail.as_str()), (FaultKind::NotWritten, "lse[1, 1] of step 1 was never written"));

    let poisoned = Changed(|output: &mut Output, run: Run| {
        let bits = output.lse[0].bits(2) + run.poison.bits(Dtype::F32) % 7;
        output.lse[0].set_bits(2, bits);
    });
    let (kind, detail) = fault(&poisoned);
    assert_eq!(kind, FaultKind::ReadsPoison);
    assert!(detail.starts_with("lse[0, 2] of step 0 changes with"), "{detail}");

    let unsteady = Changed(|output: &mut Output, run: Run| {
        let bits = output.lse[0].bits(2) + run.schedule_seed % 7;
        output.lse[0].set_bits(2, bits);
    });
    assert_eq!(fault(&unsteady).0, FaultKind::NotRepeatable);
    let untouched = Changed(|_: &mut Output, _| {});
    assert!(matches!(examine(&untouched, &SPLIT_KV, &case).unwrap().verdict, Verdict::Agree(_)));
}
