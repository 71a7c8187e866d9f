//! What the generators promise.

use arbitrary::Unstructured;
use attnfuzz::case::{
    Cache, CacheOrder, Case, CaseParts, Domain, Features, Inputs, KnobName, Pages, Poison, Range, Recipe, Request,
    Shape, Storage, StorageKind, Values,
};
use attnfuzz::float::Dtype;
use attnfuzz::generate::{DEFAULT_BUDGET, EmptyDomain, Feature, Space, Statistics, cost};
use attnfuzz::oracle::for_each_row;
use proptest::prelude::*;

/// A kernel that claims nearly everything.
pub(crate) fn wide_domain() -> Domain {
    Domain {
        dtype: Dtype::ALL.to_vec(),
        head_dim: Range::Span(1, 1024),
        v_head_dim: None,
        num_kv_heads: Range::Span(1, 64),
        q_per_kv: Range::Span(1, 128),
        batch: Range::Span(1, 64),
        q_len: Range::Span(1, 64),
        past_len: Range::Span(0, 65536),
        steps: Range::Span(1, 8),
        cache: vec![CacheOrder::Hnd, CacheOrder::Nhd],
        row_pad: Range::Span(0, 64),
        any_scale: true,
        ..Domain::default()
    }
}

/// A decode kernel written for one family of models.
pub(crate) fn narrow_domain() -> Domain {
    Domain {
        dtype: vec![Dtype::F16],
        head_dim: Range::List(vec![64, 128]),
        v_head_dim: None,
        num_kv_heads: Range::Span(2, 8),
        q_per_kv: Range::List(vec![1, 4, 7]),
        batch: Range::Span(1, 4),
        q_len: Range::Span(1, 1),
        past_len: Range::Span(1, 4095),
        steps: Range::Span(1, 1),
        cache: vec![CacheOrder::Nhd],
        row_pad: Range::Span(0, 0),
        any_scale: false,
        ..Domain::default()
    }
}

/// The wide domain of a kernel with two knobs.
pub(crate) fn knobbed_domain() -> Domain {
    let knobs = [("num_splits", Range::Span(1, 32)), ("tile", Range::List(vec![16, 64]))];
    let knobs = knobs.into_iter().map(|(name, range)| (name.parse().unwrap(), range)).collect();
    Domain { knobs, ..wide_domain() }
}

/// A kernel of a serving engine: prefill and decoding over a cache that something else filled, with every feature there is.
pub(crate) fn serving_domain() -> Domain {
    Domain {
        append: false,
        q_len: Range::Span(0, 512),
        v_head_dim: Some(Range::Span(1, 1024)),
        steps: Range::Span(1, 1),
        causal: vec![true, false],
        window: Some(Range::Span(1, u32::MAX)),
        softcap: true,
        sinks: true,
        storage: vec![StorageKind::PerRequest, StorageKind::Packed, StorageKind::Paged],
        page_size: Some(Range::Span(1, 256)),
        ..wide_domain()
    }
}

/// The wide domain of a kernel that appends to pages of a few sizes.
pub(crate) fn paged_domain() -> Domain {
    Domain {
        q_len: Range::Span(0, 64),
        v_head_dim: Some(Range::Span(1, 1024)),
        causal: vec![true, false],
        window: Some(Range::List(vec![4, 16, 128, 4096])),
        softcap: true,
        sinks: true,
        storage: vec![StorageKind::PerRequest, StorageKind::Paged],
        page_size: Some(Range::List(vec![1, 16, 32, 64])),
        ..wide_domain()
    }
}

fn drawn(domain: &Domain, count: u64) -> Vec<Case> {
    let space = Space::new(domain).unwrap();
    (0..count).map(|i| space.case_at(2026, i)).collect()
}

#[test]
fn drawn_cases_are_in_the_domain_and_the_budget() {
    for domain in [wide_domain(), narrow_domain(), serving_domain(), paged_domain()] {
        for case in drawn(&domain, 5000) {
            assert_eq!(domain.excludes(&case), None, "{case:?}");
            assert!(cost(&case) <= DEFAULT_BUDGET, "{case:?} costs {}", cost(&case));
        }
    }
}

