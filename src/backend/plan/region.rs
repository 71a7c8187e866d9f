//! A region of memory: what is in it before the first launch, and what may be done with it.

use crate::backend::Run;
use crate::backend::manifest::{Initial, Placement, Workspace, WorkspaceType};
use crate::case::{Case, MAX_TENSOR_ELEMENTS, Poison, TensorName};
use crate::expr::ExprError;
use crate::float::Dtype;
use crate::tensor::Buffer;
use std::ops::Range;
use std::sync::Arc;

/// A buffer or an array in memory.
#[derive(Clone)]
pub(in crate::backend) struct Region {
    pub(in crate::backend) name: String,
    /// What it holds before the first launch; empty in a sketch, unless it holds lengths or pages.
    pub(in crate::backend) bytes: Vec<u8>,
    pub(in crate::backend) size_bytes: usize,
    /// Byte ranges that hold data before the launch; the rest is poison.
    pub(in crate::backend) initialised: Initialised,
    pub(in crate::backend) writable: bool,
    /// The tensors in it, and where their elements are, if not where this program has them. A tensor without a placement is
    /// the only one.
    pub(super) tensors: Vec<(TensorName, Option<Arc<Placement>>)>,
    /// Type of its elements, if there are any that must not be read.
    pub(super) poisoned: Option<WorkspaceType>,
    /// Addresses that it holds, of regions before it.
    pub(in crate::backend) addresses: Vec<Address>,
}

/// An address among bytes.
#[derive(Clone, Copy)]
pub(in crate::backend) struct Address {
    /// Where it stands.
    pub(in crate::backend) at: usize,
    /// The region that it is of.
    pub(in crate::backend) region: usize,
    /// Bytes from the region's start.
    pub(in crate::backend) offset: u64,
}

impl Address {
    /// Writes it where regions are at the addresses that `of` gives.
    pub(in crate::backend) fn write(self, bytes: &mut [u8], of: impl Fn(usize) -> u64) {
        let address = of(self.region).wrapping_add(self.offset);
        bytes[self.at..][..8].copy_from_slice(&address.to_le_bytes());
    }
}

#[derive(Clone)]
pub(in crate::backend) enum Initialised {
    All,
    Nothing,
    Ranges(Vec<Range<usize>>),
}

/// A tensor of a case, in this program's own layout.
pub(super) struct Given {
    pub(super) name: TensorName,
    /// Elements.
    pub(super) len: usize,
    /// Nothing of an output, and of a sketch.
    pub(super) content: Option<Buffer>,
    pub(super) filled: Filled,
    /// Where its elements are, if not where this program has them.
    pub(super) placement: Option<Arc<Placement>>,
}

/// Which elements of a tensor hold data before the launch.
pub(super) enum Filled {
    All,
    Nothing,
    /// Rows, as ranges of elements.
    Rows(Vec<Range<usize>>),
}

impl Given {
    /// Ranges of its buffer's elements that hold data; all of it where there is no need to say.
    fn ranges(&self) -> Option<Vec<Range<usize>>> {
        match (&self.filled, &self.placement) {
            (Filled::All, None) => None,
            (Filled::All, Some(placement)) => Some(placement.ranges()),
            (Filled::Nothing, _) => Some(Vec::new()),
            (Filled::Rows(rows), None) => Some(rows.clone()),
            (Filled::Rows(rows), Some(placement)) => Some(placement.rows(rows.iter().map(|row| row.start))),
        }
    }
}

impl Region {
    /// An array that is read as a whole.
    pub(super) fn array(name: &str, bytes: Vec<u8>) -> Self {
        Self {
            name: name.into(),
            size_bytes: bytes.len(),
            bytes,
            initialised: Initialised::All,
            writable: false,
            tensors: Vec::new(),
            poisoned: None,
            addresses: Vec::new(),
        }
    }

    /// A buffer of tensors; `poison` is what elements hold that are of none, or of none yet, and nothing in a sketch.
    pub(super) fn tensors(name: &str, dtype: Dtype, given: Vec<Given>, writable: bool, poison: Option<u32>) -> Self {
        let span = |given: &Given| given.placement.as_ref().map_or(given.len, |placement| placement.end());
        let (len, size) = (given.iter().map(span).max().unwrap_or(0), dtype.size_bytes());
        let ranges: Option<Vec<_>> = given.iter().map(Given::ranges).collect();
        let initialised = match ranges.map(|ranges| ranges.concat()) {
            None => Initialised::All,
            Some(ranges) if ranges.is_empty() => Initialised::Nothing,
            Some(ranges) => Initialised::Ranges(ranges.iter().map(|r| r.start * size..r.end * size).collect()),
        };
        let is_lse = given.iter().any(|given| given.name == TensorName::Lse);
        let element = if is_lse { WorkspaceType::F32 } else { WorkspaceType::Storage };
        let poisoned = (!matches!(initialised, Initialised::All)).then_some(element);
        let tensors = given.iter().map(|given| (given.name, given.placement.clone())).collect();
        let bytes = poison.map(|bits| contents(dtype, given, len, bits)).unwrap_or_default();
        Self { initialised, writable, tensors, poisoned, size_bytes: len * size, ..Self::array(name, bytes) }
    }

