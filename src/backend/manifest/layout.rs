//! How tensors lie in memory, where not as this program has them.

mod placement;

pub use placement::Placement;

use crate::case::{Case, MAX_TENSOR_ELEMENTS, StorageKind, TensorName};
use crate::expr::{Expr, ExprError};
use std::fmt;

/// An axis of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Axis {
    /// The request. Of a step's tensor, with it the token axis counts a request's tokens, up to the longest.
    Request,
    /// The page of a paged cache.
    Page,
    /// The token: of all requests in a row, or of a request or page where there is such an axis.
    Token,
    /// The head.
    Head,
    /// The element of a row; not of the log-sum-exps.
    Dim,
}

impl Axis {
    /// Every axis.
    pub const ALL: [Self; 5] = [Self::Request, Self::Page, Self::Token, Self::Head, Self::Dim];

    /// Its name in a manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Page => "page",
            Self::Token => "token",
            Self::Head => "head",
            Self::Dim => "dim",
        }
    }
}

/// What a manifest says of a tensor's layout: dimensions in memory, the outermost first.
#[derive(Clone, Debug, Default)]
pub struct TensorLayout {
    /// Elements of its buffer before it.
    pub at: Option<Expr>,
    /// The dimensions.
    pub dimensions: Vec<Dimension>,
}

/// A dimension in memory.
#[derive(Clone, Debug)]
pub struct Dimension {
    /// What of the tensor lies along it.
    pub along: Along,
    /// How many there are, if more than the tensor has.
    pub of: Option<Expr>,
    /// Elements from one to the next; absent: what the dimensions behind it take.
    pub stride: Option<Expr>,
}

/// What of a tensor lies along a dimension.
#[derive(Clone, Debug)]
pub enum Along {
    /// An axis, or the places in a group where another dimension has the axis in groups.
    Axis(Axis),
    /// Groups of so many of an axis.
    Groups(Axis, Expr),
    /// The tensor is at this place of a dimension that it shares with others.
    Place(Expr),
}

/// Tensors that lie in one buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedBuffer {
    /// Its name in arguments and reports.
    pub name: String,
    /// What is in it.
    pub tensors: Vec<TensorName>,
}

/// Why a tensor can't lie as the manifest says.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LayoutError {
    /// A number of it has no legal value.
    #[error("layout.{0}: {1}")]
    Number(TensorName, ExprError),
    /// A dimension has no room for what lies along it.
    #[error("layout.{tensor}: expected a dimension of at least {least} for {along}, found {found}")]
    Narrow {
        /// The tensor.
        tensor: TensorName,
        /// What lies along it.
        along: String,
        /// What it takes.
        least: u64,
        /// Its length.
        found: u64,
    },
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
    /// Two tensors of a buffer at one address.
    #[error("layout.{buffer}: expected {first} and {second} beside each other, found element {at} in both")]
    Shared {
        /// The buffer.
        buffer: String,
        /// One of them.
        first: TensorName,
        /// The other.
        second: TensorName,
        /// The first element that is of both, counted from the buffer's start.
        at: usize,
    },
    /// More than a tensor may have.
    #[error("layout.{0}: expected at most {MAX_TENSOR_ELEMENTS} elements, gaps included, found more")]
    TooLarge(TensorName),
    /// The cache moves between steps.
    #[error("layout.{0}: expected the same in each step, found another in step {1}")]
    Moves(TensorName, u32),
}

/// A layout in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::backend) struct Resolved {
    /// Elements before the tensor.
    start: u64,
    strides: Vec<Stride>,
}

/// What an index along an axis adds to an element's place: `index / per % count * stride`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stride {
    axis: Axis,
    per: u64,
    count: u64,
    stride: u64,
}

/// Extents of a tensor along [`Axis::ALL`].
type Extents = [u64; Axis::ALL.len()];