/// Whatever is drawn can be made into tensors, and has a reference for every row.
#[test]
fn drawn_cases_can_be_judged() {
    for domain in [serving_domain(), paged_domain()] {
        for case in drawn(&domain, 400) {
            let inputs = Inputs::of(&case, case.poison);
            assert_eq!(inputs.k_cache.len(), case.cache_map(case.shape.head_dim).span(), "{case}");
            assert_eq!(inputs.sinks.is_some(), case.features.sinks, "{case}");
            let mut rows = 0;
            for_each_row(&case, |_| rows += 1);
            assert_eq!(rows, case.steps * case.shape.total_q_len() * case.shape.num_q_heads(), "{case}");
        }
    }
}

#[test]
fn half_of_the_cases_are_small() {
    let mut costs: Vec<u64> = drawn(&wide_domain(), 5000).iter().map(|c| cost(c)).collect();
    costs.sort_unstable();
    let median = costs[costs.len() / 2];
    assert!((2500..10_000).contains(&median), "{median}");
}

#[test]
fn every_feature_comes_up() {
    let [wide, serving, paged] =
        [wide_domain(), serving_domain(), paged_domain()].map(|d| drawn(&d, 2000).into_iter().collect::<Statistics>());
    for Feature { name, .. } in Feature::ALL {
        let count = [&wide, &serving, &paged].map(|statistics| statistics.count(name).unwrap());
        assert!(count.iter().any(|&count| count >= 10), "{name}: {count:?} of 2000");
    }
    let shares = |statistics: &Statistics, bounds: &[(&str, f64, f64)]| {
        for &(name, low, high) in bounds {
            let share = statistics.count(name).unwrap() as f64 / 2000.0;
            assert!((low..high).contains(&share), "{name}: {share}\n{statistics}");
        }
    };
    shares(
        &wide,
        &[
            ("heads of a model", 0.05, 0.25),
            ("two extents equal", 0.01, 0.15),
            ("q_per_kv no power of two", 0.5, 0.8),
            ("an empty past among others", 0.1, 0.5),
            ("row padding", 0.2, 0.5),
            ("several steps", 0.05, 0.3),
            ("scale 1/sqrt(head_dim)", 0.5, 0.8),
        ],
    );
    // Each feature in many cases, each absent from many more.
    shares(
        &serving,
        &[
            ("no mask but causality, no softcap, no sinks", 0.2, 0.4),
            ("not causal", 0.15, 0.35),
            ("a window that hides keys", 0.15, 0.35),
            ("a softcap", 0.15, 0.35),
            ("sinks", 0.15, 0.35),
            ("packed", 0.25, 0.4),
            ("paged", 0.25, 0.4),
            ("shuffled pages", 0.1, 0.3),
            ("shared pages", 0.02, 0.2),
            ("several pages of a request", 0.15, 0.3),
            ("v_head_dim below head_dim", 0.1, 0.4),
            ("a request without keys", 0.2, 0.45),
            ("a request without queries", 0.2, 0.45),
            ("no request with keys", 0.005, 0.05),
            ("more queries than keys", 0.1, 0.4),
            ("a whole prompt", 0.2, 0.5),
            ("a part of a prompt", 0.2, 0.5),
            ("several tiles of queries and of keys", 0.08, 0.25),
        ],
    );
}

#[test]
fn every_pair_of_features_comes_up() {
    let [serving, paged] =
        [serving_domain(), paged_domain()].map(|d| drawn(&d, 4000).into_iter().collect::<Statistics>());
    let impossible = |pair: [&str; 2]| {
        let both = |a, b| pair.contains(&a) && pair.contains(&b);
        ["paged", "shuffled pages", "shared pages", "several steps"].iter().any(|other| both("packed", other))
            || both("more queries than keys", "several steps")
    };
    for ((pair, in_serving), (same, in_paged)) in serving.pairs().zip(paged.pairs()) {
        assert_eq!(pair, same);
        let count = in_serving.max(in_paged);
        if impossible(pair) {
            assert_eq!(count, 0, "{pair:?}");
        } else {
            assert!(count >= 10, "{pair:?}: {count} of 4000");
        }
    }
}

