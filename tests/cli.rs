//! The command line, run as a user runs it: exit codes, messages, files.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const M01: &str = "kernels/mutants/gqa_decode/m01_head_mod.toml";

fn attnfuzz(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_attnfuzz"))
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("ATTNFUZZ_NVRTC")
        .output()
        .unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it ends by itself")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Runs a command that must be refused as wrong use: exit code 2, one line, no panic.
fn refused(args: &[&str]) -> String {
    let output = attnfuzz(args);
    let message = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(code(&output), 2, "{args:?}: {message}");
    assert!(message.starts_with("error: ") && !message.contains("panicked"), "{message}");
    message
}

#[test]
fn a_clean_campaign_exits_0_and_ends_with_the_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let regressions = folder.path().to_string_lossy();
    let output =
        attnfuzz(&["fuzz", "gqa_decode", "--backend", "emulator", "--cases", "40", "--regressions", &regressions]);
    let text = stdout(&output);
    assert_eq!(code(&output), 0, "{text}");
    assert!(
        text.contains("worst error/bound")
            && text.lines().last().unwrap().starts_with("verdict: no finding in 40 cases"),
        "{text}"
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn asked_for_relations_are_tabled_and_a_broken_one_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let regressions = folder.path().to_string_lossy();
    let fuzz = |kernel: &str, cases: &str, relations: &str| {
        let backend = ["--backend", "emulator", "--regressions", &regressions];
        let args = [&["fuzz", kernel, "--cases", cases, "--relations", relations], &backend[..]].concat();
        let output = attnfuzz(&args);
        (code(&output), stdout(&output))
    };
    let (code, text) = fuzz("gqa_decode", "40", "all");
    assert_eq!(code, 0, "{text}");
    for relation in ["keys-permuted", "lses-merged", "scale-probe", "worst difference/tolerance"] {
        assert!(text.contains(relation), "{relation}: {text}");
    }
    // Outputs are clamped where no value of a plain case reaches, but 64 times V does.
    let (code, text) = fuzz("kernels/mutants/gqa_decode/p15_output_clamped.toml", "200", "values-scaled");
    assert_eq!(code, 100, "{text}");
    assert!(text.contains("error: values-scaled doesn't hold in `gqa_decode.p15_output_clamped`"), "{text}");
    assert!(text.contains("relation=values-scaled"), "{text}");
    let wrong = refused(&["fuzz", "gqa_decode", "--relations", "keys-permuted,keys"]);
    assert!(
        wrong.contains("--relations: expected all, or some of keys-permuted, ") && wrong.contains("found \"keys\"")
    );
}

#[test]
fn a_finding_exits_100_is_saved_and_replays() {
    let folder = tempfile::tempdir().unwrap();
    let regressions = folder.path().to_string_lossy();
    let fuzz = ["fuzz", M01, "--backend", "emulator", "--cases", "500", "--regressions", &regressions];
    let output = attnfuzz(&fuzz);
    let text = stdout(&output);
    assert_eq!(code(&output), 100, "{text}");
    assert!(text.contains("error: wrong value in `out` of `gqa_decode.m01_head_mod` on emulator"), "{text}");
    assert!(text.contains("   = replay: attnfuzz replay "), "{text}");

    let replay = attnfuzz(&["replay", &regressions, "--backend", "emulator"]);
    assert_eq!(code(&replay), 100);
    assert!(stdout(&replay).starts_with("still fails: "), "{}", stdout(&replay));

    let json = attnfuzz(&["replay", &regressions, "--backend", "emulator", "--format", "jsonl"]);
    let line: serde_json::Value = serde_json::from_str(stdout(&json).trim()).unwrap();
    assert_eq!(line["result"], "still-fails");

    // The same campaign again finds the same case and knows it.
    assert_eq!(code(&attnfuzz(&fuzz)), 100);
    let file = walk(folder.path());
    assert_eq!(file.len(), 1, "{file:?}");
    let fixed = std::fs::read_to_string(&file[0]).unwrap().replace(M01, "gqa_decode");
    std::fs::write(&file[0], fixed).unwrap();
    let replay = attnfuzz(&["replay", &file[0], "--backend", "emulator"]);
    assert_eq!(code(&replay), 0);
    assert!(stdout(&replay).starts_with("fixed: "), "{}", stdout(&replay));
}

fn walk(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path.to_string_lossy().into_owned()) }
    }
    files
}

