//! How the KV cache lies in memory.

use super::values::mix;
use super::{CaseParts, Invalid, within};
use serde::{Deserialize, Serialize};

/// Order of the token and head axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheOrder {
    /// Head before token: `[request, head, token, dim]`, `[head, token, dim]` or `[page, head, token, dim]`.
    Hnd,
    /// Token before head.
    Nhd,
}

/// Where the tokens of a request are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Storage {
    /// Every request has slots of its own, as many as each other.
    #[default]
    PerRequest,
    /// The tokens of all requests follow each other, without gaps between requests.
    Packed,
    /// In pages, which a block table names.
    Paged(Pages),
}

/// The kinds of [`Storage`], for a kernel to claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StorageKind {
    /// [`Storage::PerRequest`].
    PerRequest,
    /// [`Storage::Packed`].
    Packed,
    /// [`Storage::Paged`].
    Paged,
}

/// The pages of a paged cache, and where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pages {
    /// Tokens of a page.
    pub size: u32,
    /// Order of the pages in memory: 0 is that of their use, 1 the reverse, any other a shuffle.
    #[serde(default)]
    pub seed: u32,
    /// Pages that belong to no request.
    #[serde(default)]
    pub spare: u32,
    /// How many of its first pages every request shares with request 0, as far as its past fills them.
    #[serde(default)]
    pub shared: u32,
}

impl Pages {
    /// Pages of so many tokens, in the order of their use, none of them spare or shared.
    pub const fn of_size(size: u32) -> Self {
        Self { size, seed: 0, spare: 0, shared: 0 }
    }
}

/// How the KV cache lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    /// Order of the axes.
    pub order: CacheOrder,
    /// Token slots of each request: of a paged cache, those that its row of the block table has room for. Of a packed cache
    /// those of the longest request, with as many unused ones behind the last request.
    pub capacity: u32,
    /// Elements of padding after each `head_dim` row.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub row_pad: u32,
    /// Where the tokens are.
    #[serde(default, skip_serializing_if = "is_per_request")]
    pub storage: Storage,
}

/// Entry of a block table behind a request's last page: no page has this id.
pub const NO_PAGE: i32 = i32::MAX;

impl Storage {
    /// Which kind it is.
    pub fn kind(self) -> StorageKind {
        match self {
            Self::PerRequest => StorageKind::PerRequest,
            Self::Packed => StorageKind::Packed,
            Self::Paged(_) => StorageKind::Paged,
        }
    }

    /// The pages, if it has any.
    pub fn pages(self) -> Option<Pages> {
        if let Self::Paged(pages) = self { Some(pages) } else { None }
    }

    pub(super) fn check(self) -> Result<(), Invalid> {
        let Self::Paged(pages) = self else { return Ok(()) };
        within("page size", pages.size, 1, 1 << 16)?;
        within("spare pages", pages.spare, 0, 1 << 20)
    }
}

impl CaseParts {
    /// How many pages `request` has.
    fn num_pages_of(&self, request: usize, pages: Pages) -> u32 {
        self.past_len_at(request, self.steps).div_ceil(pages.size)
    }

    /// How many of its first pages `request` shares with request 0.
    pub fn shared_pages(&self, request: usize) -> u32 {
        let Some(pages) = self.cache.storage.pages().filter(|_| request != 0) else { return 0 };
        let past = self.shape.requests[request].past_len.min(self.shape.requests[0].past_len);
        pages.shared.min(past / pages.size)
    }

    /// The request whose token stands at `token` of `request`: request 0 where they share a page.
    pub fn owner(&self, request: u32, token: u32) -> u32 {
        match self.cache.storage {
            Storage::Paged(pages) if token / pages.size < self.shared_pages(request as usize) => 0,
            _ => request,
        }
    }

    /// Pages of a paged cache, used or not; 0 of another.
    pub fn num_pages(&self) -> u64 {
        let Some(pages) = self.cache.storage.pages() else { return 0 };
        let own = |r: usize| u64::from(self.num_pages_of(r, pages) - self.shared_pages(r));
        (0..self.shape.requests.len()).map(own).sum::<u64>() + u64::from(pages.spare)
    }

    /// Tokens that the cache has room for, over all requests; no less than that, if it is packed.
    pub(super) fn cached_tokens(&self) -> u64 {
        let requests = &self.shape.requests;
        match self.cache.storage {
            Storage::PerRequest => requests.len() as u64 * u64::from(self.cache.capacity),
            Storage::Packed => {
                requests.iter().map(|r| u64::from(r.past_len)).sum::<u64>() + u64::from(self.cache.capacity)
            }
            Storage::Paged(pages) => self.num_pages() * u64::from(pages.size),
        }
    }

    /// Elements of the larger of the two caches, padding included; no less than that, if it is packed.
    pub fn cached_elements(&self) -> u64 {
        let row = u64::from(self.shape.head_dim.max(self.shape.v_head_dim)) + u64::from(self.cache.row_pad);
        self.cached_tokens().saturating_mul(u64::from(self.shape.num_kv_heads) * row)
    }

