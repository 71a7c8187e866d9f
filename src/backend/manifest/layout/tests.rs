use super::*;
use std::collections::BTreeSet;

fn case() -> Case {
    "kv=2 g=3 d=5 dtype=f16 scale=1 values=flat:0 past=3,0,7 q=2,0,4 cache=hnd:11".parse().unwrap()
}

fn expr(text: &str) -> Expr {
    Expr::parse(text, &[]).unwrap()
}

fn order(axes: &[Axis]) -> TensorLayout {
    let dimension = |axis: &Axis| Dimension { along: Along::Axis(*axis), of: None, stride: None };
    TensorLayout { at: None, dimensions: axes.iter().map(dimension).collect() }
}

fn strides(texts: [(Axis, &str); 3]) -> TensorLayout {
    let dimension = |(axis, stride)| Dimension { along: Along::Axis(axis), of: None, stride: Some(expr(stride)) };
    TensorLayout { at: None, dimensions: texts.map(dimension).into() }
}

/// The layout with one dimension replaced.
fn with(layout: &TensorLayout, index: usize, along: Along, of: Option<&str>) -> TensorLayout {
    let mut layout = layout.clone();
    layout.dimensions[index] = Dimension { along, of: of.map(expr), stride: None };
    layout
}

#[test]
fn every_order_places_each_element_once() {
    use Axis::{Dim, Head, Request, Token};
    for axes in [
        vec![Token, Head, Dim],
        vec![Head, Token, Dim],
        vec![Dim, Head, Token],
        vec![Request, Head, Token, Dim],
        vec![Request, Token, Head, Dim],
        vec![Head, Request, Dim, Token],
    ] {
        let by_request = axes.contains(&Request);
        let placement = order(&axes).place(TensorName::Q, &case(), &[]).unwrap();
        let offsets: Vec<usize> = placement.offsets().collect();
        let unique: BTreeSet<usize> = offsets.iter().copied().collect();
        assert_eq!((offsets.len(), unique.len()), (6 * 6 * 5, 6 * 6 * 5));
        assert_eq!(placement.end(), if by_request { 3 * 4 * 6 * 5 } else { 6 * 6 * 5 });
        assert!(unique.iter().all(|&offset| offset < placement.end()));
        assert_eq!(placement.ranges().iter().map(|range| range.len()).sum::<usize>(), offsets.len());
        for (element, &offset) in offsets.iter().enumerate() {
            let at = [element / 30, element / 5 % 6, element % 5].map(|n| n as u64);
            assert_eq!((placement.coordinate(offset), placement.offset(element)), (Some(at.to_vec()), offset));
        }
        assert_eq!(placement.start_of(2), offsets[2 * 30]);
    }
    let dense = order(&[Token, Head, Dim]).place(TensorName::Q, &case(), &[]).unwrap();
    assert!(dense.offsets().eq(0..180));
}

#[test]
fn strides_that_overlap_are_told_and_gaps_are_not() {
    let place = |token, head, dim| {
        let layout = strides([(Axis::Token, token), (Axis::Head, head), (Axis::Dim, dim)]);
        layout.place(TensorName::Out, &case(), &[])
    };
    assert_eq!(place("40", "6", "1").unwrap().end(), 5 * 40 + 5 * 6 + 5);
    assert_eq!(place("30", "5", "1").unwrap().ranges().as_slice(), std::slice::from_ref(&(0..180)));
    let overlap = |axis, least, found| Some(LayoutError::Overlap { tensor: TensorName::Out, axis, least, found });
    assert_eq!(place("30", "4", "1").err(), overlap("head", 5, 4));
    assert_eq!(place("29", "5", "1").err(), overlap("token", 30, 29));
    assert_eq!(place("0", "5", "1").err(), overlap("token", 1, 0));
    assert_eq!(place("2147483648", "5", "1").err(), Some(LayoutError::TooLarge(TensorName::Out)));
    assert!(matches!(place("30", "5", "1 / 2"), Err(LayoutError::Number(..))));
}

