//! Each planted bug is blamed on the suspect that it is of, and right kernels are ruled out.

use attnfuzz::backend::{Emulator, Kernel};
use attnfuzz::campaign::Extent;
use attnfuzz::regression::{Finding, Replayed, Store, replay};
use attnfuzz::rule_out::{Config, Heads, Report, SUSPECTS, Standing, rule_out};
use std::sync::Arc;

fn inquire(kernel: &str, heads: Option<&str>, cases: u64, jobs: usize, store: Option<Store>) -> Report {
    let config = Config {
        kernel: Arc::new(Kernel::open(kernel).unwrap()),
        backend: Arc::new(Emulator),
        heads: heads.map(|heads| heads.parse::<Heads>().unwrap()),
        cases: Some(cases),
        time: None,
        seed: 0,
        jobs,
        max_shrink: 1000,
        store,
    };
    rule_out(&config, &mut |_| ()).unwrap()
}

fn blamed(report: &Report) -> Vec<&'static str> {
    let guilty = report.accounts.iter().filter(|account| matches!(account.standing, Standing::Guilty(_)));
    guilty.map(|account| account.suspect).collect()
}

/// A planted bug, the suspect it must be blamed on, and whether on nothing else.
const PLANTED: [(&str, &str, bool); 20] = [
    ("gqa_decode/m01_head_mod", "head mapping", true),
    ("gqa_decode/m02_group_padded_to_power_of_two", "head mapping", true),
    ("gqa_decode/m04_second_block_of_heads_not_stored", "head mapping", true),
    ("gqa_decode/p05_k_head_swapped", "head mapping", true),
    ("gqa_decode/m08_head_dim_truncated", "Q.K", true),
    ("gqa_decode/m50_scale_of_padded_head_dim", "scale", true),
    ("gqa_decode/m51_scale_ignored", "scale", true),
    ("gqa_decode/p02_no_scale", "scale", true),
    ("gqa_decode/m23_no_rescale", "softmax", false),
    ("gqa_decode/m26_no_max_subtraction", "softmax", true),
    ("gqa_decode/p03_no_normalisation", "V aggregation", true),
    ("gqa_decode/p10_first_key_skipped", "V aggregation", true),
    ("gqa_decode/p17_last_column_from_its_neighbour", "output", true),
    ("gqa_decode/m05_no_request_term", "batch", false),
    ("gqa_decode/p07_k_not_appended", "written caches", false),
    ("gqa_decode/m41_assumes_dense_tokens", "layout", false),
    ("gqa_decode/p11_padding_not_zeroed", "memory safety", true),
    ("gqa_decode/m46_barrier_dropped_between_tiles", "determinism", true),
    ("gqa_decode_paged/m19_window_one_too_wide", "masks", false),
    ("gqa_decode_paged/k01_sink_scaled", "sinks", false),
];

#[test]
fn a_planted_bug_is_blamed_on_its_own_suspect() {
    for (mutant, suspect, alone) in PLANTED {
        let folder = tempfile::tempdir().unwrap();
        let path = format!("kernels/mutants/{mutant}.toml");
        let report = inquire(&path, None, 60, 2, Some(Store::new(folder.path())));
        let blamed = blamed(&report);
        println!("{mutant}: {}", blamed.join(", "));
        assert!(report.is_guilty() && report.internal_errors.is_empty(), "{mutant}: {report:?}");
        assert!(blamed.contains(&suspect), "{mutant}: {blamed:?}");
        assert!(!alone || blamed.len() == 1, "{mutant}: {blamed:?}");
        // What was saved still fails.
        let saved = Finding::load_all(folder.path()).unwrap();
        assert!(!saved.is_empty());
        for (file, finding) in saved {
            let again = replay(&finding, &finding.open_kernel(&file).unwrap(), &Emulator);
            assert!(matches!(again, Replayed::StillFails(_)), "{mutant}: {again:?}");
        }
    }
}

