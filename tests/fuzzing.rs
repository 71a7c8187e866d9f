//! What a coverage-guided fuzzer needs: cases near a case, inputs and their decoding, a corpus, seeds.

use crate::generate::{knobbed_domain, narrow_domain, paged_domain, serving_domain, wide_domain};
use attnfuzz::backend::{Emulator, Kernel, shipped_names};
use attnfuzz::case::{Case, Domain};
use attnfuzz::corpus::{self, Entry};
use attnfuzz::generate::{Space, cost};
use attnfuzz::harness::{Failure, Harness, Target, seeds};
use attnfuzz::oracle::{Verdict, examine};
use proptest::prelude::*;
use proptest::sample::select;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

static SHIPPED: LazyLock<Target> = LazyLock::new(|| Target::new(shipped_names().into_iter().map(emulated).collect()));

fn emulated(name: &str) -> Harness {
    Harness::emulated(name).unwrap()
}

fn domains() -> Vec<Domain> {
    let shipped = shipped_names().into_iter().map(|name| emulated(name).kernel().manifest.domain.clone());
    [wide_domain(), narrow_domain(), knobbed_domain(), serving_domain(), paged_domain()]
        .into_iter()
        .chain(shipped)
        .collect()
}

/// The words of a case's line.
fn words(case: &Case) -> BTreeMap<String, String> {
    let line = case.to_string();
    line.split(' ').map(|word| word.split_once('=').unwrap()).map(|(key, value)| (key.into(), value.into())).collect()
}

/// How many keys two lines differ in.
fn distance(one: &Case, other: &Case) -> usize {
    let (one, other) = (words(one), words(other));
    let keys: BTreeSet<_> = one.keys().chain(other.keys()).collect();
    keys.into_iter().filter(|&key| one.get(key) != other.get(key)).count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_mutation_is_another_case_of_the_domain_and_no_dearer(
        domain in select(domains()), seed: u64, start in 0u64..1000, budget in select(vec![64u64, 2048, 230_000]),
    ) {
        let space = Space::new(&domain).unwrap().with_budget(budget);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut case = space.case_at(7, start);
        for _ in 0..200 {
            let next = space.mutate(&case, &mut rng);
            prop_assert_eq!(domain.excludes(&next), None, "{}", next);
            prop_assert_ne!(&next, &case);
            prop_assert!(cost(&next) <= cost(&case).max(budget), "{} costs {}", next, cost(&next));
            prop_assert_eq!(&next.to_string().parse::<Case>().unwrap(), &next);
            case = next;
        }
    }

    /// What no domain holds is pulled into it first.
    #[test]
    fn any_case_can_be_mutated_and_spliced(from in select(domains()), domain in select(domains()), seed: u64) {
        let space = Space::new(&domain).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let [one, other] = [0, 1].map(|index| Space::new(&from).unwrap().case_at(seed, index));
        for case in [space.mutate(&one, &mut rng), space.splice(&one, &other, &mut rng), space.downsize(&one)] {
            prop_assert_eq!(domain.excludes(&case), None, "{}", case);
        }
    }

    /// Fields that depend on no other are one parent's or the other's.
    #[test]
    fn a_splice_has_fields_of_both(domain in select(domains()), seed: u64) {
        let space = Space::new(&domain).unwrap();
        let [one, other] = [0, 1].map(|index| space.case_at(seed, index));
        let child = space.splice(&one, &other, &mut ChaCha8Rng::seed_from_u64(seed));
        prop_assert!(child.dtype == one.dtype || child.dtype == other.dtype);
        prop_assert!(child.poison == one.poison || child.poison == other.poison);
        prop_assert!([one.schedule_seed, other.schedule_seed].contains(&child.schedule_seed));
        prop_assert!([one.relation, other.relation].contains(&child.relation));
        prop_assert!([one.values.seed, other.values.seed].contains(&child.values.seed));
    }

    /// The limit holds for what is decoded and mutated, whatever the limit knows of a case.
    #[test]
    fn a_limit_is_kept(domain in select(domains()), seed: u64, bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let weight = |case: &Case| {
            u64::from(case.shape.batch() * case.shape.num_kv_heads) * case.knobs.values().map(|&n| u64::from(n)).product::<u64>()
        };
        let space = Space::new(&domain).unwrap().with_limit(40, weight);
        let mut case = space.arbitrary(&mut arbitrary::Unstructured::new(&bytes)).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let most = 40.max(weight(space.smallest()));
        for _ in 0..50 {
            prop_assert!(weight(&case) <= most, "{}", case);
            case = space.mutate(&case, &mut rng);
        }
    }

    #[test]
    fn any_bytes_are_a_case_or_text_that_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        match SHIPPED.decode(&bytes) {
            Ok((harness, case)) => prop_assert_eq!(harness.kernel().manifest.domain.excludes(&case), None),
            Err(_) => prop_assert!(std::str::from_utf8(&bytes).is_ok()),
        }
    }

    /// Mutations are text that fits, of whatever input, and the same for the same seed.
    #[test]
    fn a_mutated_input_is_an_entry(
        input in prop::collection::vec(any::<u8>(), 0..120), seed: u32, max_size in 0usize..1000,
    ) {
        let mut data = input.clone();
        data.resize(input.len().max(max_size), 0);
        let mut again = data.clone();
        let size = SHIPPED.mutate(&mut data, input.len(), max_size, seed);
        prop_assert!(size <= max_size);
        prop_assert_eq!(size, SHIPPED.mutate(&mut again, input.len(), max_size, seed));
        prop_assert_eq!(&data, &again);
        if max_size >= 600 {
            let text = std::str::from_utf8(&data[..size]).unwrap();
            let entry: Entry = text.parse().unwrap();
            prop_assert_eq!(SHIPPED.decode(text.as_bytes()).unwrap().1, entry.case);
        }
    }
}

