//! The arguments of a launch, and their bytes in the kernel's parameter space.

use crate::case::{Case, NO_PAGE, TensorName};
use crate::expr::{Expr, ExprError};
use crate::float::Dtype;
use serde::{Deserialize, Serialize};

/// One kernel argument, or one field of a struct.
#[derive(Clone, Debug)]
pub enum Arg {
    /// An address.
    Pointer(Pointer),
    /// A number.
    Value(Box<Expr>, Scalar),
    /// A struct, by value.
    Struct(Struct),
}

/// An address inside of memory that the kernel is given.
#[derive(Clone, Debug)]
pub struct Pointer {
    /// The memory.
    pub memory: Memory,
    /// Bytes from its start.
    pub offset: Option<Box<Expr>>,
}

/// What an address is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Memory {
    /// Nothing: the address is 0.
    Null,
    /// A tensor; nothing where the case has no such sinks.
    Tensor(TensorName),
    /// What several tensors lie in, with this place in [`Manifest::buffers`](super::Manifest::buffers).
    Buffer(usize),
    /// An array that follows from the lengths of the requests, or from where their tokens are in pages.
    Index(Index, IndexType, PagesOf),
    /// An array of addresses: for each request that of its first row in the tensor.
    Pointers(TensorName),
    /// The workspace with this place in [`Manifest::workspaces`](super::Manifest::workspaces).
    Workspace(usize),
}

impl Memory {
    /// What it holds, if it is an array of whole numbers.
    pub(in crate::backend) fn array(&self) -> Option<(Index, IndexType, PagesOf)> {
        if let Self::Index(index, kind, pages) = *self { Some((index, kind, pages)) } else { None }
    }
}

/// A struct as C lays it out, or as the manifest places its fields.
#[derive(Clone, Debug)]
pub struct Struct {
    /// Fields with their offsets in bytes, ascending.
    pub fields: Vec<(usize, Arg)>,
    /// Bytes, padding included.
    pub size_bytes: usize,
    /// Alignment in bytes.
    pub align_bytes: usize,
}

/// Arrays of whole numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Index {
    /// Tokens in the cache before the step, one for each request.
    PastLen,
    /// Tokens in the cache after the step, one for each request.
    KvLen,
    /// Query tokens of the step, one for each request.
    QLen,
    /// Query tokens of the step in all requests before each, and in all.
    CuQLen,
    /// Tokens in the cache after the step in all requests before each, and in all.
    CuKvLen,
    /// The block table: `[request, page]`, rows of `pages_per_request` entries. Those behind a request's last page are
    /// [`NO_PAGE`].
    Padded,
    /// The same with the first token slot of each page instead of the page.
    PaddedSlots,
    /// Pages that hold tokens after the step, in all requests before each, and in all.
    PagesIndptr,
    /// Those pages, request after request.
    PagesIndices,
    /// Tokens in the last of them, one for each request; 0 for a request without.
    LastPageLen,
    /// For each new token of the step its slot: page times page size and the place in the page.
    SlotMapping,
}

/// Whose pages a block table names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PagesOf {
    /// The key cache's; also the value cache's, unless those are its own.
    #[default]
    K,
    /// The value cache's own.
    V,
}

/// Type of an array's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexType {
    /// 32-bit signed.
    #[default]
    I32,
    /// 64-bit signed.
    I64,
}

impl Index {
    /// Arrays of lengths, as the manifest's `lengths` names them.
    pub const LENGTHS: [Self; 5] = [Self::PastLen, Self::KvLen, Self::QLen, Self::CuQLen, Self::CuKvLen];
    /// Forms of a block table, as the manifest's `block_table` names them.
    pub const TABLES: [Self; 6] =
        [Self::Padded, Self::PaddedSlots, Self::PagesIndptr, Self::PagesIndices, Self::LastPageLen, Self::SlotMapping];

