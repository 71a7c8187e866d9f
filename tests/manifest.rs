//! A wrong manifest is refused with file, line, key, expected and found; a right one drives a kernel.

use attnfuzz::backend::manifest::Manifest;
use attnfuzz::backend::{CompileJob, Kernel};
use std::fs;
use std::path::{Path, PathBuf};

fn shipped() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("kernels/gqa_decode")
}

fn text() -> String {
    fs::read_to_string(shipped().join("kernel.toml")).unwrap()
}

/// The error of the shipped manifest with `from` replaced by `to`, and the line the replaced text is on.
fn error(from: &str, to: &str) -> (String, usize) {
    let text = text();
    let at = text.find(from).unwrap_or_else(|| panic!("{from} is not in the manifest"));
    let line = text[..at].matches('\n').count() + 1;
    let changed = text.replacen(from, to, 1);
    (Manifest::parse(Path::new("k.toml"), &changed).expect_err(to).to_string(), line)
}

#[test]
fn the_shipped_manifest_is_read() {
    let manifest = Manifest::parse(Path::new("k.toml"), &text()).unwrap();
    assert_eq!(manifest.name, "gqa_decode");
    assert_eq!(manifest.launches[0].args.len(), 14);
}

#[test]
fn errors_name_file_line_key_expected_and_found() {
    for (from, to, key, expected) in [
        ("batch * num_kv_heads", "batch * heads", "launch.grid: ", "unknown variable \"heads\""),
        ("ceil(q_per_kv / 8)", "ceil(q_per_kv / ", "launch.grid: ", "expected an expression"),
        ("tensor = \"v_cache\"", "tensor = \"w_cache\"", "launch.args[4].tensor: ", "expected one of q, k_new"),
        ("lengths = \"past_len\"", "lengths = \"pastlen\"", "", "pastlen"),
        ("type = \"f32\"", "type = \"f8\"", "", "f8"),
        ("name = \"gqa_decode\"", "name = \"../x\"", "name: ", "found \"../x\""),
        ("head_dim = \"1..=256\"", "head_dim = \"256..=1\"", "", "256..=1"),
        ("head_dim = \"1..=256\"", "head_dim = []", "", "empty list"),
        ("dtype = [\"f32\", ", "dtype = [\"f64\", ", "", "f64"),
        ("h_l = \"ceil(n / 32) + 5\"", "h_l = \"ceil(m / 32) + 5\"", "", "m"),
        ("preset = \"naive\"", "preset = \"nave\"", "", "nave"),
    ] {
        let (message, line) = error(from, to);
        // A value deep inside a table is reported where that value or its table starts.
        assert!(message.starts_with("k.toml:"), "{message}");
        let reported: usize = message["k.toml:".len()..].split(':').next().unwrap().parse().unwrap();
        assert!(reported <= line && line < reported + 12, "{message}: the change is on line {line}");
        assert!(message.contains(key) && message.contains(expected), "{to}: {message}");
    }
    let (message, _) = error("ptx = \"kernel.ptx\"", "ptx = \"/etc/passwd\"");
    assert_eq!(message, "k.toml:1: ptx: expected a path inside the manifest's folder, found \"/etc/passwd\"");
    let (message, _) = error("q_len = 1\n", "q_len = 1\ncolour = 3\n");
    assert!(message.contains("unknown field `colour`"), "{message}");
}

#[test]
fn paths_of_headers_are_relative_and_their_names_unique() {
    let parsed = |headers: &str| {
        let text = text().replacen("[\"../common.cuh\"]", headers, 1);
        Manifest::parse(Path::new("k.toml"), &text)
    };
    for (headers, expected) in [
        ("[\"/usr/include/x.cuh\"]", "a file's path relative to the manifest's folder, found \"/usr/include/x.cuh\""),
        ("[\"..\"]", "a file's path relative to the manifest's folder, found \"..\""),
        ("[\"\"]", "a file's path relative to the manifest's folder, found \"\""),
        ("[\"a/x.cuh\", \"../x.cuh\"]", "each file name once, the source's included, found \"x.cuh\" twice"),
        ("[\"../kernel.cu\"]", "each file name once, the source's included, found \"kernel.cu\" twice"),
    ] {
        let message = parsed(headers).unwrap_err().to_string();
        assert!(message.starts_with("k.toml:10: compile.headers: expected "), "{message}");
        assert!(message.ends_with(expected), "{message}");
    }
    for headers in ["[]", "[\"x.cuh\"]", "[\"../../a/x.cuh\", \"./y.cuh\"]"] {
        parsed(headers).unwrap();
    }
}

