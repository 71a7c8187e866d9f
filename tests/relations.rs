//! Relations: the right kernel keeps every one, and each catches a planted bug without help from the reference.

use crate::fabricated::{featured_case, featured_domain, outcome};
use attnfuzz::backend::{Backend, BackendError, BackendKind, Emulator, Kernel, Run};
use attnfuzz::bound::LseBase;
use attnfuzz::campaign::{Config, Event, run};
use attnfuzz::case::values::{Role, RowAt};
use attnfuzz::case::{Case, CaseParts, Inputs, Relation, Storage};
use attnfuzz::generate::Space;
use attnfuzz::oracle::relation::{Checked, Held, check};
use attnfuzz::oracle::{ExpectedRow, Verdict, examine};
use attnfuzz::outcome::Outcome;
use attnfuzz::reference::{Row, attend};
use attnfuzz::regression::{Replayed, Saved, Store, replay};
use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

#[test]
fn right_kernels_keep_every_relation() {
    for (name, cases) in
        [("gqa_decode", 40), ("gqa_decode_split_kv", 15), ("gqa_decode_paged", 15), ("gqa_prefill", 15)]
    {
        let kernel = Kernel::open(name).unwrap();
        let domain = &kernel.manifest.domain;
        for relation in Relation::ALL {
            let mut all = Held::default();
            for index in 0..cases {
                let case = kernel.space().case_at(7, index);
                match check(&Emulator, &kernel, &case, relation, None).unwrap() {
                    Checked::Holds(held) => {
                        all.elements += held.elements;
                        all.equal += held.equal;
                    }
                    Checked::DoesNotApply(_) => {}
                    wrong => panic!("{relation} on {case}: {wrong:?}"),
                }
            }
            let nothing_to_say = match relation {
                Relation::StepsMerged => domain.q_len.high() == 1,
                Relation::PagesPermuted | Relation::PagesResized => domain.page_size.is_none(),
                Relation::KnobsChanged => domain.knobs.is_empty(),
                Relation::LsesMerged => kernel.manifest.lse.is_none(),
                Relation::Appended => !domain.append,
                _ => false,
            };
            assert_eq!(all.elements == 0, nothing_to_say, "{relation} of {name}");
            if relation.is_exact() || kernel.manifest.exact_relations.contains(&relation) {
                // All but what underflows: outputs among the dtype's subnormal numbers, where V nearly cancels.
                assert!(all.equal * 100 >= all.elements * 95, "{relation} of {name}: {all:?}");
            }
        }
    }
}

/// Scaled up, such an output shows digits that its own rounding took: an H200 found four of them in five million cases.
#[test]
fn an_output_rounded_up_to_the_smallest_normal_number_is_not_held_to_the_bit() {
    let line = "kv=1 g=2 d=64 past=14 append=no window=3 sinks=yes dtype=f16 cache=packed-hnd:14 scale=0.90625 values=ties:46646";
    let (kernel, case) = (Kernel::open("gqa_prefill").unwrap(), line.parse().unwrap());
    let checked = check(&Emulator, &kernel, &case, Relation::ValuesScaled, None).unwrap();
    let Checked::Holds(held) = checked else { panic!("{checked:?}") };
    assert!(held.equal < held.elements, "the case has no such output any more: {held:?}");
}

/// One of 16,717 cases on an H200: a sum halfway between two numbers, and next to it a product that underflows, but does
/// not when V is 64 times as large.
#[test]
fn a_tie_that_an_underflow_decides_is_not_held_to_the_bit() {
    let line =
        "kv=3 g=3 d=32 past=0,4 softcap=50 dtype=f32 cache=hnd:5 scale=0.453125 knobs=num_splits:1 values=huge:25299";
    let (kernel, case) = (Kernel::open("gqa_decode_split_kv").unwrap(), line.parse().unwrap());
    let checked = check(&Emulator, &kernel, &case, Relation::ValuesScaled, None).unwrap();
    assert!(matches!(checked, Checked::Holds(_)), "{checked:?}");
}

