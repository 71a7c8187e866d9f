//! Workspaces: poison unless stated otherwise, kept from step to step, as large as the manifest says.

use attnfuzz::backend::{Emulator, Kernel};
use attnfuzz::case::Case;
use attnfuzz::oracle::{Verdict, examine};
use attnfuzz::outcome::FaultKind;
use std::fs;
use std::path::Path;

/// The shipped split-KV kernel with the PTX of `ptx` and a changed manifest.
fn kernel(ptx: &str, from: &str, to: &str) -> Kernel {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let folder = tempfile::tempdir().unwrap();
    fs::copy(kernels.join(ptx), folder.path().join("kernel.ptx")).unwrap();
    let text = fs::read_to_string(kernels.join("gqa_decode_split_kv/kernel.toml")).unwrap();
    assert!(text.contains(from), "{from}");
    let text = text.replacen(from, to, 1).replace("source = \"kernel.cu\"\n", "");
    let path = folder.path().join("kernel.toml");
    fs::write(&path, text).unwrap();
    Kernel::open(&path.to_string_lossy()).unwrap()
}

fn verdict(kernel: &Kernel, case: &str) -> Verdict {
    examine(&Emulator, kernel, &case.parse::<Case>().unwrap()).unwrap().verdict
}

fn fault(kernel: &Kernel, case: &str) -> (FaultKind, String) {
    match verdict(kernel, case) {
        Verdict::Fault(fault) => (fault.kind, fault.detail),
        verdict => panic!("{case}: {verdict:?}"),
    }
}

const RIGHT: &str = "gqa_decode_split_kv/kernel.ptx";
const EMPTY_SPLIT_READ: &str = "mutants/gqa_decode_split_kv/m28_empty_split_nan.ptx";
const ONE_STEP: &str = "kv=1 g=2 d=8 past=3 dtype=f16 cache=hnd:6 scale=1 knobs=num_splits:4 values=normal:1";

#[test]
fn what_no_launch_wrote_is_undefined_unless_it_was_zeroed() {
    let same = "name = \"partial_sum_v\"";
    let (kind, detail) = fault(&kernel(EMPTY_SPLIT_READ, same, same), ONE_STEP);
    assert_eq!(kind, FaultKind::UninitialisedRead);
    assert!(detail.contains("partial_sum_v"), "{detail}");
    // Zero times a factor of zero is what an empty split should add.
    let zeroed = kernel(EMPTY_SPLIT_READ, same, "name = \"partial_sum_v\"\ninit = \"zero\"");
    assert!(matches!(verdict(&zeroed, ONE_STEP), Verdict::Agree(_)));
}

#[test]
fn a_step_finds_what_the_step_before_left() {
    // 48 keys give each of three splits a tile; 49 give the first two splits two tiles and leave the third without.
    // This kernel then writes nothing for the third, so what it finds there is of the step before: defined, and wrong.
    let name = "name = \"partial_sum\"";
    let stale = kernel("mutants/gqa_decode_split_kv/m29_empty_split_stale.ptx", name, name);
    let case = "kv=1 g=2 d=8 past=47 dtype=f32 cache=hnd:49 scale=1 steps=2 knobs=num_splits:3 values=normal:1";
    let Verdict::Diverge(divergence) = verdict(&stale, case) else { panic!("{:?}", verdict(&stale, case)) };
    assert_eq!(divergence.step, 1);
    assert!(matches!(verdict(&kernel(RIGHT, name, name), case), Verdict::Agree(_)));
    // Without the step before, nobody has written there.
    let late = case.replace("past=47", "past=48").replace(" steps=2", "");
    assert_eq!(fault(&stale, &late).0, FaultKind::UninitialisedRead);
}

#[test]
fn one_element_less_than_is_used_is_out_of_bounds() {
    let elements = "elements = \"batch * num_q_heads * num_splits * v_head_dim\"";
    let right = kernel(RIGHT, elements, elements);
    let full = "kv=1 g=2 d=8 past=40 dtype=f32 cache=hnd:42 scale=1 knobs=num_splits:2 values=normal:1";
    assert!(matches!(verdict(&right, full), Verdict::Agree(_)));
    let short = kernel(RIGHT, elements, "elements = \"batch * num_q_heads * num_splits * v_head_dim - 1\"");
    let (kind, detail) = fault(&short, full);
    assert_eq!(kind, FaultKind::OutOfBounds);
    assert!(detail.contains("partial_sum_v"), "{detail}");
}

#[test]
fn sizes_are_the_largest_of_any_step() {
    let elements = "elements = \"batch * num_q_heads * num_splits * v_head_dim\"";
    // Right in the first step only, and for a case of one step only.
    let shrinking =
        kernel(RIGHT, elements, "elements = \"batch * num_q_heads * num_splits * v_head_dim * max(1 - step, 0)\"");
    assert!(matches!(verdict(&shrinking, &ONE_STEP.replace("scale=1", "scale=1 steps=3")), Verdict::Agree(_)));
}
