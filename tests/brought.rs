//! Kernels as they are brought: arguments in every form, tensors in other layouts, page tables in every form. Each drives
//! a right kernel, and each mistake in saying them is caught.

use attnfuzz::backend::{Backend, BackendError, Emulator, Kernel, Run};
use attnfuzz::case::Case;
use attnfuzz::oracle::{Verdict, examine};
use std::fs;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests")
}

/// A kernel of this folder with its manifest changed, or why it can't be opened.
fn changed(name: &str, from: &str, to: &str) -> Result<Kernel, String> {
    let text = fs::read_to_string(folder().join(format!("{name}.toml"))).unwrap();
    assert!(text.contains(from), "{from}");
    let copy = tempfile::tempdir().unwrap();
    for extension in ["cu", "ptx"] {
        let file = format!("{name}.{extension}");
        fs::copy(folder().join(&file), copy.path().join(&file)).unwrap();
    }
    let path = copy.path().join("k.toml");
    fs::write(&path, text.replacen(from, to, 1)).unwrap();
    Kernel::open(&path.to_string_lossy()).map_err(|error| error.to_string())
}

fn cases(kernel: &Kernel) -> impl Iterator<Item = Case> {
    (0..80).map(|index| kernel.space().case_at(11, index))
}

fn agrees(kernel: &Kernel, case: &Case) -> bool {
    matches!(examine(&Emulator, kernel, case).unwrap().verdict, Verdict::Agree(_))
}

#[test]
fn right_kernels_agree_however_they_are_driven() {
    for name in ["params", "pages"] {
        let kernel = Kernel::open(&folder().join(format!("{name}.toml")).to_string_lossy()).unwrap();
        for case in cases(&kernel) {
            let verdict = examine(&Emulator, &kernel, &case).unwrap().verdict;
            assert!(matches!(verdict, Verdict::Agree(_)), "{name} {case}: {verdict:?}");
        }
    }
}

#[test]
fn what_is_said_wrong_is_caught() {
    for (name, from, to) in [
        (
            "params",
            "\"k_stride_head\", type = \"i64\" }, { value = \"k_stride_token\"",
            "\"k_stride_token\", type = \"i64\" }, { value = \"k_stride_head\"",
        ),
        ("params", "q = \"request, head, token, dim\"", "q = \"request, token, head, dim\""),
        ("params", "q = \"request, head, token, dim\"", "q = \"head, token, dim\""),
        ("params", "k_new = \"head, token, dim\"", "k_new = \"token, head, dim\""),
        ("params", "head = \"head_dim + 3\"", "head = \"head_dim + 2\""),
        ("params", "out = \"head, token, dim\"", "out = \"token, head, dim\""),
        ("params", "lse = \"head, token\"", "lse = \"token, head\""),
        ("params", "base = \"2\"", "base = \"e\""),
        ("params", ", offset = \"element_bytes\"", ""),
        ("params", "offset = \"element_bytes\"", "offset = \"8\""),
        ("params", "\"past_len\", type = \"i64\"", "\"past_len\""),
        ("params", "\"past_len\", type = \"i64\"", "\"kv_len\", type = \"i64\""),
        ("params", "pointers = \"k_cache\"", "pointers = \"v_cache\""),
        ("params", "pointers = \"v_cache\"", "tensor = \"v_cache\""),
        ("params", "{ null = true }", "{ tensor = \"q\" }"),
        ("params", "scale * log2(e)", "scale"),
        ("params", "\"q_per_kv\", type = \"u8\"", "\"q_per_kv - 1\", type = \"u8\""),
        ("pages", "\"kv_indices\", type = \"i64\"", "\"kv_indices\""),
        ("pages", "block_table = \"padded_slots\"", "block_table = \"padded\""),
        ("pages", "block_table = \"slot_mapping\", type", "block_table = \"kv_indices\", type"),
        ("pages", "block_table = \"kv_last_page_len\"", "lengths = \"kv_len\""),
        ("pages", "block_table = \"kv_indptr\"", "lengths = \"cu_kv_len\""),
        ("pages", "init = \"-inf\"", "init = \"zero\""),
        ("pages", "init = \"-inf\"\n", ""),
        ("pages", "init = \"ones\"", "init = \"zero\""),
        ("pages", "byte = 0x5a", "byte = 0x5b"),
    ] {
        let kernel = changed(name, from, to).unwrap();
        assert!(!cases(&kernel).all(|case| agrees(&kernel, &case)), "{name} with {to} agrees");
    }
}

#[test]
fn structs_are_laid_out_as_in_c_and_checked_against_the_entry() {
    let size = |from: &str, to: &str| changed("params", from, to).unwrap_err();
    let one_more = size(
        "        { value = \"scale * log2(e)\"",
        "        { value = \"1\", type = \"i64\" },\n        { value = \"scale * log2(e)\"",
    );
    assert!(
        one_more.contains("k.toml:35: launch.args[0]: expected 32 bytes as entry params has, found 40"),
        "{one_more}"
    );
    let packed = size("    ] },\n    { tensor = \"q\"", "    ], packed = true },\n    { tensor = \"q\"");
    assert!(packed.contains("expected 32 bytes as entry params has, found 28"), "{packed}");
    // The same struct with its places and its alignment told.
    for to in ["], align = 8 },\n    { tensor = \"q\"", "], packed = true, align = 8 },\n    { tensor = \"q\""] {
        let kernel = changed("params", "] },\n    { tensor = \"q\"", to).unwrap();
        assert!(cases(&kernel).all(|case| agrees(&kernel, &case)), "{to}");
    }
    let kernel = changed("params", "\"causal\", type = \"bool\"", "\"causal\", type = \"bool\", at = 3").unwrap();
    assert!(cases(&kernel).all(|case| agrees(&kernel, &case)));
    let overlap = size("\"causal\", type = \"bool\"", "\"causal\", type = \"bool\", at = 2");
    assert!(
        overlap.contains("launch.args[0].struct[2].at: expected at least 3, where the field before ends, found 2"),
        "{overlap}"
    );
}

#[test]
fn a_layout_that_overlaps_is_no_launch() {
    let kernel = changed("params", "head = \"head_dim + 3\"", "head = \"head_dim - 1\"").unwrap();
    let is_told = |case: Case| match Emulator.run(&kernel, &case, Run::first(&case)) {
        Err(BackendError::Launch(why)) => why.contains("layout.v_new: expected a stride of head of at least"),
        _ => false,
    };
    assert!(cases(&kernel).any(is_told));
}

#[test]
fn clusters_are_told_by_name() {
    let kernel = changed("params", "block = [", "cluster = [\"1\", \"1\", \"1\"]\nblock = [").unwrap();
    assert!(cases(&kernel).all(|case| agrees(&kernel, &case)));
    let kernel = changed("params", "block = [", "cluster = [\"1\", \"batch\", \"1\"]\nblock = [").unwrap();
    let case = cases(&kernel).find(|case| case.shape.batch() == 2).unwrap();
    let Err(BackendError::Unsupported(why)) = Emulator.run(&kernel, &case, Run::first(&case)) else { panic!() };
    assert_eq!(why, "clusters of 1 x 2 x 1 blocks of params: only those of one block");
}
