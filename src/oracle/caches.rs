//! A cache as a right kernel leaves it. Cached data is moved, not computed: past tokens, appended tokens, padding and unused
//! slots must hold the expected bits.

use super::rows::Head;
use super::{Divergence, Tier};
use crate::case::values::Role;
use crate::case::{CacheMap, Case, Poison, TensorName};
use crate::tensor::Buffer;

/// A cache that is looked through row by row, then between the rows.
pub(super) struct CacheCheck<'a> {
    case: &'a Case,
    found: &'a Buffer,
    map: CacheMap,
    dim: usize,
    /// Bits of an element that belongs to no row.
    poison: u32,
    /// Where the rows begin that were looked at.
    rows: Vec<usize>,
    wrong: u64,
    /// The first wrong element and the bits that it should have.
    first: Option<(usize, u32)>,
}

impl<'a> CacheCheck<'a> {
    /// Of what the last step of a run under `poison` left of the keys or the values.
    pub(super) fn of(case: &'a Case, role: Role, poison: Poison, found: &'a Buffer) -> Self {
        let dim = if role == Role::K { case.shape.head_dim } else { case.shape.v_head_dim };
        let (map, poison) = (case.cache_map(dim), poison.bits(case.dtype));
        Self { case, found, map, dim: dim as usize, poison, rows: Vec::new(), wrong: 0, first: None }
    }

    /// Looks at the rows of a head, which should be `[token, dim]` of `values`.
    pub(super) fn head(&mut self, head: &Head<'_>, values: &[f64]) {
        let request = head.request as u32;
        for (values, token) in values.chunks_exact(self.dim).zip(0..) {
            // Each row once, even if requests share it.
            if self.case.owner(request, token) != request {
                continue;
            }
            let start = self.map.offset(request, head.kv_head, token);
            self.rows.push(start);
            if !self.found.has_values(start, values) {
                for (index, value) in (start..).zip(values) {
                    self.element(index, self.case.dtype.encode(*value));
                }
            }
        }
    }

    /// The verdict, once every head's rows were looked at.
    pub(super) fn divergence(mut self, name: TensorName) -> Option<Divergence> {
        let mut rows = std::mem::take(&mut self.rows);
        rows.sort_unstable();
        let mut end = 0;
        for start in rows.into_iter().chain([self.map.span()]) {
            if !self.found.is_filled(end..start, self.poison) {
                (end..start).for_each(|index| self.element(index, self.poison));
            }
            end = start + self.dim;
        }
        let (first, expected) = self.first?;
        let expected = self.case.dtype.decode(expected);
        Some(Divergence {
            approximate: false,
            relation: None,
            tensor: name.to_string(),
            step: self.case.steps - 1,
            // A gap between rows has no coordinate of its own: it is told by its offset in elements.
            at: self.map.coordinate(first).map_or_else(|| vec![first as u64], Vec::from),
            found: self.found.value(first),
            expected,
            low: expected,
            high: expected,
            ratio: f64::INFINITY,
            tier: Tier::Exact,
            wrong: self.wrong,
            elements: self.found.len() as u64,
        })
    }

    fn element(&mut self, index: usize, expected: u32) {
        if self.found.bits(index) != expected {
            self.wrong += 1;
            if self.first.is_none_or(|(first, _)| index < first) {
                self.first = Some((index, expected));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::heads;
    use super::*;
    use crate::case::Inputs;
    use proptest::prelude::*;

    /// With padding, unused slots, appended tokens over several steps, pages that are spare or shared.
    const CASES: [&str; 8] = [
        "past=3,0,7 dtype=f32 cache=hnd:9+2",
        "past=3,0,7 dtype=f16 steps=2 cache=nhd:9+2",
        "past=3,0,7 dtype=bf16 append=no cache=packed-hnd:9+2",
        "past=3,0,7 dtype=f32 append=no cache=packed-nhd:7",
        "past=3,0,7 dtype=f16 append=no cache=nhd:9+2 pages=2",
        "past=9,6,7 dtype=f32 append=no cache=hnd:9 pages=3,seed:1,spare:2,shared:2",
        "past=9,6,7 dtype=bf16 steps=3 cache=nhd:16 pages=4,seed:5,spare:1,shared:9",
        "past=0,0,1 dtype=f32 cache=nhd:3 pages=1,seed:9",
    ];

    fn check(case: &Case, role: Role, poison: Poison, found: &Buffer) -> Option<Divergence> {
        let mut cache = CacheCheck::of(case, role, poison, found);
        for (request, kv_head) in heads(case) {
            let head = Head::of(case, request, kv_head);
            cache.head(&head, if role == Role::K { &head.k } else { &head.v });
        }
        cache.divergence(if role == Role::K { TensorName::KCache } else { TensorName::VCache })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        /// The plain definition makes the whole cache and looks at each of its elements.
        #[test]
        fn every_wrong_element_is_seen_wherever_it_is(
            line in prop::sample::select(&CASES[..]),
            keys: bool,
            poison in prop::sample::select(&Poison::ALL[..]),
            faults in prop::collection::vec((any::<prop::sample::Index>(), 0..16u32), 0..4),
        ) {
            let case: Case = format!("kv=2 g=1 d=5 dv=3 scale=1 values=normal:0 {line}").parse().expect("a case");
            let (k, v) = Inputs::final_caches(&case, poison);
            let (role, expected) = if keys { (Role::K, k) } else { (Role::V, v) };
            let mut found = expected.clone();
            for (place, bit) in faults {
                let place = place.index(found.len());
                found.set_bits(place, found.bits(place) ^ 1 << bit);
            }
            let wrong: Vec<usize> = (0..found.len()).filter(|&i| found.bits(i) != expected.bits(i)).collect();
            let Some(divergence) = check(&case, role, poison, &found) else {
                prop_assert_eq!(wrong, [0usize; 0]);
                return Ok(());
            };
            let first = *wrong.first().expect("something is wrong");
            let dim = if keys { 5 } else { 3 };
            let at = case.cache_map(dim).coordinate(first).map_or_else(|| vec![first as u64], Vec::from);
            prop_assert_eq!(divergence.at, at);
            prop_assert_eq!(divergence.found.to_bits(), found.value(first).to_bits());
            prop_assert_eq!(divergence.expected.to_bits(), expected.value(first).to_bits());
            prop_assert_eq!((divergence.wrong, divergence.elements), (wrong.len() as u64, found.len() as u64));
        }
    }

    #[test]
    fn faults_in_past_rows_appended_rows_padding_and_unused_slots_are_told_apart() {
        let case: Case = "kv=1 g=1 d=4 past=2 dtype=f32 cache=hnd:4+1 scale=1 values=normal:0".parse().unwrap();
        let (right, _) = Inputs::final_caches(&case, case.poison);
        assert_eq!(check(&case, Role::K, case.poison, &right), None);
        let past = vec![0, 0, 1, 3];
        let appended = vec![0, 0, 2, 0];
        let unused = vec![0, 0, 3, 2];
        for (place, at) in [(8, past), (9, vec![9]), (10, appended), (17, unused)] {
            let mut found = right.clone();
            found.set_bits(place, found.bits(place) ^ 1);
            let divergence = check(&case, Role::K, case.poison, &found).expect("a fault");
            assert_eq!((divergence.at, divergence.wrong, divergence.tier), (at, 1, Tier::Exact), "element {place}");
        }
    }
}