#[test]
fn a_missing_header_is_told_by_who_needs_it() {
    let (folder, path) = copy(|text| text.replace("../common.cuh", "../gone.cuh"));
    Kernel::open(&path).expect("its PTX runs without");
    let message = CompileJob::open(&path).unwrap_err().to_string();
    let gone = folder.path().with_file_name("gone.cuh");
    assert!(message.contains(&format!("kernel.toml: compile.headers: can't read {}", gone.display())), "{message}");
}

/// The error of the split-KV kernel's manifest with `from` replaced by `to`.
fn split_kv_error(from: &str, to: &str) -> (String, usize) {
    let text = fs::read_to_string(shipped().with_file_name("gqa_decode_split_kv").join("kernel.toml")).unwrap();
    let at = text.find(from).unwrap_or_else(|| panic!("{from} is not in the manifest"));
    let line = text[..at].matches('\n').count() + 1;
    let error = Manifest::parse(Path::new("k.toml"), &text.replacen(from, to, 1)).expect_err(to);
    (error.to_string(), line)
}

#[test]
fn knobs_workspaces_and_constants_are_told_by_line_and_key() {
    for (from, to, key, expected) in [
        (
            "r = \"ceil(ceil(ceil(n / 16) / num_splits)",
            "r = \"ceil(ceil(ceil(n / 16) / splits)",
            "numerics.r: ",
            "variable `splits`",
        ),
        (
            "r = \"ceil(ceil(ceil(n / 16) / num_splits) / 4) - 1",
            "r = \"1 - num_splits",
            "numerics.r: ",
            "num_splits = 128",
        ),
        ("e0 = \"EXPF\"", "e0 = \"expf\"", "numerics.e0: ", "constants (DIV_APPROX, "),
        ("\"num_splits\"]", "\"splits\"]", "launch.grid: ", "k_stride_token, v_stride_request"),
        ("num_splits = \"1", "scale = \"1", "domain.knobs.scale: ", "found \"scale\""),
        ("num_splits = \"1", "max = \"1", "domain.knobs.max: ", "found \"max\""),
        ("name = \"partial_max\"", "name = \"partial_sum_v\"", "workspace.name: ", "\"partial_sum_v\" twice"),
        ("name = \"partial_max\"", "name = \"a b\"", "workspace.name: ", "found \"a b\""),
        ("num_splits * v_head_dim\"", "nsplits * v_head_dim\"", "workspace.elements: ", "unknown variable \"nsplits\""),
        (
            "workspace = \"partial_max\"",
            "workspace = \"max\"",
            "launch.args[6].workspace: ",
            "partial_sum), found \"max\"",
        ),
    ] {
        let (message, line) = split_kv_error(from, to);
        assert!(message.starts_with(&format!("k.toml:{line}: {key}")), "{message}: the change is on line {line}");
        assert!(message.contains(expected), "{message}");
    }
    for (from, to, expected) in [
        ("e0 = \"EXPF\"", "e0 = \"EXPFF\"", "found variable `EXPFF`"),
        ("num_splits = \"1..=128\"", "NumSplits = \"1..=128\"", "lower-case letters"),
        ("dtype = \"f32\"\nelements", "dtype = \"f8\"\nelements", "f8"),
        ("dtype = \"f32\"\nelements", "dtype = \"f32\"\ninit = \"one\"\nelements", "one"),
        ("base = \"e\"", "base = \"10\"", "10"),
        ("lse = { base = \"e\" }\n", "", "lse: expected it, since a launch has the argument { tensor = \"lse\" }"),
        ("{ tensor = \"lse\" }", "{ tensor = \"out\" }", "lse: expected an argument { tensor = \"lse\" }, found none"),
    ] {
        let (message, _) = split_kv_error(from, to);
        assert!(message.starts_with("k.toml:") && message.contains(expected), "{message}");
    }
}

/// A copy of the shipped kernel in a folder of its own, with its manifest changed.
fn copy(change: impl Fn(String) -> String) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    for file in ["kernel.cu", "kernel.ptx"] {
        fs::copy(shipped().join(file), folder.path().join(file)).unwrap();
    }
    let path = folder.path().join("kernel.toml");
    fs::write(&path, change(text())).unwrap();
    let path = path.to_string_lossy().into_owned();
    (folder, path)
}