/// Those of `tensor` in a case. A step's tensor has requests only where its layout has; a cache has what its storage has.
fn extents(tensor: TensorName, case: &Case, by_request: bool) -> Extents {
    let shape = &case.shape;
    let longest = || shape.requests.iter().map(|r| r.q_len).max().unwrap_or(0);
    let (requests, tokens) = if by_request { (shape.batch(), longest()) } else { (1, shape.total_q_len()) };
    let of_step = |heads: u32, dim: u32| [requests, 1, tokens, heads, dim].map(u64::from);
    let of_cache = |dim: u32| {
        let [blocks, heads, tokens, dim] = case.cache_map(dim).extents();
        let paged = case.cache.storage.kind() == StorageKind::Paged;
        let (requests, pages) = if paged { (1, blocks) } else { (blocks, 1) };
        [requests, pages, tokens, heads, dim]
    };
    match tensor {
        TensorName::KNew => of_step(shape.num_kv_heads, shape.head_dim),
        TensorName::VNew => of_step(shape.num_kv_heads, shape.v_head_dim),
        TensorName::KCache => of_cache(shape.head_dim),
        TensorName::VCache => of_cache(shape.v_head_dim),
        TensorName::Lse | TensorName::Sinks => of_step(shape.num_q_heads(), 1),
        TensorName::Out => of_step(shape.num_q_heads(), shape.v_head_dim),
        TensorName::Q => of_step(shape.num_q_heads(), shape.head_dim),
    }
}

impl TensorLayout {
    /// Where the elements are in a case, where `values` are those of the expressions' variables.
    pub fn place(&self, tensor: TensorName, case: &Case, values: &[f64]) -> Result<Placement, LayoutError> {
        let by_request = self.has(Axis::Request);
        let extents = extents(tensor, case, by_request);
        let resolved = self.resolve(tensor, extents, values)?;
        resolved.check(tensor, extents)?;
        Ok(Placement::new(tensor, case, by_request, resolved.start, |axis| resolved.along(axis, extents)))
    }

    /// Whether some dimension has the axis.
    pub fn has(&self, axis: Axis) -> bool {
        self.axes().any(|(found, _)| found == axis)
    }

    /// Whether some dimension has the axis, or the places in its groups.
    pub(super) fn has_whole(&self, axis: Axis) -> bool {
        self.axes().any(|found| found == (axis, false))
    }

    /// The axes of its dimensions, and whether in groups.
    pub(super) fn axes(&self) -> impl Iterator<Item = (Axis, bool)> {
        self.dimensions.iter().filter_map(|dimension| match dimension.along {
            Along::Axis(axis) => Some((axis, false)),
            Along::Groups(axis, _) => Some((axis, true)),
            Along::Place(_) => None,
        })
    }

    /// The layout in numbers for a case.
    pub(in crate::backend) fn numbers(
        &self,
        tensor: TensorName,
        case: &Case,
        values: &[f64],
    ) -> Result<Resolved, LayoutError> {
        self.resolve(tensor, extents(tensor, case, self.has(Axis::Request)), values)
    }

    fn resolve(&self, tensor: TensorName, extents: Extents, values: &[f64]) -> Result<Resolved, LayoutError> {
        let number = |expr: &Expr, low: i64| {
            let whole = expr.whole(values, low, MAX_TENSOR_ELEMENTS as i64);
            whole.map(|n| n as u64).map_err(|error| LayoutError::Number(tensor, error))
        };
        // Of each axis how many make a group, where there are groups.
        let mut groups = [u64::MAX; Axis::ALL.len()];
        for dimension in &self.dimensions {
            if let Along::Groups(axis, size) = &dimension.along {
                groups[*axis as usize] = number(size, 1)?;
            }
        }
        let mut start = self.at.as_ref().map_or(Ok(0), |at| number(at, 0))?;
        let (mut strides, mut inside) = (Vec::new(), 1u64);
        for dimension in self.dimensions.iter().rev() {
            let stride = dimension.stride.as_ref().map_or(Ok(inside), |stride| number(stride, 0))?;
            let least = match &dimension.along {
                Along::Axis(axis) => {
                    let (extent, group) = (extents[*axis as usize], groups[*axis as usize]);
                    strides.push(Stride { axis: *axis, per: 1, count: group, stride });
                    if group == u64::MAX { extent } else { group }
                }
                Along::Groups(axis, _) => {
                    let per = groups[*axis as usize];
                    strides.push(Stride { axis: *axis, per, count: u64::MAX, stride });
                    extents[*axis as usize].div_ceil(per)
                }
                Along::Place(place) => {
                    let place = number(place, 0)?;
                    start = start.saturating_add(place.saturating_mul(stride));
                    place + 1
                }
            };
            let length = dimension.of.as_ref().map_or(Ok(least), |of| number(of, 0))?;
            if length < least {
                let along = dimension.along.to_string();
                return Err(LayoutError::Narrow { tensor, along, least, found: length });
            }
            inside = stride.saturating_mul(length);
        }
        Ok(Resolved { start, strides })
    }
}

