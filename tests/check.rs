//! `attnfuzz init` and `attnfuzz check`, from code to a manifest that agrees, and what is told where it doesn't.

use attnfuzz::backend::nvrtc::Nvrtc;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Runs the program in `folder`, where no NVRTC is to be found.
fn attnfuzz(folder: &Path, args: &[&str]) -> (i32, String) {
    said(Command::new(env!("CARGO_BIN_EXE_attnfuzz")).args(args).current_dir(folder).env("ATTNFUZZ_NVRTC", "/nowhere"))
}

/// The same with the NVRTC of this machine.
fn with_nvrtc(folder: &Path, args: &[&str]) -> (i32, String) {
    said(Command::new(env!("CARGO_BIN_EXE_attnfuzz")).args(args).current_dir(folder).env("ATTNFUZZ_CACHE", folder))
}

fn said(command: &mut Command) -> (i32, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    assert!(!text.contains("panicked"), "{text}");
    (status.code().unwrap(), text)
}

/// What each explanation that `check` gives begins with, without `passes if `.
fn explanations(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("passes if ")).map(|line| line.trim_end_matches(':')).collect()
}

fn checked(name: &str) -> (i32, String) {
    attnfuzz(Path::new(ROOT), &["check", name])
}

/// A folder with the manifest and the PTX of a kernel of the source tree, the manifest changed.
fn changed(manifest: &str, changes: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let file = Path::new(ROOT).join(manifest);
    let mut text = fs::read_to_string(&file).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{from} is not in {manifest}");
        text = text.replace(from, to);
    }
    let text: String =
        text.lines().filter(|line| !line.starts_with("source =")).map(|line| format!("{line}\n")).collect();
    let ptx = file.with_extension("ptx");
    fs::copy(&ptx, folder.path().join(ptx.file_name().unwrap())).unwrap();
    fs::write(folder.path().join("kernel.toml"), text).unwrap();
    folder
}

fn checked_with(manifest: &str, changes: &[(&str, &str)]) -> (i32, String) {
    attnfuzz(changed(manifest, changes).path(), &["check", "kernel.toml"])
}

#[test]
fn a_right_manifest_agrees_and_is_told_in_words() {
    let (code, text) = checked("tests/check/naive.toml");
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("grid 12 x 1 x 1 (num_q_heads, 1, 1), block 32 x 1 x 1"), "{text}");
    assert!(text.contains("address of f32 hnd, strides: request 288, head 96, token 8"), "{text}");
    assert!(text.contains("kv_len_max    i32 7") && text.contains("scale         f32 0.44194174"), "{text}");
    assert_eq!(text.matches("   = agrees").count(), 3, "{text}");
    for shipped in ["gqa_decode", "gqa_decode_paged", "gqa_decode_split_kv", "gqa_prefill"] {
        let (code, text) = checked(&format!("kernels/{shipped}/kernel.toml"));
        assert_eq!(code, 0, "{text}");
    }
}

/// Mistakes of a kernel's author, each explained by itself and by nothing else.
#[test]
fn planted_mistakes_of_a_kernel_are_guessed() {
    for (name, expected) in [
        (
            "interleaved",
            &[
                "query head h has KV head h % num_kv_heads: the groups are interleaved, where query heads of a group stand together",
            ][..],
        ),
        ("nhd", &["the cache is nhd, not hnd"]),
        ("counts_from_position", &["the kernel counts one token less than kv_len_max"]),
        ("baked_and_passed", &["the kernel multiplies by 1/sqrt(head_dim) by itself"]),
        ("baked", &["the kernel multiplies by 1/sqrt(head_dim), whatever the scale is"]),
        ("unscaled", &["the scale is 1: the kernel never multiplies by it"]),
        (
            "base_2",
            &[
                "the kernel takes powers of 2, with log2(e) in the scale",
                "weights are powers of 2: the factor log2(e) is missing where exp2 stands for exp",
            ],
        ),
    ] {
        let (code, text) = checked(&format!("tests/check/naive_{name}.toml"));
        assert_eq!(code, 100, "{text}");
        assert_eq!(explanations(&text), expected, "{name}: {text}");
    }
    let (_, text) = checked("tests/check/naive_counts_from_position.toml");
    assert!(
        text.contains("line 34 of tests/check/naive_counts_from_position.toml: { value = \"kv_len_max - 1\""),
        "{text}"
    );
}

