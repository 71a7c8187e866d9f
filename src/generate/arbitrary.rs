//! Cases from fuzzer bytes.
//!
//! The fields are read in one fixed order, one or two bytes each, whatever came before; so a mutated byte changes one
//! field, a step of a byte is a step of the field, and inserted bytes at the end only add requests. Bytes that are
//! missing read as 0, which stands for the least of everything.

use super::budget::{Axis, Purse};
use super::legalize::{Space, needed_capacity};
use super::tables;
use crate::case::{Case, Domain, Poison, Recipe, Relation, Request, Values, default_scale};
use arbitrary::{Result, Unstructured};

/// A byte below this is a distance from the least value, from here on a boundary of the field's table.
const TABLE_FROM: u8 = 160;

/// From this byte on a relation is asked for, where there are so many.
const RELATION_FROM: u8 = 192;

/// Most requests that bytes alone can ask for.
const MAX_BATCH: u32 = 16;

impl Space {
    /// The case that the bytes stand for. No bytes are illegal; the error is the reader's own.
    pub fn arbitrary(&self, u: &mut Unstructured<'_>) -> Result<Case> {
        let domain = self.domain();
        let mut parts = self.smallest().clone().into_parts();
        let mut purse = Purse::new(domain, self.budget);
        let mut number = |axis: Axis, later: &[Axis], u: &mut Unstructured<'_>| {
            let (byte, range) = (u.arbitrary::<u8>()?, axis.range(domain));
            let table = axis.table().wide;
            let wanted = match byte.checked_sub(TABLE_FROM) {
                None => range.low().saturating_add(u32::from(byte)),
                Some(rest) => table[usize::from(rest) % table.len()],
            };
            let wanted = match axis {
                Axis::Batch => wanted.min(MAX_BATCH),
                _ => wanted,
            };
            let n = range.nearest(wanted.min(purse.cap(axis, later)));
            if axis != Axis::PastLen {
                purse.spend(axis, n);
            }
            Ok(n)
        };
        let later = &Axis::ALL;
        parts.shape.num_kv_heads = number(Axis::KvHeads, &later[1..], u)?;
        parts.shape.q_per_kv = number(Axis::QPerKv, &later[2..], u)?;
        parts.shape.head_dim = number(Axis::HeadDim, &later[3..], u)?;
        let batch = number(Axis::Batch, &later[4..], u)?;
        parts.steps = number(Axis::Steps, &later[5..], u)?;
        let q_len = number(Axis::QLen, &later[6..], u)?;

        let head_dim = parts.shape.head_dim;
        let v_head_dim = i64::from(head_dim) + i64::from(u.arbitrary::<i8>()?);
        parts.shape.v_head_dim = u32::try_from(v_head_dim).unwrap_or(1);
        parts.dtype = choice(&domain.dtype, u)?;
        parts.cache.order = choice(&domain.cache, u)?;
        // Most often 0 whatever the mutator does, as in most real caches.
        parts.cache.row_pad = u32::from(u.arbitrary::<u8>()?.saturating_sub(128));
        let spare = u32::from(u.arbitrary::<u8>()?);
        parts.scale = match u.arbitrary::<u8>()? {
            0..=127 => default_scale(head_dim),
            128 => 1.0,
            n => f32::from(n - 128) / 64.0,
        };
        parts.values = Values { recipe: choice(&Recipe::ALL, u)?, seed: u32::from(u.arbitrary::<u16>()?) };
        parts.poison = choice(&Poison::ALL, u)?;
        parts.schedule_seed = u32::from(u.arbitrary::<u8>()?);
        let relation = u.arbitrary::<u8>()?.checked_sub(RELATION_FROM);
        parts.relation = relation.and_then(|place| Relation::ALL.get(usize::from(place)).copied());
        for (name, range) in &domain.knobs {
            let byte = u.arbitrary::<u8>()?;
            let n = match byte.checked_sub(TABLE_FROM) {
                None => range.low().saturating_add(u32::from(byte)),
                Some(rest) => {
                    let edges = tables::knob_edges(range);
                    edges[usize::from(rest) % edges.len()]
                }
            };
            parts.knobs.insert(name.clone(), n);
        }

