//! The loop, proven on planted bugs: each is found, shrunk, saved, and still fails when the saved file is replayed,
//! while the kernel without the bug agrees on the same case.

use attnfuzz::backend::{Emulator, Kernel, shipped_names};
use attnfuzz::campaign::{Config, Event, Found, minimise, run};
use attnfuzz::oracle::{Verdict, examine};
use attnfuzz::regression::{Finding, Replayed, Saved, Store, replay};
use std::sync::Arc;

fn hunt(mutant: &str) -> Found {
    hunt_of("gqa_decode", mutant)
}

fn hunt_of(parent: &str, mutant: &str) -> Found {
    let path = format!("{}/kernels/mutants/{parent}/{mutant}.toml", env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let kernel = Arc::new(Kernel::open(&path).unwrap());
    let config = Config {
        cases: Some(20_000),
        seed: 1,
        jobs: 2,
        max_shrink: 1000,
        store: Some(Store::new(folder.path())),
        ..Config::new(vec![kernel.clone()], vec![Arc::new(Emulator)])
    };
    let mut found = None;
    let summary = run(&config, &mut |event| {
        if let Event::Found(event) = event {
            found = Some(*event);
        }
    });
    let found = found.unwrap_or_else(|| panic!("{mutant} survived {} cases", summary.rows[0].cases));
    assert!(summary.has_findings());
    assert_eq!(summary.internal_errors, 0);

    let Some(Ok(Saved::New { path: file, .. })) = &found.saved else {
        panic!("{mutant} was not saved: {:?}", found.saved)
    };
    let (_, finding) = Finding::load_all(file).unwrap().swap_remove(0);
    // As text, because NaN is not equal to itself.
    assert_eq!(format!("{finding:?}"), format!("{:?}", found.finding));
    let again = replay(&finding, &finding.open_kernel(file).unwrap(), &Emulator);
    assert!(matches!(again, Replayed::StillFails(_)), "{mutant}: {again:?}");
    let right = Kernel::open(parent).unwrap();
    assert_eq!(replay(&finding, &right, &Emulator), Replayed::Fixed, "{mutant}");

    // Shown by `cargo test -- --nocapture`.
    println!("{mutant}: {} ({} executions)\n    {}", finding.line, found.executions, finding.what());
    found
}

#[test]
fn m01_head_mapped_modulo_is_found_and_shrinks_to_two_by_two_heads() {
    let shape = hunt("m01_head_mod").finding.case.shape.clone();
    assert_eq!((shape.num_kv_heads, shape.q_per_kv, shape.batch()), (2, 2, 1));
}

#[test]
fn m02_group_padded_to_a_power_of_two_is_found_and_shrinks_to_three_heads_a_group() {
    let shape = hunt("m02_group_padded_to_power_of_two").finding.case.shape.clone();
    assert_eq!((shape.num_kv_heads, shape.q_per_kv), (2, 3));
}

#[test]
fn m05_missing_request_term_is_found_and_shrinks_to_two_requests() {
    let shape = hunt("m05_no_request_term").finding.case.shape.clone();
    assert_eq!((shape.batch(), shape.num_kv_heads, shape.q_per_kv), (2, 1, 1));
}

#[test]
fn m08_truncated_head_dim_is_found() {
    let shape = hunt("m08_head_dim_truncated").finding.case.shape.clone();
    assert_ne!(shape.head_dim % 32, 0);
}

#[test]
fn m23_missing_rescale_is_found_and_needs_a_second_tile() {
    let case = hunt("m23_no_rescale").finding.case;
    assert!(case.past_len_at(0, case.steps) > 32, "{case}");
}

#[test]
fn m26_missing_max_subtraction_is_found() {
    hunt("m26_no_max_subtraction");
}

#[test]
fn m50_scale_of_a_padded_head_dim_is_found() {
    let shape = hunt("m50_scale_of_padded_head_dim").finding.case.shape.clone();
    assert!(shape.requests.iter().any(|r| r.past_len >= 1), "one key has weight 1 whatever the scale");
}

#[test]
fn m51_ignored_scale_is_found() {
    hunt("m51_scale_ignored");
}

/// Each planted bug of the split-KV kernel: how it is told, and how many splits its smallest case has.
const SPLIT_KV: [(&str, &str, u32); 20] = [
    ("l01_lse_in_base_2", "diverge lse value", 1),
    ("l02_lse_without_maximum", "diverge lse value", 1),
    ("l03_lse_of_first_split", "diverge lse value", 2),
    ("l04_lse_transposed", "diverge lse value", 1),
    ("l05_lse_rounded_to_half", "diverge lse value", 1),
    ("m01_head_mod", "diverge out value", 1),
    ("m14_chunk_count_floored", "diverge out value", 2),
    ("m21_window_ignored", "diverge out value", 1),
    ("m23_no_rescale", "diverge out value", 1),
    ("m28_empty_split_nan", "fault uninitialised-read", 2),
    ("m29_empty_split_stale", "fault uninitialised-read", 2),
    ("m30_partial_in_base_2", "diverge out value", 2),
    ("m32_request_stride_zero", "diverge out value", 1),
    ("m33_row_bound_missing", "fault out-of-bounds", 1),
    ("m46_barrier_dropped_between_warps", "fault race", 1),
    ("m59_aligned_by_first_row", "fault misaligned", 1),
    ("s01_split_appends_each", "fault race", 2),
    ("s02_first_split_only", "diverge out value", 2),
    ("s03_splits_not_weighted", "diverge out value", 2),
    ("s04_partial_stride_of_padded_dim", "fault out-of-bounds", 1),
];

/// The same of the paged kernel.
const PAGED: [(&str, &str, u32); 17] = [
    ("g01_page_id_of_8_bits", "fault out-of-bounds", 1),
    ("g02_page_after_the_last_read", "fault out-of-bounds", 1),
    ("k01_sink_scaled", "diverge out value", 1),
    ("k02_sink_in_every_split", "diverge out value", 2),
    ("k03_sink_not_in_lse", "diverge lse value", 1),
    ("k04_sink_not_in_maximum", "diverge lse infinite", 1),
    ("k05_sink_of_head_modulo_8", "diverge out value", 1),
    ("m05_no_request_term", "fault out-of-bounds", 1),
    ("m11_second_half_unmasked", "diverge out value", 1),
    ("m12_masked_values_loaded", "fault uninitialised-read", 1),
    ("m13_empty_request_returns", "fault not-written", 1),
    ("m19_window_one_too_wide", "diverge out value", 1),
    ("m41_pages_taken_for_nhd", "fault uninitialised-read", 1),
    ("m43_pages_taken_as_contiguous", "fault out-of-bounds", 1),
    ("m44_last_page_length", "diverge out value", 1),
    ("m53_cap_before_scale", "diverge out value", 1),
    ("m53b_cap_after_maximum", "diverge out value", 1),
];

/// Each planted bug of the prefill kernel, and how it is told: a fault or a divergence where which one depends on the case.
const PREFILL: [(&str, &str); 33] = [
    ("d01_padding_not_zeroed", "fault"),
    ("f01_softcap_before_scale", "diverge"),
    ("f02_sink_counted_twice", "diverge"),
    ("f03_sink_without_maximum", "diverge"),
    ("f04_sink_of_kv_head", "diverge"),
    ("f05_sink_scaled", "diverge"),
    ("l01_lse_in_base_2", "diverge lse"),
    ("l02_lse_of_unscaled_logits", "diverge lse"),
    ("m01_head_mod", "diverge"),
    ("m05_no_request_term", "diverge"),
    ("m06_equal_q_lens_assumed", "fault"),
    ("m07_length_of_first_request", "fault"),
    ("m09_v_advanced_by_k_rows", "fault"),
    ("m11_tail_unmasked", "diverge"),
    ("m12_masked_values_loaded", "fault"),
    ("m13_empty_request_returns", "fault not-written"),
    ("m16_causal_from_the_top", "diverge"),
    ("m18_loop_starts_at_the_queries", "diverge"),
    ("m19_window_one_too_wide", "diverge"),
    ("m22_wide_window_drops_causal", "diverge"),
    ("m23_no_rescale", "diverge"),
    ("m26_no_max_subtraction", "diverge"),
    ("m27_unseen_row_nan", "diverge"),
    ("m46_wait_leaves_one_group", "fault"),
    ("m46b_no_barrier_between_tiles", "fault race"),
    ("m46c_copies_before_the_barrier", "fault race"),
    ("m50_scale_of_padded_head_dim", "diverge"),
    ("m51_scale_ignored", "diverge"),
    ("m53_softcap_after_mask", "diverge"),
    ("r01_last_rows_not_bounded", "fault race"),
    ("t01_warp_skips_by_first_row", "diverge"),
    ("t02_last_tile_of_one_key_skipped", "diverge"),
    ("t03_window_of_first_row", "diverge"),
];

/// Hunts every planted bug of a kernel, each of which is in the list with how its finding's class begins.
fn each_is_found(kernel: &str, planted: &[(&str, &str)]) -> Vec<Finding> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/mutants").join(kernel);
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    assert_eq!(files.filter(|file| file.extension().is_some_and(|e| e == "toml")).count(), planted.len());
    let findings: Vec<Finding> = planted.iter().map(|(mutant, _)| hunt_of(kernel, mutant).finding).collect();
    let told_otherwise = findings.iter().zip(planted).filter_map(|(finding, &(mutant, class))| {
        let told = finding.signature.class.as_str();
        // Values that hide a wrong weight from the output, such as V of ones, don't hide it from the log-sum-exp.
        let as_listed = told.starts_with(class) || (class, told) == ("diverge out value", "diverge lse value");
        (!as_listed).then(|| format!("{mutant}: {told}"))
    });
    assert_eq!(told_otherwise.collect::<Vec<_>>(), Vec::<String>::new());
    findings
}

