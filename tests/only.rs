//! Cases of which only some elements keep their values.

use attnfuzz::case::values::{Role, RowAt};
use attnfuzz::case::{Axis, Case, Inputs, MAX_REGIONS, Only, Region, Span};
use attnfuzz::shrink::complexity;
use proptest::prelude::*;

fn case(words: &str) -> Case {
    format!("kv=2 g=3 d=4 past=5,2 dtype=f16 scale=1 {words}").parse().unwrap()
}

fn row(case: &Case, role: Role, at: [u32; 4]) -> Vec<f64> {
    let [request, kv_head, member, token] = at;
    let mut row = Vec::new();
    case.row(role, RowAt { request, kv_head, member, token }, &mut row);
    row
}

#[test]
fn an_element_keeps_its_value_only_if_a_region_names_it() {
    let all = case("sinks=yes cache=hnd:6 values=normal:1");
    let some = case("sinks=yes cache=hnd:6 values=normal:1 only=q1.1.2,k0.*.3-4.1-2,v1.0.0.3,s1.0-1");
    let axes = |request, kv_head, member, token| [request, kv_head, member, token];
    let mut kept = 0;
    for request in 0..2 {
        for kv_head in 0..2 {
            for member in 0..3 {
                let at = axes(request, kv_head, member, 0);
                let q = if [request, kv_head, member] == [1, 1, 2] { row(&all, Role::Q, at) } else { vec![0.0; 4] };
                assert_eq!(row(&some, Role::Q, at), q);
                let sink = if kv_head == 1 && member < 2 { all.sink(kv_head, member) } else { Some(0.0) };
                assert_eq!(some.sink(kv_head, member), sink);
                kept += u64::from(sink != Some(0.0) && request == 0) + q.iter().filter(|&&x| x != 0.0).count() as u64;
            }
            for token in 0..all.past_len_at(request as usize, 1) {
                let at = axes(request, kv_head, 0, token);
                let [mut k, mut v] = [Role::K, Role::V].map(|role| row(&all, role, at));
                let k_kept = |dim: usize| request == 0 && [3, 4].contains(&token) && [1, 2].contains(&dim);
                let v_kept = |dim: usize| [request, kv_head, token] == [1, 0, 0] && dim == 3;
                (0..4).filter(|&dim| !k_kept(dim)).for_each(|dim| k[dim] = 0.0);
                (0..4).filter(|&dim| !v_kept(dim)).for_each(|dim| v[dim] = 0.0);
                assert_eq!([row(&some, Role::K, at), row(&some, Role::V, at)], [k.clone(), v.clone()]);
                kept += k.into_iter().chain(v).filter(|&x| x != 0.0).count() as u64;
            }
        }
    }
    assert_eq!((kept, some.kept_elements()), (15, 15));
    // 2 x 2 x 3 rows of Q, 9 tokens of K and of V over 2 heads, and 6 sinks.
    assert_eq!(all.kept_elements(), 2 * 6 * 4 + 2 * 9 * 2 * 4 + 6);
}

#[test]
fn a_smaller_shape_and_another_layout_keep_the_same_elements() {
    let large = case("cache=hnd:6 values=normal:1 only=v0.1.2.1,v1.1");
    let small: Case =
        "kv=2 g=1 d=2 past=3 dtype=f16 cache=nhd:9+3 scale=1 values=normal:1 only=v0.1.2.1,v1.1".parse().unwrap();
    for token in 0..4 {
        assert_eq!(row(&large, Role::V, [0, 1, 0, token])[..2], row(&small, Role::V, [0, 1, 0, token])[..]);
    }
    assert_ne!(row(&small, Role::V, [0, 1, 0, 2])[1], 0.0);
    assert_eq!((large.kept_elements(), small.kept_elements()), (13, 1));
}

#[test]
fn a_view_looks_up_what_is_left() {
    let given = case("cache=hnd:6 values=normal:1 only=v1.0.1,q1.0.0.0.3");
    let viewed = |view: &str| -> Case { format!("{given} view={view}").parse().unwrap() };
    let value = row(&given, Role::V, [1, 0, 0, 1]);
    assert!(value.iter().all(|&x| x != 0.0));
    let reversed = viewed("requests-reversed");
    assert_eq!([0, 1].map(|r| row(&reversed, Role::V, [r, 0, 0, 1])), [value.clone(), vec![0.0; 4]]);
    let alone = viewed("request:1");
    assert_eq!(row(&alone, Role::V, [0, 0, 0, 1]), value);
    let first = |case: &Case| row(case, Role::Q, [1, 0, 0, 0])[0];
    assert_eq!(first(&viewed("dims-reversed")), row(&given, Role::Q, [1, 0, 0, 0])[3]);
    // What a view makes of a 0 is the view's.
    assert_eq!(row(&viewed("values-one"), Role::V, [0, 0, 0, 0]), [1.0; 4]);
    // The near miss: what stays 0.
    assert_eq!(first(&given), 0.0);
}

