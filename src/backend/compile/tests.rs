use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::backend::CompileJob;

fn spec() -> CompileSpec {
    CompileSpec { arch: Some("compute_75".to_owned()), options: vec!["-lineinfo".to_owned()], ..CompileSpec::default() }
}

fn edit(find: &str, replace: &str) -> Edit {
    Edit { file: None, find: find.to_owned(), replace: replace.to_owned() }
}

fn edit_of(file: &str, find: &str, replace: &str) -> Edit {
    Edit { file: Some(file.to_owned()), ..edit(find, replace) }
}

fn edited(text: &str, edits: &[Edit]) -> Result<String, EditError> {
    Source::of("k.cu", text).edited(edits).map(|source| source.main.text)
}

/// A source with one header.
fn headed(text: &str, name: &str, header: &str) -> Source {
    Source { headers: vec![SourceFile { name: name.into(), text: header.into() }], ..Source::of("k.cu", text) }
}

fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

/// The manifests in a folder of `kernels`, its subfolders included.
fn manifests(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![kernels().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "toml") {
                found.push(path);
            }
        }
    }
    found
}

fn job(manifest: &Path) -> CompileJob {
    CompileJob::open(manifest.to_str().unwrap()).unwrap()
}

#[test]
fn stored_ptx_belongs_to_its_source() {
    let nvrtc = Nvrtc::find();
    let manifests = manifests("");
    assert!(manifests.len() > 60, "found {} manifests", manifests.len());
    // Compiling the mutants again takes a minute; `attnfuzz compile --check` does.
    let not_again = Unavailable::NvrtcNotFound;
    for manifest in manifests {
        let CompileJob { source, spec, ptx_file } = job(&manifest);
        let is_mutant = manifest.components().any(|part| part.as_os_str() == "mutants");
        let nvrtc = if is_mutant { Err(&not_again) } else { nvrtc.as_ref() };
        let verdict = check(&fs::read_to_string(&ptx_file).unwrap(), &source, &spec, nvrtc).unwrap();
        assert!(verdict.is_acceptable(), "{}: {verdict}", ptx_file.display());
    }
}

#[test]
fn every_mutant_differs_from_its_parent_in_code() {
    let code = |ptx_file: &Path| -> Vec<String> {
        let ptx = fs::read_to_string(ptx_file).unwrap();
        ptx.lines().skip(1).filter(|line| !line.contains(".loc")).map(str::to_owned).collect()
    };
    for parent in fs::read_dir(kernels().join("mutants")).unwrap() {
        let name = parent.unwrap().file_name().into_string().unwrap();
        let parent = code(&kernels().join(&name).join("kernel.ptx"));
        for mutant in manifests(&format!("mutants/{name}")) {
            assert!(code(&job(&mutant).ptx_file) != parent, "{}: the same code as its parent", mutant.display());
        }
    }
}

#[test]
fn edits_apply_in_any_order() {
    let edits = [edit("three", "3"), edit("one", "two")];
    assert_eq!(edited("one two three", &edits).unwrap(), "two two 3");
}

#[test]
fn edits_must_match_exactly_once() {
    let found = |find: &str| edited("a b a", &[edit("b", "c"), edit(find, "x")]).unwrap_err().to_string();
    assert_eq!(found("a"), "edit[1].find: found 2 times in the parent's k.cu, expected exactly once");
    assert_eq!(found("z"), "edit[1].find: found 0 times in the parent's k.cu, expected exactly once");
    assert_eq!(found(""), "edit[1].find: found 0 times in the parent's k.cu, expected exactly once");
}

#[test]
fn edits_must_not_overlap() {
    let error = edited("abcd", &[edit("bc", "x"), edit("ab", "y")]).unwrap_err();
    assert_eq!(error, EditError::Overlap { first: 1, second: 0 });
}