#[test]
fn every_boundary_of_a_feature_is_hit() {
    let cases = drawn(&serving_domain(), 20_000);
    let hit = |what: &str, has: &dyn Fn(&Case) -> bool| {
        let count = cases.iter().filter(|case| has(case)).count();
        assert!(count >= 3, "{what}: {count} of {}", cases.len());
    };
    let about = |tiles: [u32; 4]| tiles.into_iter().flat_map(|tile| [tile - 1, tile, tile + 1]);
    for n in about([16, 32, 64, 128]) {
        hit(&format!("window={n}"), &|c| c.features.window == Some(n));
        hit(&format!("q={n}"), &|c| c.shape.requests.iter().any(|r| r.q_len == n));
        hit(&format!("{n} keys before the window"), &|c| {
            c.shape
                .requests
                .iter()
                .any(|r| c.features.window.is_some_and(|window| r.past_len.checked_sub(n) == Some(window)))
        });
    }
    for window in [1, 2, u32::MAX] {
        hit(&format!("window={window}"), &|c| c.features.window == Some(window));
    }
    for cap in [0.5, 5.0, 30.0, 50.0, 1000.0] {
        hit(&format!("softcap={cap}"), &|c| c.features.softcap == Some(cap));
    }
    for size in [1, 2, 3, 8, 15, 16, 17, 32, 64, 128, 256] {
        hit(&format!("pages={size}"), &|c| c.cache.storage.pages().is_some_and(|pages| pages.size == size));
    }
    hit("dv=128 of 192", &|c| (c.shape.head_dim, c.shape.v_head_dim) == (192, 128));
    hit("dv=512 of 576", &|c| (c.shape.head_dim, c.shape.v_head_dim) == (576, 512));
    hit("a page shared by three", &|c| c.shape.requests.len() > 2 && (1..3).all(|r| c.shared_pages(r) > 0));
}

#[test]
fn the_heads_of_a_model_bring_its_features() {
    let cases = drawn(&serving_domain(), 20_000);
    let like = |kv: u32, group: u32, d: u32| {
        let heads = move |c: &&Case| (c.shape.num_kv_heads, c.shape.q_per_kv, c.shape.head_dim) == (kv, group, d);
        cases.iter().filter(heads).collect::<Vec<_>>()
    };
    let (gpt_oss, gemma_2) = (like(8, 8, 64), like(4, 2, 256));
    assert!(gpt_oss.iter().filter(|c| c.features.sinks && c.features.window == Some(128)).count() >= 10);
    assert!(gemma_2.iter().filter(|c| c.features.softcap == Some(50.0)).count() >= 5);
    for case in drawn(&wide_domain(), 2000) {
        assert!(case.features.is_plain(), "{case}");
    }
}

/// A page for each of few tokens costs memory, and none of the multiply-adds that the budget counts.
#[test]
fn pages_stay_affordable() {
    let domain = Domain { page_size: Some(Range::List(vec![16, 4096, 65536])), ..serving_domain() };
    let space = Space::new(&domain).unwrap();
    let bytes = |i: u64| (0..60).map(|at| (i * 97 + at * (i % 7 + 50)) as u8).collect::<Vec<_>>();
    let from_bytes = (0..2000).map(|i| space.arbitrary(&mut Unstructured::new(&bytes(i))).unwrap());
    for case in drawn(&domain, 4000).into_iter().chain(from_bytes) {
        let shape = &case.shape;
        let size = case.cache.storage.pages().map_or(0, |pages| u64::from(pages.size));
        let row = u64::from(shape.num_kv_heads) * u64::from(shape.head_dim.max(shape.v_head_dim) + case.cache.row_pad);
        assert!(case.num_pages() * size * row <= 1 << 24, "{case}");
    }
}