/// Cases of a campaign until `relation` is broken, which must be within `limit`.
fn broken_by(mutant: &str, relation: Relation, limit: u64) {
    let kernel = Kernel::open(&format!("{}/kernels/mutants/{mutant}.toml", env!("CARGO_MANIFEST_DIR")));
    let kernel = kernel.unwrap();
    let caught = (0..limit).any(|index| {
        let case = kernel.space().case_at(7, index);
        matches!(check(&Emulator, &kernel, &case, relation, None).unwrap(), Checked::Broken(d) if d.relation == Some(relation))
    });
    assert!(caught, "{relation} missed {mutant} in {limit} cases");
}

#[test]
fn each_relation_catches_a_planted_bug_by_itself() {
    for (relation, mutants) in [
        (Relation::KeysPermuted, ["gqa_decode/p08_newest_key_dropped", "gqa_decode/m30_rescale_in_base_2"]),
        (Relation::KeysRepeated, ["gqa_decode/p10_first_key_skipped", "gqa_decode/m23_no_rescale"]),
        (Relation::LogitsShifted, ["gqa_decode/m26_no_max_subtraction", "gqa_decode/m11_tail_unmasked"]),
        (Relation::ValuesScaled, ["gqa_decode/p15_output_clamped", "gqa_decode/p01_all_nan"]),
        (Relation::ValuesNegated, ["gqa_decode/p16_output_rounded_up", "gqa_decode/p01_all_nan"]),
        (Relation::ValuesRaised, ["gqa_decode/p03_no_normalisation", "gqa_decode/p14_output_truncated"]),
        (Relation::WeightsSumToOne, ["gqa_decode/m11_tail_unmasked", "gqa_decode/m56_numerator_in_half"]),
        (Relation::WithinValues, ["gqa_decode/p06_v_head_swapped", "gqa_decode/p03_no_normalisation"]),
        (Relation::HeadsRepeated, ["gqa_decode/m01_head_mod", "gqa_decode/m02_group_padded_to_power_of_two"]),
        (Relation::RequestsReversed, ["gqa_decode/p09_maximum_starts_at_zero", "gqa_decode/p01_all_nan"]),
        (Relation::RequestAlone, ["gqa_decode/m05_no_request_term", "gqa_decode/m07_length_of_first_request"]),
        (Relation::CacheMoved, ["gqa_decode/p09_maximum_starts_at_zero", "gqa_decode/p01_all_nan"]),
        (Relation::DimsReversed, ["gqa_decode/m08_head_dim_truncated", "gqa_decode/p01_all_nan"]),
        (Relation::ColumnsReversed, ["gqa_decode/p17_last_column_from_its_neighbour", "gqa_decode/p01_all_nan"]),
        (Relation::FactorsMoved, ["gqa_decode/p18_query_in_half", "gqa_decode/p01_all_nan"]),
        (Relation::Appended, ["gqa_decode/m07_length_of_first_request", "gqa_decode/p01_all_nan"]),
        (
            Relation::KnobsChanged,
            ["gqa_decode_split_kv/s02_first_split_only", "gqa_decode_split_kv/s03_splits_not_weighted"],
        ),
        (
            Relation::LsesMerged,
            ["gqa_decode_split_kv/l01_lse_in_base_2", "gqa_decode_split_kv/l02_lse_without_maximum"],
        ),
        (Relation::LogitsShifted, ["gqa_decode_split_kv/l02_lse_without_maximum", "gqa_decode/p01_all_nan"]),
        (Relation::KeysRepeated, ["gqa_decode_split_kv/l01_lse_in_base_2", "gqa_decode/p01_all_nan"]),
        (Relation::ScaleProbe, ["gqa_decode/m50_scale_of_padded_head_dim", "gqa_decode/p02_no_scale"]),
    ] {
        mutants.into_iter().for_each(|mutant| broken_by(mutant, relation, 200));
    }
}

/// Stands for a device, to try the oracle with outputs that are wrong by a known amount: the exact result, changed.
struct Fabricated {
    /// What becomes of the result `o` of a row of `n` keys in `case`.
    change: fn(&Case, n: usize, o: f64) -> f64,
    /// Keys of the row's reference to leave out at its end, where there are several query tokens.
    blind: usize,
}

impl Backend for Fabricated {
    fn kind(&self) -> BackendKind {
        BackendKind::Cuda
    }

