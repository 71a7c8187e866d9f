//! The kernel of `examples/by_struct`: one struct by value, tensors and strides in an order of its own.

use attnfuzz::backend::Kernel;
use attnfuzz::harness::{Harness, Settings};
use std::fs;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/by_struct")
}

fn tested(manifest: &Path, cases: u64) -> Result<(), String> {
    Harness::of_kernel(Kernel::open(&manifest.to_string_lossy()).unwrap()).test(&Settings::cases(cases))
}

#[test]
fn a_kernel_of_another_style_agrees() {
    tested(&folder().join("decode.toml"), 150).unwrap();
}

/// Each field is bound by what the manifest says, and a wrong one is noticed.
#[test]
fn a_field_that_is_bound_wrongly_is_noticed() {
    let text = fs::read_to_string(folder().join("decode.toml")).unwrap();
    for (right, wrong) in [
        ("value = \"2 * k_stride_token\"", "value = \"2 * k_stride_head\""),
        ("value = \"2 * v_stride_request\"", "value = \"2 * k_stride_head\""),
        ("{ tensor = \"k_cache\" }", "{ tensor = \"v_cache\" }"),
        ("lengths = \"kv_len\", type = \"i64\"", "lengths = \"cu_kv_len\", type = \"i64\""),
        ("value = \"q_per_kv\", type = \"u16\"", "value = \"num_q_heads\", type = \"u16\""),
        ("value = \"min(1, ceil(softcap))\", type = \"bool\"", "value = \"1\", type = \"bool\""),
        ("q = \"head, token, dim\"", "q = \"token, head, dim\""),
        ("value = \"scale * log2(e)\"", "value = \"scale\""),
    ] {
        assert!(text.contains(right), "{right}");
        let changed = tempfile::tempdir().unwrap();
        for file in ["decode.cu", "decode.ptx"] {
            fs::copy(folder().join(file), changed.path().join(file)).unwrap();
        }
        let manifest = changed.path().join("decode.toml");
        fs::write(&manifest, text.replacen(right, wrong, 1)).unwrap();
        assert!(tested(&manifest, 150).is_err(), "{wrong}");
    }
}