    /// Its name in arguments.
    pub fn name(self) -> &'static str {
        match self {
            Self::PastLen => "past_len",
            Self::KvLen => "kv_len",
            Self::QLen => "q_len",
            Self::CuQLen => "cu_q_len",
            Self::CuKvLen => "cu_kv_len",
            Self::Padded => "padded",
            Self::PaddedSlots => "padded_slots",
            Self::PagesIndptr => "kv_indptr",
            Self::PagesIndices => "kv_indices",
            Self::LastPageLen => "kv_last_page_len",
            Self::SlotMapping => "slot_mapping",
        }
    }

    /// Its name in reports.
    pub fn region_name(self) -> &'static str {
        match self {
            Self::Padded | Self::PaddedSlots => "block_table",
            other => other.name(),
        }
    }

    /// Whether it is of a paged cache only.
    pub fn is_table(self) -> bool {
        Self::TABLES.contains(&self)
    }

    /// Whether it names pages, not only counts them.
    pub fn names_pages(self) -> bool {
        self.finds_tokens() || self == Self::SlotMapping
    }

    /// Whether it is the same in each step of a case.
    pub fn is_constant(self) -> bool {
        matches!(self, Self::Padded | Self::PaddedSlots)
    }

    /// Whether it says where every token of the cache is, not only some.
    pub fn finds_tokens(self) -> bool {
        matches!(self, Self::Padded | Self::PaddedSlots | Self::PagesIndices)
    }

    /// What it holds at `step`. A table of a case without pages is empty.
    pub fn of(self, case: &Case, step: u32) -> Vec<i64> {
        self.of_pages(case, step, PagesOf::K)
    }

    /// The same of a value cache that has pages of its own: the last where keys have the first.
    pub fn of_pages(self, case: &Case, step: u32, pages: PagesOf) -> Vec<i64> {
        let table = || {
            let mut table = case.block_table();
            if pages == PagesOf::V {
                let last = (case.num_pages() as u32).wrapping_sub(1);
                table.iter_mut().flatten().for_each(|page| *page = last - *page);
            }
            table
        };
        let requests = 0..case.shape.requests.len();
        let each = |len: &dyn Fn(usize) -> u32| requests.clone().map(|r| i64::from(len(r))).collect::<Vec<i64>>();
        let sums = |lens: Vec<i64>| -> Vec<i64> {
            let sums = lens.into_iter().scan(0, |sum, n| {
                *sum += n;
                Some(*sum)
            });
            std::iter::once(0).chain(sums).collect()
        };
        let q_lens = || each(&|r| case.shape.requests[r].q_len);
        let kv_lens = || each(&|r| case.kv_len_at(r, step));
        let page_size = case.cache.storage.pages().map_or(1, |pages| pages.size);
        let pages_of = |r: usize| case.kv_len_at(r, step).div_ceil(page_size);
        match self {
            Self::PastLen => each(&|r| case.past_len_at(r, step)),
            Self::KvLen => kv_lens(),
            Self::QLen => q_lens(),
            Self::CuQLen => sums(q_lens()),
            Self::CuKvLen => sums(kv_lens()),
            _ if case.cache.storage.pages().is_none() => Vec::new(),
            Self::Padded | Self::PaddedSlots => {
                let factor = if self == Self::Padded { 1 } else { i64::from(page_size) };
                let (row_len, none) = (case.pages_per_request() as usize, i64::from(NO_PAGE));
                let row = |row: &Vec<u32>| {
                    let pages = row.iter().map(|&page| i64::from(page) * factor).collect::<Vec<_>>();
                    pages.into_iter().chain(std::iter::repeat(none)).take(row_len).collect::<Vec<_>>()
                };
                table().iter().flat_map(row).collect()
            }
            Self::PagesIndptr => sums(each(&pages_of)),
            Self::PagesIndices => {
                let table = table();
                let used = |r: usize| table[r][..pages_of(r) as usize].iter().map(|&page| i64::from(page));
                requests.flat_map(used).collect()
            }
            Self::LastPageLen => each(&|r| match pages_of(r) {
                0 => 0,
                pages => case.kv_len_at(r, step) - (pages - 1) * page_size,
            }),
            Self::SlotMapping => {
                let table = table();
                let slot = |r: usize, token: u32| {
                    i64::from(table[r][(token / page_size) as usize]) * i64::from(page_size)
                        + i64::from(token % page_size)
                };
                let new = |r: usize| case.past_len_at(r, step)..case.kv_len_at(r, step);
                requests.flat_map(|r| new(r).map(move |token| (r, token))).map(|(r, token)| slot(r, token)).collect()
            }
        }
    }
}

impl IndexType {
    /// The bytes of numbers, or the first that does not fit.
    pub fn bytes(self, numbers: &[i64]) -> Result<Vec<u8>, i64> {
        match self {
            Self::I64 => Ok(numbers.iter().flat_map(|n| n.to_le_bytes()).collect()),
            Self::I32 => {
                let bytes = numbers.iter().map(|&n| i32::try_from(n).map(i32::to_le_bytes).map_err(|_| n));
                bytes.collect::<Result<Vec<_>, _>>().map(|bytes| bytes.concat())
            }
        }
    }
}

/// Type of a number argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scalar {
    /// A byte, 0 or 1.
    Bool,
    /// 8-bit signed.
    I8,
    /// 8-bit unsigned.
    U8,
    /// 16-bit signed.
    I16,
    /// 16-bit unsigned.
    U16,
    /// 32-bit signed.
    I32,
    /// 64-bit signed.
    I64,
    /// 32-bit unsigned.
    U32,
    /// 64-bit unsigned.
    U64,
    /// binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// binary32.
    F32,
    /// binary64.
    F64,
}