    /// A workspace as it is before the first step, as large as any step asks for.
    pub(super) fn workspace(
        workspace: &Workspace,
        case: &Case,
        run: Option<Run>,
        variables: &[Vec<f64>],
    ) -> Result<Self, ExprError> {
        let mut elements = 0;
        for values in variables {
            elements = elements.max(workspace.elements.whole(values, 0, MAX_TENSOR_ELEMENTS as i64)?);
        }
        let elements = elements as usize;
        let poison = workspace.dtype.poison(run.map_or(case.poison, |run| run.poison), case.dtype);
        let (element, initialised) = match workspace.dtype.initial(workspace.initial, case.dtype) {
            Some(element) => (element, Initialised::All),
            None => (poison, Initialised::Nothing),
        };
        let bytes = if run.is_some() { element.repeat(elements) } else { Vec::new() };
        let size_bytes = elements * element.len();
        let poisoned = (workspace.initial == Initial::Poison).then_some(workspace.dtype);
        Ok(Self { initialised, writable: true, size_bytes, poisoned, ..Self::array(&workspace.name, bytes) })
    }

    /// Puts other poison wherever there is poison.
    pub(super) fn poison(&mut self, poison: Poison, storage: Dtype) {
        let mut bytes = std::mem::take(&mut self.bytes);
        self.poison_gaps(poison, storage, &mut bytes);
        self.bytes = bytes;
    }

    /// Puts poison wherever there is some before the launch; `bytes` are this region's.
    pub(super) fn poison_gaps(&self, poison: Poison, storage: Dtype, bytes: &mut [u8]) {
        let Some(element) = self.poisoned.map(|dtype| dtype.poison(poison, storage)) else { return };
        let len = bytes.len();
        let mut fill = |gap: Range<usize>| repeat(&element, &mut bytes[gap]);
        let mut ranges = match &self.initialised {
            Initialised::All => return,
            Initialised::Nothing => Vec::new(),
            Initialised::Ranges(ranges) => ranges.clone(),
        };
        // Already so, but for pages.
        ranges.sort_by_key(|range| range.start);
        let mut free = 0;
        for range in ranges {
            // Requests may share pages.
            if range.start > free {
                fill(free..range.start);
            }
            free = free.max(range.end);
        }
        fill(free..len);
    }

    /// Where a tensor is that this region holds; nothing if it doesn't.
    pub(super) fn placement(&self, tensor: TensorName) -> Option<Option<&Placement>> {
        self.tensors.iter().find(|(name, _)| *name == tensor).map(|(_, placement)| placement.as_deref())
    }

    /// A tensor among its bytes, in this program's own layout with `poison` in the gaps between rows.
    pub(super) fn gathered(placement: Option<&Placement>, dtype: Dtype, bytes: Vec<u8>, poison: Poison) -> Buffer {
        let placed = Buffer::from_bytes(dtype, bytes);
        let Some(placement) = placement else { return placed };
        let mut own = Buffer::filled(dtype, placement.own_len(), poison.bits(dtype));
        let elements = placement.offsets().enumerate();
        elements.for_each(|(element, offset)| own.set_bits(placement.own(element), placed.bits(offset)));
        own
    }

    /// The first element that is of no cache in it and no longer holds poison. Nobody but the caches' tells.
    pub(super) fn stray(&self, case: &Case, bytes: &[u8], poison: Poison) -> Option<usize> {
        let is_cache = |name: TensorName| matches!(name, TensorName::KCache | TensorName::VCache);
        if !self.writable || !self.tensors.iter().any(|(name, placement)| is_cache(*name) && placement.is_some()) {
            return None;
        }
        let (size, poison) = (case.dtype.size_bytes(), poison.bits(case.dtype).to_le_bytes());
        let mut ranges: Vec<_> =
            self.tensors.iter().flat_map(|(_, p)| p.as_deref().map(Placement::ranges)).flatten().collect();
        ranges.sort_unstable_by_key(|range| range.start);
        let mut free = 0;
        for range in ranges.into_iter().chain(std::iter::once(self.size_bytes / size..usize::MAX)) {
            let changed = |at: &usize| bytes[at * size..][..size] != poison[..size];
            if let Some(at) = (free..range.start).find(changed) {
                return Some(at);
            }
            free = range.end;
        }
        None
    }
}

/// Fills `bytes` with an element over and over.
fn repeat(element: &[u8], bytes: &mut [u8]) {
    let mut done = element.len().min(bytes.len());
    bytes[..done].copy_from_slice(&element[..done]);
    while done < bytes.len() {
        let more = done.min(bytes.len() - done);
        bytes.copy_within(..more, done);
        done += more;
    }
}

/// The bytes of tensors of `len` elements in all.
fn contents(dtype: Dtype, mut given: Vec<Given>, len: usize, poison: u32) -> Vec<u8> {
    if let [Given { placement: None, content, .. }] = &mut given[..] {
        return content.take().unwrap_or_else(|| Buffer::filled(dtype, len, poison)).into_bytes();
    }
    let mut buffer = Buffer::filled(dtype, len, poison);
    for Given { content, placement, .. } in given {
        let (Some(own), Some(placement)) = (content, placement) else { continue };
        let elements = placement.offsets().enumerate();
        elements.for_each(|(element, offset)| buffer.set_bits(offset, own.bits(placement.own(element))));
    }
    buffer.into_bytes()
}
