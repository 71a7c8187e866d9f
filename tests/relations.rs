//! Relations: the right kernel keeps every one, and each catches a planted bug without help from the reference.

use crate::fabricated::outcome;
use attnfuzz::backend::{Backend, BackendError, BackendKind, Emulator, Kernel, Run};
use attnfuzz::campaign::{Config, Event, run};
use attnfuzz::case::{Case, Relation};
use attnfuzz::oracle::relation::{Checked, Held, check};
use attnfuzz::oracle::{Verdict, examine};
use attnfuzz::outcome::Outcome;
use attnfuzz::regression::{Replayed, Saved, Store, replay};
use std::path::Path;
use std::sync::Arc;

#[test]
fn right_kernels_keep_every_relation() {
    for (name, cases) in [("gqa_decode", 40), ("gqa_decode_split_kv", 15)] {
        let kernel = Kernel::open(name).unwrap();
        for relation in Relation::ALL {
            let mut all = Held::default();
            for index in 0..cases {
                let case = kernel.space().case_at(7, index);
                match check(&Emulator, &kernel, &case, relation, None).unwrap() {
                    Checked::Holds(held) => {
                        all.elements += held.elements;
                        all.equal += held.equal;
                    }
                    Checked::DoesNotApply(_) => {}
                    wrong => panic!("{relation} on {case}: {wrong:?}"),
                }
            }
            let nothing_to_say = match relation {
                // A decode kernel has one query token, so that nothing can be merged.
                Relation::StepsMerged => true,
                Relation::KnobsChanged | Relation::LsesMerged => name == "gqa_decode",
                _ => false,
            };
            assert_eq!(all.elements == 0, nothing_to_say, "{relation}");
            if relation.is_exact() || kernel.manifest.exact_relations.contains(&relation) {
                assert!(all.equal * 1000 >= all.elements * 999, "{relation}: {all:?}");
            }
        }
    }
}

/// Cases of a campaign until `relation` is broken, which must be within `limit`.
fn broken_by(mutant: &str, relation: Relation, limit: u64) {
    let kernel = Kernel::open(&format!("{}/kernels/mutants/{mutant}.toml", env!("CARGO_MANIFEST_DIR")));
    let kernel = kernel.unwrap();
    let caught = (0..limit).any(|index| {
        let case = kernel.space().case_at(7, index);
        matches!(check(&Emulator, &kernel, &case, relation, None).unwrap(), Checked::Broken(d) if d.relation == Some(relation))
    });
    assert!(caught, "{relation} missed {mutant} in {limit} cases");
}

#[test]
fn each_relation_catches_a_planted_bug_by_itself() {
    for (relation, mutants) in [
        (Relation::KeysPermuted, ["gqa_decode/p08_newest_key_dropped", "gqa_decode/m30_rescale_in_base_2"]),
        (Relation::KeysRepeated, ["gqa_decode/p10_first_key_skipped", "gqa_decode/m23_no_rescale"]),
        (Relation::LogitsShifted, ["gqa_decode/m26_no_max_subtraction", "gqa_decode/m11_tail_unmasked"]),
        (Relation::ValuesScaled, ["gqa_decode/p15_output_clamped", "gqa_decode/p01_all_nan"]),
        (Relation::ValuesNegated, ["gqa_decode/p16_output_rounded_up", "gqa_decode/p01_all_nan"]),
        (Relation::ValuesRaised, ["gqa_decode/p03_no_normalisation", "gqa_decode/p14_output_truncated"]),
        (Relation::WeightsSumToOne, ["gqa_decode/m11_tail_unmasked", "gqa_decode/m56_numerator_in_half"]),
        (Relation::WithinValues, ["gqa_decode/p06_v_head_swapped", "gqa_decode/p03_no_normalisation"]),
        (Relation::HeadsRepeated, ["gqa_decode/m01_head_mod", "gqa_decode/m02_group_padded_to_power_of_two"]),
        (Relation::RequestsReversed, ["gqa_decode/p09_maximum_starts_at_zero", "gqa_decode/p01_all_nan"]),
        (Relation::RequestAlone, ["gqa_decode/m05_no_request_term", "gqa_decode/m07_length_of_first_request"]),
        (Relation::CacheMoved, ["gqa_decode/p09_maximum_starts_at_zero", "gqa_decode/p01_all_nan"]),
        (Relation::DimsReversed, ["gqa_decode/m08_head_dim_truncated", "gqa_decode/p01_all_nan"]),
        (Relation::ColumnsReversed, ["gqa_decode/p17_last_column_from_its_neighbour", "gqa_decode/p01_all_nan"]),
        (Relation::FactorsMoved, ["gqa_decode/p18_query_in_half", "gqa_decode/p01_all_nan"]),
        (Relation::Appended, ["gqa_decode/m07_length_of_first_request", "gqa_decode/p01_all_nan"]),
        (
            Relation::KnobsChanged,
            ["gqa_decode_split_kv/s02_first_split_only", "gqa_decode_split_kv/s03_splits_not_weighted"],
        ),
        (
            Relation::LsesMerged,
            ["gqa_decode_split_kv/l01_lse_in_base_2", "gqa_decode_split_kv/l02_lse_without_maximum"],
        ),
        (Relation::LogitsShifted, ["gqa_decode_split_kv/l02_lse_without_maximum", "gqa_decode/p01_all_nan"]),
        (Relation::KeysRepeated, ["gqa_decode_split_kv/l01_lse_in_base_2", "gqa_decode/p01_all_nan"]),
        (Relation::ScaleProbe, ["gqa_decode/m50_scale_of_padded_head_dim", "gqa_decode/p02_no_scale"]),
    ] {
        mutants.into_iter().for_each(|mutant| broken_by(mutant, relation, 200));
    }
}

