//! Each planted bug is blamed on the suspect that it is of, and right kernels are ruled out.

use attnfuzz::backend::{BackendError, BackendKind, Emulator, Kernel, shipped_names};
use attnfuzz::campaign::Extent;
use attnfuzz::case::Case;
use attnfuzz::oracle::{Examined, Examiner};
use attnfuzz::outcome::Outcome;
use attnfuzz::regression::{Finding, Replayed, Store, replay};
use attnfuzz::rule_out::{Config, Heads, NEEDED, Report, SUSPECTS, Standing, rule_out};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn inquire(kernel: &str, heads: Option<&str>, cases: u64, jobs: usize, store: Option<Store>) -> Report {
    let config = Config { store, ..config(kernel, heads, cases, jobs) };
    rule_out(&config, &mut |_| ()).unwrap()
}

fn config(kernel: &str, heads: Option<&str>, cases: u64, jobs: usize) -> Config {
    Config {
        kernel: Arc::new(Kernel::open(kernel).unwrap()),
        backend: Arc::new(Emulator),
        heads: heads.map(|heads| heads.parse::<Heads>().unwrap()),
        cases: Some(cases),
        time: None,
        seed: 0,
        jobs,
        max_shrink: 1000,
        store: None,
    }
}

fn blamed(report: &Report) -> Vec<&'static str> {
    let guilty = report.accounts.iter().filter(|account| matches!(account.standing, Standing::Guilty(_)));
    guilty.map(|account| account.suspect).collect()
}

/// A planted bug, the suspect it must be blamed on, and whether on nothing else; `cargo bench --bench blame` has all.
const PLANTED: [(&str, &str, bool); 15] = [
    ("gqa_decode/m01_head_mod", "head mapping", true),
    ("gqa_decode/m02_group_padded_to_power_of_two", "head mapping", true),
    ("gqa_decode/m08_head_dim_truncated", "Q.K", true),
    ("gqa_decode/m51_scale_ignored", "scale", true),
    ("gqa_decode/m23_no_rescale", "softmax", false),
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
        let report = inquire(kernel, None, 50, 2, None);
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
    let report = inquire("gqa_decode", Some("28:4:128"), 50, 2, None);
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

/// The suspects that planted bugs are of, with `|` between those of one.
const SUSPECTS_OF_PLANTED: &str = include_str!("rule_out/planted.tsv");

#[test]
fn every_planted_bug_is_of_some_suspect() {
    let lines = SUSPECTS_OF_PLANTED.lines().filter(|line| !line.starts_with('#'));
    let told: BTreeSet<String> = lines
        .map(|line| {
            let (bug, of) = line.split_once('\t').unwrap();
            for name in of.split('|') {
                assert!(SUSPECTS.iter().any(|suspect| suspect.name == name), "{bug}: {name}");
            }
            bug.to_owned()
        })
        .collect();
    let mut planted = BTreeSet::new();
    for kernel in shipped_names() {
        for entry in std::fs::read_dir(format!("kernels/mutants/{kernel}")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                planted.insert(format!("{kernel}/{}", path.file_stem().unwrap().to_string_lossy()));
            }
        }
    }
    assert_eq!(told, planted);
}

#[test]
fn a_suspect_is_ruled_out_by_enough_cases_that_could_show_it_and_by_no_fewer() {
    let missed = |cases: u64| 0.9_f64.powi(cases as i32);
    assert!(missed(NEEDED) < 0.05 && missed(NEEDED - 1) > 0.05);
    let standing = |cases: u64, name: &str| {
        let report = inquire("gqa_decode", None, cases, 2, None);
        let account = report.accounts.iter().find(|account| account.suspect == name).unwrap();
        (account.standing.clone(), account.statistic.cases, account.telling, report.is_complete())
    };
    assert_eq!(standing(NEEDED, "output"), (Standing::RuledOut, NEEDED, NEEDED, false));
    assert_eq!(standing(NEEDED - 1, "output"), (Standing::TooLittle(NEEDED - 1), NEEDED - 1, NEEDED - 1, false));
    // Of a single key the weight is 1 whatever its logit, so cases of one don't count.
    let (standing, cases, telling, _) = standing(NEEDED, "scale");
    assert_eq!((standing, cases), (Standing::TooLittle(telling), NEEDED));
    assert!((1..NEEDED).contains(&telling), "{telling}");
}

#[test]
fn a_hopeless_budget_rules_nothing_out() {
    let mut config = config("gqa_decode", None, 1, 2);
    (config.cases, config.time) = (None, Some(Duration::ZERO));
    let report = rule_out(&config, &mut |_| ()).unwrap();
    assert_eq!(report.cases(), 0);
    assert!(!report.accounts.iter().any(|account| account.standing == Standing::RuledOut), "{report:?}");
    // As does one that lets every suspect begin only.
    config.time = None;
    config.cases = Some(1);
    let report = rule_out(&config, &mut |_| ()).unwrap();
    assert!(report.cases() > 0 && !report.is_complete());
    assert!(!report.accounts.iter().any(|account| account.standing == Standing::RuledOut), "{report:?}");
}

