//! How the tensors of a step lie in memory, where not as this program has them.

use crate::case::{Case, MAX_TENSOR_ELEMENTS, TensorName};
use crate::expr::{Expr, ExprError};
use crate::tensor::{self, Layout};
use std::ops::Range;

/// An axis of a step's tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Axis {
    /// The request; with it the token axis counts a request's tokens, up to the longest.
    Request,
    /// The token; without a request axis those of all requests in a row.
    Token,
    /// The head.
    Head,
    /// The element of a row; not of the log-sum-exps.
    Dim,
}

impl Axis {
    /// Every axis.
    pub const ALL: [Self; 4] = [Self::Request, Self::Token, Self::Head, Self::Dim];

    /// Its name in a manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Token => "token",
            Self::Head => "head",
            Self::Dim => "dim",
        }
    }
}

/// What a manifest says of a tensor's layout.
#[derive(Clone, Debug)]
pub enum TensorLayout {
    /// Axes from the outermost to the innermost, without gaps.
    Order(Vec<Axis>),
    /// The stride of each axis in elements.
    Strides(Vec<(Axis, Expr)>),
}

/// Why a tensor can't lie as the manifest says.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LayoutError {
    /// A stride has no legal value.
    #[error("layout.{0}: {1}")]
    Stride(TensorName, ExprError),
    /// Two elements at one address, as far as can be told.
    #[error("layout.{tensor}: expected a stride of {axis} of at least {least}, past what is inside, found {found}")]
    Overlap {
        /// The tensor.
        tensor: TensorName,
        /// The axis.
        axis: &'static str,
        /// What the axes inside of it span.
        least: u64,
        /// Its stride.
        found: u64,
    },
    /// More than a tensor may have.
    #[error("layout.{0}: expected at most {MAX_TENSOR_ELEMENTS} elements, gaps included, found more")]
    TooLarge(TensorName),
}

/// Where the elements of a tensor are, for one case and step.
#[derive(Clone, Debug)]
pub struct Placement {
    /// `[request, token, head, dim]`; one request if its tokens are in a row.
    layout: Layout,
    /// Tokens of each request.
    q_lens: Vec<u32>,
    by_request: bool,
}

impl TensorLayout {
    /// The layout for a case, where `values` are those of the expressions' variables.
    pub fn place(&self, tensor: TensorName, case: &Case, values: &[f64]) -> Result<Placement, LayoutError> {
        let shape = &case.shape;
        let q_lens: Vec<u32> = shape.requests.iter().map(|r| r.q_len).collect();
        let by_request = self.axes().contains(&Axis::Request);
        let (heads, dim) = match tensor {
            TensorName::KNew => (shape.num_kv_heads, shape.head_dim),
            TensorName::VNew => (shape.num_kv_heads, shape.v_head_dim),
            TensorName::Lse => (shape.num_q_heads(), 1),
            TensorName::Out => (shape.num_q_heads(), shape.v_head_dim),
            _ => (shape.num_q_heads(), shape.head_dim),
        };
        let (requests, tokens) = if by_request {
            (shape.batch(), q_lens.iter().copied().max().unwrap_or(0))
        } else {
            (1, shape.total_q_len())
        };
        let extents = [requests, tokens, heads, dim].map(u64::from);
        let strides = self.strides(extents, values).map_err(|error| LayoutError::Stride(tensor, error))?;
        check(tensor, extents, strides)?;
        Ok(Placement { layout: Layout::strided(&extents, &strides), q_lens, by_request })
    }

    fn axes(&self) -> Vec<Axis> {
        match self {
            Self::Order(axes) => axes.clone(),
            Self::Strides(strides) => strides.iter().map(|(axis, _)| *axis).collect(),
        }
    }

    /// In the order of [`Axis::ALL`].
    fn strides(&self, extents: [u64; 4], values: &[f64]) -> Result<[u64; 4], ExprError> {
        let mut strides = [0; 4];
        match self {
            Self::Order(axes) => {
                let mut stride = 1u64;
                for &axis in axes.iter().rev() {
                    strides[axis as usize] = stride;
                    stride = stride.saturating_mul(extents[axis as usize]);
                }
            }
            Self::Strides(given) => {
                for (axis, expr) in given {
                    strides[*axis as usize] = expr.whole(values, 0, MAX_TENSOR_ELEMENTS as i64)? as u64;
                }
            }
        }
        Ok(strides)
    }
}

/// Axes must nest: each step along one leaps over all that is inside of it.
fn check(tensor: TensorName, extents: [u64; 4], strides: [u64; 4]) -> Result<(), LayoutError> {
    let mut axes: Vec<usize> = (0..4).filter(|&axis| extents[axis] > 1).collect();
    axes.sort_by_key(|&axis| strides[axis]);
    let mut span = 1u64;
    for axis in axes {
        if strides[axis] < span {
            let (axis, found) = (Axis::ALL[axis].name(), strides[axis]);
            return Err(LayoutError::Overlap { tensor, axis, least: span, found });
        }
        span = (extents[axis] - 1)
            .checked_mul(strides[axis])
            .and_then(|n| n.checked_add(span))
            .filter(|&n| n <= MAX_TENSOR_ELEMENTS)
            .ok_or(LayoutError::TooLarge(tensor))?;
    }
    Ok(())
}

impl Placement {
    /// Elements from the first to one past the last, gaps included.
    pub fn span(&self) -> usize {
        self.layout.span()
    }