#[test]
fn mutations_reach_every_field_that_a_domain_leaves_open() {
    let reached = |domain: &Domain| {
        let space = Space::new(domain).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut case = space.smallest().clone();
        let mut values: BTreeMap<String, HashSet<String>> = BTreeMap::new();
        for _ in 0..20_000 {
            case = space.mutate(&case, &mut rng);
            for (key, value) in words(&case) {
                let value = value.split([':', '+']).next().unwrap().to_owned();
                values.entry(key).or_default().insert(value);
            }
        }
        values
    };
    let of = |values: &BTreeMap<String, HashSet<String>>, key: &str| values.get(key).map_or(0, HashSet::len);
    let serving = reached(&serving_domain());
    for (key, least) in [
        ("kv", 20),
        ("g", 20),
        ("d", 50),
        ("dv", 50),
        ("past", 500),
        ("q", 500),
        ("causal", 1),
        ("window", 50),
        ("softcap", 30),
        ("sinks", 1),
        ("dtype", 3),
        ("cache", 4),
        ("pages", 50),
        ("scale", 50),
        ("values", 19),
        ("poison", 2),
        ("sched", 100),
        ("relation", 22),
    ] {
        assert!(of(&serving, key) >= least, "{key}: {:?}", serving.get(key));
    }
    let knobbed = reached(&knobbed_domain());
    assert!(of(&knobbed, "knobs") > 0 && of(&knobbed, "steps") > 3, "{knobbed:?}");
}

/// A walk that goes on from a mutation that is no further from the smallest case ends there: no field is a trap.
#[test]
fn the_smallest_case_is_reached_from_any() {
    for domain in domains() {
        let space = Space::new(&domain).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let mut case = space.case_at(5, 5);
        for step in 0.. {
            if case == *space.smallest() {
                break;
            }
            assert!(step < 100_000, "stuck at {case}, {:?}", space.smallest());
            let next = space.mutate(&case, &mut rng);
            if distance(&next, space.smallest()) <= distance(&case, space.smallest()) {
                case = next;
            }
        }
    }
}

const LINE: &str = "kv=2 g=3 d=8 past=4 dtype=f16 cache=hnd:5 scale=0.35355338 values=normal:1";

#[test]
fn text_names_its_kernel_and_case() {
    let (harness, case) = SHIPPED.decode(format!("gqa_decode {LINE}\n").as_bytes()).unwrap();
    assert_eq!((harness.kernel().name(), case.to_string().as_str()), ("gqa_decode", LINE));
    let error = |input: &[u8]| SHIPPED.decode(input).err().unwrap().to_string();
    assert_eq!(
        error(format!("mine {LINE}").as_bytes()),
        "unknown kernel \"mine\", expected one of gqa_decode, gqa_decode_paged, gqa_decode_split_kv, gqa_prefill; \
         ATTNFUZZ_KERNEL names any other"
    );
    assert!(error(b"# a heading").starts_with("expected KERNEL CASE in one line"));
    assert!(error(b"gqa_decode kv=0").starts_with("key \"d\" is missing"));
    // One byte that can't be printed is enough to be no text; nothing at all is the smallest case.
    assert!(SHIPPED.decode(b"# a heading\0").is_ok());
    assert_eq!(SHIPPED.decode(b"").unwrap().1, *emulated("gqa_decode").kernel().space().smallest());
}

