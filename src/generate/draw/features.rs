//! What only some kernels claim: masks, changes of the logits, a cache that is full already, packed ones, pages.
//!
//! Each is off in most cases, so that a failure is about few of them, and on often enough that every pair meets. None
//! takes a random number of a domain that has no choice about it, which therefore gets the same cases as if there were none.

use super::Draft;
use crate::case::{CaseParts, Features, Pages, Range, Request, Storage, StorageKind};
use crate::generate::budget::cost;
use crate::generate::legalize::fewest_queries;
use crate::generate::tables;
use rand::RngCore;

/// One in this many cases has a window, in a domain of windows.
const WINDOWED: u32 = 3;

/// One in this many cases has a softcap, has sinks, or is not causal, each where the domain says so.
const CHANGED: u32 = 4;

/// One in this many cases of a full cache has several tiles of queries and of keys: see [`Draft::tiles`].
const TILED: u32 = 6;

impl<R: RngCore> Draft<'_, R> {
    /// Few heads, mostly short ones, so that the budget has room for several tiles of queries by several tiles of keys. Gives the
    /// most keys of a request; nothing for most cases, and where no such case is affordable.
    pub(super) fn tiles(&mut self, parts: &mut CaseParts) -> Option<u32> {
        let domain = self.space.domain();
        if domain.append || !self.dice.one_in(TILED) {
            return None;
        }
        let mut trial = parts.clone();
        let shape = &mut trial.shape;
        shape.num_kv_heads = domain.num_kv_heads.nearest(self.dice.pick(&[1, 1, 1, 2]));
        shape.q_per_kv = domain.q_per_kv.nearest(self.dice.pick(&[1, 1, 2, 3]));
        // Wide heads have fewer tiles, but other code.
        let wide = self.dice.one_in(3);
        shape.head_dim = self.dice.pick(&tables::HEAD_DIM.choices(wide, &domain.head_dim, if wide { 256 } else { 64 }));
        let batch = domain.batch.nearest(self.dice.pick(&[1, 1, 2])) as usize;
        let lens = |range: &Range| tables::TILED_LEN.iter().copied().filter(|&n| range.contains(n)).collect::<Vec<_>>();
        let (q_lens, past_lens) = (lens(&domain.q_len), lens(&domain.past_len));
        let all = q_lens.iter().flat_map(|&q_len| past_lens.iter().map(move |&past_len| Request { past_len, q_len }));
        let affordable = |request: &Request| {
            trial.shape.requests = vec![*request; batch];
            cost(&trial) <= self.space.budget
        };
        let affordable: Vec<Request> = all.filter(affordable).collect();
        if affordable.is_empty() {
            return None;
        }
        let request = self.dice.pick(&affordable);
        trial.shape.requests = vec![request; batch];
        *parts = trial;
        Some(request.past_len)
    }

    /// Query tokens of a request among others, where the longest has `longest`.
    pub(super) fn q_len(&mut self, longest: u32) -> u32 {
        let domain = self.space.domain();
        let dice = &mut self.dice;
        if domain.append && domain.q_len.low() > 0 {
            return if longest > 1 && dice.one_in(2) { 1 + dice.below(longest) } else { longest };
        }
        if domain.q_len.high() == domain.q_len.low() {
            return longest;
        }
        // Prompts, parts of prompts and decoding share a batch.
        match dice.below(6) {
            0 | 1 => domain.q_len.low(),
            2 => fewest_queries(domain),
            3 | 4 => domain.q_len.nearest(1 + dice.below(longest)),
            _ => longest,
        }
    }

    /// Makes some requests of a full cache as long in keys as in queries, as the whole of a prompt is.
    pub(super) fn whole_prompts(&mut self, parts: &mut CaseParts) {
        let domain = self.space.domain();
        if domain.append || domain.q_len.high() == 1 {
            return;
        }
        for index in 0..parts.shape.requests.len() {
            let before = parts.shape.requests[index];
            if before.q_len == 0 || !self.dice.one_in(3) {
                continue;
            }
            let (short, long) = (before.q_len.min(before.past_len), before.q_len.max(before.past_len));
            for n in [long, short] {
                parts.shape.requests[index] = Request { past_len: n, q_len: n };
                if n > 0 && domain.q_len.contains(n) && domain.past_len.contains(n) && cost(parts) <= self.space.budget
                {
                    break;
                }
                parts.shape.requests[index] = before;
            }
        }
    }

    /// Whether the case is causal. Before anything that asks what a length costs.
    pub(super) fn causality(&mut self, parts: &mut CaseParts) {
        parts.features.causal = match self.space.domain().causal[..] {
            [only] => only,
            _ => !self.dice.one_in(CHANGED),
        };
    }

    /// Window, softcap and sinks.
    pub(super) fn features(&mut self, parts: &mut CaseParts) {
        let domain = self.space.domain();
        let window = match &domain.window {
            Some(range) if self.dice.one_in(WINDOWED) => Some(self.window(range, parts)),
            _ => None,
        };
        let softcap = (domain.softcap && self.dice.one_in(CHANGED)).then(|| self.softcap());
        let sinks = domain.sinks && self.dice.one_in(CHANGED);
        parts.features = Features { window, softcap, sinks, ..parts.features };
        if let Some(model) = self.model
            && (model.window.is_some() || model.softcap.is_some() || model.sinks)
        {
            let features = &mut parts.features;
            let allowed = |window: &u32| domain.window.as_ref().is_some_and(|range| range.contains(*window));
            features.window = model.window.filter(allowed).or(features.window);
            features.softcap = model.softcap.filter(|_| domain.softcap).or(features.softcap);
            features.sinks |= model.sinks && domain.sinks;
        }
    }

    /// A window of the range: a tile or about all but some tiles of a request, about as long as one, some part of it, or
    /// longer than any.
    fn window(&mut self, range: &Range, parts: &CaseParts) -> u32 {
        let dice = &mut self.dice;
        let kv_len = |request: usize| parts.kv_len_at(request, parts.steps - 1);
        let longest = (0..parts.shape.requests.len()).map(kv_len).max().unwrap_or(0);
        let one = kv_len(dice.below(parts.shape.batch()) as usize);
        let window = match dice.below(10) {
            0..=2 => dice.pick(&tables::WINDOW.choices(true, range, longest.saturating_add(2))),
            3 => dice.pick(&tables::WINDOW.choices(false, range, longest)),
            4 | 5 => {
                let tile = dice.pick(tables::TILES);
                let hidden = tile * (1 + dice.below(one / tile)) + dice.below(3) - 1;
                one.saturating_sub(hidden)
            }
            6 | 7 => (one + dice.below(3)).saturating_sub(1),
            8 => 1 + dice.below(longest),
            _ if dice.one_in(2) => longest + 2 + dice.below(64),
            _ => range.high(),
        };
        range.nearest(window)
    }

    fn softcap(&mut self) -> f32 {
        match self.dice.below(4) {
            0 => self.dice.pick(tables::SOFTCAP),
            1 => self.dice.pick(&[30.0, 50.0]),
            // Some sixteenths, from 1/2 to 5.
            _ => (8 + self.dice.below(73)) as f32 / 16.0,
        }
    }

    /// Where the tokens are. Changes lengths, to end where pages do; so it comes after everything that asks for them.
    pub(super) fn storage(&mut self, parts: &mut CaseParts) {
        let domain = self.space.domain();
        let kind = match domain.storage[..] {
            [only] => only,
            _ => self.dice.pick(&domain.storage),
        };
        parts.cache.storage = match (kind, &domain.page_size) {
            (StorageKind::Paged, Some(sizes)) => Storage::Paged(self.pages(sizes, parts)),
            (StorageKind::Packed, _) => Storage::Packed,
            _ => Storage::PerRequest,
        };
        self.space.afford_pages(parts);
        if let Some(pages) = parts.cache.storage.pages() {
            self.fit_to_pages(pages.size, parts);
        }
    }

    fn pages(&mut self, sizes: &Range, parts: &CaseParts) -> Pages {
        let dice = &mut self.dice;
        let longest = (0..parts.shape.requests.len()).map(|r| parts.kv_len_at(r, parts.steps - 1)).max();
        // Half of the cases have a request with several pages.
        let cap = if dice.one_in(2) { longest.unwrap_or(0) / 2 } else { u32::MAX };
        let wide = dice.one_in(3);
        Pages {
            size: dice.pick(&tables::PAGE_SIZE.choices(wide, sizes, cap)),
            seed: match dice.below(6) {
                0 => 0,
                1 => 1,
                _ => 2 + dice.below(254),
            },
            spare: match dice.below(4) {
                0 | 1 => 0,
                2 => 1,
                _ => 2 + dice.below(6),
            },
            shared: match dice.below(6) {
                _ if parts.shape.batch() == 1 => 0,
                0 => 1,
                1 => dice.pick(&[2, 3, 255]),
                _ => 0,
            },
        }
    }

    /// Makes some requests end at the end of a page, one token later or one before, and rows of the table have entries
    /// that no page needs.
    fn fit_to_pages(&mut self, size: u32, parts: &mut CaseParts) {
        let domain = self.space.domain();
        let mut spare = parts.cache.capacity - parts.needed_capacity();
        for index in 0..parts.shape.requests.len() {
            if self.dice.one_in(2) {
                continue;
            }
            let rest = self.dice.pick(&[0, 0, 1, size - 1]) % size;
            let kv_len = parts.kv_len_at(index, parts.steps - 1);
            let past_len = &mut parts.shape.requests[index].past_len;
            // Only ever down, which costs nothing.
            let more = (kv_len % size + size - rest) % size;
            if let Some(shorter) = past_len.checked_sub(more).filter(|&n| domain.past_len.contains(n)) {
                *past_len = shorter;
            }
        }
        match self.dice.below(4) {
            0 => spare = 0,
            1 => spare = spare.saturating_add(size.saturating_mul(1 + self.dice.below(4))),
            _ => {}
        }
        parts.cache.capacity = parts.needed_capacity().saturating_add(spare);
    }
}
