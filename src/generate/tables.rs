//! The numbers worth trying: around tiles, warps, vector widths and what models use.
//!
//! `usual` is what a case gets that is about something else, `wide` is what it gets when it is about this field.

use crate::case::Range;

/// Numbers to draw one field from.
#[derive(Clone, Copy)]
pub(super) struct Table {
    /// Small ones, repeated where they are likelier.
    pub(super) usual: &'static [u32],
    /// Boundaries.
    pub(super) wide: &'static [u32],
}

pub(super) const NUM_KV_HEADS: Table =
    Table { usual: &[1, 1, 2, 2, 3, 3, 5], wide: &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 16, 17, 32, 33] };

pub(super) const Q_PER_KV: Table = Table {
    usual: &[1, 2, 3, 3, 4, 5, 6, 7],
    wide: &[
        1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 17, 20, 24, 31, 32, 33, 48, 63, 64, 65, 71, 96, 127, 128,
        129,
    ],
};

pub(super) const HEAD_DIM: Table = Table {
    usual: &[3, 5, 7, 8, 16, 16, 17, 24, 32, 33, 40, 46, 64],
    wide: &[
        1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 40, 46, 48, 63, 64, 65, 72, 80, 95, 96, 97, 100, 112, 127,
        128, 129, 160, 192, 193, 255, 256, 257, 320, 511, 512, 576,
    ],
};

pub(super) const BATCH: Table =
    Table { usual: &[1, 2, 2, 3, 3, 4], wide: &[1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65] };

pub(super) const PAST_LEN: Table = Table {
    usual: &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 15, 16, 17, 31, 32, 33, 40],
    wide: &[
        1, 7, 8, 14, 15, 16, 17, 23, 24, 30, 31, 31, 32, 32, 33, 33, 47, 48, 62, 63, 63, 64, 64, 65, 65, 95, 96, 97,
        126, 127, 127, 128, 128, 129, 129, 160, 191, 192, 193, 254, 255, 255, 256, 256, 257, 257, 384, 511, 512, 513,
        768, 1022, 1023, 1024, 1025, 2047, 2048, 2049, 4095, 4096, 4097, 8191, 8192, 16384, 32767, 32768, 32769, 65535,
        65536, 65537,
    ],
};

/// Lengths of the rare long cases: around 2^12 to 2^16.
pub(super) const LONG_PAST_LEN: &[u32] =
    &[4097, 8193, 16385, 32767, 32768, 32769, 32770, 32800, 33000, 34000, 65535, 65537];

/// Of cases that are wide and have several tiles: rows beyond one pass of 128 threads, groups of about a block's heads.
pub(super) const DEEP_HEAD_DIM: &[u32] = &[67, 98, 130, 161, 193, 225, 250, 256];
pub(super) const DEEP_Q_PER_KV: &[u32] = &[5, 6, 7, 8, 9];
pub(super) const DEEP_PAST_LEN: &[u32] = &[31, 32, 33, 63, 64, 65];

pub(super) const STEPS: Table = Table { usual: &[1], wide: &[2, 2, 3, 4] };

pub(super) const Q_LEN: Table =
    Table { usual: &[1], wide: &[2, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129] };

/// Of a kernel that finds every key in its cache, as in prefill.
pub(super) const Q_LEN_OF_FULL_CACHE: Table =
    Table { usual: &[1, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33], wide: Q_LEN.wide };

/// Queries, and keys, of cases that have several tiles of both.
pub(super) const TILED_LEN: &[u32] =
    &[17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 80, 95, 96, 97, 127, 128, 129, 130, 160, 191, 193, 257];

/// Sliding windows: around tiles and warps, and those of models.
pub(super) const WINDOW: Table = Table {
    usual: &[1, 2, 3, 4, 5, 7, 8, 9, 12],
    wide: &[1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 512, 1024, 2047, 4096],
};

/// Caps of the logits: small ones that bend every logit, those of models, and one that bends next to none.
pub(super) const SOFTCAP: &[f32] = &[15.0, 20.0, 30.0, 50.0, 100.0, 1000.0];

/// Tokens of a page.
pub(super) const PAGE_SIZE: Table = Table {
    usual: &[1, 2, 3, 4, 5, 8, 8, 16, 16, 16, 32],
    wide: &[1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 128, 256],
};

/// What a knob is often set to: powers of two and their neighbours.
pub(super) const KNOB: Table = Table {
    usual: &[1, 2, 3, 4],
    wide: &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128],
};

/// The least and the most a knob may be, and what is beside them.
pub(super) fn knob_edges(range: &Range) -> Vec<u32> {
    let last = range.rank(range.high());
    [0, 1, last.saturating_sub(1), last].into_iter().filter_map(|rank| range.nth(rank)).collect()
}

/// Padding that is not 0.
pub(super) const ROW_PAD: &[u32] = &[1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 24, 32, 64];

/// Tiles that a capacity is rounded up to.
pub(super) const TILES: &[u32] = &[8, 16, 32, 64];

impl Table {
    /// The numbers of `range` up to `cap` to choose from; a kernel's list of few is taken as it is.
    ///
    /// Never empty: at the worst it holds the smallest number of `range`, even if that is above `cap`.
    pub(super) fn choices(&self, wide: bool, range: &Range, cap: u32) -> Vec<u32> {
        let fits = |n: &u32| *n <= cap && range.contains(*n);
        let of = |table: &[u32]| table.iter().copied().filter(fits).collect::<Vec<_>>();
        let mut choices = match range {
            Range::List(list) => of(list),
            Range::Span(..) if !wide => of(self.usual),
            Range::Span(..) => Vec::new(),
        };
        if choices.is_empty() {
            choices = of(self.wide);
            let (low, high) = (range.low(), range.high());
            let edges = [low, low.saturating_add(1), high.saturating_sub(1), high];
            choices.extend(edges.iter().filter(|n| fits(n)));
        }
        if choices.is_empty() {
            choices.push(range.low());
        }
        choices
    }
}
