//! Kernels whose code depends on the case: made by a closure, or compiled from a source.

use attnfuzz::backend::nvrtc::Nvrtc;
use attnfuzz::backend::{Backend, BackendError, Emulator, Kernel, Points, Run};
use attnfuzz::case::Case;
use attnfuzz::float::Dtype;
use attnfuzz::mutate;
use attnfuzz::oracle::{Verdict, examine};
use std::fs;
use std::path::Path;
use std::process::Command;
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

/// A copy of the kernel that is compiled for each case, in a folder of its own, with a file changed.
fn compiled(file: &str, from: &str, to: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["decode.cu", "decode.toml"] {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/made").join(name)).unwrap();
        let text = if name == file { replaced(&text, from, to) } else { text };
        fs::write(folder.path().join(name), text).unwrap();
    }
    let path = folder.path().join("decode.toml").to_string_lossy().into_owned();
    (folder, path)
}

fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from}");
    text.replacen(from, to, 1)
}

/// Whether there is a compiler. Without one a kernel that needs it must say so, and is no pass.
fn has_compiler(kernel: &Kernel) -> bool {
    let missing = match Nvrtc::find() {
        Ok(nvrtc) => {
            let known = nvrtc.architectures();
            assert!(known.contains(&80), "{known:?}");
            return true;
        }
        Err(missing) => missing,
    };
    match run(kernel) {
        Err(BackendError::Unavailable(why)) => assert!(why.contains(&missing.to_string()), "{why}"),
        other => panic!("{other:?}"),
    }
    println!("no compiler: nothing was compiled");
    false
}

/// The cases that a changed kernel gets wrong, of 60.
fn wrong(kernel: &Kernel) -> Vec<Case> {
    let agrees = |case: &Case| matches!(examine(&Emulator, kernel, case).unwrap().verdict, Verdict::Agree(_));
    (0..60).map(|index| kernel.space().case_at(5, index)).filter(|case| !agrees(case)).collect()
}

#[test]
fn a_template_is_compiled_for_the_shape_and_type_of_each_case() {
    let (_folder, path) = compiled("", "", "");
    let kernel = Kernel::open(&path).unwrap();
    if !has_compiler(&kernel) {
        return;
    }
    assert_eq!(wrong(&kernel), []);
    // The case decides macros, and their texts the entry.
    let (_folder, path) = compiled("decode.toml", "bf16 = \"__nv_bfloat16\"", "bf16 = \"__half\"");
    let mistaken = wrong(&Kernel::open(&path).unwrap());
    assert!(!mistaken.is_empty() && mistaken.iter().all(|case| case.dtype == Dtype::Bf16), "{mistaken:?}");
    let (_folder, path) = compiled("decode.toml", "HEAD_DIM = \"head_dim\"", "HEAD_DIM = \"min(head_dim, 8)\"");
    let mistaken = wrong(&Kernel::open(&path).unwrap());
    assert!(!mistaken.is_empty() && mistaken.iter().all(|case| case.shape.head_dim == 24), "{mistaken:?}");
    // A fault is told by the line of the source.
    let (_folder, path) = compiled("decode.cu", "past * stride_token] = k_new", "-past * stride_token - 9] = k_new");
    let faulty = Kernel::open(&path).unwrap();
    let case = wrong(&faulty).remove(0);
    let Verdict::Fault(fault) = examine(&Emulator, &faulty, &case).unwrap().verdict else { panic!("{case}") };
    assert_eq!(fault.site.and_then(|site| site.source).as_deref(), Some("decode.cu:23"));
}