#[test]
fn an_edit_changes_the_file_it_names_and_no_other() {
    let parent = headed("one two", "h.cuh", "two three");
    let mutant = parent.edited(&[edit_of("h.cuh", "two", "2")]).unwrap();
    assert_eq!(mutant, headed("one two", "h.cuh", "2 three"));
    assert_eq!(parent.edited(&[edit("two", "2")]).unwrap(), headed("one 2", "h.cuh", "two three"));
    assert_eq!(parent.edited(&[edit_of("k.cu", "two", "2")]).unwrap(), headed("one 2", "h.cuh", "two three"));
    // The same text may be replaced in two files, and text of one file is not text of another.
    let both = [edit_of("h.cuh", "two", "2"), edit("two", "II")];
    assert_eq!(parent.edited(&both).unwrap(), headed("one II", "h.cuh", "2 three"));
    let error = |edit| parent.edited(&[edit]).unwrap_err().to_string();
    assert_eq!(error(edit("three", "3")), "edit[0].find: found 0 times in the parent's k.cu, expected exactly once");
    assert_eq!(
        error(edit_of("h.cuh", "one", "1")),
        "edit[0].find: found 0 times in the parent's h.cuh, expected exactly once"
    );
    assert_eq!(error(edit_of("H.cuh", "two", "2")), "edit[0].file: expected one of k.cu, h.cuh, found \"H.cuh\"");
}

#[test]
fn the_hash_is_fnv_1a() {
    let spec = CompileSpec { arch: Some(String::new()), ..CompileSpec::default() };
    let source_hash = |text: &str, spec: &CompileSpec| source_hash(&Source::of("k.cu", text), spec);
    // FNV-1a of the three bytes `a`, 0, 0, from the published definition.
    let expected = [b'a', 0, 0]
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    assert_eq!(source_hash("a", &spec), expected);
    let moved = CompileSpec { arch: Some("a".to_owned()), ..spec.clone() };
    assert_ne!(source_hash("a", &spec), source_hash("", &moved), "fields must not run into each other");
}

#[test]
fn a_stamp_reads_back() {
    let stamp = Stamp::new((12, 4), &Source::of("k.cu", "source"), &spec());
    let text = stamp.to_string();
    assert!(text.starts_with("// attnfuzz compile: NVRTC 12.4, options `--gpu-architecture=compute_75 -lineinfo`"));
    assert_eq!(Stamp::parse(&text), Some(stamp));
    assert_eq!(Stamp::parse("//\n// Generated by NVIDIA NVVM Compiler\n"), None);
}

#[test]
fn a_changed_source_is_stale_without_a_compiler() {
    let ptx = stamped(".version 8.4\n", &Stamp::new((12, 4), &Source::of("k.cu", "old"), &spec()));
    let none = Unavailable::NvrtcNotFound;
    let verdict =
        |source: &str, spec: &CompileSpec| check(&ptx, &Source::of("k.cu", source), spec, Err(&none)).unwrap();
    assert_eq!(verdict("old", &spec()), Freshness::SourceMatches(NotCompared::NoCompiler(none.clone())));
    assert!(matches!(verdict("new", &spec()), Freshness::SourceChanged { .. }));
    let elsewhere = CompileSpec { arch: Some("compute_90".to_owned()), ..spec() };
    assert!(matches!(verdict("old", &elsewhere), Freshness::SourceChanged { .. }));
    let unstamped = check(".version 8.4\n", &Source::of("k.cu", "old"), &spec(), Err(&none)).unwrap();
    assert_eq!(unstamped, Freshness::Unstamped);
}

#[test]
fn a_changed_header_is_stale_without_a_compiler() {
    let source = headed("k", "h.cuh", "old");
    let ptx = stamped(".version 8.4\n", &Stamp::new((12, 4), &source, &spec()));
    let none = Unavailable::NvrtcNotFound;
    let is_acceptable = |source: &Source| check(&ptx, source, &spec(), Err(&none)).unwrap().is_acceptable();
    assert!(is_acceptable(&source));
    for changed in [headed("k", "h.cuh", "new"), headed("k", "g.cuh", "old"), Source::of("k.cu", "k")] {
        assert!(!is_acceptable(&changed), "{changed:?}");
    }
}

#[test]
fn a_source_includes_its_headers_by_name() {
    let Ok(nvrtc) = Nvrtc::find() else { return };
    let text = "#include \"h.cuh\"\nextern \"C\" __global__ void k(int* p) { *p = SEVEN; }";
    let ptx = compile(&nvrtc, &headed(text, "h.cuh", "enum : int { SEVEN = 7 };"), &spec()).unwrap();
    assert!(ptx.contains(".visible .entry k("), "{ptx}");
    let error = compile(&nvrtc, &headed(text, "g.cuh", "enum : int { SEVEN = 7 };"), &spec()).unwrap_err();
    assert!(error.to_string().contains("cannot open source file \"h.cuh\""), "{error}");
    // An error in a header is told by the header's name.
    let error = compile(&nvrtc, &headed(text, "h.cuh", "\nnonsense;"), &spec()).unwrap_err();
    assert!(error.to_string().contains("h.cuh(2): error"), "{error}");
}

