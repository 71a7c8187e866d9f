//! Kernels that are put together in code: the same as from a manifest, and refused for the same reasons.

use attnfuzz::backend::manifest::{Index, Scalar, WorkspaceType};
use attnfuzz::backend::{Backend, Claim, Emulator, Kernel, KernelBuilder, Run};
use attnfuzz::bound::LseBase;
use attnfuzz::case::{Domain, TensorName};
use attnfuzz::harness::{Harness, Settings};
use attnfuzz::outcome::Outcome;

const PTX: &str = include_str!("../kernels/gqa_decode/kernel.ptx");

/// The shipped kernel's launch, but for its arguments behind the lengths.
fn begun(claim: impl Into<Claim>) -> KernelBuilder {
    use TensorName::{KCache, KNew, Out, Q, VCache, VNew};
    KernelBuilder::new("decode", claim)
        .launch("gqa_decode_{dtype}", ["batch * num_kv_heads", "ceil(q_per_kv / 8)", "1"], ["128", "1", "1"])
        .tensors([Q, KNew, VNew, KCache, VCache, Out])
        .index(Index::PastLen)
}

fn finished(claim: impl Into<Claim>) -> KernelBuilder {
    let ints = ["num_kv_heads", "q_per_kv", "head_dim"].into_iter();
    let strides = ["k_stride_request", "k_stride_head", "k_stride_token"].into_iter();
    let builder = ints.fold(begun(claim), |builder, name| builder.value(name, Scalar::I32));
    strides.fold(builder, |builder, name| builder.value(name, Scalar::I64)).value("scale", Scalar::F32)
}

/// The claim of the shipped kernel.
fn shipped() -> Claim {
    let Kernel { manifest, .. } = Kernel::open("gqa_decode").unwrap();
    Claim::from(manifest.domain).numerics(manifest.numerics).exact_relations(manifest.exact_relations)
}

#[test]
fn it_is_the_kernel_that_its_manifest_says() {
    let (of_file, built) = (Kernel::open("gqa_decode").unwrap(), finished(shipped()).ptx(PTX).unwrap());
    assert_eq!(built.manifest.domain, of_file.manifest.domain);
    assert_eq!(built.manifest.numerics, of_file.manifest.numerics);
    assert_eq!(built.manifest.exact_relations, of_file.manifest.exact_relations);
    assert!(built.runs_like(&of_file));
    for index in 0..40 {
        let case = of_file.space().case_at(5, index);
        assert_eq!(built.space().case_at(5, index), case);
        let run = |kernel: &Kernel| match Emulator.run(kernel, &case, Run::first(&case)).unwrap() {
            Outcome::Output(output) => output,
            Outcome::Fault(fault) => panic!("{case}: {fault:?}"),
        };
        assert_eq!(run(&built), run(&of_file), "{case}");
    }
}

#[test]
fn code_may_be_made_for_each_case() {
    let domain = Domain { past_len: (0..=32).into(), ..Domain::default() };
    let kernel = finished(domain.clone()).ptx_for(|case| match case.shape.head_dim {
        256 => Err("nothing that wide".into()),
        _ => Ok(PTX.into()),
    });
    let harness = Harness::of_kernel(kernel.unwrap());
    harness.test(&Settings::cases(20)).unwrap();
    let wide = "kv=1 g=1 d=256 past=1 dtype=f32 cache=hnd:2 scale=1 values=flat:0".parse().unwrap();
    assert!(harness.judge(&wide).unwrap_err().contains("nothing that wide"));
    // Only what is wrong for the case is found when the case comes.
    let harness = Harness::of_kernel(begun(domain).ptx_for(|_| Ok(PTX.into())).unwrap());
    let error = harness.test(&Settings::cases(1)).unwrap_err();
    assert!(error.contains("expected 14 arguments as entry gqa_decode_f32 has, found 7"), "{error}");
}

#[test]
fn a_wrong_kernel_is_shrunk_and_saved_under_its_name() {
    let wrong = PTX.replacen("shl.b32", "shr.b32", 1);
    assert_ne!(wrong, PTX);
    let folder = tempfile::tempdir().unwrap();
    let kernel = finished(Domain { past_len: (0..=64).into(), ..Domain::default() }).ptx(wrong).unwrap();
    let harness = Harness::of_kernel(kernel).saving_below(folder.path());
    let report = harness.test(&Settings::cases(200)).unwrap_err();
    assert!(report.contains("= replay: cargo test decode"), "{report}");
    assert_eq!(std::fs::read_dir(folder.path().join("cases/decode")).unwrap().count(), 1);
}

#[test]
fn what_is_wrong_is_told_by_its_key() {
    let domain = || Domain { past_len: (0..=64).into(), ..Domain::default() };
    let refused = |builder: KernelBuilder| builder.ptx(PTX).unwrap_err().to_string();
    let error = refused(finished(domain()).value("heads", Scalar::I32));
    assert!(error.starts_with("code:decode: launch.args[14].value: unknown variable \"heads\""), "{error}");
    let error = refused(finished(domain()).shared_bytes("4 *"));
    assert!(error.starts_with("code:decode: launch.shared_bytes: expected an expression"), "{error}");
    let error = refused(begun(domain()));
    assert_eq!(error, "code:decode: launch.args: expected 14 arguments as entry gqa_decode_f32 has, found 7");
    let error = refused(KernelBuilder::new("decode", domain()));
    assert!(error.contains("expected at least one launch"), "{error}");
    let error = refused(KernelBuilder::new("decode", domain()).tensor(TensorName::Q));
    assert_eq!(error, "code:decode: tensor: expected it after the launch that it belongs to, found it before any");
    let error = refused(KernelBuilder::new("de code", domain()));
    assert!(error.starts_with("code:de code: name: expected 1 to 64 letters"), "{error}");
    let error = refused(finished(Claim::from(domain()).lse(LseBase::E)));
    assert!(error.starts_with("code:decode: lse: expected an argument { tensor = \"lse\" }"), "{error}");
    let error = refused(finished(Domain { causal: Vec::new(), ..domain() }));
    assert!(error.starts_with("code:decode: domain.causal: "), "{error}");
    let error = refused(finished(domain()).workspace("partial"));
    assert!(error.contains("expected the name of a [[workspace]] (), found \"partial\""), "{error}");
    let with = finished(domain()).with_workspace("partial", WorkspaceType::F32, "batch *").workspace("partial");
    assert!(refused(with).starts_with("code:decode: workspace.elements: "));
    let error = finished(domain()).ptx("not PTX").unwrap_err().to_string();
    assert!(error.starts_with("the PTX: "), "{error}");
}
