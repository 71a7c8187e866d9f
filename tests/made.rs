//! Kernels whose code depends on the case: made by a closure, or compiled from a source.

use attnfuzz::backend::{Backend, BackendError, Emulator, Kernel, Points, Run};
use attnfuzz::case::Case;
use attnfuzz::mutate;
use attnfuzz::oracle::{Verdict, examine};
use std::path::Path;
use std::sync::OnceLock;

const MANIFEST: &str = include_str!("../kernels/gqa_decode/kernel.toml");
const PTX: &str = include_str!("../kernels/gqa_decode/kernel.ptx");

/// The PTX of the shipped kernel where `head_dim` is not read but a constant, as a compiler of templates would have it.
fn baked(head_dim: u32) -> String {
    let bake = |line: &str| match line.trim().strip_prefix("ld.param.u32").and_then(|rest| rest.split_once(',')) {
        Some((register, param)) if param.ends_with("_param_9];") => format!("mov.u32 {register}, {head_dim};\n"),
        _ => format!("{line}\n"),
    };
    PTX.lines().map(bake).collect()
}

fn made_by(make: impl Fn(&Case) -> Result<String, String> + Send + Sync + 'static) -> Kernel {
    let manifest = MANIFEST.replace("ptx = \"kernel.ptx\"\n", "").replace("source = \"kernel.cu\"\n", "");
    Kernel::made_by(Path::new("baked.toml"), &manifest, make).unwrap()
}

fn cases(kernel: &Kernel) -> impl Iterator<Item = Case> {
    (0..40).map(|index| kernel.space().case_at(3, index))
}

fn run(kernel: &Kernel) -> Result<(), BackendError> {
    let case = kernel.space().smallest();
    Emulator.run(kernel, case, Run::first(case)).map(|_| ())
}

#[test]
fn each_case_runs_the_code_that_was_made_for_it() {
    assert_eq!(baked(64).matches(", 64;\n").count() - PTX.matches(", 64;\n").count(), 3, "one in each entry");
    let kernel = made_by(|case| Ok(baked(case.shape.head_dim)));
    for case in cases(&kernel) {
        let examined = examine(&Emulator, &kernel, &case).unwrap();
        assert!(matches!(examined.verdict, Verdict::Agree(_)), "{case}: {:?}", examined.verdict);
    }
    // Whoever keeps the code of the first case for all has a bug.
    let first = OnceLock::new();
    let stale = made_by(move |case| Ok(first.get_or_init(|| baked(case.shape.head_dim)).clone()));
    let mut head_dims = cases(&stale).map(|case| case.shape.head_dim);
    let head_dim = head_dims.next().unwrap();
    for case in cases(&stale) {
        let agrees = matches!(examine(&Emulator, &stale, &case).unwrap().verdict, Verdict::Agree(_));
        assert_eq!(agrees, case.shape.head_dim == head_dim, "{case}");
    }
    assert!(head_dims.any(|other| other != head_dim));
}

#[test]
fn code_that_is_not_there_or_does_not_fit_is_no_pass() {
    let refused = |make: fn(&Case) -> Result<String, String>, expected: &str| match run(&made_by(make)) {
        Err(BackendError::NotMade(why)) => assert!(why.contains(expected), "{why}"),
        other => panic!("{other:?}"),
    };
    refused(|_| Err("no tile of that size".into()), "no tile of that size");
    refused(|_| Ok("ld.param".into()), "the PTX made for the case: line 1");
    refused(|_| Ok(PTX.replace("gqa_decode_f32", "decode_f32")), "found \"gqa_decode_f32\"; it has decode_f32, ");
    refused(
        |_| Ok(PTX.replace(".param .u32 gqa_decode_f32_param_9,", ".param .u64 gqa_decode_f32_param_9,")),
        "launch.args[9]: expected 8 bytes as entry gqa_decode_f32 has, found 4",
    );
}

#[test]
fn what_needs_one_text_is_refused_by_name() {
    let kernel = made_by(|case| Ok(baked(case.shape.head_dim)));
    let refused = "gqa_decode has no PTX of its own: it is made for each case";
    assert_eq!(kernel.ptx().unwrap_err().to_string(), refused);
    assert_eq!(mutate::mutants(&kernel).unwrap_err().to_string(), refused);
    assert!(Points::of(&kernel).is_empty());
    let case = kernel.space().smallest().clone();
    let reduced = attnfuzz::guide::reduce(&kernel, &[case.clone(), case]);
    assert_eq!(reduced.kept, [0, 1], "nothing is dropped from a corpus for lack of points");
    assert_eq!(reduced.untold[0].1, refused);
    let given = Kernel::made_by(Path::new("k.toml"), MANIFEST, |_| Ok(String::new())).unwrap_err().to_string();
    assert_eq!(given, "k.toml: ptx: expected nothing, since the code is made for each case");
}