#[test]
fn a_kernel_alone_takes_the_cases_of_others() {
    let mutant = "kernels/mutants/gqa_prefill/m23_no_rescale.toml";
    let target = Target::new(vec![emulated(mutant)]);
    let (harness, case) = target.decode(format!("gqa_decode {LINE}").as_bytes()).unwrap();
    assert_eq!(harness.kernel().manifest.domain.excludes(&case), None);
    assert_eq!((case.shape.num_kv_heads, case.shape.q_per_kv, case.shape.head_dim), (2, 3, 8));
}

/// What an input reaches is the same whenever it runs, and no kernel's points are another's.
#[test]
fn points_are_steady_and_kernels_apart() {
    let mut seen: BTreeMap<u32, &str> = BTreeMap::new();
    for name in shipped_names() {
        let entry = Entry { kernel: name.into(), case: emulated(name).kernel().space().smallest().clone() };
        let reach = || {
            let mut points = Vec::new();
            assert_eq!(SHIPPED.run(entry.to_string().as_bytes(), |point| points.push(point)), Ok(()));
            points
        };
        let points = reach();
        assert!(points.len() > 20, "{name}: {points:?}");
        assert_eq!(points, reach());
        for point in points {
            assert!((point as usize) < SHIPPED.points());
            assert_eq!(*seen.entry(point).or_insert(name), name);
        }
    }
}

#[test]
fn an_input_that_fails_is_shrunk_and_reported() {
    let target = Target::new(vec![emulated("kernels/mutants/gqa_decode/m02_group_padded_to_power_of_two.toml")]);
    let run = |line: &str| target.run(format!("m02 {line}").as_bytes(), |_| ());
    assert_eq!(run(&LINE.replace("g=3", "g=4")), Ok(()));
    let Err(Failure::Report(report)) = run(LINE) else { panic!("g=3 does not fail") };
    assert!(
        report.starts_with("error: wrong value in `out`") && report.contains("= shrunk from: kv=2 g=3 d=8"),
        "{report}"
    );
    assert!(matches!(target.run(b"words", |_| ()), Err(Failure::Input(_))));
}

/// A planted bug's PTX holds some of the kernel's entries only: a case of another is no crash.
#[test]
fn an_input_that_can_not_be_run_is_skipped() {
    let target = Target::new(vec![emulated("kernels/mutants/gqa_prefill/f04_sink_of_kv_head.toml")]);
    let line = "kv=8 g=2 d=128 past=0 append=no dtype=bf16 cache=packed-hnd:1 scale=0.78125 values=flat:25028";
    let Err(Failure::Skipped(why)) = target.run(format!("f04 {line}").as_bytes(), |_| ()) else { panic!("it ran") };
    assert_eq!(why, format!("{line} can't be run: the PTX has no entry \"gqa_prefill_bf16_d128\""));
}

/// `attnfuzz cases KERNEL --seeds fuzz/seeds/attention_diff` makes them again.
#[test]
fn seeds_are_cases_that_agree() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/attention_diff");
    let entries = corpus::load(&folder).unwrap();
    for name in shipped_names() {
        let kernel = Kernel::open(name).unwrap();
        let own: Vec<_> = entries.iter().filter(|(_, entry)| entry.kernel == name).collect();
        assert!(own.len() >= 40, "{name}: {}", own.len());
        for (file, entry) in own {
            assert_eq!(file.file_name(), Some(Path::new(&entry.file_name()).as_os_str()));
            assert_eq!(kernel.manifest.domain.excludes(&entry.case), None, "{entry}");
            let verdict = examine(&Emulator, &kernel, &entry.case).unwrap().verdict;
            assert!(matches!(verdict, Verdict::Agree(_)), "{entry}: {verdict:?}");
        }
    }
    assert!(
        entries.iter().all(|(file, entry)| shipped_names().contains(&&*entry.kernel) || panic!("{}", file.display()))
    );
}

#[test]
fn seeds_are_made_the_same_each_time_and_of_no_kernel_that_fails() {
    let kernel = Kernel::open("gqa_decode").unwrap();
    let made = seeds(&kernel, 0, 30).unwrap();
    assert_eq!(made, seeds(&kernel, 0, 30).unwrap());
    let heads = |entry: &Entry| (entry.case.shape.num_kv_heads, entry.case.shape.q_per_kv, entry.case.shape.head_dim);
    assert!(made.iter().any(|entry| heads(entry) == (4, 7, 128)), "qwen2.5-coder-7b is not there");
    let broken = Kernel::open("kernels/mutants/gqa_decode/m02_group_padded_to_power_of_two.toml").unwrap();
    let error = seeds(&broken, 0, 100).unwrap_err();
    assert!(error.starts_with("expected a kernel that agrees, found Diverge"), "{error}");
}