/// What one head can't show is not claimed, and nothing is missing then.
#[test]
fn a_shape_of_one_head_is_ruled_out_without_a_head_mapping() {
    let report = inquire("gqa_decode", Some("1:1:64"), 50, 2, None);
    let heads = report.accounts.iter().find(|account| account.suspect == "head mapping").unwrap();
    assert_eq!(heads.standing, Standing::NotClaimed("there is one head"));
    assert!(report.is_complete() && !report.is_guilty());
}

/// A device that is lost after so many cases.
struct Lasting(usize, AtomicUsize);

impl Examiner for Lasting {
    fn kind(&self) -> BackendKind {
        BackendKind::Cuda
    }

    fn describe(&self) -> String {
        "lasting".into()
    }

    fn examine(&self, kernel: &Kernel, case: &Case) -> Result<Examined, BackendError> {
        if self.1.fetch_add(1, Ordering::Relaxed) >= self.0 {
            return Err(BackendError::Unavailable("it fell off the bus".into()));
        }
        Emulator.examine(kernel, case)
    }

    fn run_first(&self, _: &Kernel, _: &Case) -> Result<Outcome, BackendError> {
        Err(BackendError::Unsupported("not asked for".into()))
    }
}

#[test]
fn a_lost_device_leaves_what_it_had_no_time_for_untried() {
    let standings = |lasts: usize| {
        let device = Arc::new(Lasting(lasts, AtomicUsize::new(0)));
        let config = Config { backend: device, ..config("gqa_decode", None, 50, 1) };
        let report = rule_out(&config, &mut |_| ()).unwrap();
        let count = |wanted: fn(&Standing) -> bool| report.accounts.iter().filter(|a| wanted(&a.standing)).count();
        let not_run = |standing: &Standing| matches!(standing, Standing::NotRun(why) if why == "it fell off the bus");
        assert_eq!(report.is_complete(), report.ended_early.is_none());
        (
            count(|standing| *standing == Standing::RuledOut),
            count(|s| matches!(s, Standing::TooLittle(_))),
            count(not_run),
        )
    };
    assert_eq!(standings(60), (1, 1, 10));
    assert_eq!(standings(12 * 50), (12, 0, 0));
}

fn exit(kernel: &str, args: &[&str]) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_attnfuzz"));
    command.args(["rule-out", kernel, "--backend=emulator", "--max-shrink=300", "--regressions"]).arg(folder.path());
    let output = command.args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn exit_codes_are_those_of_the_help() {
    const MUTANT: &str = "kernels/mutants/gqa_decode/m02_group_padded_to_power_of_two.toml";
    for (kernel, args, code, said) in [
        ("gqa_decode", &["--cases=50"][..], 0, "is ruled out in what was tried"),
        ("gqa_decode", &["--cases=29"], 3, "verdict: not ruled out: too little ran of "),
        ("gqa_decode", &["--time=0s"], 4, "verdict: not ruled out: too little ran of output, "),
        (MUTANT, &["--cases=12"], 100, "verdict: guilty, head mapping"),
        (MUTANT, &["--time=0s"], 4, "0 cases agree"),
        ("gqa_decode", &["--shape=28:5:128"], 2, ""),
        ("no_such_kernel", &[], 2, ""),
    ] {
        let (found, text) = exit(kernel, args);
        assert!(found == code && text.contains(said), "{kernel} {args:?}: {found}: {text}");
    }
    let (_, text) = exit("gqa_decode", &["--time=0s", "--format=jsonl"]);
    assert!(text.contains(r#""standing":"too-little""#) && text.ends_with("\"verdict\":\"none\"}\n"), "{text}");
}

/// A copy of a kernel, its PTX changed.
fn copied(folder: &Path, change: impl Fn(String) -> String) -> String {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/gqa_decode");
    for file in ["kernel.toml", "kernel.ptx", "kernel.cu"] {
        let text = std::fs::read_to_string(from.join(file)).unwrap();
        let text = if file == "kernel.ptx" { change(text) } else { text };
        std::fs::write(folder.join(file), text).unwrap();
    }
    folder.join("kernel.toml").to_string_lossy().into_owned()
}

/// Of three entries, those of 16 bits are without code that the emulator knows: what is left is not enough, or nothing is.
#[test]
fn a_kernel_that_can_not_be_run_is_not_ruled_out() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = copied(folder.path(), |ptx| ptx);
    assert_eq!(exit(&kernel, &["--cases=50"]).0, 0);
    let kernel = copied(folder.path(), |ptx| ptx.replacen("bar.sync", "frobnicate.sync", 1));
    let (code, text) = exit(&kernel, &["--cases=50"]);
    assert!([3, 4].contains(&code) && text.contains("frobnicate"), "{code}: {text}");
    let kernel = copied(folder.path(), |ptx| ptx.replace("bar.sync", "frobnicate.sync"));
    let (code, text) = exit(&kernel, &["--cases=50"]);
    assert!(code == 4 && text.contains("verdict: none, no case could be judged"), "{code}: {text}");
}