#[test]
fn a_kernel_opens_from_any_folder() {
    let (_folder, path) = copy(|text| text);
    assert_eq!(Kernel::open(&path).unwrap().name(), "gqa_decode");
}

#[test]
fn arguments_are_checked_against_the_ptx() {
    let (_folder, path) = copy(|text| text.replace("    { lengths = \"past_len\" },\n", ""));
    let message = Kernel::open(&path).unwrap_err().to_string();
    assert!(message.contains("expected 14 arguments as entry gqa_decode_f32 has, found 13"), "{message}");

    let (_folder, path) = copy(|text| {
        text.replace("{ value = \"head_dim\", type = \"i32\" }", "{ value = \"head_dim\", type = \"i64\" }")
    });
    let message = Kernel::open(&path).unwrap_err().to_string();
    assert!(message.contains("launch.args[9]: expected 4 bytes as entry gqa_decode_f32 has, found 8"), "{message}");

    let (_folder, path) = copy(|text| text.replace("gqa_decode_{dtype}", "decode_{dtype}"));
    let message = Kernel::open(&path).unwrap_err().to_string();
    assert!(message.contains("found \"decode_f32\"; it has gqa_decode_f32, "), "{message}");
}

#[test]
fn broken_ptx_is_told_by_file_and_line() {
    let (folder, path) = copy(|text| text);
    let ptx = fs::read_to_string(folder.path().join("kernel.ptx")).unwrap();
    let line = ptx.lines().position(|l| l.trim_start().starts_with("fma.rn.f32")).unwrap() + 1;
    let broken = ptx.replacen("fma.rn.f32", "fma.rn.f32 ???", 1);
    fs::write(folder.path().join("kernel.ptx"), broken).unwrap();
    let message = Kernel::open(&path).unwrap_err().to_string();
    assert!(message.contains(&format!("kernel.ptx: line {line}, column ")), "{message}");
}

#[test]
fn missing_files_are_named() {
    let (folder, path) = copy(|text| text);
    fs::remove_file(folder.path().join("kernel.ptx")).unwrap();
    let message = Kernel::open(&path).unwrap_err().to_string();
    assert!(message.contains("can't read") && message.contains("kernel.ptx"), "{message}");
}

#[cfg(unix)]
#[test]
fn links_do_not_lead_out_of_the_folder() {
    let (folder, path) = copy(|text| text);
    let elsewhere = tempfile::tempdir().unwrap();
    let ptx = elsewhere.path().join("kernel.ptx");
    fs::rename(folder.path().join("kernel.ptx"), &ptx).unwrap();
    std::os::unix::fs::symlink(&ptx, folder.path().join("kernel.ptx")).unwrap();
    let message = Kernel::open(&path).unwrap_err().to_string();
    assert!(
        message.contains("kernel.toml: ptx: expected a file inside the manifest's folder, found a link to "),
        "{message}"
    );
    // A link to a file of the folder is one of its files.
    fs::remove_file(folder.path().join("kernel.ptx")).unwrap();
    fs::rename(&ptx, folder.path().join("real.ptx")).unwrap();
    std::os::unix::fs::symlink("real.ptx", folder.path().join("kernel.ptx")).unwrap();
    Kernel::open(&path).unwrap();
}