    fn describe(&self) -> String {
        "fabricated".into()
    }

    fn run(&self, _: &Kernel, case: &Case, run: Run) -> Result<Outcome, BackendError> {
        let several = case.shape.requests.iter().any(|r| r.q_len > 1);
        Ok(outcome(case, run, |row, dim| {
            let (dims, p) = (row.reference.v_head_dim, &row.reference.p);
            let seen = if several { row.n.saturating_sub(self.blind).max(1) } else { row.n };
            let weighted = |key: usize| p[key] * row.reference.v[key * dims + dim];
            let o = (0..seen).map(weighted).sum::<f64>() / p[..seen].iter().sum::<f64>();
            (self.change)(case, row.n, o)
        }))
    }
}

/// A manifest like `gqa_decode`'s with a line replaced: what runs it here is [`Fabricated`].
fn rewritten(folder: &Path, from: &str, to: &str) -> Kernel {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/gqa_decode");
    for file in ["kernel.cu", "kernel.ptx"] {
        std::fs::copy(shipped.join(file), folder.join(file)).unwrap();
    }
    let manifest = std::fs::read_to_string(shipped.join("kernel.toml")).unwrap();
    assert!(manifest.contains(from));
    let manifest = manifest.replace(from, to);
    std::fs::write(folder.join("kernel.toml"), manifest).unwrap();
    Kernel::open(folder.join("kernel.toml").to_str().unwrap()).unwrap()
}

#[test]
fn several_query_tokens_give_what_single_ones_give() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = rewritten(folder.path(), "q_len = 1\n", "q_len = \"1..=16\"\n");
    let judged = |blind: usize, line: &str| {
        let backend = Fabricated { change: |_, _, o| o, blind };
        check(&backend, &kernel, &line.parse().unwrap(), Relation::StepsMerged, None).unwrap()
    };
    for line in [
        "kv=2 g=3 d=8 past=5,0,9 q=4 dtype=f32 cache=hnd:16 scale=0.35 values=normal:3",
        "kv=2 g=3 d=8 past=5,0,9 dtype=f16 cache=hnd:16 scale=0.35 steps=3 values=normal:3",
    ] {
        assert!(matches!(judged(0, line), Checked::Holds(Held { elements: 1.., .. })), "{line}");
        // A mask that hides the newest key of each query.
        assert!(matches!(judged(1, line), Checked::Broken(_)), "{line}");
    }
    let one = "kv=2 g=3 d=8 past=5,0,9 dtype=f32 cache=hnd:16 scale=0.35 values=normal:3";
    assert!(matches!(judged(1, one), Checked::DoesNotApply(_)));
}

/// A kernel of every feature, that runs on [`Misread`] and the like; the knobs and numerics are `gqa_decode_split_kv`'s.
fn featured_kernel(append: bool) -> Kernel {
    let mut kernel = Kernel::open("gqa_decode_split_kv").unwrap();
    let knobs = kernel.manifest.domain.knobs.clone();
    kernel.manifest.domain = attnfuzz::case::Domain { knobs, ..featured_domain(append) };
    assert_eq!(kernel.manifest.lse.unwrap().base, LseBase::E);
    kernel
}

/// Stands for a kernel that takes the features of its cases for others: those that `change` makes of them.
struct Misread {
    change: fn(&mut CaseParts),
}

impl Backend for Misread {
    fn kind(&self) -> BackendKind {
        BackendKind::Cuda
    }

    fn describe(&self) -> String {
        "misread".into()
    }

    fn run(&self, kernel: &Kernel, case: &Case, run: Run) -> Result<Outcome, BackendError> {
        assert_eq!(kernel.manifest.domain.excludes(case), None, "{case}");
        let read = case.with(self.change).unwrap();
        let misread = RefCell::new(Vec::new());
        Ok(outcome(case, run, |row, dim| {
            if read == *case {
                return row.reference.o[dim];
            }
            if dim == 0 {
                *misread.borrow_mut() = output_as_read(case, &read, row);
            }
            misread.borrow()[dim]
        }))
    }
}