impl Scalar {
    /// Bytes of a number of this type; also its alignment.
    pub fn size_bytes(self) -> usize {
        match self {
            Self::Bool | Self::I8 | Self::U8 => 1,
            Self::I16 | Self::U16 | Self::F16 | Self::Bf16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }

    /// The number for `expr`, for people, or why it doesn't fit.
    pub(in crate::backend) fn text(self, expr: &Expr, values: &[f64]) -> Result<String, ExprError> {
        let value = expr.value(values);
        self.bytes(expr, values).map(|_| match self {
            Self::F16 | Self::Bf16 | Self::F32 => (value as f32).to_string(),
            Self::F64 => value.to_string(),
            _ => format!("{value:.0}"),
        })
    }

    /// The number's bytes for `expr`, or why it doesn't fit.
    pub fn bytes(self, expr: &Expr, values: &[f64]) -> Result<Vec<u8>, ExprError> {
        let (low, high) = match self {
            Self::F16 => return Ok(Dtype::F16.encode(expr.value(values)).to_le_bytes()[..2].to_vec()),
            Self::Bf16 => return Ok(Dtype::Bf16.encode(expr.value(values)).to_le_bytes()[..2].to_vec()),
            Self::F32 => return Ok((expr.value(values) as f32).to_le_bytes().to_vec()),
            Self::F64 => return Ok(expr.value(values).to_le_bytes().to_vec()),
            Self::Bool => (0, 1),
            Self::I8 => (i8::MIN.into(), i8::MAX.into()),
            Self::U8 => (0, u8::MAX.into()),
            Self::I16 => (i16::MIN.into(), i16::MAX.into()),
            Self::U16 => (0, u16::MAX.into()),
            Self::I32 => (i32::MIN.into(), i32::MAX.into()),
            Self::U32 => (0, u32::MAX.into()),
            // Beyond, an expression is not exact.
            Self::I64 => (-(1 << 53), 1 << 53),
            Self::U64 => (0, 1 << 53),
        };
        // Two's complement: the low bytes are those of the narrower type.
        Ok(expr.whole(values, low, high)?.to_le_bytes()[..self.size_bytes()].to_vec())
    }
}

impl Arg {
    /// Bytes the argument takes in the kernel's parameter space.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Pointer(_) => 8,
            Self::Value(_, scalar) => scalar.size_bytes(),
            Self::Struct(fields) => fields.size_bytes,
        }
    }

    /// Its alignment in bytes.
    pub fn align_bytes(&self) -> usize {
        match self {
            Self::Struct(fields) => fields.align_bytes,
            other => other.size_bytes(),
        }
    }

    /// The memory it has addresses of.
    pub fn memories(&self) -> Vec<Memory> {
        match self {
            Self::Pointer(pointer) => vec![pointer.memory],
            Self::Value(..) => Vec::new(),
            Self::Struct(fields) => fields.fields.iter().flat_map(|(_, field)| field.memories()).collect(),
        }
    }

    /// Whether it has an address of what `wanted` picks.
    pub fn takes(&self, wanted: impl Fn(&Memory) -> bool) -> bool {
        self.memories().iter().any(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(line: &str) -> Case {
        format!("kv=1 g=1 d=8 dtype=f16 scale=1 values=flat:0 {line}").parse().unwrap()
    }

    #[test]
    fn tables_in_rows_and_in_one_row_name_the_same_pages() {
        let case = case("past=9,0,4 steps=2 cache=nhd:12 pages=4,seed:1");
        let table = case.block_table();
        for step in 0..2 {
            let indptr = Index::PagesIndptr.of(&case, step);
            let indices = Index::PagesIndices.of(&case, step);
            let last = Index::LastPageLen.of(&case, step);
            let padded = Index::Padded.of(&case, step);
            for request in 0..3 {
                let pages = &indices[indptr[request] as usize..indptr[request + 1] as usize];
                assert_eq!(pages, &padded[request * 3..][..pages.len()]);
                let kv_len = (pages.len() as i64 - 1) * 4 + last[request];
                assert_eq!(kv_len, i64::from(case.kv_len_at(request, step)));
            }
        }
        let slots = Index::SlotMapping.of(&case, 0);
        let page = |request: usize, page: usize| i64::from(table[request][page]);
        assert_eq!(slots, [page(0, 2) * 4 + 1, page(1, 0) * 4, page(2, 1) * 4]);
        let slots = Index::PaddedSlots.of(&case, 0);
        assert_eq!((slots[2], slots[4]), (page(0, 2) * 4, i64::from(NO_PAGE)));
    }

    #[test]
    fn numbers_are_narrowed_or_refused() {
        let bytes = |scalar: Scalar, text: &str| Scalar::bytes(scalar, &Expr::parse(text, &[]).unwrap(), &[]);
        assert_eq!(bytes(Scalar::I8, "0 - 3"), Ok(vec![0xfd]));
        assert_eq!(bytes(Scalar::U16, "65535"), Ok(vec![0xff, 0xff]));
        assert_eq!(bytes(Scalar::Bool, "1"), Ok(vec![1]));
        assert_eq!(bytes(Scalar::F16, "0.5"), Ok(vec![0x00, 0x38]));
        assert_eq!(bytes(Scalar::Bf16, "0.5"), Ok(vec![0x00, 0x3f]));
        assert_eq!(bytes(Scalar::I64, "0 - 1"), Ok(vec![0xff; 8]));
        for (scalar, text) in [(Scalar::Bool, "2"), (Scalar::I8, "128"), (Scalar::U8, "0 - 1"), (Scalar::I16, "1 / 2")]
        {
            assert!(bytes(scalar, text).is_err(), "{scalar:?} {text}");
        }
    }
}