#[test]
fn a_narrow_domain_still_gets_its_corners() {
    let cases = drawn(&narrow_domain(), 2000);
    let count = |has: &dyn Fn(&Case) -> bool| cases.iter().filter(|c| has(c)).count();
    for group in [1, 4, 7] {
        assert!(count(&|c| c.shape.q_per_kv == group) > 100, "{group}");
    }
    assert!(count(&|c| c.shape.requests.iter().any(|r| r.past_len == 1)) > 50);
    assert!(count(&|c| c.shape.requests.iter().any(|r| r.past_len > 60)) > 50);
}

#[test]
fn a_few_cases_are_longer_than_15_and_16_bits() {
    let space = Space::new(&Domain { past_len: Range::Span(0, 1 << 17), ..wide_domain() }).unwrap();
    let longest = |index| space.case_at(1, index).shape.requests.iter().map(|r| r.past_len).max().unwrap();
    let all: Vec<u32> = (0..20_000).map(longest).collect();
    let above = |bits: u32| all.iter().filter(|&&n| n >= 1 << bits).count();
    assert!((5..60).contains(&above(15)), "{}", above(15));
    assert!(above(16) >= 1);
    assert!(above(16) >= 1);
}

#[test]
fn the_cases_of_a_campaign_never_change() {
    let space = Space::new(&wide_domain()).unwrap();
    let lines: Vec<String> = [(0, 0), (0, 1), (1, 0), (2026, 1_000_000)]
        .map(|(seed, index)| space.case_at(seed, index).to_string())
        .to_vec();
    assert_eq!(
        lines,
        [
            "kv=2 g=23 d=40 past=6,9,0 dtype=f16 cache=nhd:16 scale=0.5 values=tiny:39242 poison=huge sched=22639",
            "kv=3 g=3 d=40 past=16,31,0 dtype=f16 cache=nhd:34 scale=0.15811388 values=select:16838 sched=2352",
            "kv=2 g=3 d=8 past=5,39,0,40 dtype=bf16 cache=hnd:48+24 scale=0.5 values=tiny:9978 poison=huge sched=43964 relation=logits-shifted",
            "kv=3 g=4 d=63 past=24,32 dtype=f32 cache=nhd:33 scale=0.12598816 values=normal:65448 poison=huge sched=30122",
        ]
    );
}

/// What a domain does not claim takes no random number, so that its campaigns are the same whatever else can be drawn.
#[test]
fn a_claim_without_a_choice_changes_nothing() {
    let domain = Domain { page_size: Some(Range::Span(1, 64)), v_head_dim: None, ..wide_domain() };
    assert_eq!(drawn(&domain, 500), drawn(&wide_domain(), 500));
    let full = Domain { append: false, steps: Range::Span(1, 1), q_len: Range::Span(1, 1), ..wide_domain() };
    let packed = Domain { storage: vec![StorageKind::Packed], causal: vec![false], ..full.clone() };
    let as_full = |case: Case| {
        case.with(|parts| (parts.cache.storage, parts.features.causal) = (Storage::PerRequest, true)).unwrap()
    };
    assert_eq!(drawn(&packed, 500).into_iter().map(as_full).collect::<Vec<_>>(), drawn(&full, 500));
}

#[test]
fn knobs_change_nothing_else_and_reach_their_ends() {
    let (plain, knobbed) = (drawn(&wide_domain(), 2000), drawn(&knobbed_domain(), 2000));
    let mut counts = [0; 33];
    for (plain, knobbed) in plain.into_iter().zip(knobbed) {
        counts[knobbed.knobs["num_splits"] as usize] += 1;
        assert!([16, 64].contains(&knobbed.knobs["tile"]));
        assert_eq!(knobbed.with(|parts| parts.knobs.clear()).unwrap(), plain);
    }
    for end in [1, 2, 31, 32] {
        assert!(counts[end] > 100, "{end}: {counts:?}");
    }
    assert!(counts[1..].iter().all(|&count| count > 0), "{counts:?}");
}