/// Mistakes of a manifest's author.
#[test]
fn planted_mistakes_of_a_manifest_are_guessed() {
    let decode = "kernels/gqa_decode/kernel.toml";
    let naive = "tests/check/naive.toml";
    let swap = |a: &'static str, b: &'static str| vec![(a, "\"?\""), (b, a), ("\"?\"", b)];
    for (manifest, changes, expected) in [
        (naive, swap("\"k_cache\"", "\"v_cache\""), "k_cache and v_cache change places"),
        (decode, swap("\"k_cache\"", "\"v_cache\""), "k_cache and v_cache change places"),
        (decode, swap("\"k_new\"", "\"v_new\""), "k_new and v_new change places"),
        (decode, swap("\"k_stride_head\"", "\"k_stride_token\""), "k_stride_head and k_stride_token change places"),
        (decode, swap("\"num_kv_heads\"", "\"q_per_kv\""), "num_kv_heads and q_per_kv change places"),
        (decode, vec![("lengths = \"past_len\"", "lengths = \"kv_len\"")], "it takes past_len where kv_len is"),
        (
            decode,
            vec![("value = \"scale\"", "value = \"scale * 1.4426950408889634\"")],
            "the kernel multiplies by log2(e) by itself, or takes powers of e",
        ),
        (naive, vec![("\"kv_len_max\"", "\"kv_len_max + 1\"")], ""),
        (naive, swap("\"num_q_heads\", type", "\"num_kv_heads\", type"), "num_q_heads and num_kv_heads change places"),
        (naive, vec![("cache = [\"hnd\"]", "cache = [\"nhd\"]")], "the cache is hnd, not nhd"),
    ] {
        let (code, text) = checked_with(manifest, &changes);
        assert_eq!(code, 100, "{changes:?}: {text}");
        if expected.is_empty() {
            assert!(text.contains("none of the common mistakes explains it"), "{changes:?}: {text}");
        } else {
            assert!(explanations(&text).contains(&expected), "{changes:?}: {text}");
        }
    }
}

/// Two mistakes at once, where neither alone explains it.
#[test]
fn two_mistakes_at_once_are_guessed() {
    let decode = "kernels/gqa_decode/kernel.toml";
    let swap = |a: &'static str, b: &'static str| vec![(a, "\"?\""), (b, a), ("\"?\"", b)];
    for (manifest, changes, expected) in [
        (
            decode,
            [swap("\"k_stride_head\"", "\"k_stride_token\""), swap("\"num_kv_heads\"", "\"q_per_kv\"")].concat(),
            "num_kv_heads and q_per_kv change places, and k_stride_head and k_stride_token change places",
        ),
        (
            "tests/check/naive.toml",
            [swap("\"k_cache\"", "\"v_cache\""), vec![("cache = [\"hnd\"]", "cache = [\"nhd\"]")]].concat(),
            "the cache is hnd, not nhd, and k_cache and v_cache change places",
        ),
    ] {
        let (code, text) = checked_with(manifest, &changes);
        assert_eq!(code, 100, "{changes:?}: {text}");
        let found = explanations(&text);
        assert!(found.contains(&expected) && found.len() <= 3, "{changes:?}: {text}");
    }
}

