//! Cases from fuzzer bytes.
//!
//! The fields are read in one fixed order, one or two bytes each, whatever came before; so a mutated byte changes one
//! field, a step of a byte is a step of the field, and inserted bytes at the end only add requests. Bytes that are
//! missing read as 0, which stands for the least of everything. What a domain has no choice about takes no byte, so that a
//! corpus keeps its meaning when cases get a field more.

use super::budget::{Axis, Purse};
use super::legalize::Space;
use super::tables;
use crate::case::{
    Case, CaseParts, Domain, Pages, Poison, Recipe, Relation, Request, Storage, StorageKind, Values, default_scale,
};
use arbitrary::{Result, Unstructured};

/// A byte below this is a distance from the least value, from here on a boundary of the field's table.
const TABLE_FROM: u8 = 160;

/// From this byte on a relation is asked for, where there are so many.
const RELATION_FROM: u8 = 192;

/// From this byte on something is asked for that is off otherwise.
const ON_FROM: u8 = 128;

/// A byte below this, less 1, is a window's distance from the least one, and in sixteenths a cap of the logits.
const FEATURE_TABLE_FROM: u8 = 192;

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
            let table = axis.table(domain).wide;
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
        self.read_features(&mut parts, u)?;

        parts.shape.requests.clear();
        for _ in 0..batch {
            let past_len = number(Axis::PastLen, &[], u)?;
            let less = u32::from(u.arbitrary::<u8>()?);
            parts.shape.requests.push(Request { past_len, q_len: q_len.saturating_sub(less) });
        }
        self.pull_fields(&mut parts);
        self.afford_pages(&mut parts);
        parts.cache.capacity = parts.needed_capacity().saturating_add(spare);
        Ok(self.legalize(parts))
    }

    /// Bytes that stand for `case`, or for a case near it where bytes have no way to say a number: seeds for a fuzzer's corpus.
    /// No bytes say that only some elements keep their values, so all of them do.
    pub fn bytes(&self, case: &Case) -> Vec<u8> {
        let domain = self.domain();
        let shape = &case.shape;
        let q_len = shape.requests.iter().map(|r| r.q_len).max().unwrap_or(1);
        let number = |axis: Axis, n: u32| number_byte(axis, n, domain);
        let v_more = i64::from(shape.v_head_dim) - i64::from(shape.head_dim);
        let v_more = i8::try_from(v_more).unwrap_or(if v_more < 0 { i8::MIN } else { i8::MAX });
        let spare = case.cache.capacity - case.needed_capacity();
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
        self.write_features(case, &mut bytes);
        for r in &shape.requests {
            bytes.push(number(Axis::PastLen, r.past_len));
            bytes.push(byte(q_len - r.q_len).unwrap_or(u8::MAX));
        }
        bytes
    }

    /// Masks, changes of the logits and where the cache has its tokens.
    fn read_features(&self, parts: &mut CaseParts, u: &mut Unstructured<'_>) -> Result<()> {
        let domain = self.domain();
        if domain.causal.len() > 1 {
            parts.features.causal = u.arbitrary::<u8>()? < ON_FROM;
        }
        if let Some(range) = &domain.window {
            parts.features.window = match (u.arbitrary::<u8>()?, tables::WINDOW.wide) {
                (0, _) => None,
                (n, _) if n < FEATURE_TABLE_FROM => Some(range.low().saturating_add(u32::from(n - 1))),
                (n, table) => Some(table[usize::from(n - FEATURE_TABLE_FROM) % table.len()]),
            };
        }
        if domain.softcap {
            parts.features.softcap = match (u.arbitrary::<u8>()?, tables::SOFTCAP) {
                (0, _) => None,
                (n, _) if n < FEATURE_TABLE_FROM => Some(f32::from(n) / 16.0),
                (n, table) => Some(table[usize::from(n - FEATURE_TABLE_FROM) % table.len()]),
            };
        }
        if domain.sinks {
            parts.features.sinks = u.arbitrary::<u8>()? >= ON_FROM;
        }
        let kind = if domain.storage.len() > 1 { choice(&domain.storage, u)? } else { domain.storage[0] };
        let pages = match &domain.page_size {
            Some(sizes) if domain.storage.contains(&StorageKind::Paged) => Some(Pages {
                size: match (u.arbitrary::<u8>()?, tables::PAGE_SIZE.wide) {
                    (n, _) if n < TABLE_FROM => sizes.low().saturating_add(u32::from(n)),
                    (n, table) => table[usize::from(n - TABLE_FROM) % table.len()],
                },
                seed: u32::from(u.arbitrary::<u8>()?),
                spare: u32::from(u.arbitrary::<u8>()?),
                shared: u32::from(u.arbitrary::<u8>()?),
            }),
            _ => None,
        };
        parts.cache.storage = match (kind, pages) {
            (StorageKind::Paged, Some(pages)) => Storage::Paged(pages),
            (StorageKind::Packed, _) => Storage::Packed,
            _ => Storage::PerRequest,
        };
        Ok(())
    }

    /// What [`Space::read_features`] reads.
    fn write_features(&self, case: &Case, bytes: &mut Vec<u8>) {
        let domain = self.domain();
        let features = &case.features;
        let on = |on: bool| if on { ON_FROM } else { 0 };
        if domain.causal.len() > 1 {
            bytes.push(on(!features.causal));
        }
        if let Some(range) = &domain.window {
            bytes.push(features.window.map_or(0, |window| {
                let distance = byte(window - range.low().min(window)).filter(|&n| n < FEATURE_TABLE_FROM - 1);
                distance.map_or_else(|| FEATURE_TABLE_FROM + nearest(tables::WINDOW.wide, window), |n| n + 1)
            }));
        }
        if domain.softcap {
            bytes.push(features.softcap.map_or(0, |cap| {
                let table = tables::SOFTCAP.iter().position(|&other| other == cap);
                let sixteenths = (cap * 16.0).round().clamp(1.0, f32::from(FEATURE_TABLE_FROM - 1)) as u8;
                table.map_or(sixteenths, |place| FEATURE_TABLE_FROM + place as u8)
            }));
        }
        if domain.sinks {
            bytes.push(on(features.sinks));
        }
        if domain.storage.len() > 1 {
            bytes.push(place(&domain.storage, &case.cache.storage.kind()));
        }
        if let Some(sizes) = &domain.page_size
            && domain.storage.contains(&StorageKind::Paged)
        {
            let pages = case.cache.storage.pages();
            bytes.push(pages.map_or(0, |pages| {
                let distance = byte(pages.size - sizes.low().min(pages.size)).filter(|&n| n < TABLE_FROM);
                distance.unwrap_or_else(|| TABLE_FROM + nearest(tables::PAGE_SIZE.wide, pages.size))
            }));
            for n in pages.map_or([0; 3], |pages| [pages.seed, pages.spare, pages.shared]) {
                bytes.push(byte(n).unwrap_or(u8::MAX));
            }
        }
    }
}

/// The byte that decodes to `n`, or to a number near it.
fn number_byte(axis: Axis, n: u32, domain: &Domain) -> u8 {
    let low = axis.range(domain).low();
    if let Some(distance) = byte(n - low.min(n)).filter(|&distance| distance < TABLE_FROM) {
        return distance;
    }
    TABLE_FROM.saturating_add(nearest(axis.table(domain).wide, n))
}

/// Where in a table the number nearest to `n` is.
fn nearest(table: &[u32], n: u32) -> u8 {
    let place = (0..table.len()).min_by_key(|&place| table[place].abs_diff(n));
    place.map_or(0, |place| place as u8)
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
        let fits = |len: usize, from: u8| assert!(len <= usize::from(u8::MAX - from) + 1);
        for append in [true, false] {
            let domain = Domain { append, ..Domain::default() };
            Axis::ALL.iter().for_each(|axis| fits(axis.table(&domain).wide.len(), TABLE_FROM));
        }
        fits(tables::WINDOW.wide.len(), FEATURE_TABLE_FROM);
        fits(tables::SOFTCAP.len(), FEATURE_TABLE_FROM);
        fits(tables::PAGE_SIZE.wide.len(), TABLE_FROM);
    }
}