#[test]
fn signs_that_a_search_chose_are_not_random() {
    assert!(case("cache=hnd:6 values=normal:1").v_is_sign_random());
    for only in ["none", "v", "q,k,v"] {
        assert!(!case(&format!("cache=hnd:6 values=normal:1 only={only}")).v_is_sign_random());
    }
}

#[test]
fn all_inputs_of_nothing_are_zero() {
    let none = case("sinks=yes cache=hnd:6 values=extreme:5 only=none");
    let inputs = Inputs::of(&none, none.poison);
    assert!((0..inputs.steps[0].q.len()).all(|i| inputs.steps[0].q.value(i) == 0.0));
    assert!((0..6).all(|i| inputs.sinks.as_ref().unwrap().value(i) == 0.0));
    assert_eq!(none.kept_elements(), 0);
}

#[test]
fn few_elements_are_told_one_by_one() {
    let words = |only: &str| {
        let case = case(&format!("cache=hnd:6 values=flat:0 only={only}"));
        case.only.as_ref().unwrap().in_words(&case)
    };
    assert_eq!(words("v0.1.0.0"), "v[0, 1, 0, 0] = -1.609375 (request, kv_head, token, dim)");
    // Queries of this recipe are 0 all the same, and there are no sinks.
    assert_eq!(words("q0.1.0.0,s"), "nothing");
    assert_eq!(words("none"), "nothing");
    assert_eq!(words("v0.1.0.0,k0.0.0.2").split("; ").count(), 2);
    assert_eq!(words("v0.0.0-1").matches(" = ").count(), 8);
    assert_eq!(words("v0.0.0-2"), "12 of 192 elements at most, those of v0.0.0-2");
}

#[test]
fn fewer_elements_are_simpler_than_a_simpler_recipe() {
    let of = |values: &str| complexity(&case(&format!("cache=hnd:6 values={values}")));
    assert!(of("mixed:9 only=v0.0.0.0") < of("flat:0"));
    assert!(of("flat:0 only=v0.0.0.0") < of("mixed:9 only=v0.0.0.0"));
    assert!(of("flat:0 only=v0") < of("flat:0"));
    assert!(of("flat:0") < of("flat:0 only=q,k,v"));
    assert!(of("flat:0 only=none") < of("flat:0 only=v0.0.0.0"));
    // What the case doesn't have does not count.
    assert!(of("flat:0 only=v0.0.0.0") < of("flat:0 only=v0.0.0.0,v7"));
}

#[test]
fn a_wrong_list_is_told_by_the_word_at_fault() {
    let error = |only: &str| {
        let line = format!("kv=1 g=1 d=4 past=5 dtype=f16 cache=hnd:6 scale=1 values=flat:0 only={only}");
        line.parse::<Case>().unwrap_err().to_string()
    };
    for (only, found) in [("", ""), ("x0", "x0"), ("v0,,v1", ""), ("all", "all"), ("v0,none", "none"), ("é", "é")] {
        let expected = "only: expected none, or q, k, v or s, each with coordinates, like q,v0.1.0.0-7";
        assert_eq!(error(only), format!("{expected}, found {found:?}"), "{only}");
    }
    for only in ["v0.", "v.0", "v0.x", "v-1", "v3-1", "v1-", "v0.1-2-3", "v4294967296", "vé", "v0.**"] {
        let expected = "only: expected coordinates N, FIRST-LAST or *, like v0.1.*.0-7";
        assert_eq!(error(&format!("k,{only}")), format!("{expected}, found {only:?}"));
    }
    assert_eq!(
        error("v0.0.0.0.0"),
        "only: expected no more coordinates of v than request, kv_head, token, dim, found \"v0.0.0.0.0\""
    );
    assert!(error("s0.0.0").contains("no more coordinates of s than kv_head, member"));
    let many = |count: usize| (0..count).map(|i| format!("v{i}")).collect::<Vec<_>>().join(",");
    assert_eq!(error(&many(65)), "only: expected at most 64 regions, found \"65 regions\"");
    assert_eq!(error(&many(100_000)), "only: expected at most 64 regions, found \"100000 regions\"");
    assert_eq!(many(64).parse::<Only>().unwrap().regions().len(), MAX_REGIONS);
    assert_eq!(Only::new(vec![Region::whole(Role::V); 65]).unwrap().to_string(), "v");
}