#[test]
fn jsonl_is_json_in_every_line_and_the_same_for_any_number_of_jobs() {
    let folder = tempfile::tempdir().unwrap();
    let regressions = folder.path().to_string_lossy();
    let run = |jobs| {
        let args = ["fuzz", M01, "--backend", "emulator", "--cases", "60", "--seed", "5", "--format", "jsonl"];
        let output = attnfuzz(&[&args[..], &["--jobs", jobs, "--regressions", &regressions]].concat());
        let lines: Vec<serde_json::Value> = stdout(&output).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.first().unwrap()["event"], "started");
        assert_eq!(lines.last().unwrap()["event"], "finished");
        let found = lines.iter().find(|l| l["event"] == "found").unwrap();
        let row = lines.iter().find(|l| l["event"] == "row").unwrap();
        (found["case"].clone(), found["found_by"].clone(), row["cases"].clone(), row["worst_ratio"].clone())
    };
    assert_eq!(run("1"), run("4"));
}

#[test]
fn progress_is_told_for_each_kernel() {
    let folder = tempfile::tempdir().unwrap();
    let regressions = folder.path().to_string_lossy();
    let kernels = ["gqa_decode", "kernels/variants/online_keys.toml"];
    let args =
        [&["fuzz"], &kernels[..], &["--backend", "emulator", "--cases", "20", "--regressions", &regressions]].concat();
    let text = stdout(&attnfuzz(&[&args[..], &["--progress", "0s"]].concat()));
    let told = |text: &str, kernel: &str| {
        text.lines()
            .any(|line| line.contains(&format!(" s: {kernel}")) && line.contains("/s, 0 skipped, worst error/bound"))
    };
    assert!(told(&text, "gqa_decode on emulator: ") && told(&text, "online_keys"), "{text}");
    let quiet = stdout(&attnfuzz(&[&args[..], &["--progress", "1h"]].concat()));
    assert!(!told(&quiet, "gqa_decode"), "{quiet}");
    let lines = stdout(&attnfuzz(&[&args[..], &["--format", "jsonl"]].concat()));
    let last = lines.lines().rfind(|line| line.contains(r#""event":"progress""#)).unwrap();
    let last: serde_json::Value = serde_json::from_str(last).unwrap();
    let rows = last["rows"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[0]["kernel"]), (2, &"gqa_decode".into()));
    let cases = rows.iter().map(|row| row["cases"].as_u64().unwrap()).sum::<u64>();
    assert!(cases > 0 && cases <= last["cases"].as_u64().unwrap(), "{last}");
}

/// Findings of campaigns with other numbers of threads are the same files to the byte, and come back with the same bits each
/// time, with vectors and without.
#[test]
fn findings_and_their_bits_do_not_depend_on_threads_or_vectors() {
    let folder = tempfile::tempdir().unwrap();
    let found = folder.path().join("found");
    let found = found.to_string_lossy();
    let mutants =
        ["gqa_decode/m01_head_mod", "gqa_decode/m46_barrier_dropped_between_tiles", "gqa_prefill/m51_scale_ignored"];
    let mutants: Vec<String> = mutants.iter().map(|name| format!("kernels/mutants/{name}.toml")).collect();
    let campaign = |jobs: &str| {
        let _ = std::fs::remove_dir_all(&*found);
        let kernels: Vec<&str> = mutants.iter().map(String::as_str).collect();
        let knobs = ["--backend", "emulator", "--cases", "30", "--jobs", jobs, "--regressions", &found];
        assert_eq!(code(&attnfuzz(&[&["fuzz"], &kernels[..], &knobs].concat())), 100);
        let mut files: Vec<_> =
            walk(Path::new(&*found)).into_iter().map(|f| (f.clone(), std::fs::read(f).unwrap())).collect();
        files.sort();
        files
    };
    let files = campaign("1");
    assert!(files.len() >= mutants.len());
    assert_eq!(campaign("3"), files);
    for vectors in ["", "none"] {
        let replay = Command::new(env!("CARGO_BIN_EXE_attnfuzz"))
            .args(["replay", &*found, "--backend", "emulator", "--repeat", "3", "--format", "jsonl"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("ATTNFUZZ_VECTORS", vectors)
            .output()
            .unwrap();
        assert_eq!(code(&replay), 100);
        let text = stdout(&replay);
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let replayed: Vec<_> = lines.iter().filter(|line| line["event"] == "replayed").collect();
        assert_eq!(replayed.len(), files.len());
        for line in replayed {
            assert_eq!((&line["result"], &line["bits"]), (&"still-fails".into(), &"as-saved".into()), "{line}");
        }
    }
}

#[test]
fn replay_tells_other_bits_and_findings_that_may_be_one_bug() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_string_lossy();
    let shrink = |line: &str| {
        let output = attnfuzz(&[
            "shrink",
            line,
            "--kernel",
            M01,
            "--backend",
            "emulator",
            "--max-shrink",
            "0",
            "--regressions",
            &root,
        ]);
        assert_eq!(code(&output), 100);
        stdout(&output)
    };
    let first = shrink("kv=2 g=2 d=3 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0");
    assert!(!first.contains("perhaps"), "{first}");
    let [file] = &walk(folder.path())[..] else { panic!("one file") };
    let replay = || stdout(&attnfuzz(&["replay", &root, "--backend", "emulator"]));
    assert!(replay().starts_with("still fails: ") && !replay().contains("bits") && !replay().contains("perhaps"));

    let second = shrink("kv=2 g=2 d=2 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0");
    let line = format!("   = perhaps the same bug as {file}, by signature; this case is simpler\n");
    assert!(second.contains(&line), "{second}");
    let text = replay();
    let share = format!("perhaps one bug: 2 findings of {M01} share the signature `diverge out value`:\n   ");
    assert!(text.contains(&share), "{text}");

    let saved = std::fs::read_to_string(file).unwrap();
    let digest = saved.lines().find_map(|line| line.strip_prefix("digest = ")).expect("a digest");
    std::fs::write(file, saved.replace(digest, "\"0123456789abcdef\"")).unwrap();
    let output = attnfuzz(&["replay", file, "--backend", "emulator"]);
    assert_eq!(code(&output), 100);
    let text = stdout(&output);
    assert!(text.starts_with(&format!("still fails, with other bits than when it was saved: {file}\n")), "{text}");
    assert!(
        text.contains(&format!("digest of the bits: {}, saved as 0123456789abcdef", digest.trim_matches('"'))),
        "{text}"
    );
    assert!(refused(&["replay", "--repeat", "0"]).contains("--repeat"));
}

/// The four words of replay, and the exit code of each and of mixtures.
#[test]
fn replay_tells_four_ends_apart() {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string("examples/findings/m01_head_mod.toml").unwrap();
    let kernel = format!("{}/{M01}", env!("CARGO_MANIFEST_DIR"));
    let still = text.replace(M01, &kernel);
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.to_string_lossy().into_owned()
    };
    let files = [
        ("still fails", write("still.toml", &still)),
        ("fails differently", write("other.toml", &still.replace("diverge out value", "diverge out nan"))),
        ("fixed", write("fixed.toml", &still.replace(&kernel, "gqa_decode"))),
        ("cannot run", write("gone.toml", &still.replace(&kernel, "no/such/kernel.toml"))),
    ];
    for (chosen, expected) in
        [(&[0][..], 100), (&[1], 101), (&[2], 0), (&[3], 4), (&[0, 1, 2, 3], 100), (&[1, 2, 3], 101), (&[2, 3], 3)]
    {
        let mut args = vec!["replay", "--backend", "emulator"];
        args.extend(chosen.iter().map(|&i| files[i].1.as_str()));
        let output = attnfuzz(&args);
        assert_eq!(code(&output), expected, "{chosen:?}: {}", stdout(&output));
        for &i in chosen {
            assert!(stdout(&output).contains(&format!("{}: ", files[i].0)), "{chosen:?}: {}", stdout(&output));
        }
    }
}

#[test]
fn a_case_that_show_can_not_judge_is_no_pass() {
    let case = "kv=1 g=1 d=8 past=3 dtype=f16 cache=hnd:4 scale=1 values=flat:0";
    let show = |kernel: &str| attnfuzz(&["show", case, "--kernel", kernel, "--backend", "emulator"]);
    let outside = show("gqa_decode_paged");
    assert_eq!(code(&outside), 4);
    assert!(stdout(&outside).contains("not judged: outside the kernel's domain"), "{}", stdout(&outside));
    assert_eq!(code(&show("gqa_decode")), 0);
    assert_eq!(code(&show(M01)), 0);
}

#[test]
fn shrink_makes_a_case_smaller_and_saves_it() {
    let folder = tempfile::tempdir().unwrap();
    let regressions = folder.path().to_string_lossy();
    let case = "kv=3 g=4 d=40 past=5,0 dtype=f16 cache=nhd:9 scale=0.5 values=normal:3";
    let shrink = |kernel: &str, case: &str| {
        attnfuzz(&["shrink", case, "--kernel", kernel, "--backend", "emulator", "--regressions", &regressions])
    };
    let output = shrink(M01, case);
    assert_eq!(code(&output), 100);
    assert!(stdout(&output).contains("kv=2 g=2 d=1 past=0 dtype=f32"), "{}", stdout(&output));
    let saved = attnfuzz(&["shrink", &regressions, "--backend", "emulator", "--regressions", &regressions]);
    assert_eq!(code(&saved), 100);
    assert!(stdout(&saved).contains("not shrunk: nothing smaller failed"), "{}", stdout(&saved));
    assert_eq!(code(&shrink("gqa_decode", case)), 0);
    let outside = case.replace("d=40", "d=400");
    assert_eq!(code(&shrink("gqa_decode", &outside)), 4);
    assert!(refused(&["shrink", case]).contains("--kernel"));
    assert!(refused(&["shrink", "no/such/file.toml"]).contains("no/such/file.toml"));
    assert!(
        refused(&["shrink", &case.replace("kv=3", "kv=x"), "--kernel", M01]).contains("kv: expected a whole number")
    );
}

#[cfg(unix)]
#[test]
fn a_reader_that_leaves_early_is_no_panic() {
    use std::io::Read;
    use std::os::unix::process::ExitStatusExt;
    let mut child = Command::new(env!("CARGO_BIN_EXE_attnfuzz"))
        .args(["cases", "gqa_decode", "--cases", "20000"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 64]).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.signal(), Some(13), "SIGPIPE");
}