    /// Entries of a block table's row; 0 without pages.
    pub fn pages_per_request(&self) -> u32 {
        self.cache.storage.pages().map_or(0, |pages| self.cache.capacity.div_ceil(pages.size))
    }

    /// The page ids of each request, in the order of its tokens; nothing without pages.
    pub fn block_table(&self) -> Vec<Vec<u32>> {
        let Some(pages) = self.cache.storage.pages() else { return Vec::new() };
        let mut ids = page_order(self.num_pages() as u32, pages.seed).into_iter();
        let mut table: Vec<Vec<u32>> = Vec::with_capacity(self.shape.requests.len());
        for request in 0..self.shape.requests.len() {
            let shared = self.shared_pages(request) as usize;
            let own = self.num_pages_of(request, pages) as usize - shared;
            let mut row = table.first().map_or_else(Vec::new, |first| first[..shared].to_vec());
            row.extend(ids.by_ref().take(own));
            table.push(row);
        }
        table
    }

    /// Where the elements of a cache with rows of `dim` are.
    pub fn cache_map(&self, dim: u32) -> CacheMap {
        let requests = self.shape.requests.len();
        let (heads, capacity) = (u64::from(self.shape.num_kv_heads), u64::from(self.cache.capacity));
        let row = u64::from(dim) + u64::from(self.cache.row_pad);
        let (place, blocks, tokens) = match self.cache.storage {
            Storage::PerRequest => (Place::Requests, requests as u64, capacity),
            Storage::Packed => {
                let mut starts = vec![0; requests + 1];
                for request in 0..requests {
                    starts[request + 1] = starts[request] + u64::from(self.past_len_at(request, self.steps));
                }
                let longest = starts.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0);
                let spare = capacity.saturating_sub(longest);
                let tokens = starts[requests] + spare;
                (Place::Packed(starts), 1, tokens)
            }
            Storage::Paged(pages) => {
                let place = Place::Pages { size: pages.size, table: self.block_table() };
                (place, self.num_pages(), u64::from(pages.size))
            }
        };
        let (head_stride, token_stride) = match self.cache.order {
            CacheOrder::Hnd => (tokens * row, row),
            CacheOrder::Nhd => (row, heads * row),
        };
        CacheMap {
            place,
            extents: [blocks, heads, tokens, u64::from(dim)],
            block_stride: heads * tokens * row,
            head_stride,
            token_stride,
        }
    }
}

/// Where the elements of a cache are, counted from its first one.
#[derive(Clone, Debug)]
pub struct CacheMap {
    place: Place,
    /// Blocks (requests, pages, or all there is), heads, tokens of a block, elements of a row.
    extents: [u64; 4],
    block_stride: u64,
    head_stride: u64,
    token_stride: u64,
}

#[derive(Clone, Debug)]
enum Place {
    /// A block is a request.
    Requests,
    /// There is one block, and these are the requests' first tokens in it.
    Packed(Vec<u64>),
    /// A block is a page, and these are each request's.
    Pages { size: u32, table: Vec<Vec<u32>> },
}

impl CacheMap {
    /// Offset of the first element of a row. The token must be one that the cache has.
    pub fn offset(&self, request: u32, head: u32, token: u32) -> usize {
        let (block, token) = match &self.place {
            Place::Requests => (u64::from(request), u64::from(token)),
            Place::Packed(starts) => (0, starts[request as usize] + u64::from(token)),
            Place::Pages { size, table } => {
                (u64::from(table[request as usize][(token / size) as usize]), u64::from(token % size))
            }
        };
        (block * self.block_stride + u64::from(head) * self.head_stride + token * self.token_stride) as usize
    }

    /// Elements from the first to one past the last, gaps between rows included and a gap after the last row not.
    pub fn span(&self) -> usize {
        if self.extents.contains(&0) {
            return 0;
        }
        let [blocks, heads, tokens, dim] = self.extents;
        let last = (blocks - 1) * self.block_stride + (heads - 1) * self.head_stride + (tokens - 1) * self.token_stride;
        (last + dim) as usize
    }

    /// `[request, head, token, dim]` of the element at an offset; nothing for a gap, or a slot of no request. For messages.
    pub fn coordinate(&self, offset: usize) -> Option<[u64; 4]> {
        let offset = offset as u64;
        let (block, rest) = (offset / self.block_stride, offset % self.block_stride);
        let (head, token, dim) = if self.head_stride > self.token_stride {
            let rest_of_head = rest % self.head_stride;
            (rest / self.head_stride, rest_of_head / self.token_stride, rest_of_head % self.token_stride)
        } else {
            let rest_of_token = rest % self.token_stride;
            (rest_of_token / self.head_stride, rest / self.token_stride, rest_of_token % self.head_stride)
        };
        if dim >= self.extents[3] || block >= self.extents[0] {
            return None;
        }
        let (request, token) = match &self.place {
            Place::Requests => (block, token),
            Place::Packed(starts) => {
                let request = starts.windows(2).position(|w| (w[0]..w[1]).contains(&token))?;
                (request as u64, token - starts[request])
            }
            Place::Pages { size, table } => {
                let has = |row: &Vec<u32>| row.iter().position(|&id| u64::from(id) == block);
                let (request, page) = table.iter().enumerate().find_map(|(r, row)| Some((r, has(row)?)))?;
                (request as u64, page as u64 * u64::from(*size) + token)
            }
        };
        Some([request, head, token, dim])
    }