#[test]
fn right_kernels_are_ruled_out_and_say_what_they_do_not_claim() {
    let none: &[&str] = &[];
    for (kernel, unclaimed) in [
        ("gqa_decode", &["masks", "softcap", "sinks", "launch knobs", "log-sum-exp"][..]),
        ("gqa_decode_paged", &["KV cache state", "written caches"]),
        ("gqa_decode_split_kv", none),
    ] {
        let report = inquire(kernel, None, 24, 2, None);
        assert!(!report.is_guilty() && report.is_complete() && report.internal_errors.is_empty(), "{kernel}");
        for account in &report.accounts {
            let claimed = !unclaimed.contains(&account.suspect);
            assert_eq!(
                account.standing == Standing::RuledOut,
                claimed,
                "{kernel}: {}: {}",
                account.suspect,
                account.standing
            );
            assert_eq!(account.statistic.cases > 0, claimed, "{kernel}: {}", account.suspect);
            assert!(account.worst_ratio <= 1.0);
        }
    }
}

#[test]
fn a_shape_is_kept_to_and_what_it_leaves_out_is_said() {
    let report = inquire("gqa_decode", Some("28:4:128"), 20, 2, None);
    assert!(report.is_complete() && !report.is_guilty());
    for account in report.accounts.iter().filter(|account| account.statistic.cases > 0) {
        let one = |extent: Extent| {
            let met = account.statistic.met[&extent];
            assert_eq!(met.low, met.high, "{extent} of {}", account.suspect);
            met.low
        };
        assert_eq!([Extent::NumKvHeads, Extent::QPerKv, Extent::HeadDim].map(one), [4, 7, 128], "{}", account.suspect);
    }
    assert!(report.limits.iter().any(|limit| limit == "other heads and dims than --shape"));
    let reach = report.accounts.iter().filter_map(|a| a.statistic.met.get(&Extent::KvLen)).map(|met| met.high).max();
    let said = format!("kv_len above {} (the kernel claims up to 131088)", reach.unwrap());
    assert!(report.limits.contains(&said), "{:?}", report.limits);
    // The bug needs a group that is no power of two, which this shape has, and these heads with 8 of them do not show.
    let mutant = "kernels/mutants/gqa_decode/m02_group_padded_to_power_of_two.toml";
    assert_eq!(blamed(&inquire(mutant, Some("28:4:128"), 4, 2, None)), ["head mapping"]);
    assert!(!inquire(mutant, Some("32:4:128"), 4, 2, None).is_guilty());
}

#[test]
fn the_report_does_not_depend_on_threads() {
    let mutant = "kernels/mutants/gqa_decode/m07_length_of_first_request.toml";
    let said = |jobs| {
        let report = inquire(mutant, None, 40, jobs, None);
        let account = |a: &attnfuzz::rule_out::Account| format!("{} {:?} {:?}", a.suspect, a.standing, a.statistic);
        report.accounts.iter().map(account).collect::<Vec<_>>()
    };
    assert_eq!(said(1), said(3));
}

#[test]
fn wrong_shapes_are_refused() {
    for wrong in
        ["", "28", "28:4", "28:4:128:128:1", "28:0:128", "28:5:128", "0:0:1", "a:4:128", "-28:4:128", "99999999999:1:1"]
    {
        assert!(wrong.parse::<Heads>().is_err(), "{wrong}");
    }
    let domain = &Kernel::open("gqa_decode").unwrap().manifest.domain;
    let restrict = |text: &str| text.parse::<Heads>().unwrap().restrict(domain);
    assert_eq!(restrict("28:4:512").unwrap_err(), "head_dim is 512, the kernel claims 1..=256");
    assert!(restrict("28:4:128:64").unwrap_err().contains("v_head_dim is 64"));
    assert!(restrict("28:4:128").is_ok());
}

#[test]
fn every_suspect_has_a_name_of_its_own() {
    let mut names: Vec<_> = SUSPECTS.iter().map(|suspect| suspect.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), SUSPECTS.len());
}