#[test]
fn an_axis_in_groups_is_where_c_would_have_it() {
    use Axis::{Dim, Head, Token};
    // Heads in groups of 3 with two more places in each, rows of 5 in groups of 2 around the tokens.
    let base = order(&[Head, Head, Dim, Token, Dim]);
    let layout = with(&base, 0, Along::Groups(Head, expr("3")), None);
    let layout = with(&layout, 1, Along::Axis(Head), Some("5"));
    let layout = with(&layout, 2, Along::Groups(Dim, expr("2")), None);
    let placement = layout.place(TensorName::Q, &case(), &[]).unwrap();
    for (element, offset) in placement.offsets().enumerate() {
        let (token, head, dim) = (element / 30, element / 5 % 6, element % 5);
        assert_eq!(offset, ((((head / 3) * 5 + head % 3) * 3 + dim / 2) * 6 + token) * 2 + dim % 2);
    }
    let narrow = with(&layout, 1, Along::Axis(Head), Some("2")).place(TensorName::Q, &case(), &[]).unwrap_err();
    assert_eq!(narrow.to_string(), "layout.q: expected a dimension of at least 3 for head, found 2");
    let place = with(&order(&[Token, Token, Head, Dim]), 1, Along::Place(expr("1")), Some("2"));
    let placement = place.place(TensorName::Q, &case(), &[]).unwrap();
    assert!(placement.offsets().eq((0..180).map(|n| (n / 30 * 2 + 1) * 30 + n % 30)));
    assert_eq!((placement.start(), placement.end(), placement.coordinate(0)), (30, 360, None));
    let outside = with(&place, 1, Along::Place(expr("2")), Some("2")).place(TensorName::Q, &case(), &[]).unwrap_err();
    assert_eq!(outside.to_string(), "layout.q: expected a dimension of at least 3 for 2, found 2");
}

#[test]
fn caches_lie_in_any_order_and_keep_the_gaps_of_this_programs_own() {
    use Axis::{Dim, Head, Page, Request, Token};
    for (line, axes) in [
        ("past=3,0,7 cache=nhd:9", vec![Dim, Head, Token, Request]),
        ("past=3,0,7 append=no cache=packed-hnd:9", vec![Head, Dim, Token]),
        ("past=9,6,7 append=no cache=hnd:9 pages=3,seed:5,spare:2,shared:2", vec![Page, Head, Dim, Token]),
    ] {
        let case: Case = format!("kv=2 g=1 d=5 dtype=f32 scale=1 values=flat:0 {line}").parse().unwrap();
        let placement = order(&axes).place(TensorName::VCache, &case, &[]).unwrap();
        let offsets: BTreeSet<usize> = placement.offsets().collect();
        assert!(offsets.into_iter().eq(0..case.cache_map(5).span()), "{line}");
        let rows = placement.rows(case.cached_ranges(5, 0).into_iter().map(|row| row.start));
        // Of the last, two pages are of all requests.
        assert_eq!(rows.iter().map(|range| range.len()).sum::<usize>(), 10 * 2 * 5, "{line}");
    }
    let case: Case =
        "kv=2 g=1 d=5 dtype=f32 scale=1 values=flat:0 past=4 append=no cache=nhd:4+3 pages=1".parse().unwrap();
    let map = case.cache_map(5);
    let placement = Placement::of_pages(&case, 5).reversed();
    assert_eq!((placement.own_len(), placement.end()), (map.span(), map.span()));
    for page in 0..4 {
        let (own, reversed) = (map.offset(0, 1, page) + 4, map.offset(0, 1, 3 - page) + 4);
        let element = (0..placement.len()).find(|&element| placement.own(element) == own).unwrap();
        assert_eq!(placement.offset(element), reversed);
    }
}

#[test]
fn tensors_of_a_buffer_that_meet_are_told() {
    use Axis::{Dim, Head, Token};
    let [q, k, v] = ["0", "6", "8"].map(|at| TensorLayout {
        at: Some(expr(&format!("{at} * 5"))),
        ..strides([(Token, "10 * 5"), (Head, "5"), (Dim, "1")])
    });
    let buffer = SharedBuffer { name: "qkv".into(), tensors: vec![TensorName::Q, TensorName::KNew, TensorName::VNew] };
    let check = |q: &TensorLayout, k: &TensorLayout, v: &TensorLayout| {
        let all = [(TensorName::Q, q), (TensorName::KNew, k), (TensorName::VNew, v)];
        let placed = all.map(|(name, layout)| (name, layout.place(name, &case(), &[]).unwrap()));
        buffer.check(|name| placed.iter().find(|(of, _)| *of == name).map(|(_, placement)| placement))
    };
    assert_eq!(check(&q, &k, &v), Ok(()));
    let near = TensorLayout { at: Some(expr("7 * 5 + 4")), ..v.clone() };
    let said = check(&q, &k, &near).unwrap_err().to_string();
    assert_eq!(said, "layout.qkv: expected k_new and v_new beside each other, found element 39 in both");
    let first = TensorLayout { at: None, ..k };
    assert!(matches!(check(&q, &first, &v), Err(LayoutError::Shared { at: 0, .. })));
}