#[test]
fn the_largest_list_over_the_largest_case_is_counted_at_once() {
    let spans = (0..MAX_REGIONS).map(|i| format!("q*.*.{i}")).collect::<Vec<_>>().join(",");
    let line = format!(
        "kv=1 g=1024 d=4 past={} dtype=f16 cache=hnd:2 scale=1 values=flat:0 only={spans}",
        vec!["0"; 100_000].join(",")
    );
    let case: Case = line.parse().unwrap();
    assert_eq!(case.kept_elements(), 64 * 4 * 100_000);
    assert_eq!(case.nonzero_elements(8), None);
}

fn region() -> impl Strategy<Value = Region> {
    let span = prop_oneof![
        3 => Just(Span::ALL),
        3 => (0..4_u32).prop_map(|n| Span { first: n, last: n }),
        2 => (0..4_u32, 0..4_u32).prop_map(|(a, b)| Span { first: a.min(b), last: a.max(b) }),
        1 => any::<(u32, u32)>().prop_map(|(a, b)| Span { first: a.min(b), last: a.max(b) }),
    ];
    let axes = [Axis::Request, Axis::KvHead, Axis::Member, Axis::Token, Axis::Dim];
    (0..4_usize, prop::array::uniform5(span)).prop_map(move |(role, spans)| {
        axes.into_iter().zip(spans).fold(Region::whole(Role::ALL[role]), |region, (axis, span)| region.with(axis, span))
    })
}

proptest! {
    #[test]
    fn a_list_prints_back(regions in prop::collection::vec(region(), 0..=MAX_REGIONS)) {
        let only = Only::new(regions).unwrap();
        prop_assert_eq!(&only.to_string().parse::<Only>().unwrap(), &only);
        let restricted = case("cache=hnd:6 values=normal:1").with(|parts| parts.only = Some(only)).unwrap();
        prop_assert_eq!(&restricted.to_string().parse::<Case>().unwrap(), &restricted);
        let table = toml::to_string(&restricted).unwrap();
        prop_assert_eq!(&toml::from_str::<Case>(&table).unwrap(), &restricted);
    }

    #[test]
    fn no_text_is_more_than_refused(text in "[qkvs0-9.*,x-]{0,40}") {
        if let Ok(only) = text.parse::<Only>() {
            prop_assert_eq!(only.to_string().parse::<Only>().unwrap(), only);
        }
    }

    /// What a region names of a case, counted one by one; `within` and `widened` name the same.
    #[test]
    fn a_region_counts_what_it_names(region in region(), sinks: bool) {
        let case = case(if sinks { "sinks=yes q=1,2 cache=hnd:6 values=ones:1" } else { "q=2,0 cache=hnd:7 values=ones:1" });
        let of = |region: Region| case.with(|parts| parts.only = Only::new(vec![region])).unwrap();
        let named = of(region);
        let mut count = 0;
        for (request, r) in (0..).zip(&case.shape.requests) {
            for kv_head in 0..2 {
                let tokens = if region.role() == Role::Q { r.q_len } else { case.past_len_at(request as usize, 1) };
                let members = if region.role() == Role::Q { 3 } else { 1 };
                for (member, token) in (0..members).flat_map(|m| (0..tokens).map(move |t| (m, t))) {
                    let row = row(&named, region.role(), [request, kv_head, member, token]);
                    count += row.into_iter().filter(|&x| region.role() != Role::Sink && x != 0.0).count();
                }
            }
        }
        if region.role() == Role::Sink {
            count = (0..6).filter(|n| named.sink(n / 3, n % 3).is_some_and(|x| x != 0.0)).count();
        }
        prop_assert_eq!(region.count(&case), count as u64);
        match region.within(&case) {
            None => prop_assert_eq!(count, 0),
            Some(within) => {
                prop_assert_eq!(within.count(&case), count as u64);
                prop_assert_eq!(within.widened(&case).count(&case), count as u64);
                let inputs = |region| format!("{:?}", Inputs::of(&of(region), case.poison));
                prop_assert_eq!(inputs(within.widened(&case)), inputs(region));
            }
        }
    }
}
