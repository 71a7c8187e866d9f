//! A region of memory: what is in it before the first launch, and what may be done with it.

use crate::backend::Run;
use crate::backend::manifest::{Initial, Placement, Workspace, WorkspaceType};
use crate::case::{Case, MAX_TENSOR_ELEMENTS};
use crate::expr::ExprError;
use crate::float::Dtype;
use crate::tensor::Buffer;
use std::ops::Range;
use std::sync::Arc;

/// One tensor or array in memory.
#[derive(Clone)]
pub(in crate::backend) struct Region {
    pub(in crate::backend) name: String,
    /// What it holds before the first launch; empty in a sketch, unless it holds lengths or pages.
    pub(in crate::backend) bytes: Vec<u8>,
    pub(in crate::backend) size_bytes: usize,
    /// Byte ranges that hold data before the launch; the rest is poison.
    pub(in crate::backend) initialised: Initialised,
    pub(in crate::backend) writable: bool,
    /// What becomes of it in the Output.
    pub(super) use_: Use,
    /// Type of its elements, if there are any that must not be read.
    pub(super) poisoned: Option<WorkspaceType>,
    /// Where its elements are, if not where this program has them.
    pub(super) placement: Option<Arc<Placement>>,
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

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Input,
    KCache,
    VCache,
    Out,
    Lse,
    Workspace,
}

impl Region {
    pub(super) fn new(name: &str, bytes: Vec<u8>, initialised: Initialised, use_: Use) -> Self {
        Self {
            name: name.into(),
            size_bytes: bytes.len(),
            bytes,
            initialised,
            writable: use_ != Use::Input,
            use_,
            poisoned: None,
            placement: None,
            addresses: Vec::new(),
        }
    }

    /// A tensor of so many elements, with its content unless it is part of a sketch.
    pub(super) fn of(
        name: &str,
        dtype: Dtype,
        len: usize,
        content: Option<Buffer>,
        initialised: Initialised,
        use_: Use,
    ) -> Self {
        let bytes = content.map(Buffer::into_bytes).unwrap_or_default();
        Self { size_bytes: len * dtype.size_bytes(), ..Self::new(name, bytes, initialised, use_) }
    }

    /// An input that is read as a whole, or where a placement has its elements.
    pub(super) fn input(
        name: &str,
        dtype: Dtype,
        len: usize,
        content: Option<Buffer>,
        placement: Option<Arc<Placement>>,
        poison: u32,
    ) -> Self {
        let Some(placement) = placement else {
            return Self::of(name, dtype, len, content, Initialised::All, Use::Input);
        };
        let (span, size) = (placement.span(), dtype.size_bytes());
        let ranges = placement.ranges().into_iter().map(|range| range.start * size..range.end * size).collect();
        let scattered = content.map(|dense| {
            let mut placed = Buffer::filled(dtype, span, poison);
            placement.offsets().enumerate().for_each(|(element, offset)| placed.set_bits(offset, dense.bits(element)));
            placed
        });
        let region = Self::of(name, dtype, span, scattered, Initialised::Ranges(ranges), Use::Input);
        Self { poisoned: Some(WorkspaceType::Storage), placement: Some(placement), ..region }
    }

    /// An output, poison before it is written.
    pub(super) fn output(
        name: &str,
        dtype: Dtype,
        len: usize,
        use_: Use,
        placement: Option<Arc<Placement>>,
        poison: Option<u32>,
    ) -> Self {
        let len = placement.as_ref().map_or(len, |placement| placement.span());
        let poisoned = Some(if use_ == Use::Lse { WorkspaceType::F32 } else { WorkspaceType::Storage });
        let content = poison.map(|bits| Buffer::filled(dtype, len, bits));
        Self { poisoned, placement, ..Self::of(name, dtype, len, content, Initialised::Nothing, use_) }
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
        Ok(Self { size_bytes, poisoned, ..Self::new(&workspace.name, bytes, initialised, Use::Workspace) })
    }

    /// The dense elements of its bytes.
    pub(super) fn gathered(&self, dtype: Dtype, bytes: Vec<u8>) -> Buffer {
        let placed = Buffer::from_bytes(dtype, bytes);
        let Some(placement) = &self.placement else { return placed };
        let offsets: Vec<usize> = placement.offsets().collect();
        let mut dense = Buffer::filled(dtype, offsets.len(), 0);
        offsets.into_iter().enumerate().for_each(|(element, offset)| dense.set_bits(element, placed.bits(offset)));
        dense
    }
}