#[test]
fn a_domain_says_which_knobs_a_case_must_have() {
    let case = |knobs: &str| -> Case {
        format!("kv=1 g=1 d=8 past=0 dtype=f32 cache=hnd:1 scale=1{knobs} values=flat:0").parse().unwrap()
    };
    let excludes = |domain: Domain, knobs: &str| domain.excludes(&case(knobs));
    assert_eq!(excludes(knobbed_domain(), " knobs=num_splits:32,tile:16"), None);
    assert_eq!(excludes(wide_domain(), ""), None);
    let why = |domain, knobs| excludes(domain, knobs).unwrap();
    assert_eq!(why(knobbed_domain(), ""), "the knob num_splits is missing, the kernel claims 1..=32");
    assert_eq!(
        why(knobbed_domain(), " knobs=num_splits:33,tile:16"),
        "the knob num_splits is 33, the kernel claims 1..=32"
    );
    assert_eq!(why(wide_domain(), " knobs=tile:16"), "the kernel has no knob tile");
}

#[test]
fn bytes_stand_for_knobs() {
    let space = Space::new(&knobbed_domain()).unwrap().with_budget(u64::MAX);
    for num_splits in 1..=32 {
        for tile in [16, 64] {
            let knobs = format!("knobs=num_splits:{num_splits},tile:{tile}");
            let line = format!("kv=2 g=3 d=8 past=4,0 dtype=f16 cache=nhd:9 scale=0.5 {knobs} values=mixed:7");
            let case: Case = line.parse().unwrap();
            let back = space.arbitrary(&mut Unstructured::new(&space.bytes(&case))).unwrap();
            assert_eq!(back, case);
        }
    }
}

/// Wide rows and several tiles at once are beyond what a case about one or two fields can pay for.
#[test]
fn one_case_in_forty_is_wide_and_has_several_tiles() {
    for name in ["gqa_decode", "gqa_decode_split_kv"] {
        let kernel = attnfuzz::backend::Kernel::open(name).unwrap();
        let deep = |case: &Case| {
            let (shape, splits) = (&case.shape, case.knobs.get("num_splits").copied().unwrap_or(1));
            shape.head_dim > 128 && shape.q_per_kv >= 5 && shape.requests[0].past_len + 1 > 32 * splits
        };
        let count = (0..4000).filter(|&index| deep(&kernel.space().case_at(3, index))).count();
        // 100 are deep; of them 5 in 8 are as wide, 5 in 6 as long, and with splits fewer have two tiles in each.
        assert!((25..=80).contains(&count), "{name}: {count}");
    }
}

#[test]
fn a_larger_budget_reaches_longer_pasts() {
    let space = Space::new(&wide_domain()).unwrap().with_budget(1 << 30);
    let longest = (0..2000).flat_map(|i| space.case_at(1, i).into_parts().shape.requests).map(|r| r.past_len).max();
    assert!(longest >= Some(32_767), "{longest:?}");
}

#[test]
fn every_feature_has_its_own_name() {
    let names: std::collections::HashSet<_> = Feature::ALL.iter().map(|f| f.name).collect();
    assert_eq!(names.len(), Feature::ALL.len());
}

#[test]
fn no_bytes_are_the_smallest_case() {
    for domain in [wide_domain(), narrow_domain(), serving_domain(), paged_domain()] {
        let space = Space::new(&domain).unwrap();
        let case = space.arbitrary(&mut Unstructured::new(&[])).unwrap();
        assert_eq!(&case, space.smallest());
    }
}