/// The manifest of a kernel that is compiled for each case is guessed at too.
#[test]
fn mistakes_are_guessed_of_source_as_of_ptx() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(Path::new(ROOT).join("tests/check/naive.cu"), folder.path().join("naive.cu")).unwrap();
    let text = fs::read_to_string(Path::new(ROOT).join("tests/check/naive.toml")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with("ptx =") && !line.starts_with("arch ="));
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    fs::write(folder.path().join("kernel.toml"), text.replace("cache = [\"hnd\"]", "cache = [\"nhd\"]")).unwrap();
    let (code, text) = with_nvrtc(folder.path(), &["check", "kernel.toml"]);
    if let Err(missing) = Nvrtc::find() {
        assert!(code == 4 && text.contains(&missing.to_string()), "{text}");
        println!("no compiler: nothing was compiled");
        return;
    }
    assert_eq!((code, explanations(&text)), (100, vec!["the cache is hnd, not nhd"]), "{text}");
}

#[test]
fn what_machine_code_cannot_be_asked_is_said() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(Path::new(ROOT).join("tests/made/params.cubin"), folder.path().join("params.cubin")).unwrap();
    let text = fs::read_to_string(Path::new(ROOT).join("tests/check/naive.toml")).unwrap();
    let (domain, _) = text.split_once("[[launch]]").unwrap();
    let code = ["source =", "ptx =", "[compile]", "arch =", "options ="];
    let lines = domain.lines().filter(|line| !code.iter().any(|key| line.starts_with(key)));
    let domain: String = lines.map(|line| format!("{line}\n")).collect();
    let launch = "[[launch]]\nentry = \"_Z9unmangledPf\"\ngrid = [\"1\", \"1\", \"1\"]\nblock = [\"1\", \"1\", \"1\"]\n\
                  args = [{ tensor = \"out\" }]\n";
    let text = domain.replacen("summary", "cubin = \"params.cubin\"\nsummary", 1) + launch;
    fs::write(folder.path().join("kernel.toml"), text).unwrap();
    let (code, text) = attnfuzz(folder.path(), &["check", "kernel.toml"]);
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("is launched as") && text.contains("cannot run: "), "{text}");
    assert!(
        text.contains("verdict: nothing could be asked of the kernel here: the emulator runs no machine code"),
        "{text}"
    );
}

/// Bugs that are no such mistake: nothing is made up for them.
#[test]
fn other_bugs_are_not_explained_away() {
    for name in ["m02_group_padded_to_power_of_two", "p03_no_normalisation", "p08_newest_key_dropped"] {
        let (code, text) = checked(&format!("kernels/mutants/gqa_decode/{name}.toml"));
        assert_eq!(code, 100, "{text}");
        assert!(explanations(&text).is_empty() && text.contains("none of the common mistakes"), "{text}");
    }
}

#[test]
fn from_source_to_a_manifest_that_agrees() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["naive.cu", "naive.ptx"] {
        fs::copy(Path::new(ROOT).join("tests/check").join(file), folder.path().join(file)).unwrap();
    }
    let (code, text) = attnfuzz(folder.path(), &["init", "naive.cu"]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("naive.toml: written, 1 kernel (from the PTX, with the names in naive.cu: NVRTC is not there")
            && text.contains("0 to do"),
        "{text}"
    );
    let manifest = fs::read_to_string(folder.path().join("naive.toml")).unwrap();
    assert!(
        manifest.contains("{ value = \"scale\", type = \"f32\" },  # guessed from the name: `sm_scale` (float)"),
        "{manifest}"
    );
    let (code, text) = attnfuzz(folder.path(), &["check", "naive.toml"]);
    assert_eq!(code, 0, "{text}");
    // Nothing is written over without being told to.
    let (code, text) = attnfuzz(folder.path(), &["init", "naive.cu"]);
    assert!(code == 2 && text.contains("naive.toml is there already: --force"), "{text}");
    assert_eq!(attnfuzz(folder.path(), &["init", "naive.cu", "--force"]).0, 0);
    // PTX with the source beside it has its names.
    let (_, text) = attnfuzz(folder.path(), &["init", "naive.ptx", "-o", "other.toml"]);
    assert!(text.contains("from the PTX, with the names in naive.cu") && text.contains("0 to do"), "{text}");
}