/// The output of a row with the values of `case` and the features of `read`.
fn output_as_read(case: &Case, read: &Case, row: &ExpectedRow<'_>) -> Vec<f64> {
    let (request, query) = place(case, row.at[0]);
    let head = row.at[1] as u32;
    let at = RowAt { request: request as u32, kv_head: head / case.shape.q_per_kv, member: 0, token: 0 };
    let member = head % case.shape.q_per_kv;
    let [mut q, mut k, mut v] = [const { Vec::new() }; 3];
    let token = row.step * case.shape.requests[request].q_len + query;
    case.row(Role::Q, RowAt { member, token, ..at }, &mut q);
    for token in read.visible(request, row.step, query) {
        case.row(Role::K, RowAt { token, ..at }, &mut k);
        case.row(Role::V, RowAt { token, ..at }, &mut v);
    }
    let [head_dim, v_head_dim] = [case.shape.head_dim, case.shape.v_head_dim].map(|n| n as usize);
    let softcap = read.features.softcap;
    let sink = read.sink(at.kv_head, member);
    attend(&Row { q: &q, k: &k, v: &v, head_dim, v_head_dim, scale: case.scale, softcap, sink }).o
}

/// Request, and query token in it, of a step's token.
fn place(case: &Case, token: u64) -> (usize, u32) {
    let first = |r: usize| case.shape.requests[..r].iter().map(|r| u64::from(r.q_len)).sum::<u64>();
    let request = (0..case.shape.requests.len()).rfind(|&r| first(r) <= token).unwrap();
    (request, (token - first(request)) as u32)
}

#[test]
fn a_right_kernel_of_every_feature_keeps_every_relation() {
    for append in [true, false] {
        let kernel = featured_kernel(append);
        let space = Space::new(&kernel.manifest.domain).unwrap().with_budget(20_000);
        let cases: Vec<Case> = (0..400).map(|index| featured_case(&space, index)).collect();
        for relation in Relation::ALL {
            let (mut held, mut windows, mut elements) = (0, 0, 0);
            for case in &cases {
                match check(&Misread { change: |_| {} }, &kernel, case, relation, None).unwrap() {
                    Checked::Holds(one) => {
                        held += 1;
                        windows += u32::from(case.features.window.is_some());
                        elements += one.elements;
                    }
                    Checked::DoesNotApply(_) => {}
                    wrong => panic!("{relation} on {case}: {wrong:?}"),
                }
            }
            if !append && relation == Relation::Appended {
                assert_eq!(held, 0);
                continue;
            }
            assert!(held >= 8 && elements > 0, "{relation} on {held} cases, append {append}");
            assert!(windows > 0, "{relation} never with a window, append {append}");
        }
    }
}

/// How many of 300 cases that `has` holds of break `relation` if the kernel misreads its cases by `change`.
fn broken_by_misreading(
    append: bool,
    relation: Relation,
    has: fn(&Case) -> bool,
    change: fn(&mut CaseParts),
) -> (usize, usize) {
    let kernel = featured_kernel(append);
    let space = Space::new(&kernel.manifest.domain).unwrap().with_budget(20_000);
    let cases = (0..300).map(|index| featured_case(&space, index)).filter(has);
    let checked = cases.map(|case| check(&Misread { change }, &kernel, &case, relation, None).unwrap());
    let checked: Vec<Checked> = checked.filter(|checked| !matches!(checked, Checked::DoesNotApply(_))).collect();
    let broken = checked.iter().filter(|checked| matches!(checked, Checked::Broken(_))).count();
    (broken, checked.len())
}