#[test]
fn what_the_compiler_says_is_shown_and_headers_count() {
    let (_folder, path) = compiled("decode.cu", "float logit = 0.0f;", "flat logit = 0.0f;");
    let kernel = Kernel::open(&path).unwrap();
    if !has_compiler(&kernel) {
        return;
    }
    let Err(BackendError::NotMade(why)) = run(&kernel) else { panic!() };
    assert!(why.contains("decode.cu(31): error: identifier \"flat\" is undefined"), "{why}");
    let (_folder, path) = compiled("decode.toml", "decode<{ELEMENT}", "encode<{ELEMENT}");
    let Err(BackendError::NotMade(why)) = run(&Kernel::open(&path).unwrap()) else { panic!() };
    assert!(why.contains("encode"), "{why}");
    let (_folder, path) =
        compiled("decode.toml", "{ value = \"q_per_kv\", type = \"i32\" }", "{ value = \"1\", type = \"i64\" }");
    let Err(BackendError::NotMade(why)) = run(&Kernel::open(&path).unwrap()) else { panic!() };
    assert!(why.contains("decode.toml:36: launch.args[7]: expected 4 bytes as entry decode<"), "{why}");
    let (_folder, path) = compiled("decode.toml", "HEAD_DIM = \"head_dim\"", "HEAD_DIM = \"head_dim + step\"");
    let kernel = Kernel::open(&path).unwrap();
    let two_steps = (0..).map(|index| kernel.space().case_at(5, index)).find(|case| case.steps == 2).unwrap();
    let Err(BackendError::Launch(why)) = Emulator.run(&kernel, &two_steps, Run::first(&two_steps)) else { panic!() };
    assert!(why.contains("compile.define: expected the same in each step, found --define-macro=HEAD_DIM="), "{why}");
    // Whoever resumes or works for another asks by this hash.
    let content = |file: &str, from: &str, to: &str| Kernel::open(&compiled(file, from, to).1).unwrap().content_hash();
    assert_ne!(content("", "", ""), content("decode.cu", "0.0f", "0.00f"));
}

#[test]
fn compiled_code_is_kept_and_made_again_where_it_is_spoiled() {
    let (_folder, path) = compiled("", "", "");
    if !has_compiler(&Kernel::open(&path).unwrap()) {
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    let fuzz = || {
        let output = Command::new(env!("CARGO_BIN_EXE_attnfuzz"))
            .args(["fuzz", &path, "--cases", "20", "--regressions"])
            .arg(cache.path().join("findings"))
            .env("ATTNFUZZ_CACHE", cache.path().join("ptx"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let kept = || {
        let files = fs::read_dir(cache.path().join("ptx")).unwrap().map(|entry| entry.unwrap().path());
        files.map(|file| (fs::read_to_string(&file).unwrap(), file)).collect::<Vec<_>>()
    };
    fuzz();
    let first = kept();
    assert!(!first.is_empty());
    for (text, file) in &first {
        fs::write(file, text.replacen("add.f32", "sub.f32", 1)).unwrap();
    }
    fuzz();
    for (text, file) in first {
        assert_eq!(fs::read_to_string(file).unwrap(), text);
    }
}

#[test]
fn machine_code_is_for_a_gpu_and_checked_like_any() {
    let folder = tempfile::tempdir().unwrap();
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/made");
    let cubin = fs::read(made.join("params.cubin")).unwrap();
    let manifest = fs::read_to_string(made.join("decode.toml")).unwrap();
    let (head, rest) = manifest.split_once("[compile]").unwrap();
    let rest = &rest[rest.find("[domain]").unwrap()..];
    let manifest = format!("{}{rest}", head.replace("source = \"decode.cu\"", "cubin = \"params.cubin\""));
    let path = folder.path().join("k.toml");
    let open = |entry: &str, args: &str, cubin: &[u8]| {
        let (start, _) = manifest.split_once("entry =").unwrap();
        let sizes = "grid = [\"1\", \"1\", \"1\"]\nblock = [\"1\", \"1\", \"1\"]";
        fs::write(&path, format!("{start}entry = \"{entry}\"\n{sizes}\nargs = [{args}]\n")).unwrap();
        fs::write(folder.path().join("params.cubin"), cubin).unwrap();
        Kernel::open(&path.to_string_lossy())
    };
    let kernel = open("_Z9unmangledPf", "{ tensor = \"out\" }", &cubin).unwrap();
    let Err(BackendError::Unsupported(why)) = run(&kernel) else { panic!() };
    assert!(why.contains("params.cubin is machine code, which only a GPU runs"), "{why}");
    assert!(kernel.emulator_limit(Dtype::F32).unwrap().contains("only a GPU"));
    assert_eq!(kernel.ptx().unwrap_err().to_string(), "compiled_decode has no PTX of its own: it is machine code");
    let error = |entry, args, cubin: &[u8]| open(entry, args, cubin).unwrap_err().to_string();
    let message = error("plain", "{ tensor = \"out\" }", &cubin);
    assert!(message.contains("expected 3 arguments as entry plain has, found 1"), "{message}");
    let message = error("gone", "{ tensor = \"out\" }", &cubin);
    assert!(message.contains("found \"gone\"; it has _Z6decodeIfLi64EEvPT_, _Z9unmangledPf, plain"), "{message}");
    let message = error("plain", "{ tensor = \"out\" }", &cubin[..3000]);
    assert!(message.contains("params.cubin: expected a whole cubin"), "{message}");
}