const DECODE: &str = "\
#include <cuda_fp16.h>
#include <cuda_bf16.h>
template <typename T, int HEAD_DIM>
__global__ void __launch_bounds__(32)
    decode(const T* q, const T* k, const T* v, T* out, int num_heads, int num_kv_heads, int seq_len, int max_seq, float scale)
{
    const int head = blockIdx.x;
    if (threadIdx.x != 0) return;
    float largest = -1e30f, sum = 0.0f, total[HEAD_DIM] = {};
    for (int token = 0; token < seq_len; token++) {
        const size_t row = ((size_t)(head / (num_heads / num_kv_heads)) * max_seq + token) * HEAD_DIM;
        float logit = 0.0f;
        for (int d = 0; d < HEAD_DIM; d++) logit += float(q[head * HEAD_DIM + d]) * float(k[row + d]);
        const float next = fmaxf(largest, logit * scale);
        const float old = expf(largest - next), weight = expf(logit * scale - next);
        for (int d = 0; d < HEAD_DIM; d++) total[d] = total[d] * old + weight * float(v[row + d]);
        sum = sum * old + weight;
        largest = next;
    }
    for (int d = 0; d < HEAD_DIM; d++) out[head * HEAD_DIM + d] = T(total[d] / sum);
}
";

/// Source alone: what it is called in the source is all that a manifest needs.
#[test]
fn a_template_is_instantiated_and_entries_for_several_types_are_one() {
    let folder = tempfile::tempdir().unwrap();
    let init = |source: &str| {
        fs::write(folder.path().join("decode.cu"), source).unwrap();
        let (code, text) = attnfuzz(folder.path(), &["init", "decode.cu", "--force"]);
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("1 kernel (signatures read, not compiled: NVRTC is not there"), "{text}");
        (fs::read_to_string(folder.path().join("decode.toml")).unwrap(), text)
    };
    let (manifest, text) = init(DECODE);
    assert!(text.contains("0 to do") && manifest.contains("\nsource = \"decode.cu\"\n\n[compile]"), "{manifest}");
    assert!(!manifest.contains("ptx =") && !manifest.contains("arch ="), "{manifest}");
    assert!(manifest.contains("entry = \"decode<{ELEMENT}, {head_dim}>\"  # guessed"), "{manifest}");
    assert!(
        manifest.contains("define.ELEMENT = {") && manifest.contains("dtype = [\"f32\", \"f16\", \"bf16\"]"),
        "{manifest}"
    );
    // Nothing is said to agree where nothing can be compiled.
    let (code, text) = attnfuzz(folder.path(), &["check", "decode.toml"]);
    assert!(code == 4 && text.contains("decode.cu has to be compiled, and nvrtc is not available"), "{text}");

    let (manifest, _) = init(&DECODE.replace("int HEAD_DIM>", "int TILES>"));
    assert!(
        manifest.contains("entry = \"TODO\"  # TODO: an instance of decode, template <typename T, int TILES>"),
        "{manifest}"
    );
    let plain = "const T* q, T* out, int head_dim) { }\n".replace("T*", "{0}*");
    let one = |name: &str, ty: &str| format!("__global__ void {name}({}", plain.replace("{0}", ty));
    let (manifest, _) = init(&(one("decode_bf16_x", "__nv_bfloat16") + &one("decode_f16_x", "half")));
    assert!(manifest.contains("entry = \"decode_{dtype}_x\"\n"), "{manifest}");
    assert!(manifest.contains("dtype = [\"f16\", \"bf16\"]"), "{manifest}");
}