fn each_is_found_with_the_fewest_splits(kernel: &str, planted: &[(&str, &str, u32)]) {
    let list: Vec<_> = planted.iter().map(|&(mutant, class, _)| (mutant, class)).collect();
    let found = each_is_found(kernel, &list);
    let wrong: Vec<_> = found
        .iter()
        .zip(planted)
        .filter(|(finding, (_, _, num_splits))| finding.case.knobs["num_splits"] != *num_splits)
        .map(|(finding, (mutant, ..))| format!("{mutant}: {}", finding.line))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_planted_bug_of_the_prefill_kernel_is_found() {
    each_is_found("gqa_prefill", &PREFILL);
}

#[test]
fn every_planted_bug_of_the_split_kv_kernel_is_found_with_the_fewest_splits() {
    each_is_found_with_the_fewest_splits("gqa_decode_split_kv", &SPLIT_KV);
}

#[test]
fn every_planted_bug_of_the_paged_kernel_is_found_with_the_fewest_splits() {
    each_is_found_with_the_fewest_splits("gqa_decode_paged", &PAGED);
}

#[test]
fn m38_16_bit_position_goes_wrong_beyond_32768_only() {
    let path = format!("{}/kernels/mutants/gqa_decode/m38_position_16_bit.toml", env!("CARGO_MANIFEST_DIR"));
    let [mutant, right] = [path.as_str(), "gqa_decode"].map(|name| Kernel::open(name).unwrap());
    let verdict = |kernel: &Kernel, past: u32| {
        let line = format!("kv=1 g=1 d=1 past={past} dtype=f32 cache=hnd:{} scale=1 values=normal:0", past + 1);
        examine(&Emulator, kernel, &line.parse().unwrap()).unwrap().verdict
    };
    assert!(matches!(verdict(&mutant, 32767), Verdict::Agree(_)));
    assert!(matches!(verdict(&mutant, 32769), Verdict::Diverge(_) | Verdict::Fault(_)));
    assert!(matches!(verdict(&right, 32769), Verdict::Agree(_)));
}

#[test]
fn the_same_seed_gives_the_same_finding_whatever_the_number_of_threads() {
    let path =
        format!("{}/kernels/mutants/gqa_decode/m02_group_padded_to_power_of_two.toml", env!("CARGO_MANIFEST_DIR"));
    let find = |jobs| {
        let kernel = Arc::new(Kernel::open(&path).unwrap());
        let config = Config {
            cases: Some(400),
            seed: 3,
            jobs,
            max_shrink: 200,
            ..Config::new(vec![kernel], vec![Arc::new(Emulator)])
        };
        let mut findings = Vec::new();
        let summary = run(&config, &mut |event| {
            if let Event::Found(found) = event {
                findings.push(found.finding);
            }
        });
        (findings, summary.rows[0].cases, summary.rows[0].failing)
    };
    let one = find(1);
    assert_eq!(one.0.len(), 1);
    assert_eq!(one, find(2));
    assert_eq!(one, find(5));
}

#[test]
fn a_right_kernel_is_not_accused() {
    for name in shipped_names() {
        let kernel = Kernel::open(name).unwrap();
        for index in 0..150 {
            let case = kernel.space().case_at(11, index);
            let verdict = examine(&Emulator, &kernel, &case).unwrap().verdict;
            assert!(matches!(verdict, Verdict::Agree(_)), "{name} {case}: {verdict:?}");
        }
    }
}

/// Kernels that a GPU can't survive: each is found in the emulator, and shrunk to the least number that its fault needs.
#[test]
fn kernels_that_spoil_a_device_are_shrunk_to_what_they_need() {
    let least = [
        ("trap", "fault trap", "kv=1 g=5 d=1 past=0 "),
        ("illegal_address", "fault out-of-bounds", "kv=1 g=1 d=48 past=0 "),
        ("misaligned", "fault misaligned", "kv=3 g=1 d=1 past=0 "),
        ("stray_store", "fault out-of-bounds", "kv=1 g=1 d=48 past=0 "),
    ];
    for (name, class, shape) in least {
        let kernel = Kernel::open(&format!("tests/faults/{name}.toml")).unwrap();
        let mut cases = (0..100).map(|index| kernel.space().case_at(0, index));
        let (case, verdict) = cases
            .find_map(|case| {
                let verdict = examine(&Emulator, &kernel, &case).unwrap().verdict;
                verdict.signature().map(|_| (case, verdict))
            })
            .unwrap();
        let minimised = minimise(&kernel, &Emulator, &case, &verdict, "a test".into(), 500).unwrap();
        assert_eq!(minimised.finding.signature.class, class);
        assert!(minimised.finding.line.starts_with(shape), "{}", minimised.finding.line);
    }
}

#[test]
fn a_kernel_that_never_ends_is_a_hang() {
    let kernel = Kernel::open("tests/faults/hang.toml").unwrap();
    let [ends, hangs] = ["past=19 cache=hnd:20", "past=20 cache=hnd:21"].map(|past| {
        let case = format!("kv=1 g=1 d=1 {past} dtype=f32 scale=1 values=flat:0").parse().unwrap();
        examine(&Emulator, &kernel, &case).unwrap().verdict
    });
    assert!(matches!(ends, Verdict::Agree(_)), "{ends:?}");
    assert_eq!(hangs.signature().unwrap().class, "fault hang");
}