#[test]
fn relations_see_features_that_are_misread() {
    let wider: fn(&mut CaseParts) = |parts| parts.features.window = parts.features.window.map(|window| window + 1);
    let windowed: fn(&Case) -> bool = |case| case.features.window.is_some();
    for (append, relation, has, change) in [
        (false, Relation::KeysPermuted, windowed, wider),
        (true, Relation::KeysPermuted, windowed, wider),
        (false, Relation::KeysRepeated, windowed, wider),
        (false, Relation::StepsMerged, |c| c.features.causal, |parts| parts.features.causal = false),
        (true, Relation::StepsMerged, |c| c.features.causal, |parts| parts.features.causal = false),
        (false, Relation::ScaleProbe, |c| c.features.softcap.is_some(), |parts| parts.features.softcap = None),
        (false, Relation::ScaleProbe, |c| c.features.sinks, |parts| parts.features.sinks = false),
        (true, Relation::ScaleProbe, |c| c.features.sinks, |parts| parts.features.sinks = false),
        (false, Relation::WeightsSumToOne, |c| !c.features.sinks, |parts| parts.features.sinks = true),
        (false, Relation::ValuesRaised, |c| !c.features.sinks, |parts| parts.features.sinks = true),
        (false, Relation::LogitsShifted, |c| c.features.softcap.is_none(), |parts| parts.features.softcap = Some(30.0)),
        (false, Relation::LsesMerged, |c| !c.features.sinks, |parts| parts.features.sinks = true),
    ] as [(bool, Relation, fn(&Case) -> bool, fn(&mut CaseParts)); 12]
    {
        let (broken, checked) = broken_by_misreading(append, relation, has, change);
        assert!(broken > 0, "{relation}: {broken} of {checked}, append {append}");
        // The near miss: the feature is not there, or is read right.
        let (broken, _) = broken_by_misreading(append, relation, has, |_| {});
        assert_eq!(broken, 0, "{relation}");
    }
}

/// Stands for a kernel that looks for the values of a paged cache in places of its own.
struct Wanders {
    /// The page's place in memory, and the slot in it, of a request's token.
    place: fn(&Case, u32, u32) -> (u32, u32),
}

impl Backend for Wanders {
    fn kind(&self) -> BackendKind {
        BackendKind::Cuda
    }

    fn describe(&self) -> String {
        "wanders".into()
    }

    fn run(&self, _: &Kernel, case: &Case, run: Run) -> Result<Outcome, BackendError> {
        let (_, v_cache) = Inputs::final_caches(case, run.poison);
        let map = case.cache_map(case.shape.v_head_dim);
        let stride = map.page_stride().unwrap();
        Ok(outcome(case, run, |row, dim| {
            let (request, query) = place(case, row.at[0]);
            let keys = case.visible(request, row.step, query);
            let head = row.at[1] / u64::from(case.shape.q_per_kv);
            let value = |token: u32| {
                let (page, slot) = (self.place)(case, request as u32, token);
                let row = u64::from(page) * stride + head * map.head_stride() + u64::from(slot) * map.token_stride();
                let at = row as usize + dim;
                if at < v_cache.len() { v_cache.value(at) } else { 0.0 }
            };
            keys.zip(&row.reference.p).map(|(token, p)| p * value(token)).sum()
        }))
    }
}

#[test]
fn relations_see_pages_that_are_walked_wrong() {
    let right: fn(&Case, u32, u32) -> (u32, u32) = |case, request, token| {
        let size = case.cache.storage.pages().unwrap().size;
        (case.block_table()[request as usize][(token / size) as usize], token % size)
    };
    // The table is not read: pages are taken to lie in the order of their use.
    let contiguous: fn(&Case, u32, u32) -> (u32, u32) = |case, request, token| {
        let size = case.cache.storage.pages().unwrap().size;
        let before: usize = case.block_table()[..request as usize].iter().map(Vec::len).sum();
        (before as u32 + token / size, token % size)
    };
    // Pages are taken to be of 4 tokens.
    let fixed: fn(&Case, u32, u32) -> (u32, u32) = |case, request, token| {
        let row = &case.block_table()[request as usize];
        (row.get((token / 4) as usize).copied().unwrap_or(0), token % 4)
    };
    let kernel = featured_kernel(false);
    for line in [
        "kv=2 g=3 d=8 past=5,0,9 append=no dtype=f32 cache=nhd:16 pages=4 scale=0.35 knobs=num_splits:1 values=normal:3",
        "kv=2 g=3 d=8 past=13,7 append=no dtype=f16 cache=hnd:16+1 pages=4,seed:0,spare:1 scale=0.35 knobs=num_splits:1 values=normal:3",
    ] {
        let case: Case = line.parse().unwrap();
        let broken = |place, relation| {
            let checked = check(&Wanders { place }, &kernel, &case, relation, None).unwrap();
            assert!(!matches!(checked, Checked::DoesNotApply(_)), "{checked:?}");
            matches!(checked, Checked::Broken(_))
        };
        assert!(broken(contiguous, Relation::PagesPermuted) && !broken(contiguous, Relation::PagesResized), "{line}");
        assert!(!broken(fixed, Relation::PagesPermuted) && broken(fixed, Relation::PagesResized), "{line}");
        assert!(!broken(right, Relation::PagesPermuted) && !broken(right, Relation::PagesResized), "{line}");
    }
}