#[test]
fn only_the_same_build_is_compared() {
    let text = |build: &str, body: &str| format!("//\n// Cuda compilation tools, {build}\n{body}\n");
    let verdict = |build: &str, body: &str| compare(&text("V12.4.127", "ret;"), &text(build, body));
    assert_eq!(verdict("V12.4.127", "ret;"), Freshness::Fresh);
    assert_eq!(verdict("V12.4.127", "exit;"), Freshness::TextDiffers { line: 3 });
    assert_eq!(verdict("V12.4.99", "exit;"), Freshness::SourceMatches(NotCompared::OtherBuild));
}

#[test]
fn another_release_says_so() {
    let Ok(nvrtc) = Nvrtc::find() else { return };
    let (major, minor) = nvrtc.version();
    let ptx = stamped(".version 8.4\n", &Stamp::new((1, 0), &Source::of("k.cu", "source"), &spec()));
    let verdict = check(&ptx, &Source::of("k.cu", "source"), &spec(), Ok(&nvrtc)).unwrap();
    let expected = format!("source unchanged; ptx not compared: made by nvrtc 1.0, found {major}.{minor}");
    assert_eq!(verdict.to_string(), expected);
}

#[test]
fn file_lines_lose_their_folders() {
    let ptx = "\t.file\t1 \"/home/someone/kernel.cu\"\n\t.file\t2 \"C:\\cuda\\cuda_fp16.hpp\"\nret;";
    let text = stamped(ptx, &Stamp::new((12, 4), &Source::of("k.cu", "source"), &spec()));
    let body = text.split_once('\n').unwrap().1;
    assert_eq!(body, "\t.file\t1 \"kernel.cu\"\n\t.file\t2 \"cuda_fp16.hpp\"\nret;");
}

#[test]
fn a_rejected_source_carries_the_compilers_log() {
    let Ok(nvrtc) = Nvrtc::find() else { return };
    let error = compile(&nvrtc, &Source::of("broken.cu", "__global__ void f() { nonsense; }"), &spec()).unwrap_err();
    let CompileError::Rejected { name, log } = error else { panic!("expected a rejection, found {error}") };
    assert_eq!(name, "broken.cu");
    assert!(log.contains("broken.cu(1): error"), "{log}");
}

#[test]
fn any_release_compiles_the_kernel() {
    let Ok(nvrtc) = Nvrtc::find() else { return };
    let CompileJob { source, spec, .. } = job(&kernels().join("gqa_decode/kernel.toml"));
    let ptx = compile(&nvrtc, &source, &spec).unwrap();
    let (major, minor) = nvrtc.version();
    assert!(ptx.starts_with(&format!("// attnfuzz compile: NVRTC {major}.{minor}, ")));
    for entry in ["gqa_decode_f32", "gqa_decode_f16", "gqa_decode_bf16"] {
        assert!(ptx.contains(&format!(".visible .entry {entry}(")), "no {entry}");
    }
    assert!(ptx.contains("\t.file\t1 \"kernel.cu\""), "the source's folder is still named");
}

#[test]
fn a_device_gets_code_of_its_own_architecture_if_nvrtc_knows_it() {
    let known = [52, 75, 80, 86, 89, 90];
    for (capability, arch) in [
        ((9, 0), "compute_90a"),
        ((8, 6), "compute_86"),
        ((8, 7), "compute_86"),
        ((8, 0), "compute_80"),
        ((7, 5), "compute_75"),
        // Newer than the compiler: the device takes what is older, without what was of that one alone.
        ((12, 0), "compute_90"),
        ((5, 0), "compute_80"),
    ] {
        assert_eq!(arch_for(capability, &known), arch);
    }
    assert_eq!(arch_for((12, 0), &[90, 100, 120]), "compute_120a");
    assert_eq!(arch_for((9, 0), &[]), "compute_80");
    let stated = CompileSpec { arch: Some("compute_75".into()), ..CompileSpec::default() };
    assert_eq!((stated.arch(), CompileSpec::default().arch()), ("compute_75", "compute_80"));
}