/// Stands for a device, to try the oracle with outputs that are wrong by a known amount: the exact result, changed.
struct Fabricated {
    /// What becomes of the result `o` of a row of `n` keys in `case`.
    change: fn(&Case, n: usize, o: f64) -> f64,
    /// Keys of the row's reference to leave out at its end, where there are several query tokens.
    blind: usize,
}

impl Backend for Fabricated {
    fn kind(&self) -> BackendKind {
        BackendKind::Cuda
    }

    fn describe(&self) -> String {
        "fabricated".into()
    }

    fn run(&self, _: &Kernel, case: &Case, run: Run) -> Result<Outcome, BackendError> {
        let several = case.shape.requests.iter().any(|r| r.q_len > 1);
        Ok(outcome(case, run, |row, dim| {
            let (dims, p) = (row.reference.v_head_dim, &row.reference.p);
            let seen = if several { row.n.saturating_sub(self.blind).max(1) } else { row.n };
            let weighted = |key: usize| p[key] * row.reference.v[key * dims + dim];
            let o = (0..seen).map(weighted).sum::<f64>() / p[..seen].iter().sum::<f64>();
            (self.change)(case, row.n, o)
        }))
    }
}

/// A manifest like `gqa_decode`'s with a line replaced: what runs it here is [`Fabricated`].
fn rewritten(folder: &Path, from: &str, to: &str) -> Kernel {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/gqa_decode");
    for file in ["kernel.cu", "kernel.ptx"] {
        std::fs::copy(shipped.join(file), folder.join(file)).unwrap();
    }
    let manifest = std::fs::read_to_string(shipped.join("kernel.toml")).unwrap();
    assert!(manifest.contains(from));
    let manifest = manifest.replace(from, to);
    std::fs::write(folder.join("kernel.toml"), manifest).unwrap();
    Kernel::open(folder.join("kernel.toml").to_str().unwrap()).unwrap()
}

#[test]
fn several_query_tokens_give_what_single_ones_give() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = rewritten(folder.path(), "q_len = 1\n", "q_len = \"1..=16\"\n");
    let judged = |blind: usize, line: &str| {
        let backend = Fabricated { change: |_, _, o| o, blind };
        check(&backend, &kernel, &line.parse().unwrap(), Relation::StepsMerged, None).unwrap()
    };
    for line in [
        "kv=2 g=3 d=8 past=5,0,9 q=4 dtype=f32 cache=hnd:16 scale=0.35 values=normal:3",
        "kv=2 g=3 d=8 past=5,0,9 dtype=f16 cache=hnd:16 scale=0.35 steps=3 values=normal:3",
    ] {
        assert!(matches!(judged(0, line), Checked::Holds(Held { elements: 1.., .. })), "{line}");
        // A mask that hides the newest key of each query.
        assert!(matches!(judged(1, line), Checked::Broken(_)), "{line}");
    }
    let one = "kv=2 g=3 d=8 past=5,0,9 dtype=f32 cache=hnd:16 scale=0.35 values=normal:3";
    assert!(matches!(judged(1, one), Checked::DoesNotApply(_)));
}

/// Numbers with few exponents underflow where those of 64 times V don't: no exact relation, and no bug.
#[test]
fn narrow_accumulators_are_not_asked_to_scale_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let narrow = rewritten(folder.path(), "preset = \"naive\"\n", "preset = \"naive\"\nu = \"2^-11\"\n");
    let wide = Kernel::open("gqa_decode").unwrap();
    let case: Case = "kv=2 g=3 d=8 past=5,9 dtype=f32 cache=hnd:16 scale=0.35 values=normal:3".parse().unwrap();
    let exact = Fabricated { change: |_, _, o| o, blind: 0 };
    for relation in [Relation::ValuesScaled, Relation::FactorsMoved] {
        let judged = |kernel: &Kernel| check(&exact, kernel, &case, relation, None).unwrap();
        assert!(matches!(judged(&narrow), Checked::DoesNotApply(_)), "{relation}");
        assert!(matches!(judged(&wide), Checked::Holds(_)), "{relation}");
    }
    let negated = check(&exact, &narrow, &case, Relation::ValuesNegated, None).unwrap();
    assert!(matches!(negated, Checked::Holds(_)), "{negated:?}");
}