/// What two requests share is request 0's: requests that change places must not share.
#[test]
fn shared_pages_are_parted_where_tokens_are_looked_up() {
    let kernel = featured_kernel(false);
    let line = "kv=2 g=2 d=8 past=9,8 append=no dtype=f32 cache=nhd:16 pages=4,shared:2 scale=0.35 knobs=num_splits:1 values=normal:3";
    let case: Case = line.parse().unwrap();
    let own = case.with(|parts| {
        if let Storage::Paged(pages) = &mut parts.cache.storage {
            pages.shared = 0;
        }
    });
    let row = |case: &Case| {
        let mut row = Vec::new();
        let at = RowAt { request: 1, kv_head: 0, member: 0, token: 0 };
        case.row(Role::K, at, &mut row);
        row
    };
    assert_ne!(row(&case), row(&own.unwrap()));
    for relation in [Relation::RequestsReversed, Relation::RequestAlone, Relation::KeysPermuted, Relation::LsesMerged] {
        let checked = check(&Misread { change: |_| {} }, &kernel, &case, relation, None).unwrap();
        assert!(matches!(checked, Checked::Holds(Held { elements: 1.., .. })), "{relation}: {checked:?}");
    }
}

/// Numbers with few exponents underflow where those of 64 times V don't: no exact relation, and no bug.
#[test]
fn narrow_accumulators_are_not_asked_to_scale_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let narrow = rewritten(folder.path(), "preset = \"naive\"\n", "preset = \"naive\"\nu = \"2^-11\"\n");
    let wide = Kernel::open("gqa_decode").unwrap();
    let case: Case = "kv=2 g=3 d=8 past=5,9 dtype=f32 cache=hnd:16 scale=0.35 values=normal:3".parse().unwrap();
    let exact = Fabricated { change: |_, _, o| o, blind: 0 };
    for relation in [Relation::ValuesScaled, Relation::FactorsMoved] {
        let judged = |kernel: &Kernel| check(&exact, kernel, &case, relation, None).unwrap();
        assert!(matches!(judged(&narrow), Checked::DoesNotApply(_)), "{relation}");
        assert!(matches!(judged(&wide), Checked::Holds(_)), "{relation}");
    }
    let negated = check(&exact, &narrow, &case, Relation::ValuesNegated, None).unwrap();
    assert!(matches!(negated, Checked::Holds(_)), "{negated:?}");
}

/// The output of the case was once taken for that of the same case with other knobs, so that nothing was compared.
#[test]
fn other_knobs_are_run_although_the_case_itself_is_known() {
    let kernel = Kernel::open("gqa_decode_split_kv").unwrap();
    let line = "kv=2 g=3 d=8 past=40 dtype=f32 cache=hnd:41 scale=0.35 knobs=num_splits:2 values=normal:3";
    let case: Case = format!("{line} relation=knobs-changed").parse().unwrap();
    let wrong = |case: &Case, _: usize, o: f64| if case.knobs["num_splits"] == 2 { o } else { o + 1.0 };
    for (change, holds) in [(wrong as fn(&Case, usize, f64) -> f64, false), (|_, _, o| o, true)] {
        let backend = Fabricated { change, blind: 0 };
        let Outcome::Output(known) = backend.run(&kernel, &case, Run::first(&case)).unwrap() else { unreachable!() };
        let checked = check(&backend, &kernel, &case, Relation::KnobsChanged, Some(&known)).unwrap();
        assert_eq!(matches!(checked, Checked::Holds(_)), holds, "{checked:?}");
        assert_eq!(matches!(checked, Checked::Broken(_)), !holds, "{checked:?}");
    }
}