#[test]
fn nothing_to_replay_exits_4() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(code(&attnfuzz(&["replay", &folder.path().to_string_lossy()])), 4);
}

#[test]
fn wrong_use_exits_2_with_one_message() {
    assert!(refused(&["fuzz", "nope"]).contains("unknown kernel \"nope\": expected one of gqa_decode"));
    assert!(refused(&["fuzz", "--jobs", "0"]).contains("--jobs"));
    assert!(refused(&["fuzz", "--cases", "0"]).contains("--cases"));
    assert!(refused(&["fuzz", "--time", "soon"]).contains("--time"));
    assert!(refused(&["fuzz", "--backend", "tpu"]).contains("--backend"));
    assert!(refused(&["frobnicate"]).contains("frobnicate"));
    assert!(refused(&["fuzz", "Cargo.toml"]).contains("Cargo.toml:"));
    assert!(refused(&["fuzz", "kernels/gqa_decode/kernel.ptx"]).contains("expected the path of a manifest"));
    assert!(refused(&["fuzz", "--regressions", "/proc/no/such"]).contains("can't write below /proc/no/such"));
    assert!(refused(&["fuzz", "src"]).contains("expected a file"));
    assert!(refused(&["replay", "no/such/file.toml"]).contains("no/such/file.toml"));
    assert!(refused(&["replay", "Cargo.toml"]).contains("missing field `format`"));
    assert!(refused(&["show", "kv=1"]).contains("\"d\" is missing"));
    assert!(refused(&["compile", "nope"]).contains("unknown kernel"));
    assert!(refused(&["mutate", "nope"]).contains("unknown kernel \"nope\""));
    assert!(refused(&["mutate", "--budget", "soon"]).contains("--budget"));
    assert!(refused(&["mutate", "--mutants", "0"]).contains("expected a number from 1, or all"));
    assert!(refused(&["mutate", "--fail-under", "101"]).contains("expected a number from 0 to 100"));
    assert!(refused(&["mutate", "--only", "no:1"]).contains("no mutant is called \"no:1\""));
}