#[test]
fn a_domain_without_cases_says_why() {
    let error = |change: &dyn Fn(&mut Domain)| {
        let mut domain = wide_domain();
        change(&mut domain);
        Space::new(&domain).unwrap_err().to_string()
    };
    let changes: [(_, fn(&mut Domain)); 5] = [
        ("dtype", |d| d.dtype.clear()),
        ("cache", |d| d.cache.clear()),
        ("causal", |d| d.causal.clear()),
        ("storage", |d| d.storage.clear()),
        ("page_size", |d| d.storage = vec![StorageKind::Paged]),
    ];
    for (field, change) in changes {
        assert_eq!(error(&change), format!("domain.{field}: expected at least one choice, found none"));
    }
    assert_eq!(
        error(&|d| d.window = Some(Range::Span(0, 0))),
        "domain.window: expected a value from 1 to 4294967295, found 0..=0"
    );
    assert_eq!(
        error(&|d| d.page_size = Some(Range::List(vec![0, 65537]))),
        "domain.page_size: expected a value from 1 to 65536, found one of [0, 65537]"
    );
    assert_eq!(
        error(&|d| (d.append, d.steps) = (false, Range::Span(2, 8))),
        "domain.steps: expected a value from 1 to 1, found 2..=8"
    );
    assert_eq!(
        error(&|d| d.storage = vec![StorageKind::Packed]),
        "the smallest case of the domain is illegal: append: expected append=no with a packed cache, found yes"
    );
    assert_eq!(
        error(&|d| d.q_len = Range::Span(0, 0)),
        "the smallest case of the domain is illegal: q_len: expected a request with a query token, found 0 for every request"
    );
    assert_eq!(
        error(&|d| d.head_dim = Range::Span(5000, 6000)),
        "domain.head_dim: expected a value from 1 to 4096, found 5000..=6000"
    );
    assert_eq!(
        error(&|d| d.q_per_kv = Range::Span(8, 2)),
        "domain.q_per_kv: expected a value from 1 to 1024, found 8..=2"
    );
    assert_eq!(
        error(&|d| d.steps = Range::List(Vec::new())),
        "domain.steps: expected a value from 1 to 1024, found one of []"
    );
    assert!(matches!(
        {
            let domain = Domain {
                batch: Range::Span(1 << 20, 1 << 20),
                past_len: Range::Span(1 << 19, 1 << 19),
                ..wide_domain()
            };
            Space::new(&domain)
        },
        Err(EmptyDomain::Smallest(_))
    ));
}

fn knob_name() -> impl Strategy<Value = KnobName> {
    proptest::sample::select(vec!["num_splits", "stages", "tile"]).prop_map(|name| name.parse().unwrap())
}

const KINDS: [StorageKind; 3] = [StorageKind::PerRequest, StorageKind::Packed, StorageKind::Paged];

/// Domains, most of them odd; some hold no case.
fn any_domain() -> impl Strategy<Value = Domain> {
    let range = |high: u32| {
        prop_oneof![
            (0..=high, 0..=high).prop_map(|(a, b)| Range::Span(a.min(b), a.max(b))),
            (0..=4_u32, 0..=high).prop_map(|(a, b)| Range::Span(a, a.max(b))),
            proptest::collection::vec(0..=high, 1..5).prop_map(Range::List),
            Just(Range::Span(0, u32::MAX)),
        ]
    };
    (
        (proptest::sample::subsequence(Dtype::ALL.to_vec(), 1..=3), range(300)),
        (proptest::option::of(range(300)), range(20)),
        (range(70), range(70), range(70), range(1 << 21)),
        (range(9), range(9), any::<bool>()),
        proptest::sample::subsequence(vec![CacheOrder::Hnd, CacheOrder::Nhd], 1..=2),
        proptest::collection::btree_map(knob_name(), range(40), 0..3),
        (
            proptest::bool::weighted(0.5),
            proptest::sample::subsequence(vec![true, false], 1..=2),
            proptest::option::of(range(200)),
            any::<(bool, bool)>(),
            proptest::sample::subsequence(KINDS.to_vec(), 1..=3),
            proptest::option::weighted(0.9, range(70_000)),
        ),
    )
        .prop_map(
            |(
                (dtype, head_dim),
                (v_head_dim, num_kv_heads),
                (q_per_kv, batch, q_len, past_len),
                (steps, row_pad, any_scale),
                cache,
                knobs,
                (append, causal, window, (softcap, sinks), storage, page_size),
            )| Domain {
                dtype,
                head_dim,
                v_head_dim,
                num_kv_heads,
                q_per_kv,
                batch,
                q_len,
                past_len,
                steps,
                cache,
                row_pad,
                any_scale,
                append,
                causal,
                window,
                softcap,
                sinks,
                storage,
                page_size,
                knobs,
                require: Vec::new(),
            },
        )
}