/// The output of the case was once taken for that of the same case with other knobs, so that nothing was compared.
#[test]
fn other_knobs_are_run_although_the_case_itself_is_known() {
    let kernel = Kernel::open("gqa_decode_split_kv").unwrap();
    let line = "kv=2 g=3 d=8 past=40 dtype=f32 cache=hnd:41 scale=0.35 knobs=num_splits:2 values=normal:3";
    let case: Case = format!("{line} relation=knobs-changed").parse().unwrap();
    let wrong = |case: &Case, _: usize, o: f64| if case.knobs["num_splits"] == 2 { o } else { o + 1.0 };
    for (change, holds) in [(wrong as fn(&Case, usize, f64) -> f64, false), (|_, _, o| o, true)] {
        let backend = Fabricated { change, blind: 0 };
        let Outcome::Output(known) = backend.run(&kernel, &case, Run::first(&case)).unwrap() else { unreachable!() };
        let checked = check(&backend, &kernel, &case, Relation::KnobsChanged, Some(&known)).unwrap();
        assert_eq!(matches!(checked, Checked::Holds(_)), holds, "{checked:?}");
        assert_eq!(matches!(checked, Checked::Broken(_)), !holds, "{checked:?}");
    }
}

/// Below what the bound of a long row allows, but never the negative of what -V gives.
fn biased(_: &Case, n: usize, o: f64) -> f64 {
    if n > 8 { o + 3e-7 } else { o }
}

#[test]
fn what_the_bound_allows_and_a_relation_does_not_is_found_shrunk_saved_and_replayed() {
    let kernel = Arc::new(Kernel::open("gqa_decode").unwrap());
    let line = "kv=1 g=1 d=64 past=40 dtype=f32 cache=hnd:41 scale=0.125 values=normal:3";
    let backend = || Fabricated { change: biased, blind: 0 };
    let plain: Case = line.parse().unwrap();
    assert!(matches!(examine(&backend(), &kernel, &plain).unwrap().verdict, Verdict::Agree(_)));
    let asked: Case = format!("{line} relation=values-negated").parse().unwrap();
    let verdict = examine(&backend(), &kernel, &asked).unwrap().verdict;
    assert_eq!(verdict.signature().unwrap().class, "relation values-negated");

    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        kernels: vec![kernel.clone()],
        backends: vec![Arc::new(backend()) as Arc<dyn Backend>],
        cases: Some(500),
        time: None,
        relations: vec![Relation::ValuesNegated],
        seed: 1,
        jobs: 1,
        max_findings: 8,
        max_shrink: 1000,
        store: Some(Store::new(folder.path())),
    };
    let mut found = Vec::new();
    let summary = run(&config, &mut |event| {
        if let Event::Found(event) = event {
            found.push(*event);
        }
    });
    let count = summary.rows[0].relations[&Relation::ValuesNegated];
    assert!(count.holds > 0 && count.broken > 0, "{count:?}");
    let found = found.iter().find(|f| f.finding.signature.class == "relation values-negated").unwrap();
    let case = &found.finding.case;
    assert_eq!((case.relation, case.view), (Some(Relation::ValuesNegated), None));
    // The bias starts at 9 keys.
    assert_eq!(case.shape.requests.iter().map(|r| r.past_len).max(), Some(8), "{case}");
    let Some(Ok(Saved::New(file))) = &found.saved else { panic!("{:?}", found.saved) };
    let (_, finding) = attnfuzz::regression::Finding::load_all(file).unwrap().swap_remove(0);
    assert_eq!(finding, found.finding);
    assert!(matches!(replay(&finding, &kernel, &backend()), Replayed::StillFails(_)));
    assert_eq!(replay(&finding, &kernel, &Fabricated { change: |_, _, o| o, blind: 0 }), Replayed::Fixed);
    assert_eq!(replay(&finding, &kernel, &Emulator), Replayed::Fixed);
}

#[test]
fn nan_breaks_every_relation_and_a_fault_of_a_derived_run_is_a_fault() {
    let kernel = Kernel::open("gqa_decode").unwrap();
    let case: Case = "kv=2 g=3 d=8 past=5,9 dtype=f32 cache=hnd:16 scale=0.35 values=normal:3".parse().unwrap();
    for relation in Relation::ALL {
        let only_derived =
            Fabricated { change: |case, _, o| if case.values.seed == 3 { f64::NAN } else { o }, blind: 0 };
        match check(&only_derived, &kernel, &case, relation, None).unwrap() {
            Checked::Broken(d) => assert_eq!(d.ratio, f64::INFINITY, "{relation}"),
            Checked::DoesNotApply(_) => {
                assert!(matches!(relation, Relation::StepsMerged | Relation::KnobsChanged | Relation::LsesMerged));
            }
            held => panic!("{relation}: {held:?}"),
        }
    }
    let strides = Kernel::open(&format!(
        "{}/kernels/mutants/gqa_decode/m41_assumes_dense_tokens.toml",
        env!("CARGO_MANIFEST_DIR")
    ));
    // Dense as it is, with padding once its cache is moved.
    let checked = check(&Emulator, &strides.unwrap(), &case, Relation::CacheMoved, None).unwrap();
    assert!(matches!(checked, Checked::Fault(_) | Checked::Broken(_)), "{checked:?}");
}