#[test]
fn a_mutation_score_exits_0_unless_it_is_below_what_was_asked_for() {
    // A sum over the lanes above is right in lane 0, the only one that stores it.
    let (killed, survived) = ("mul-add:433", "shuffle-mode:402:bfly-down");
    let mutate = |only: &str, more: &[&str]| {
        attnfuzz(&[&["mutate", "gqa_decode", "--cases", "12", "--only", only, "--format", "jsonl"], more].concat())
    };
    let lines = |output: &Output| -> Vec<serde_json::Value> {
        stdout(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let dead = mutate(killed, &["--fail-under", "100"]);
    assert_eq!(code(&dead), 0, "{}", stdout(&dead));
    let dead = lines(&dead);
    assert_eq!((&dead[0]["status"], &dead[0]["before"]), (&"killed".into(), &"mul.f32 %f258, %f49, %f184;".into()));
    assert_eq!((&dead.last().unwrap()["event"], &dead.last().unwrap()["score"]), (&"score".into(), &100.0.into()));
    let alive = mutate(survived, &[]);
    assert_eq!(code(&alive), 0, "{}", stdout(&alive));
    assert_eq!(lines(&alive)[0]["status"], "survived");
    assert_eq!(code(&mutate(survived, &["--fail-under", "0.5"])), 100);
    let list = attnfuzz(&["mutate", "gqa_decode", "--only", killed, "--list"]);
    assert_eq!(
        stdout(&list).lines().map(str::trim).collect::<Vec<_>>()[1..],
        ["- mul.f32 %f258, %f49, %f184;", "+ add.f32 %f258, %f49, %f184;"]
    );
}

#[test]
fn no_gpu_never_reads_as_a_pass() {
    let has_gpu = attnfuzz::backend::cuda::devices().is_ok_and(|devices| !devices.is_empty());
    let folder = tempfile::tempdir().unwrap();
    let regressions = folder.path().to_string_lossy();
    for backend in ["cuda", "all"] {
        let args = ["fuzz", "--backend", backend, "--cases", "1", "--regressions", &regressions];
        if has_gpu {
            assert!(stdout(&attnfuzz(&args)).contains("cuda:0"));
        } else {
            assert!(refused(&args).contains("no GPU to run on"));
        }
    }
}

#[test]
fn show_explains_a_case_and_dumps_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let case = "kv=2 g=3 d=40 past=2,0 dtype=bf16 cache=nhd:4+1 scale=0.158 steps=2 values=normal:3";
    let dump = folder.path().to_string_lossy();
    let output = attnfuzz(&["show", case, "--kernel", "gqa_decode", "--backend", "emulator", "--dump", &dump]);
    let text = stdout(&output);
    assert_eq!(code(&output), 0, "{text}");
    assert!(
        text.contains("6 query heads over 2 KV heads") && text.contains("gqa_decode on emulator: agrees"),
        "{text}"
    );
    let bytes = std::fs::read(&walk(folder.path())[0]).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("k_cache").unwrap().shape(), [2, 2, 4, 40]);
    assert_eq!(tensors.tensor("out.emulator.1").unwrap().shape(), [2, 6, 40]);
    let (subject, reference) = (tensors.tensor("out.emulator.0").unwrap(), tensors.tensor("out.reference.0").unwrap());
    assert_eq!(subject.data().len() * 2, reference.data().len());
}