/// Parts of any kind, most of them illegal.
fn any_parts() -> impl Strategy<Value = CaseParts> {
    let number = || prop_oneof![0..300_u32, any::<u32>()];
    let request = (number(), number()).prop_map(|(past_len, q_len)| Request { past_len, q_len });
    (
        (0..3_usize, any::<f32>(), number(), 0..3_usize, any::<u32>()),
        (number(), number(), number(), number()),
        proptest::collection::vec(request, 0..9),
        (any::<bool>(), number(), number()),
        (0..8_usize, any::<u32>()),
        proptest::collection::btree_map(knob_name(), any::<u32>(), 0..3),
        (any::<(bool, bool, bool)>(), proptest::option::of(number()), proptest::option::of(any::<f32>())),
        (0..3_usize, (number(), number(), number(), number())),
    )
        .prop_map(
            |(
                (dtype, scale, steps, poison, schedule_seed),
                heads,
                requests,
                cache,
                values,
                knobs,
                features,
                storage,
            )| {
                let ((append, causal, sinks), window, softcap) = features;
                let (kind, (size, seed, spare, shared)) = storage;
                CaseParts {
                    dtype: Dtype::ALL[dtype],
                    scale,
                    steps,
                    poison: Poison::ALL[poison],
                    schedule_seed,
                    shape: Shape {
                        num_kv_heads: heads.0,
                        q_per_kv: heads.1,
                        head_dim: heads.2,
                        v_head_dim: heads.3,
                        requests,
                    },
                    cache: Cache {
                        order: if cache.0 { CacheOrder::Hnd } else { CacheOrder::Nhd },
                        capacity: cache.1,
                        row_pad: cache.2,
                        storage: match KINDS[kind] {
                            StorageKind::PerRequest => Storage::PerRequest,
                            StorageKind::Packed => Storage::Packed,
                            StorageKind::Paged => Storage::Paged(Pages { size, seed, spare, shared }),
                        },
                    },
                    features: Features { append, causal, window, softcap, sinks },
                    values: Values { recipe: Recipe::ALL[values.0], seed: values.1 },
                    only: None,
                    knobs,
                    view: None,
                    relation: None,
                }
            },
        )
}

/// The domains of this file that are not narrow.
fn claimed() -> impl Strategy<Value = Domain> {
    proptest::sample::select(vec![wide_domain(), serving_domain(), paged_domain()])
}