    /// Blocks (requests, pages, or all there is), heads, tokens of a block, elements of a row.
    pub fn extents(&self) -> [u64; 4] {
        self.extents
    }

    /// Elements from one request's slots to the next one's, if every request has its own.
    pub fn request_stride(&self) -> Option<u64> {
        matches!(self.place, Place::Requests).then_some(self.block_stride)
    }

    /// Elements from one page to the next, if there are pages.
    pub fn page_stride(&self) -> Option<u64> {
        matches!(self.place, Place::Pages { .. }).then_some(self.block_stride)
    }

    /// Elements from one head's row to the next one's.
    pub fn head_stride(&self) -> u64 {
        self.head_stride
    }

    /// Elements from one token's row to that of the next in its block.
    pub fn token_stride(&self) -> u64 {
        self.token_stride
    }
}

/// The ids `0..count` in the order in which pages are given out.
fn page_order(count: u32, seed: u32) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..count).collect();
    match seed {
        0 => {}
        1 => ids.reverse(),
        // Fisher and Yates.
        _ => (1..ids.len()).rev().for_each(|last| {
            let other = mix(mix(u64::from(seed)) ^ last as u64) % (last as u64 + 1);
            ids.swap(last, other as usize);
        }),
    }
    ids
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

fn is_per_request(storage: &Storage) -> bool {
    *storage == Storage::PerRequest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Case;
    use std::collections::BTreeMap;

    fn case(line: &str) -> Case {
        format!("kv=2 g=1 d=5 dtype=f32 scale=1 values=flat:0 {line}").parse().unwrap()
    }

    const LINES: [&str; 8] = [
        "past=3,0,7 cache=hnd:9+2",
        "past=3,0,7 cache=nhd:9+2",
        "past=3,0,7 append=no cache=packed-hnd:9+2",
        "past=3,0,7 append=no cache=packed-nhd:7",
        "past=3,0,7 append=no cache=nhd:9+2 pages=2",
        "past=9,6,7 append=no cache=hnd:9 pages=3,seed:1,spare:2,shared:2",
        "past=9,6,7 steps=3 cache=nhd:16 pages=4,seed:5,spare:1,shared:9",
        "past=0,0,1 append=no cache=nhd:3 pages=1,seed:9",
    ];

    #[test]
    fn rows_do_not_overlap_unless_they_share_a_page() {
        for line in LINES {
            let case = case(line);
            let map = case.cache_map(5);
            let mut rows = BTreeMap::new();
            for request in 0..3 {
                for head in 0..2 {
                    for token in 0..case.past_len_at(request as usize, case.steps) {
                        let offset = map.offset(request, head, token);
                        assert!(offset + 5 <= map.span(), "{line}");
                        let owner = case.owner(request, token);
                        let row = rows.entry(offset).or_insert((owner, head, token));
                        assert_eq!(*row, (owner, head, token), "{line}");
                        let at = [owner, head, token, 4].map(u64::from);
                        assert_eq!(map.coordinate(offset + 4), Some(at), "{line}");
                    }
                }
            }
            let starts: Vec<usize> = rows.into_keys().collect();
            assert!(starts.windows(2).all(|w| w[1] - w[0] >= 5), "{line}");
        }
    }

    #[test]
    fn a_page_is_shared_only_where_both_pasts_fill_it() {
        let case = case("past=9,6,7,2 append=no cache=hnd:9 pages=3,shared:9");
        assert_eq!([0, 1, 2, 3].map(|r| case.shared_pages(r)), [0, 2, 2, 0]);
        assert_eq!(case.block_table(), [vec![0, 1, 2], vec![0, 1], vec![0, 1, 3], vec![4]]);
        assert_eq!(case.num_pages(), 5);
        assert_eq!([(2, 5), (2, 6), (3, 0), (0, 0)].map(|(r, t)| case.owner(r, t)), [0, 2, 3, 0]);
    }

    #[test]
    fn page_orders_are_permutations() {
        assert_eq!(page_order(4, 0), [0, 1, 2, 3]);
        assert_eq!(page_order(4, 1), [3, 2, 1, 0]);
        for seed in 2..40 {
            let mut ids = page_order(17, seed);
            assert_ne!(ids, page_order(17, seed + 1));
            ids.sort_unstable();
            assert!(ids.into_iter().eq(0..17));
        }
    }
}