impl Resolved {
    /// What each index along an axis adds.
    fn along(&self, axis: Axis, extents: Extents) -> Vec<u64> {
        let strides = || self.strides.iter().filter(|stride| stride.axis == axis);
        (0..extents[axis as usize]).map(|i| strides().map(|s| i / s.per % s.count * s.stride).sum()).collect()
    }

    /// Elements from one to the next along an axis; nothing if it is in groups, or the layout has it not.
    pub(super) fn stride(&self, axis: Axis) -> Option<u64> {
        let mut strides = self.strides.iter().filter(|stride| stride.axis == axis);
        strides.next().filter(|stride| stride.per == 1 && stride.count == u64::MAX).map(|stride| stride.stride)
    }

    /// Elements of its buffer before the tensor.
    pub(in crate::backend) fn start(&self) -> u64 {
        self.start
    }

    /// Elements from one to the next of each dimension, the largest first.
    pub(in crate::backend) fn text(&self) -> String {
        let mut strides: Vec<&Stride> = self.strides.iter().collect();
        strides.sort_by_key(|stride| std::cmp::Reverse(stride.stride));
        let text = |s: &&Stride| match s.per {
            1 => format!("{} {}", s.axis.name(), s.stride),
            per => format!("{} / {per} {}", s.axis.name(), s.stride),
        };
        strides.iter().map(text).collect::<Vec<_>>().join(", ")
    }

    /// Axes must nest: each step along one leaps over all that is inside of it.
    fn check(&self, tensor: TensorName, extents: Extents) -> Result<(), LayoutError> {
        let mut span = self.start.checked_add(1).filter(|&n| n <= MAX_TENSOR_ELEMENTS);
        let extent = |s: &Stride| extents[s.axis as usize].div_ceil(s.per).min(s.count);
        let mut strides: Vec<(u64, &Stride)> = self.strides.iter().map(|s| (extent(s), s)).collect();
        strides.retain(|&(extent, _)| extent > 1);
        strides.sort_by_key(|(_, s)| s.stride);
        for (extent, Stride { axis, stride, .. }) in strides {
            let inside = span.ok_or(LayoutError::TooLarge(tensor))?;
            let least = inside - self.start;
            if *stride < least {
                return Err(LayoutError::Overlap { tensor, axis: axis.name(), least, found: *stride });
            }
            span = (extent - 1).checked_mul(*stride).and_then(|n| n.checked_add(inside));
            span = span.filter(|&n| n <= MAX_TENSOR_ELEMENTS);
        }
        span.map(|_| ()).ok_or(LayoutError::TooLarge(tensor))
    }
}

impl SharedBuffer {
    /// Its tensors must not overlap; `place` tells where they are.
    pub fn check<'p>(&self, place: impl Fn(TensorName) -> Option<&'p Placement>) -> Result<(), LayoutError> {
        let ranges = |&name: &TensorName| {
            let ranges = place(name).map(Placement::ranges).unwrap_or_default();
            ranges.into_iter().map(move |range| (range, name))
        };
        let mut all: Vec<_> = self.tensors.iter().flat_map(ranges).collect();
        all.sort_unstable_by_key(|(range, _)| range.start);
        match all.windows(2).find(|pair| pair[1].0.start < pair[0].0.end) {
            None => Ok(()),
            Some(pair) => {
                let (first, second, at) = (pair[0].1, pair[1].1, pair[1].0.start);
                Err(LayoutError::Shared { buffer: self.name.clone(), first, second, at })
            }
        }
    }
}

impl fmt::Display for Along {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Axis(axis) => f.write_str(axis.name()),
            Self::Groups(axis, size) => write!(f, "{} / {size}", axis.name()),
            Self::Place(place) => write!(f, "{place}"),
        }
    }
}

#[cfg(test)]
mod tests;