/// Below what the bound of a long row allows, but never the negative of what -V gives.
fn biased(_: &Case, n: usize, o: f64) -> f64 {
    if n > 8 { o + 3e-7 } else { o }
}

#[test]
fn what_the_bound_allows_and_a_relation_does_not_is_found_shrunk_saved_and_replayed() {
    let kernel = Arc::new(Kernel::open("gqa_decode").unwrap());
    let line = "kv=1 g=1 d=64 past=40 dtype=f32 cache=hnd:41 scale=0.125 values=normal:3";
    let backend = || Fabricated { change: biased, blind: 0 };
    let plain: Case = line.parse().unwrap();
    assert!(matches!(examine(&backend(), &kernel, &plain).unwrap().verdict, Verdict::Agree(_)));
    let asked: Case = format!("{line} relation=values-negated").parse().unwrap();
    let verdict = examine(&backend(), &kernel, &asked).unwrap().verdict;
    assert_eq!(verdict.signature().unwrap().class, "relation values-negated");

    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        cases: Some(500),
        relations: vec![Relation::ValuesNegated],
        seed: 1,
        max_findings: 8,
        max_shrink: 1000,
        store: Some(Store::new(folder.path())),
        ..Config::new(vec![kernel.clone()], vec![Arc::new(backend())])
    };
    let mut found = Vec::new();
    let summary = run(&config, &mut |event| {
        if let Event::Found(event) = event {
            found.push(*event);
        }
    });
    let count = summary.rows[0].relations[&Relation::ValuesNegated];
    assert!(count.holds > 0 && count.broken > 0, "{count:?}");
    let found = found.iter().find(|f| f.finding.signature.class == "relation values-negated").unwrap();
    let case = &found.finding.case;
    assert_eq!((case.relation, case.view), (Some(Relation::ValuesNegated), None));
    // The bias starts at 9 keys.
    assert_eq!(case.shape.requests.iter().map(|r| r.past_len).max(), Some(8), "{case}");
    let Some(Ok(Saved::New { path: file, .. })) = &found.saved else { panic!("{:?}", found.saved) };
    let (_, finding) = attnfuzz::regression::Finding::load_all(file).unwrap().swap_remove(0);
    assert_eq!(finding, found.finding);
    assert!(matches!(replay(&finding, &kernel, &backend()), Replayed::StillFails(_)));
    assert_eq!(replay(&finding, &kernel, &Fabricated { change: |_, _, o| o, blind: 0 }), Replayed::Fixed);
    assert_eq!(replay(&finding, &kernel, &Emulator), Replayed::Fixed);
}

#[test]
fn nan_breaks_every_relation_and_a_fault_of_a_derived_run_is_a_fault() {
    let kernel = Kernel::open("gqa_decode").unwrap();
    let case: Case = "kv=2 g=3 d=8 past=5,9 dtype=f32 cache=hnd:16 scale=0.35 values=normal:3".parse().unwrap();
    for relation in Relation::ALL {
        let only_derived =
            Fabricated { change: |case, _, o| if case.values.seed == 3 { f64::NAN } else { o }, blind: 0 };
        match check(&only_derived, &kernel, &case, relation, None).unwrap() {
            Checked::Broken(d) => assert_eq!(d.ratio, f64::INFINITY, "{relation}"),
            Checked::DoesNotApply(_) => {
                assert!(matches!(
                    relation,
                    Relation::StepsMerged
                        | Relation::KnobsChanged
                        | Relation::LsesMerged
                        | Relation::PagesPermuted
                        | Relation::PagesResized
                ));
            }
            held => panic!("{relation}: {held:?}"),
        }
    }
    let strides = Kernel::open(&format!(
        "{}/kernels/mutants/gqa_decode/m41_assumes_dense_tokens.toml",
        env!("CARGO_MANIFEST_DIR")
    ));
    // Dense as it is, with padding once its cache is moved.
    let checked = check(&Emulator, &strides.unwrap(), &case, Relation::CacheMoved, None).unwrap();
    assert!(matches!(checked, Checked::Fault(_) | Checked::Broken(_)), "{checked:?}");
}