/// From a template's source to a verdict with nothing done by hand. Without a compiler that is no pass.
#[test]
fn a_template_runs_as_init_leaves_it() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("decode.cu"), DECODE).unwrap();
    if let Err(missing) = Nvrtc::find() {
        let (_, text) = with_nvrtc(folder.path(), &["init", "decode.cu"]);
        assert!(text.contains("0 to do"), "{text}");
        let (code, text) = with_nvrtc(folder.path(), &["check", "decode.toml"]);
        assert!(code == 4 && text.contains(&missing.to_string()), "{text}");
        println!("no compiler: nothing was compiled");
        return;
    }
    // PTX of the same name may be of another day: it is not taken.
    fs::write(folder.path().join("decode.ptx"), "stale").unwrap();
    let (code, text) = with_nvrtc(folder.path(), &["init", "decode.cu"]);
    assert!(code == 0 && text.contains("1 kernel (compiled by NVRTC"), "{text}");
    let (code, text) = with_nvrtc(folder.path(), &["check", "decode.toml"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.matches("   = agrees").count() == 3 && text.contains("decode<float, 64>"), "{text}");
}

#[test]
fn what_cannot_be_guessed_is_to_do_and_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let ptx = fs::read_to_string(Path::new(ROOT).join("tests/check/naive.ptx")).unwrap();
    let mangled = "_Z5naivePKfS0_S0_Pfiiiiif";
    fs::write(
        folder.path().join("alone.ptx"),
        ptx.replace("naive(", &format!("{mangled}(")).replace("naive_param", &format!("{mangled}_param")),
    )
    .unwrap();
    let (code, text) = attnfuzz(folder.path(), &["init", "alone.ptx"]);
    assert_eq!(code, 0, "{text}");
    let manifest = fs::read_to_string(folder.path().join("alone.toml")).unwrap();
    let entry = "entry = \"_Z5naivePKfS0_S0_Pfiiiiif\"  # naive(float const*, float const*, float const*, float*, int, int, int, int, int, float)";
    assert!(manifest.contains(entry), "{manifest}");
    assert!(manifest.contains("{ tensor = \"q\" },  # guessed from the order: float const*"), "{manifest}");
    assert!(manifest.contains("block = [\"32\", \"1\", \"1\"]  # guessed from maxntid"), "{manifest}");
    let (code, text) = attnfuzz(folder.path(), &["check", "alone.toml"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("6 lines are left to do") && text.contains("parameter 6, int"), "{text}");
    let (code, text) = attnfuzz(folder.path(), &["fuzz", "alone.toml"]);
    assert!(code == 2 && text.contains("TODO"), "{text}");
    // Finished by hand, it is a manifest like any other.
    let mut finished = manifest.replace("grid = [\"TODO\"", "grid = [\"num_q_heads\"");
    for value in ["num_q_heads", "num_kv_heads", "kv_len_max", "capacity", "head_dim"] {
        finished = finished.replacen("value = \"TODO\"", &format!("value = \"{value}\""), 1);
    }
    fs::write(folder.path().join("alone.toml"), finished).unwrap();
    let (code, text) = attnfuzz(folder.path(), &["check", "alone.toml"]);
    assert_eq!(code, 0, "{text}");
}

#[test]
fn files_that_are_none_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("empty.cu"), "int main() { return 0; }").unwrap();
    fs::write(folder.path().join("broken.ptx"), ".version 8.0\n.target").unwrap();
    for (args, expected) in [
        (&["init", "empty.cu"][..], "expected a kernel, found none"),
        (&["init", "broken.ptx"], "broken.ptx: "),
        (&["init", "absent.cu"], "can't read absent.cu"),
        (&["init", "kernel.txt"], "expected a .cu or .ptx file"),
        (&["check", "absent.toml"], "can't read absent.toml"),
    ] {
        let (code, text) = attnfuzz(folder.path(), args);
        assert!(code == 2 && text.contains(expected), "{args:?}: {text}");
    }
    let folder = changed("tests/check/naive.toml", &[]);
    fs::remove_file(folder.path().join("naive.ptx")).unwrap();
    let (code, text) = attnfuzz(folder.path(), &["check", "kernel.toml"]);
    assert!(code == 2 && text.contains("attnfuzz compile kernel.toml makes it"), "{text}");
}
