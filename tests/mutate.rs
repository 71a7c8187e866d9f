//! Mutants: each operator makes what it says, ids last, and what becomes of a mutant is what should.

use attnfuzz::backend::Kernel;
use attnfuzz::mutate::operators::OPERATORS;
use attnfuzz::mutate::{Config, Mutant, Origin, Report, Status, edits_of, mutants, run, sample};
use attnfuzz::ptx;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// An instruction, and each of its mutants: operator, variant, and what is there instead.
type Expected<'a> = (&'a str, &'a [(&'a str, &'a str)]);

const EXPECTED: &[Expected<'_>] = &[
    (
        "setp.lt.s32 %p1, %r1, %r2;",
        &[
            ("relation:1:lt-le", "setp.le.s32 %p1, %r1, %r2;"),
            ("bound:1:less-one", "{ .reg .s32 %mutant; sub.s32 %mutant, %r2, 1; setp.lt.s32 %p1, %r1, %mutant; }"),
        ],
    ),
    (
        "setp.eq.s32 %p1, %r1, 7;",
        &[
            ("relation:1:eq-ne", "setp.ne.s32 %p1, %r1, 7;"),
            ("constant:1:more", "setp.eq.s32 %p1, %r1, 8;"),
            ("constant:1:less", "setp.eq.s32 %p1, %r1, 6;"),
        ],
    ),
    ("@%p1 bra L;", &[("negate-guard:1", "@!%p1 bra L;"), ("drop-guard:1", "bra L;"), ("drop-branch:1", "")]),
    ("bar.sync 0;", &[("drop-barrier:1", "")]),
    ("membar.gl;", &[("drop-fence:1", "")]),
    ("vote.sync.any.pred %p1, %p2, -1;", &[("vote:1", "vote.sync.all.pred %p1, %p2, -1;")]),
    ("add.s32 %r1, %r2, %r3;", &[("add-sub:1", "sub.s32 %r1, %r2, %r3;")]),
    ("sub.f32 %f1, %f2, %f3;", &[("add-sub:1", "add.f32 %f1, %f2, %f3;"), ("swap:1", "sub.f32 %f1, %f3, %f2;")]),
    ("mul.lo.s32 %r1, %r2, %r3;", &[("mul-add:1", "add.s32 %r1, %r2, %r3;")]),
    ("fma.rn.f32 %f1, %f2, %f3, %f1;", &[("drop:1", ""), ("fma-mul:1", "mul.rn.f32 %f1, %f2, %f3;")]),
    ("max.f32 %f1, %f2, %f3;", &[("min-max:1", "min.f32 %f1, %f2, %f3;")]),
    ("or.pred %p1, %p2, %p3;", &[("and-or:1", "and.pred %p1, %p2, %p3;")]),
    ("shl.b32 %r1, %r2, %r3;", &[("shift:1", "shr.u32 %r1, %r2, %r3;")]),
    ("neg.f32 %f1, %f2;", &[("sign:1:left-out", "mov.f32 %f1, %f2;")]),
    (
        "ex2.approx.ftz.f32 %f1, %f2;",
        &[("sign:1:argument", "{ .reg .f32 %mutant; neg.f32 %mutant, %f2; ex2.approx.ftz.f32 %f1, %mutant; }")],
    ),
    ("selp.b32 %r1, %r2, %r3, %p1;", &[("select:1", "selp.b32 %r1, %r3, %r2, %p1;")]),
    ("cvt.rn.f16.f32 %h1, %f1;", &[("rounding:1:rn-rz", "cvt.rz.f16.f32 %h1, %f1;")]),
    (
        "mov.f32 %f1, 0f3F800000;",
        &[
            ("float-constant:1:doubled", "mov.f32 %f1, 0f40000000;"),
            ("float-constant:1:negated", "mov.f32 %f1, 0fBF800000;"),
        ],
    ),
    ("mov.u32 %r1, %r2;", &[("drop:1", "")]),
    (
        "mul.wide.s32 %rd1, %r1, %r2;",
        &[("narrow:1", "{ .reg .s32 %mutant; mul.lo.s32 %mutant, %r1, %r2; cvt.s64.s32 %rd1, %mutant; }")],
    ),
    (
        "st.global.f32 [%rd1+8], %f1;",
        &[
            ("drop-store:1", ""),
            ("offset:1:more", "st.global.f32 [%rd1+12], %f1;"),
            ("offset:1:less", "st.global.f32 [%rd1+4], %f1;"),
        ],
    ),
    (
        "ld.global.v2.f32 {%f1, %f2}, [%rd1];",
        &[
            ("offset:1:more", "ld.global.v2.f32 {%f1, %f2}, [%rd1+4];"),
            ("offset:1:less", "ld.global.v2.f32 {%f1, %f2}, [%rd1-4];"),
            ("offset:1:reversed", "ld.global.v2.f32 {%f2, %f1}, [%rd1];"),
        ],
    ),
    ("atom.global.add.u32 %r1, [%rd1], %r2;", &[("atomic:1:add-exch", "atom.global.exch.b32 %r1, [%rd1], %r2;")]),
    (
        "shfl.sync.bfly.b32 %r1, %r2, 8, 31, -1;",
        &[
            ("shuffle-mode:1:bfly-down", "shfl.sync.down.b32 %r1, %r2, 8, 31, -1;"),
            ("shuffle-distance:1:half", "shfl.sync.bfly.b32 %r1, %r2, 4, 31, -1;"),
            ("shuffle-distance:1:double", "shfl.sync.bfly.b32 %r1, %r2, 16, 31, -1;"),
        ],
    ),
    ("ld.param.u64 %rd1, [k_param_0];", &[]),
    (
        "add.s32 %r1, %r2, 0;",
        &[("constant:1:more", "add.s32 %r1, %r2, 1;"), ("constant:1:less", "add.s32 %r1, %r2, -1;")],
    ),
];