proptest! {
    #[test]
    fn legalize_ends_in_the_domain_and_changes_nothing_there(domain in any_domain(), parts in any_parts()) {
        let Ok(space) = Space::new(&domain) else { return Ok(()) };
        let case = space.legalize(parts);
        prop_assert_eq!(domain.excludes(&case), None);
        prop_assert_eq!(space.legalize(case.clone().into_parts()), case);
    }

    #[test]
    fn legalize_keeps_every_drawn_case(seed: u64, domain in claimed()) {
        let space = Space::new(&domain).unwrap();
        let case = space.case_at(seed, 0);
        prop_assert_eq!(space.legalize(case.clone().into_parts()), case);
    }

    #[test]
    fn a_drawn_case_survives_a_line_and_a_file(seed: u64, domain in claimed()) {
        let case = Space::new(&domain).unwrap().case_at(seed, 0);
        let back: Case = case.to_string().parse().unwrap();
        prop_assert_eq!(&back, &case);
        let back: Case = toml::from_str(&toml::to_string(&case).unwrap()).unwrap();
        prop_assert_eq!(back, case);
    }

    #[test]
    fn any_domain_can_be_drawn_from(domain in any_domain(), seed: u64) {
        let Ok(space) = Space::new(&domain) else { return Ok(()) };
        let case = space.case_at(seed, 0);
        prop_assert_eq!(domain.excludes(&case), None);
    }

    #[test]
    fn any_bytes_are_a_case(bytes in proptest::collection::vec(any::<u8>(), 0..80), domain in any_domain()) {
        for wide in [wide_domain(), serving_domain(), paged_domain()] {
            let case = Space::new(&wide).unwrap().arbitrary(&mut Unstructured::new(&bytes)).unwrap();
            prop_assert_eq!(wide.excludes(&case), None);
            prop_assert!(cost(&case) <= DEFAULT_BUDGET, "{:?}", case);
        }
        let Ok(space) = Space::new(&domain) else { return Ok(()) };
        let case = space.arbitrary(&mut Unstructured::new(&bytes)).unwrap();
        prop_assert_eq!(domain.excludes(&case), None);
    }

    #[test]
    fn bytes_stand_for_the_case_they_were_made_of(seed: u64, domain in claimed()) {
        let space = Space::new(&domain).unwrap();
        let case = space.case_at(seed, 0);
        // Bytes have one past at most for each of 16 requests, one byte for a schedule, a spare capacity, a page size or a
        // window, and few scales.
        let case = space.legalize({
            let mut parts = case.into_parts();
            parts.shape.requests.truncate(16);
            parts.schedule_seed %= 256;
            parts.scale = (parts.scale * 64.0).ceil().min(127.0) / 64.0;
            let longest = (0..parts.shape.requests.len()).map(|r| parts.kv_len_at(r, parts.steps - 1)).max().unwrap();
            parts.cache.capacity = parts.cache.capacity.min(longest.max(1) + 255);
            parts.features.window = parts.features.window.map(|window| window.min(190));
            if let Storage::Paged(pages) = &mut parts.cache.storage {
                pages.size = pages.size.min(128);
            }
            parts
        });
        let bytes = space.bytes(&case);
        let back = space.with_budget(u64::MAX).arbitrary(&mut Unstructured::new(&bytes)).unwrap();
        let table_only = |n: u32| n >= 160;
        let long = case.shape.requests.iter().any(|r| table_only(r.past_len) || table_only(r.q_len));
        // How much longer or shorter a value row is than a key's is one signed byte.
        let near = i8::try_from(i64::from(case.shape.v_head_dim) - i64::from(case.shape.head_dim)).is_ok();
        if !table_only(case.shape.head_dim) && !table_only(case.shape.v_head_dim) && near && !long {
            prop_assert_eq!(back, case);
        }
    }

    #[test]
    fn a_step_of_one_byte_is_a_small_change(bytes in proptest::collection::vec(0..140_u8, 40), at in 0..7_usize) {
        let space = Space::new(&wide_domain()).unwrap().with_budget(u64::MAX);
        let decode = |bytes: &[u8]| space.arbitrary(&mut Unstructured::new(bytes)).unwrap();
        let mut stepped = bytes.clone();
        stepped[at] += 1;
        let (a, b) = (decode(&bytes), decode(&stepped));
        prop_assert!(a.shape.num_kv_heads.abs_diff(b.shape.num_kv_heads) <= 1);
        prop_assert!(a.shape.q_per_kv.abs_diff(b.shape.q_per_kv) <= 1);
        prop_assert!(a.shape.head_dim.abs_diff(b.shape.head_dim) <= 1);
        prop_assert!(a.shape.batch().abs_diff(b.shape.batch()) <= 1);
        prop_assert!(a.steps.abs_diff(b.steps) <= 1);
        prop_assert_eq!(a.values, b.values);
    }
}
