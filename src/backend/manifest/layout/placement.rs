//! Where the elements of a tensor are, for one case and step.

use super::Axis;
use crate::case::{CacheMap, CacheOrder, Case, TensorName};
use std::ops::Range;

/// Where the elements of a tensor are, for one case and step.
///
/// An *element* counts those of this program's own layout in their order there: `[token, head, dim]`, tokens of all
/// requests in a row, and of caches what [`CacheMap`] says. An *offset* counts elements of the tensor's buffer.
#[derive(Clone, Debug)]
pub struct Placement {
    start: u64,
    /// What the index along each axis of this program's own layout adds to an offset, the outermost axis first.
    axes: Vec<Vec<u64>>,
    /// What the first token of each request adds.
    requests: Vec<u64>,
    /// Elements from row to row in this program's own layout, of which a cache has gaps between rows.
    own_row: usize,
}

impl Placement {
    /// That of `tensor` from `start` on, where `along` gives what each index along an axis adds.
    pub(super) fn new(
        tensor: TensorName,
        case: &Case,
        by_request: bool,
        start: u64,
        along: impl Fn(Axis) -> Vec<u64>,
    ) -> Self {
        let [requests, pages, tokens, heads, dims] = Axis::ALL.map(along);
        let (own_row, of_requests, axes) = match tensor {
            TensorName::KCache | TensorName::VCache => {
                let blocks = if case.cache.storage.pages().is_some() { pages } else { requests };
                let first = |r: usize| blocks.get(r).or_else(|| tokens.get(cached_before(case, r))).copied();
                let starts = (0..case.shape.requests.len()).map(|r| first(r).unwrap_or(0)).collect();
                let row = dims.len() + case.cache.row_pad as usize;
                let axes = match case.cache.order {
                    CacheOrder::Hnd => vec![blocks, heads, tokens, dims],
                    CacheOrder::Nhd => vec![blocks, tokens, heads, dims],
                };
                (row, starts, axes)
            }
            _ => {
                let (mut rows, mut starts) = (Vec::new(), Vec::new());
                for (index, request) in case.shape.requests.iter().enumerate() {
                    let before = rows.len();
                    if by_request {
                        starts.push(requests[index]);
                        rows.extend(tokens[..request.q_len as usize].iter().map(|token| requests[index] + token));
                    } else {
                        starts.push(tokens.get(before).copied().unwrap_or(0));
                        rows.extend(&tokens[before..][..request.q_len as usize]);
                    }
                }
                (dims.len(), starts, vec![rows, heads, dims])
            }
        };
        Self { start, axes, requests: of_requests, own_row }
    }

    /// A paged cache with rows of `dim` as this program has it.
    pub(crate) fn of_pages(case: &Case, dim: u32) -> Self {
        let map: CacheMap = case.cache_map(dim);
        let [blocks, heads, tokens, dims] = map.extents();
        let along = |axis: Axis| {
            let (extent, stride) = match axis {
                Axis::Request => (1, 0),
                Axis::Page => (blocks, map.page_stride().unwrap_or(0)),
                Axis::Token => (tokens, map.token_stride()),
                Axis::Head => (heads, map.head_stride()),
                Axis::Dim => (dims, 1),
            };
            (0..extent).map(|i| i * stride).collect()
        };
        Self::new(TensorName::KCache, case, false, 0, along)
    }

    /// A paged cache with its pages in the reverse order.
    #[must_use]
    pub(crate) fn reversed(mut self) -> Self {
        if let Some(pages) = self.axes.first_mut() {
            pages.reverse();
        }
        self
    }

    /// Offset of the first element.
    pub fn start(&self) -> usize {
        self.start as usize
    }

    /// One past the last offset, gaps included; 0 without elements.
    pub fn end(&self) -> usize {
        let last = self.axes.iter().map(|axis| axis.iter().max());
        last.sum::<Option<u64>>().map_or(0, |last| (self.start + last + 1) as usize)
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.axes.iter().map(Vec::len).product()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where each element is, in their order.
    pub fn offsets(&self) -> impl Iterator<Item = usize> {
        let (dims, outer) = self.axes.split_last().map_or((&[][..], &[][..]), |(dims, outer)| (dims, outer));
        let rows: usize = outer.iter().map(Vec::len).product();
        (0..rows).flat_map(move |row| {
            let start = self.start + sum(outer, row);
            dims.iter().map(move |dim| (start + dim) as usize)
        })
    }

    /// Where an element is.
    pub fn offset(&self, element: usize) -> usize {
        (self.start + sum(&self.axes, element)) as usize
    }

    /// Index of an element in this program's own layout.
    pub fn own(&self, element: usize) -> usize {
        let dim = self.row_len();
        element / dim * self.own_row + element % dim
    }

    /// Elements of this program's own layout, gaps between rows included.
    pub fn own_len(&self) -> usize {
        self.len().checked_sub(1).map_or(0, |last| self.own(last) + 1)
    }

    /// Offsets of the rows that begin at these elements of this program's own layout, as ranges, ascending.
    pub fn rows(&self, starts: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
        let dim = self.row_len();
        let first = |start: usize| start / self.own_row * dim;
        merged(starts.flat_map(|start| (first(start)..first(start) + dim).map(|element| self.offset(element))))
    }

    /// Ranges of offsets, ascending.
    pub fn ranges(&self) -> Vec<Range<usize>> {
        merged(self.offsets())
    }

    /// Offset of the first element of a request.
    pub fn start_of(&self, request: usize) -> usize {
        (self.start + self.requests[request]) as usize
    }

    /// Index along each axis of this program's own layout of the element at an offset; nothing for a gap. For messages.
    pub fn coordinate(&self, offset: usize) -> Option<Vec<u64>> {
        let mut element = self.offsets().position(|found| found == offset)? as u64;
        let mut at = vec![0; self.axes.len()];
        for (axis, index) in self.axes.iter().zip(&mut at).rev() {
            *index = element % axis.len() as u64;
            element /= axis.len() as u64;
        }
        Some(at)
    }

    fn row_len(&self) -> usize {
        self.axes.last().map_or(1, Vec::len)
    }
}

/// What the element adds whose indices along `axes` are the digits of `element`.
fn sum(axes: &[Vec<u64>], mut element: usize) -> u64 {
    axes.iter().rev().fold(0, |sum, axis| {
        let index = element % axis.len();
        element /= axis.len();
        sum + axis[index]
    })
}

/// Cached tokens of the requests before one.
fn cached_before(case: &Case, request: usize) -> usize {
    (0..request).map(|r| case.past_len_at(r, case.steps) as usize).sum()
}

/// Offsets as ranges, ascending.
fn merged(offsets: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for offset in offsets {
        match runs.last_mut() {
            Some(last) if last.end == offset => last.end += 1,
            _ => runs.push(offset..offset + 1),
        }
    }
    runs.sort_unstable_by_key(|run| run.start);
    runs.dedup_by(|next, last| {
        // Rows of shared pages come for each request that has them.
        let meets = next.start <= last.end;
        last.end = if meets { last.end.max(next.end) } else { last.end };
        meets
    });
    runs
}