fn kernel_of(instruction: &str) -> String {
    format!(
        ".entry k(.param .u64 k_param_0) {{ .reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<9>; .reg .f32 %f<9>; .reg .b64 %rd<9>; {instruction} L: ret; }}"
    )
}

#[test]
fn each_operator_makes_what_it_says() {
    let mut operators = BTreeSet::new();
    for (instruction, expected) in EXPECTED {
        let text = kernel_of(instruction);
        let module = ptx::parse(&text).unwrap();
        let found = edits_of(&module);
        let pairs: Vec<(&str, &str)> = found.iter().map(|m| (m.id.as_str(), m.after.as_str())).collect();
        assert_eq!(pairs, *expected, "{instruction}");
        let places = module.places();
        for mutant in &found {
            operators.insert(mutant.operator);
            assert_eq!(mutant.before, *instruction);
            // Replaced in the tree or in the text, it is the same kernel, and one that lowers.
            let replaced = module.replaced(&places[0], &mutant.after).unwrap().lower("k").unwrap();
            let spliced = ptx::parse(&places[0].spliced(&text, &mutant.after).unwrap()).unwrap().lower("k").unwrap();
            assert!(replaced.is_same_as(&spliced), "{}", mutant.id);
        }
    }
    let all: BTreeSet<&str> = OPERATORS.iter().map(|(name, _)| *name).collect();
    assert_eq!(operators, all);
}

#[test]
fn a_shuffle_over_a_distance_in_a_register_is_changed_too() {
    let text = kernel_of("mov.u32 %r3, 4; shfl.sync.down.b32 %r1|%p1, %r2, %r3, 31, -1;");
    let found = edits_of(&ptx::parse(&text).unwrap());
    let half = found.iter().find(|mutant| mutant.id == "shuffle-distance:1:half").unwrap();
    assert_eq!(half.after, "shfl.sync.down.b32 %r1|%p1, %r2, 2, 31, -1;");
}

#[test]
fn ids_are_unique_and_of_known_operators() {
    let kernel = Kernel::open("gqa_decode").unwrap();
    let list = mutants(&kernel).unwrap();
    assert_eq!(list, mutants(&kernel).unwrap());
    let ids: BTreeSet<&str> = list.iter().map(|mutant| mutant.id.as_str()).collect();
    assert_eq!(ids.len(), list.len());
    for mutant in &list {
        let known = mutant.operator == "planted" || OPERATORS.iter().any(|(name, _)| *name == mutant.operator);
        assert!(known && mutant.id.starts_with(mutant.operator), "{}", mutant.id);
    }
    let drawn = sample(list.clone(), 50, 3);
    assert_eq!(drawn.len(), 50);
    assert_eq!(drawn, sample(list, 50, 3));
}

/// `gqa_decode` that claims little: one head of up to `head_dim` dimensions, and so many cached tokens.
fn small(folder: &Path, past_len: &str, edit: impl FnOnce(String) -> String) -> Kernel {
    let origin = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/gqa_decode");
    let read = |name: &str| std::fs::read_to_string(origin.join(name)).unwrap();
    let lines = [
        ("dtype = ", "[\"f32\"]"),
        ("num_kv_heads = ", "1"),
        ("q_per_kv = ", "1"),
        ("head_dim = ", "\"1..=4\""),
        ("batch = ", "1"),
        ("steps = ", "1"),
        ("past_len = ", past_len),
    ];
    let narrow = |line: &str| match lines.iter().find(|(key, _)| line.starts_with(key)) {
        Some((key, value)) => format!("{key}{value}"),
        None => line.to_owned(),
    };
    let manifest: Vec<String> = read("kernel.toml").lines().map(narrow).collect();
    std::fs::write(folder.join("kernel.toml"), manifest.join("\n")).unwrap();
    std::fs::write(folder.join("kernel.cu"), read("kernel.cu")).unwrap();
    std::fs::write(folder.join("kernel.ptx"), edit(read("kernel.ptx"))).unwrap();
    Kernel::open(&folder.join("kernel.toml").to_string_lossy()).unwrap()
}

fn tried(kernel: &Kernel, list: Vec<Mutant>, jobs: usize) -> Report {
    let config = Config { budget: Duration::from_secs(3600), cases: Some(24), seed: 1, jobs };
    run(kernel, list, &config, &|_| {})
}

