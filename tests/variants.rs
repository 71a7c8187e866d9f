//! Right kernels whose arithmetic differs: none is accused, neither by the contract of its manifest nor by the one that
//! assumes nothing. `cargo bench --bench false_alarms` is the long form.

use attnfuzz::backend::manifest::Manifest;
use attnfuzz::backend::{Backend, Emulator, Kernel, Run};
use attnfuzz::bound::Contract;
use attnfuzz::case::Case;
use attnfuzz::oracle::{Verdict, examine, judge};
use attnfuzz::outcome::{Outcome, Output};
use std::sync::LazyLock;

fn variant(name: &str) -> Kernel {
    let path = format!("{}/kernels/variants/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    Kernel::open(&path).unwrap_or_else(|error| panic!("{error}"))
}

static MANIFEST: LazyLock<Manifest> = LazyLock::new(|| variant("two_pass_sequential").manifest);

fn names() -> Vec<String> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/variants");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let manifests = files.filter(|path| path.extension().is_some_and(|e| e == "toml"));
    manifests.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

fn output(kernel: &Kernel, case: &Case) -> Output {
    match Emulator.run(kernel, case, Run::first(case)).unwrap() {
        Outcome::Output(output) => output,
        Outcome::Fault(fault) => panic!("{} {case}: {fault:?}", kernel.name()),
    }
}

fn accuses(contract: &Contract, case: &Case, output: &Output) -> bool {
    // The variants differ in their contracts only.
    let manifest = Manifest { numerics: contract.clone(), ..MANIFEST.clone() };
    match judge(case, &manifest, case.poison, output) {
        Verdict::Agree(_) => false,
        Verdict::Diverge(_) => true,
        other => panic!("{case}: {other:?}"),
    }
}

#[test]
fn no_variant_is_accused() {
    let names = names();
    assert!(names.len() >= 11, "{names:?}");
    for name in names {
        let kernel = variant(&name);
        assert_eq!(kernel.name(), name);
        for index in 0..40 {
            let case = kernel.space().case_at(17, index);
            let examined = examine(&Emulator, &kernel, &case).unwrap();
            assert!(matches!(examined.verdict, Verdict::Agree(_)), "{name} {case}: {:?}", examined.verdict);
            assert!(examined.closer.is_none(), "{name} {case}: {:?}", examined.closer);
            let output = examined.output.expect("an agreeing run has an output");
            assert!(!accuses(&Contract::default(), &case, &output), "{name} {case} by `any`");
        }
    }
}

/// A few keys of one head each, all values 1 and logits in the tens: what a common error of the weights shows in.
fn ones(dtype: &str) -> impl Iterator<Item = Case> {
    let line = format!("kv=4 g=4 d=256 past=2 dtype={dtype} cache=hnd:3 scale=1.5");
    (0..20).map(move |seed| format!("{line} values=ones:{seed}").parse().unwrap())
}

/// Kernels that divide by the sum of the very weights that met the values don't show a common error; those that trust a
/// log-sum-exp do, so the two need different contracts, and the one that assumes nothing must allow for both.
#[test]
fn weights_that_nothing_divides_need_p_lse() {
    for name in ["lse_normalised", "split_lse_undivided"] {
        let kernel = variant(name);
        let own = kernel.manifest.numerics.clone();
        let (any, dividing) = (Contract::default(), Contract { p_lse: false, ..own.clone() });
        let accused = |contract: &Contract| -> usize {
            ones("f32").filter(|case| accuses(contract, case, &output(&kernel, case))).count()
        };
        assert_eq!((accused(&own), accused(&any)), (0, 0), "{name}");
        assert!(accused(&dividing) > 0, "{name} is not told from a kernel that divides");
        assert!(accused(&Contract { p_lse: false, ..any }) > 0, "{name}: `any` would not need p_lse");
    }
    let divides = variant("split_lse");
    assert!(ones("f32").all(|case| !accuses(&divides.manifest.numerics, &case, &output(&divides, &case))));
}

/// The near miss: allowing for a common error must not hide one that is ten times as large.
#[test]
fn p_lse_does_not_hide_a_larger_common_error() {
    let kernel = variant("lse_normalised");
    for case in ones("f32") {
        let right = output(&kernel, &case);
        let scaled = |factor: f64| {
            let mut wrong = right.clone();
            for out in &mut wrong.out {
                let values: Vec<f64> = (0..out.len()).map(|i| out.value(i) * factor).collect();
                out.set_values(0, &values);
            }
            wrong
        };
        for contract in [&kernel.manifest.numerics, &Contract::default()] {
            assert!(accuses(contract, &case, &scaled(1.0 + 1e-3)), "{case}");
            assert!(accuses(contract, &case, &scaled(1.0 - 1e-3)), "{case}");
        }
    }
}