    /// Where each element is, in the order of this program's own layout: `[token, head, dim]`, dense.
    pub fn offsets(&self) -> impl Iterator<Item = usize> {
        let [_, tokens, heads, dim] = self.extents();
        let by_request = self.by_request;
        let own = move |request: usize| if by_request { u64::from(self.q_lens[request]) } else { tokens };
        let requests = if by_request { self.q_lens.len() } else { 1 };
        let places = (0..requests).flat_map(move |r| (0..own(r)).map(move |token| (r as u64, token)));
        places.flat_map(move |(request, token)| {
            let rows = (0..heads).flat_map(move |head| (0..dim).map(move |element| (head, element)));
            rows.map(move |(head, element)| self.layout.offset(&[request, token, head, element]))
        })
    }

    /// Ranges of elements, ascending.
    pub fn ranges(&self) -> Vec<Range<usize>> {
        let mut offsets: Vec<usize> = self.offsets().collect();
        offsets.sort_unstable();
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for offset in offsets {
            match ranges.last_mut() {
                Some(last) if last.end == offset => last.end += 1,
                _ => ranges.push(offset..offset + 1),
            }
        }
        ranges
    }

    /// The first element of a request.
    pub fn start(&self, request: usize) -> usize {
        let [request_stride, token_stride] = [self.layout.strides()[0], self.layout.strides()[1]];
        let before: u64 = self.q_lens[..request].iter().map(|&n| u64::from(n)).sum();
        (if self.by_request { request as u64 * request_stride } else { before * token_stride }) as usize
    }

    /// `[token, head, dim]` of the element at an offset; nothing for a gap. For messages.
    pub fn coordinate(&self, offset: usize) -> Option<[u64; 3]> {
        let [request, token, head, dim] = self.layout.coordinate(offset)?.try_into().ok()?;
        let before: u64 = self.q_lens.iter().take(request as usize).map(|&n| u64::from(n)).sum();
        Some([before + token, head, dim])
    }

    fn extents(&self) -> [u64; 4] {
        tensor_extents(&self.layout)
    }
}

fn tensor_extents(layout: &tensor::Layout) -> [u64; 4] {
    let mut extents = [1; 4];
    extents.copy_from_slice(layout.extents());
    extents
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn case() -> Case {
        "kv=2 g=3 d=5 dtype=f16 scale=1 values=flat:0 past=3,0,7 q=2,0,4 cache=hnd:11".parse().unwrap()
    }

    fn strides(texts: [(Axis, &str); 3]) -> TensorLayout {
        TensorLayout::Strides(texts.map(|(axis, text)| (axis, Expr::parse(text, &[]).unwrap())).into())
    }

    #[test]
    fn every_order_places_each_element_once() {
        use Axis::{Dim, Head, Request, Token};
        for order in [
            vec![Token, Head, Dim],
            vec![Head, Token, Dim],
            vec![Dim, Head, Token],
            vec![Request, Head, Token, Dim],
            vec![Request, Token, Head, Dim],
            vec![Head, Request, Dim, Token],
        ] {
            let by_request = order.contains(&Request);
            let placement = TensorLayout::Order(order).place(TensorName::Q, &case(), &[]).unwrap();
            let offsets: Vec<usize> = placement.offsets().collect();
            let unique: BTreeSet<usize> = offsets.iter().copied().collect();
            assert_eq!((offsets.len(), unique.len()), (6 * 6 * 5, 6 * 6 * 5));
            assert_eq!(placement.span(), if by_request { 3 * 4 * 6 * 5 } else { 6 * 6 * 5 });
            assert!(unique.iter().all(|&offset| offset < placement.span()));
            assert_eq!(placement.ranges().iter().map(|range| range.len()).sum::<usize>(), offsets.len());
            for (element, &offset) in offsets.iter().enumerate() {
                let at = [element / 30, element / 5 % 6, element % 5].map(|n| n as u64);
                assert_eq!(placement.coordinate(offset), Some(at));
            }
            assert_eq!(placement.start(2), offsets[2 * 30]);
        }
        let dense = TensorLayout::Order(vec![Token, Head, Dim]).place(TensorName::Q, &case(), &[]).unwrap();
        assert!(dense.offsets().eq(0..180));
    }

    #[test]
    fn strides_that_overlap_are_told_and_gaps_are_not() {
        let place = |token, head, dim| {
            let layout = strides([(Axis::Token, token), (Axis::Head, head), (Axis::Dim, dim)]);
            layout.place(TensorName::Out, &case(), &[])
        };
        assert_eq!(place("40", "6", "1").unwrap().span(), 5 * 40 + 5 * 6 + 5);
        assert_eq!(place("30", "5", "1").unwrap().ranges().as_slice(), std::slice::from_ref(&(0..180)));
        let overlap = |axis, least, found| Some(LayoutError::Overlap { tensor: TensorName::Out, axis, least, found });
        assert_eq!(place("30", "4", "1").err(), overlap("head", 5, 4));
        assert_eq!(place("29", "5", "1").err(), overlap("token", 30, 29));
        assert_eq!(place("0", "5", "1").err(), overlap("token", 1, 0));
        assert_eq!(place("2147483648", "5", "1").err(), Some(LayoutError::TooLarge(TensorName::Out)));
        assert!(matches!(place("30", "5", "1 / 2"), Err(LayoutError::Stride(..))));
    }
}