fn status_of(kernel: &Kernel, change: &str) -> Status {
    let is_it = |mutant: &Mutant| format!("{} -> {}", mutant.before, mutant.after) == change;
    // The first: the three entries name their registers alike, and that of f32 comes first.
    let mutant = mutants(kernel).unwrap().into_iter().find(is_it).unwrap_or_else(|| panic!("no mutant {change}"));
    tried(kernel, vec![mutant], 1).results.swap_remove(0).status
}

/// The scale added to a score instead of multiplied.
const SCALE: &str = "mul.f32 %f258, %f49, %f184; -> add.f32 %f258, %f49, %f184;";

#[test]
fn cases_that_cannot_see_a_fault_leave_a_survivor() {
    let folder = tempfile::tempdir().unwrap();
    let blind = small(folder.path(), "0", |ptx| ptx);
    assert_eq!(status_of(&blind, SCALE), Status::Survived, "the softmax of one score is 1");
    let folder = tempfile::tempdir().unwrap();
    let seeing = small(folder.path(), "\"0..=5\"", |ptx| ptx);
    let status = status_of(&seeing, SCALE);
    assert!(matches!(&status, Status::Killed { by, .. } if by.starts_with("diverge out value")), "{status:?}");
}

#[test]
fn code_that_no_case_reaches_is_not_executed() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = small(folder.path(), "\"0..=5\"", |ptx| ptx);
    // The second head's score.
    let second = "mul.f32 %f268, %f50, %f184; -> add.f32 %f268, %f50, %f184;";
    assert_eq!(status_of(&kernel, second), Status::NotExecuted);
}

#[test]
fn a_result_that_nothing_reads_makes_an_equivalent() {
    let folder = tempfile::tempdir().unwrap();
    // A chain: the first value is read, but only for the second, which nobody wants.
    let first = "mov.u32 \t%r1, %tid.x;";
    let dead = format!("{first} add.s32 %dead0, %r1, 5; mul.lo.s32 %dead1, %dead0, %dead0;");
    let registers = ".reg .b32 \t%r<304>;";
    let kernel = small(folder.path(), "0", |ptx| {
        ptx.replacen(first, &dead, 1).replacen(registers, &format!("{registers} .reg .b32 %dead<2>;"), 1)
    });
    let status = status_of(&kernel, "add.s32 %dead0, %r1, 5; -> sub.s32 %dead0, %r1, 5;");
    assert!(matches!(&status, Status::Equivalent(why) if why.contains("nothing reads")), "{status:?}");
}

#[test]
fn a_register_set_to_what_it_holds_makes_an_equivalent() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = small(folder.path(), "\"0..=5\"", |ptx| ptx);
    // Both are zero before the branch over the loop, which sets them again; the next is set there only.
    let status = status_of(&kernel, "mov.f32 %f533, %f515; -> ");
    assert!(matches!(&status, Status::Equivalent(why) if why.contains("holds that constant")), "{status:?}");
    let status = status_of(&kernel, "mov.f32 %f516, %f515; -> ");
    assert!(!matches!(&status, Status::Equivalent(_)), "{status:?}");
}

#[test]
fn no_case_kills_what_is_called_equivalent() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = small(folder.path(), "\"0..=40\"", |ptx| ptx);
    let doubted = |mut mutant: Mutant| {
        let Origin::Edited { equivalent, .. } = &mut mutant.origin else { return None };
        equivalent.take().map(|_| mutant)
    };
    let list: Vec<Mutant> = mutants(&kernel).unwrap().into_iter().filter_map(doubted).collect();
    assert!(list.len() > 20, "only {} to try", list.len());
    let report = tried(&kernel, list, 2);
    assert!(report.results.iter().any(|result| result.status == Status::Survived));
    for result in report.results {
        assert!(!matches!(result.status, Status::Killed { .. }), "{result:?}");
    }
}

#[test]
fn the_same_cases_kill_the_same_mutants_whatever_the_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = small(folder.path(), "\"0..=40\"", |ptx| ptx);
    let list = sample(mutants(&kernel).unwrap(), 60, 9);
    let outcome = |jobs| -> Vec<(String, Status, u64)> {
        let report = tried(&kernel, list.clone(), jobs);
        assert_eq!(report.unusable, 0, "{:?}", report.first_unusable);
        report.results.into_iter().map(|result| (result.mutant.id, result.status, result.tried)).collect()
    };
    let one = outcome(1);
    assert!(one.iter().any(|(_, status, _)| matches!(status, Status::Killed { .. })));
    assert_eq!(one, outcome(3));
}

#[test]
fn a_planted_bug_is_killed() {
    let kernel = Kernel::open("gqa_decode").unwrap();
    let mut list = mutants(&kernel).unwrap();
    list.retain(|mutant| mutant.id == "planted:m01_head_mod");
    let report = tried(&kernel, list, 2);
    assert!(matches!(report.results[0].status, Status::Killed { .. }), "{:?}", report.results);
}