#[test]
fn show_dumps_log_sum_exps_of_kernels_that_return_them() {
    let folder = tempfile::tempdir().unwrap();
    let case = "kv=2 g=3 d=8 past=2,0 dtype=bf16 cache=nhd:4 scale=0.158 steps=2 knobs=num_splits:2 values=normal:3";
    let dump = folder.path().to_string_lossy();
    let kernel = ["--kernel", "gqa_decode_split_kv", "--backend", "emulator", "--dump", &dump];
    let text = stdout(&attnfuzz(&[&["show", case][..], &kernel].concat()));
    assert!(text.contains("num_splits is 2") && text.contains("gqa_decode_split_kv on emulator: agrees"), "{text}");
    let bytes = std::fs::read(&walk(folder.path())[0]).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |name: &str| -> Vec<f32> {
        let tensor = tensors.tensor(name).unwrap();
        assert_eq!(tensor.shape(), [2, 6]);
        tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    for (subject, reference) in numbers("lse.emulator.1").into_iter().zip(numbers("lse.reference.1")) {
        assert!((subject - reference).abs() < 1e-5, "{subject} {reference}");
    }
}

#[test]
fn show_explains_a_kernel_and_the_constants_its_contract_names() {
    let text = stdout(&attnfuzz(&["show", "gqa_decode_split_kv"]));
    for part in [
        "num_splits    1..=128 (knob)",
        "workspace     partial_sum_v of batch * num_q_heads * num_splits * v_head_dim elements",
        "lse           returned, base e",
        "[numerics]",
        "e0 = \"EXPF\"",
        "EXPF = 5*2^-24 = 2.9802e-7: CUDA programming guide",
        "DIV_RN = 2^-24",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("DIV_APPROX ="), "{text}");
    assert!(stdout(&attnfuzz(&["show", "kernels/gqa_decode/kernel.toml"])).contains("gqa_decode: incremental"));
}

#[test]
fn help_has_examples_and_doctor_names_what_is_missing() {
    assert!(stdout(&attnfuzz(&["--help"])).contains("Examples:"));
    let doctor = attnfuzz(&["doctor"]);
    assert_eq!(code(&doctor), 0);
    for word in ["emulator", "driver", "NVRTC"] {
        assert!(stdout(&doctor).contains(word));
    }
    assert!(stdout(&attnfuzz(&["kernels"])).contains("gqa_decode"));
}

#[test]
fn an_input_of_the_fuzz_target_is_replayed_and_shrunk() {
    let folder = tempfile::tempdir().unwrap();
    let regressions = folder.path().join("regressions").display().to_string();
    let crash = folder.path().join("crash-1");
    let file = crash.to_str().unwrap();
    let line = "kv=2 g=3 d=8 past=4 dtype=f16 cache=hnd:5 scale=0.35355338 values=normal:1";
    std::fs::write(&crash, format!("gqa_decode {line}")).unwrap();
    let output = attnfuzz(&["replay", "--backend", "emulator", file]);
    assert_eq!((code(&output), stdout(&output)), (0, format!("agrees: {file}\n   = gqa_decode on emulator: {line}\n")));
    let output = attnfuzz(&["shrink", "--backend", "emulator", "--kernel", M01, "--regressions", &regressions, file]);
    assert_eq!(code(&output), 100, "{}", stdout(&output));
    assert!(
        stdout(&output).contains("error: wrong value in `out` of `gqa_decode.m01_head_mod`"),
        "{}",
        stdout(&output)
    );
    // Bytes, as libFuzzer's own mutations make them.
    std::fs::write(&crash, [2, 3, 0, 1, 9, 200, 0, 7]).unwrap();
    let output = attnfuzz(&["replay", "--backend", "emulator", "--format", "jsonl", file]);
    assert_eq!(code(&output), 0, "{}", stdout(&output));
    assert!(stdout(&output).contains("\"result\":\"agrees\""), "{}", stdout(&output));
    for (junk, message) in
        [("some words", "expected KERNEL CASE in one line"), ("gqa_decode kv=2 g=3", "key \"d\" is missing")]
    {
        std::fs::write(&crash, junk).unwrap();
        for command in ["replay", "shrink"] {
            let refused = refused(&[command, file]);
            assert!(refused.contains("crash-1: ") && refused.contains(message), "{refused}");
        }
    }
}

#[test]
fn coverage_names_what_is_missed_and_a_failing_kernel() {
    let folder = tempfile::tempdir().unwrap();
    let (corpus, lcov) = (folder.path().join("corpus"), folder.path().join("coverage.info"));
    std::fs::create_dir(&corpus).unwrap();
    let line = "kv=2 g=1 d=8 past=3 dtype=f16 cache=hnd:4 scale=1 values=normal:1";
    std::fs::write(corpus.join("a"), format!("gqa_decode {line}\n")).unwrap();
    std::fs::write(corpus.join("b"), format!("gqa_prefill {line}")).unwrap();
    let (corpus_arg, lcov_arg) = (corpus.to_string_lossy(), lcov.to_string_lossy());
    let output = attnfuzz(&["coverage", "gqa_decode", "--corpus", &corpus_arg, "--lcov", &lcov_arg]);
    let text = stdout(&output);
    assert_eq!(code(&output), 0, "{text}");
    assert!(text.contains("never launched: 2 of 3 entries: gqa_decode_bf16, gqa_decode_f32"), "{text}");
    assert!(text.contains("##### ") && text.lines().last().unwrap().starts_with("coverage of gqa_decode: "), "{text}");
    assert!(text.contains("; 1 cases, "), "{text}");
    assert!(std::fs::read_to_string(&lcov).unwrap().contains("kernels/gqa_decode/kernel.cu\n"));

    let output = attnfuzz(&["coverage", M01, "--cases", "40", "--format", "jsonl"]);
    assert_eq!(code(&output), 100);
    let events = stdout(&output);
    assert!(events.lines().any(|line| line.starts_with("{\"case\":") && line.contains("\"failing\"")), "{events}");

    std::fs::write(corpus.join("c"), "\nkv=2 g=x").unwrap();
    let wrong = refused(&["coverage", "gqa_decode", "--corpus", &corpus_arg]);
    assert!(wrong.contains("--corpus: ") && wrong.contains("c: line 2: "), "{wrong}");
    let wrong = refused(&["coverage", "gqa_decode", "--lcov", "/nowhere/at/all.info"]);
    assert!(wrong.contains("--lcov: can't write /nowhere/at/all.info"), "{wrong}");
    let output = attnfuzz(&["coverage", "gqa_decode", "--backend", "cuda"]);
    assert_eq!(code(&output), 2);
}

#[test]
fn what_is_assumed_of_a_kernel_is_said_first() {
    let findings = tempfile::tempdir().unwrap();
    let fuzz = |kernel: &str| {
        let output = attnfuzz(&["fuzz", kernel, "--cases", "3", "--regressions", &findings.path().to_string_lossy()]);
        assert_eq!(code(&output), 0, "{output:?}");
        stdout(&output).lines().nth(1).unwrap_or_default().to_owned()
    };
    let line = fuzz("tests/manifests/params.toml");
    assert!(line.starts_with("numerics of params: nothing stated, assumed: binary32 accumulation"), "{line}");
    assert!(!fuzz("gqa_decode").contains("numerics"));
}

#[test]
fn code_that_can_not_be_made_or_run_here_is_no_pass() {
    let findings = tempfile::tempdir().unwrap();
    let fuzz = |kernel: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_attnfuzz"))
            .args(["fuzz", kernel, "--cases", "3", "--regressions", &findings.path().to_string_lossy()])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("ATTNFUZZ_NVRTC", findings.path().join("libnvrtc.so.12"))
            .output()
            .unwrap();
        assert_eq!(code(&output), 4, "{output:?}");
        assert!(stdout(&output).contains("verdict: none, no case was run"), "{output:?}");
        stdout(&output)
    };
    let text = fuzz("tests/made/decode.toml");
    assert!(text.contains("decode.cu has to be compiled, and nvrtc is not available: "), "{text}");
    let cubin = findings.path().join("k.toml");
    fs::copy("tests/made/params.cubin", findings.path().join("params.cubin")).unwrap();
    let manifest = fs::read_to_string("tests/made/decode.toml").unwrap();
    let domain = &manifest[manifest.find("[domain]").unwrap()..manifest.find("[[launch]]").unwrap()];
    let launch =
        "[[launch]]\nentry = \"_Z9unmangledPf\"\ngrid = [\"1\", \"1\", \"1\"]\nblock = [\"1\", \"1\", \"1\"]\n";
    let text = format!("name = \"k\"\ncubin = \"params.cubin\"\n{domain}{launch}args = [{{ tensor = \"out\" }}]\n");
    fs::write(&cubin, text).unwrap();
    let text = fuzz(&cubin.to_string_lossy());
    assert!(text.contains("params.cubin is machine code, which only a GPU runs"), "{text}");
    for command in [&["coverage"][..], &["mutate"], &["fuzz", "--guided", "--cases", "1"]] {
        let arguments = [command, &["tests/made/decode.toml"]].concat();
        assert!(refused(&arguments).contains("compiled_decode has no PTX of its own: it is made for each case"));
    }
}
