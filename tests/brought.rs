//! Kernels as they are brought: arguments in every form, tensors in other layouts, page tables in every form. Each drives
//! a right kernel, and each mistake in saying them is caught.

use attnfuzz::backend::{Backend, BackendError, Emulator, Kernel, Run};
use attnfuzz::case::Case;
use attnfuzz::oracle::{Verdict, examine};
use attnfuzz::outcome::FaultKind;
use std::fs;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests")
}

/// A kernel of this folder with its manifest changed, or why it can't be opened.
fn changed(name: &str, from: &str, to: &str) -> Result<Kernel, String> {
    let text = fs::read_to_string(folder().join(format!("{name}.toml"))).unwrap();
    assert!(text.contains(from), "{from}");
    changed_to(&text.replacen(from, to, 1))
}

/// A kernel of this folder with this manifest.
fn changed_to(text: &str) -> Result<Kernel, String> {
    let copy = tempfile::tempdir().unwrap();
    for file in fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "cu" || extension == "ptx") {
            fs::copy(&file, copy.path().join(file.file_name().unwrap())).unwrap();
        }
    }
    let path = copy.path().join("k.toml");
    fs::write(&path, text).unwrap();
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
    for name in ["params", "pages", "concatenated", "grouped", "split_rows", "self_attention"] {
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
        ("concatenated", "k_cache = \"0 of 2, page", "k_cache = \"2 of 3, page"),
        ("concatenated", "k_cache = \"0 of 2, page, token, head", "k_cache = \"0 of 2, page, head, token"),
        ("concatenated", "num_pages\", type", "num_pages + 1\", type"),
        ("concatenated", "{ tensor = \"qkv\" }", "{ tensor = \"k_new\" }"),
        ("concatenated", "{ tensor = \"kv_cache\" }", "{ tensor = \"kv_cache\", offset = \"element_bytes\" }"),
        ("grouped", "q = \"token, head / q_per_kv, head of", "q = \"token, head / num_kv_heads, head of"),
        ("grouped", "{ tensor = \"v_cache\" }", "{ tensor = \"kv_cache\" }"),
        ("grouped", "k_stride_page", "v_stride_token"),
        ("self_attention", "{ tensor = \"qkv\" }", "{ tensor = \"k_cache\" }"),
        ("self_attention", "q_len_max == kv_len_max", "q_len_max <= kv_len_max"),
        ("split_rows", "(16 / element_bytes), token", "(8 / element_bytes), token"),
        ("split_rows", "page, head, dim, token", "page, head, token, dim"),
        (
            "split_rows",
            "\"padded\" },\n    { block_table = \"padded\", of = \"v\"",
            "\"padded\", of = \"v\" },\n    { block_table = \"padded\"",
        ),
        ("split_rows", "\"padded\" },", "\"padded\", of = \"v\" },"),
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
    assert!(not_launched(&kernel, "layout.v_new: expected a stride of head of at least"));
}

/// Whether some case of the kernel can't be launched because of this.
fn not_launched(kernel: &Kernel, why: &str) -> bool {
    cases(kernel).any(|case| match Emulator.run(kernel, &case, Run::first(&case)) {
        Err(BackendError::Launch(found)) => found.contains(why),
        _ => false,
    })
}

#[test]
fn tensors_that_meet_or_do_not_fit_are_no_launch() {
    for (name, from, to, why) in [
        (
            "concatenated",
            "at = \"num_q_heads * head_dim\"",
            "at = \"(num_q_heads - 1) * head_dim\"",
            "layout.qkv: expected q and k_new beside each other, found element",
        ),
        (
            "concatenated",
            "v_cache = \"1 of 2, page, token, head, dim\"",
            "v_cache = \"0 of 2, page, token, head, dim\"",
            "layout.kv_cache: expected k_cache and v_cache beside each other, found element 0 in both",
        ),
        (
            "grouped",
            "q = \"token, head / q_per_kv, head of q_per_kv + 2, dim\"",
            "q = \"token, head of 1, dim\"",
            "layout.q: expected a dimension of at least",
        ),
        (
            "grouped",
            "page, 1 of 2, token",
            "page, 2 of 2, token",
            "layout.v_cache: expected a dimension of at least 3 for 2, found 2",
        ),
        (
            "grouped",
            "k_cache = \"page, 0 of 2",
            "k_cache = \"page, 0 of 2 + step",
            "layout.k_cache: expected the same in each step, found another in step 1",
        ),
        (
            "grouped",
            "k_cache = \"page, 0 of 2",
            "k_cache = \"page, 0 of k_stride_page",
            "layout.k_cache: expected \"k_stride_page\" to be a whole number from 0",
        ),
    ] {
        let kernel = changed(name, from, to).unwrap();
        assert!(not_launched(&kernel, why), "{to}");
    }
}

#[test]
fn a_buffer_has_tensors_that_live_as_long() {
    for (name, from, to, error) in [
        (
            "concatenated",
            "\n[layout.kv_cache]\n",
            "\n",
            "k.toml:24: layout.qkv: expected either caches or tensors of a step, since caches stay from step to step, found both",
        ),
        (
            "self_attention",
            "q = \"token, 0",
            "k_new = \"token, 0",
            "k.toml:28: layout.qkv: expected no k_new, since the domain has append = false",
        ),
        (
            "self_attention",
            "storage = [\"packed\"]",
            "storage = [\"packed\", \"per-request\"]",
            "k.toml:30: layout.qkv.k_cache: expected one kind of domain.storage beside it, found several",
        ),
        (
            "self_attention",
            "storage = [\"packed\"]",
            "storage = [\"per-request\"]",
            "k.toml:30: layout.qkv.k_cache: expected request, token, head and dim, found token, head, dim",
        ),
        (
            "self_attention",
            "row_pad = 0",
            "row_pad = \"0..=1\"",
            "k.toml:30: layout.qkv.k_cache: expected one order in domain.cache and domain.row_pad = 0 beside it",
        ),
    ] {
        let found = changed(name, from, to).map(|_| ()).unwrap_err();
        assert!(found.contains(error), "{to}: {found}");
    }
}

/// Where a page has room that is of no tensor, nothing may change.
#[test]
fn writes_between_tensors_are_found() {
    let text = fs::read_to_string(folder().join("grouped.toml")).unwrap();
    let roomy = text.replace("0 of 2", "0 of 3").replace("1 of 2", "2 of 3");
    let before = "\"0 - page_size * num_kv_heads * head_dim\", type";
    for (is_right, text) in [(true, roomy.clone()), (false, roomy.replace("\"0\", type", before))] {
        let kernel = changed_to(&text).unwrap();
        for case in cases(&kernel) {
            match examine(&Emulator, &kernel, &case).unwrap().verdict {
                Verdict::Agree(_) => assert!(is_right, "{case}"),
                Verdict::Fault(fault) => {
                    assert!(!is_right && fault.kind == FaultKind::GuardTouched, "{case}: {fault:?}");
                    let said = &fault.detail;
                    assert!(
                        said.starts_with("kv_cache was changed at element ") && said.ends_with("of no tensor"),
                        "{said}"
                    );
                }
                other => panic!("{case}: {other:?}"),
            }
        }
    }
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