#[test]
fn arguments_layouts_code_and_conditions_are_told_by_line_and_key() {
    let text = include_str!("manifests/params.toml");
    let null = "{ null = true }";
    let last = "launch.args[10]";
    let compile = "[compile]\narch = \"compute_75\"";
    for (from, to, expected) in [
        (null, "{ null = false }", format!("52: {last}.null: expected true, found false")),
        (
            null,
            "{ }",
            format!(
                "52: {last}: expected one of the keys tensor, lengths, block_table, pointers, workspace, null, value, struct, found none"
            ),
        ),
        (
            null,
            "{ null = true, tensor = \"q\" }",
            format!(
                "52: {last}: expected one of the keys tensor, lengths, block_table, pointers, workspace, null, value, struct, found tensor and null"
            ),
        ),
        (
            null,
            "{ null = true, offset = \"1\" }",
            format!(
                "52: {last}.offset: expected it beside tensor, lengths, block_table, pointers, workspace only, found it beside null"
            ),
        ),
        (
            null,
            "{ tensor = \"q\", type = \"i32\" }",
            format!("52: {last}.type: expected it beside value, lengths, block_table only, found it beside tensor"),
        ),
        (null, "{ tensor = \"q\", packed = true }", format!("52: {last}.packed: expected it beside struct only")),
        (null, "{ tensor = \"q\", at = 4 }", format!("52: {last}.at: expected it for a field of a struct only")),
        (null, "{ value = \"1\" }", format!("52: {last}.type: expected the number's type, found nothing")),
        (
            null,
            "{ value = \"1\", type = \"i128\" }",
            format!("52: {last}.type: unknown variant `i128`, expected one of `bool`"),
        ),
        (
            null,
            "{ lengths = \"kv_len\", type = \"f32\" }",
            format!("52: {last}.type: unknown variant `f32`, expected `i32` or `i64`"),
        ),
        (
            null,
            "{ lengths = \"padded\" }",
            format!(
                "52: {last}.lengths: expected one of past_len, kv_len, q_len, cu_q_len, cu_kv_len, found \"padded\""
            ),
        ),
        (
            null,
            "{ block_table = \"csr\" }",
            format!("52: {last}.block_table: expected one of padded, padded_slots, kv_indptr"),
        ),
        (null, "{ block_table = \"kv_indptr\" }", "52: launch.args: expected no block table".into()),
        (null, "{ pointers = \"sinks\" }", format!("52: {last}.pointers: expected a tensor with rows of each request")),
        (null, "{ tensor = \"q\", offset = \"bytes\" }", format!("52: {last}.offset: unknown variable \"bytes\"")),
        (null, "{ struct = [] }", format!("52: {last}.struct: expected at least one field, found none")),
        (
            null,
            "{ struct = [{ null = true }], align = 3 }",
            format!("52: {last}.align: expected a power of two from 1 to 128, found 3"),
        ),
        (
            null,
            "{ struct = [{ value = \"n\", type = \"i8\" }] }",
            format!("52: {last}.struct[0].value: unknown variable \"n\""),
        ),
        (
            "k_new = \"head, token, dim\"",
            "k_cache = \"head, token, dim\"",
            "25: layout.k_cache: expected one order in domain.cache and domain.row_pad = 0 beside it".into(),
        ),
        ("out = \"head, token, dim\"", "out = \"head, token\"", "27: layout.out: expected token, head and dim".into()),
        (
            "out = \"head, token, dim\"",
            "out = \"head, head, token, dim\"",
            "27: layout.out: expected each of request, token, head, dim once, found \"head\"".into(),
        ),
        (
            "k_new = \"head, token, dim\"",
            "sinks = \"head\"",
            "25: layout.sinks: expected one of q, k_new, v_new, out, lse, k_cache, v_cache, found \"sinks\"".into(),
        ),
        (
            "k_new = \"head, token, dim\"",
            "k_new = \"head, token, dim / 4\"",
            "25: layout.k_new: expected dim beside dim / SIZE, found groups alone".into(),
        ),
        (
            "k_new = \"head, token, dim\"",
            "k_new = \"head, dim / 4, token, dim / 2, dim\"",
            "25: layout.k_new: expected each of request, token, head, dim once, found \"dim\"".into(),
        ),
        (
            "k_new = \"head, token, dim\"",
            "k_new = \"head, 0 of y, token, dim\"",
            "25: layout.k_new: unknown variable \"y\"".into(),
        ),
        (
            "k_new = \"head, token, dim\"",
            "k_new = { order = \"head, token, dim\", head = \"1\" }",
            "25: layout.k_new: expected at alone beside order, found \"head\"".into(),
        ),
        (
            "k_new = \"head, token, dim\"",
            "k_new = { order = \"head, token, dim\", at = { x = \"1\" } }",
            "25: layout.k_new: expected a text for at, found a table".into(),
        ),
        (
            "k_new = \"head, token, dim\"",
            &format!("k_new = \"{}head, token, dim\"", "0 of 1, ".repeat(10)),
            "25: layout.k_new: expected at most 12 dimensions, found 13".into(),
        ),
        (
            "k_new = \"head, token, dim\"",
            "pair = { k_new = \"head, token, dim\" }",
            "25: layout.pair: expected at least 2 tensors in one buffer, found 1".into(),
        ),
        (
            "k_new = \"head, token, dim\"",
            "pair = { k_new = \"head, token, dim\", out = \"head, token, dim\" }",
            "25: layout.pair.out: expected one of q, k_new, v_new, k_cache, v_cache, found \"out\"".into(),
        ),
        (
            "k_new = \"head, token, dim\"",
            "pair = { k_new = \"head, token, dim\", q = \"head, token, dim\" }",
            "24: layout.q: expected one place for q, found another".into(),
        ),
        (
            "k_new = \"head, token, dim\"",
            "\"a b\" = { k_new = \"head, token, dim\" }",
            "25: layout.a b: expected 1 to 64 letters, digits, _ or -, found \"a b\"".into(),
        ),
        (null, "{ tensor = \"qkv\" }", format!("52: {last}.tensor: expected one of q, k_new")),
        (null, "{ lengths = \"kv_len\", of = \"v\" }", format!("52: {last}.of: expected it beside block_table only")),
        (
            null,
            "{ block_table = \"kv_indptr\", of = \"v\" }",
            format!("52: {last}.of: expected it beside padded, padded_slots, kv_indices, slot_mapping only"),
        ),
        (null, "{ block_table = \"padded\", of = \"w\" }", format!("52: {last}.of: unknown variant `w`")),
        (
            "out = \"head, token, dim\"",
            "out = { head = \"1\", token = \"x\", dim = \"1\" }",
            "27: layout.out: unknown variable \"x\"".into(),
        ),
        (
            "lse = \"head, token\"",
            "lse = \"head, token, dim\"",
            "28: layout.lse: expected token and head, and no dim".into(),
        ),
        (
            "block = [",
            "cluster = [\"1\", \"1\", \"x\"]\nblock = [",
            "33: launch.cluster: unknown variable \"x\"".into(),
        ),
        (
            compile,
            "[compile]\ndefine = { DIM = \"head_dim\" }",
            "8: compile.define: expected neither ptx nor cubin beside it".into(),
        ),
        (
            "[layout]",
            "[[domain.require]]\nexpr = \"head_dim <\"\nbecause = \"b\"\n[layout]",
            "23: domain.require[0].expr: expected an expression, found \"head_dim <\"".into(),
        ),
        (
            "[layout]",
            "[[domain.require]]\nexpr = \"1\"\nbecause = \" \"\n[layout]",
            "23: domain.require[0].because: expected a reason, found nothing".into(),
        ),
        ("[layout]", "[[domain.require]]\nexpr = \"1\"\n[layout]", "missing field `because`".into()),
    ] {
        assert!(text.contains(from), "{from}");
        let message = Manifest::parse(Path::new("k.toml"), &text.replacen(from, to, 1)).expect_err(to).to_string();
        assert!(message.starts_with("k.toml:") && message.contains(&expected), "{to}:\n{message}\n{expected}");
    }
    let made = text.replacen("ptx = \"params.ptx\"\n", "", 1);
    for (define, expected) in [
        ("T = 1", "compile.define.T: expected more than a letter"),
        ("\"A B\" = 1", "compile.define.A B: expected a macro's name"),
        ("\"1A\" = 1", "compile.define.1A: expected a macro's name"),
        ("AB = \"x\"", "compile.define.AB: unknown variable \"x\""),
        (
            "AB = { f16 = \"__half\" }",
            "compile.define.AB: expected a text for each dtype of the domain, found none for f32",
        ),
        ("AB = { f32 = \"a\\nb\" }", "compile.define.AB: expected at most 1000 characters of one line"),
        ("AB = { f64 = \"double\" }", "expected a number, an expression, or a text for each of f32, f16 and bf16"),
        ("AB = [1]", "expected a number, an expression, or a text for each of f32, f16 and bf16"),
    ] {
        let text = made.replacen(compile, &format!("{compile}\ndefine = {{ {define} }}"), 1);
        let message = Manifest::parse(Path::new("k.toml"), &text).expect_err(define).to_string();
        assert!(message.starts_with("k.toml:") && message.contains(expected), "{define}:\n{message}\n{expected}");
    }
    let both = text.replacen("ptx = \"params.ptx\"", "ptx = \"params.ptx\"\ncubin = \"params.cubin\"", 1);
    let message = Manifest::parse(Path::new("k.toml"), &both).unwrap_err().to_string();
    assert_eq!(message, "k.toml:5: cubin: expected either ptx or cubin, found both");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("k.toml");
    fs::write(&path, made.replacen("source = \"params.cu\"\n", "", 1)).unwrap();
    let message = Kernel::open(&path.to_string_lossy()).unwrap_err().to_string();
    assert!(
        message.contains("k.toml: ptx: expected it, or cubin, or source to compile for each case, found none"),
        "{message}"
    );
}