        parts.shape.requests.clear();
        for _ in 0..batch {
            let past_len = number(Axis::PastLen, &[], u)?;
            let less = u32::from(u.arbitrary::<u8>()?);
            parts.shape.requests.push(Request { past_len, q_len: q_len.saturating_sub(less) });
        }
        self.pull_fields(&mut parts);
        parts.cache.capacity = needed_capacity(&parts).saturating_add(spare);
        Ok(self.legalize(parts))
    }

    /// Bytes that stand for `case`, or for a case near it where bytes have no way to say a number: seeds for a fuzzer's corpus.
    pub fn bytes(&self, case: &Case) -> Vec<u8> {
        let domain = self.domain();
        let shape = &case.shape;
        let q_len = shape.requests.iter().map(|r| r.q_len).max().unwrap_or(1);
        let number = |axis: Axis, n: u32| number_byte(axis, n, domain);
        let v_more = i64::from(shape.v_head_dim) - i64::from(shape.head_dim);
        let v_more = i8::try_from(v_more).unwrap_or(if v_more < 0 { i8::MIN } else { i8::MAX });
        let spare = case.cache.capacity - needed_capacity(case);
        let scale = if case.scale == default_scale(shape.head_dim) {
            0
        } else {
            128 + (case.scale * 64.0).round().clamp(1.0, 127.0) as u8
        };
        let [seed_low, seed_high, ..] = case.values.seed.to_le_bytes();
        let mut bytes = vec![
            number(Axis::KvHeads, shape.num_kv_heads),
            number(Axis::QPerKv, shape.q_per_kv),
            number(Axis::HeadDim, shape.head_dim),
            number(Axis::Batch, shape.batch()),
            number(Axis::Steps, case.steps),
            number(Axis::QLen, q_len),
            v_more.to_le_bytes()[0],
            place(&domain.dtype, &case.dtype),
            place(&domain.cache, &case.cache.order),
            match case.cache.row_pad {
                0 => 0,
                pad => 128 + pad.min(127) as u8,
            },
            byte(spare).unwrap_or(u8::MAX),
            scale,
            place(&Recipe::ALL, &case.values.recipe),
            seed_low,
            seed_high,
            place(&Poison::ALL, &case.poison),
            byte(case.schedule_seed).unwrap_or(u8::MAX),
            case.relation.map_or(0, |relation| RELATION_FROM + place(&Relation::ALL, &relation)),
        ];
        for (name, range) in &domain.knobs {
            let distance = case.knobs.get(name).map_or(0, |n| n.saturating_sub(range.low()));
            // Edges are in ascending order: the last is the highest.
            let highest = tables::knob_edges(range).len().saturating_sub(1) as u8;
            bytes.push(byte(distance).filter(|&n| n < TABLE_FROM).unwrap_or(TABLE_FROM + highest));
        }
        for r in &shape.requests {
            bytes.push(number(Axis::PastLen, r.past_len));
            bytes.push(byte(q_len - r.q_len).unwrap_or(u8::MAX));
        }
        bytes
    }
}

/// The byte that decodes to `n`, or to a number near it.
fn number_byte(axis: Axis, n: u32, domain: &Domain) -> u8 {
    let low = axis.range(domain).low();
    if let Some(distance) = byte(n - low.min(n)).filter(|&distance| distance < TABLE_FROM) {
        return distance;
    }
    let table = axis.table().wide.iter().enumerate();
    let nearest = table.min_by_key(|&(_, &m)| m.abs_diff(n));
    nearest.and_then(|(place, _)| byte(place as u32)).map_or(u8::MAX, |place| place.saturating_add(TABLE_FROM))
}

fn byte(n: u32) -> Option<u8> {
    u8::try_from(n).ok()
}

fn place<T: PartialEq>(choices: &[T], one: &T) -> u8 {
    let place = choices.iter().position(|other| other == one);
    place.and_then(|p| u8::try_from(p).ok()).unwrap_or(0)
}

fn choice<T: Copy>(choices: &[T], u: &mut Unstructured<'_>) -> Result<T> {
    Ok(choices[usize::from(u.arbitrary::<u8>()?) % choices.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_names_every_number_of_every_table() {
        for axis in Axis::ALL {
            assert!(axis.table().wide.len() <= usize::from(u8::MAX - TABLE_FROM) + 1);
        }
    }
}
