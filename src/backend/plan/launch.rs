//! One launch with everything evaluated but the addresses.

use super::region::Address;
use crate::backend::BackendError;
use crate::backend::manifest::{Arg, Index, IndexType, Launch, Memory, PagesOf};
use crate::case::{Case, TensorName};
use crate::expr::{Expr, ExprError};
use std::collections::BTreeMap;

/// Most bytes that a pointer may be moved by.
const MAX_OFFSET: i64 = 1 << 40;

/// One launch with everything evaluated but the addresses.
#[derive(Clone)]
pub(in crate::backend) struct PlannedLaunch {
    pub(in crate::backend) entry: String,
    pub(in crate::backend) config: LaunchConfig,
    pub(in crate::backend) args: Vec<PlannedArg>,
}

/// How large a launch is.
#[derive(Clone, Copy)]
pub(in crate::backend) struct LaunchConfig {
    pub(in crate::backend) grid: [u32; 3],
    pub(in crate::backend) block: [u32; 3],
    /// Blocks of a cluster.
    pub(in crate::backend) cluster: [u32; 3],
    pub(in crate::backend) shared_bytes: u32,
}

/// The bytes of an argument.
#[derive(Clone)]
pub(in crate::backend) struct PlannedArg {
    bytes: Vec<u8>,
    addresses: Vec<Address>,
}

impl PlannedLaunch {
    /// The bytes of each argument, where a region is at `address` of its index.
    pub(in crate::backend) fn arg_bytes(&self, address: impl Fn(usize) -> u64) -> Vec<Vec<u8>> {
        let bytes = |arg: &PlannedArg| {
            let mut bytes = arg.bytes.clone();
            arg.addresses.iter().for_each(|of| of.write(&mut bytes, &address));
            bytes
        };
        self.args.iter().map(bytes).collect()
    }
}

/// An array of whole numbers, by what it holds.
pub(super) type Array = (Index, IndexType, PagesOf);

/// Where each memory of a step is: the index of its region, and bytes from that one's start.
#[derive(Clone, Default)]
pub(super) struct StepRegions {
    /// The first workspace; the others follow.
    pub(super) workspaces: usize,
    /// Sinks only of a case that has them, new keys and values only of a kernel that appends them.
    pub(super) tensors: BTreeMap<TensorName, (usize, u64)>,
    /// Those that hold several tensors, by their place in the manifest.
    pub(super) buffers: BTreeMap<usize, usize>,
    /// Those that some launch takes.
    pub(super) arrays: BTreeMap<Array, usize>,
    pub(super) pointers: BTreeMap<TensorName, usize>,
}

impl StepRegions {
    /// The region of a memory and the bytes before it there; none where the address is 0.
    fn of(&self, memory: Memory) -> Option<(usize, u64)> {
        let start = |region: &usize| (*region, 0);
        match memory {
            Memory::Null => None,
            Memory::Tensor(name) => self.tensors.get(&name).copied(),
            Memory::Buffer(index) => self.buffers.get(&index).map(start),
            Memory::Index(index, kind, pages) => self.arrays.get(&(index, kind, pages)).map(start),
            Memory::Pointers(name) => self.pointers.get(&name).map(start),
            Memory::Workspace(index) => Some((self.workspaces + index, 0)),
        }
    }
}

pub(super) fn plan_launch(
    launch: &Launch,
    case: &Case,
    values: &[f64],
    at: &StepRegions,
) -> Result<PlannedLaunch, BackendError> {
    let arg = |arg: &Arg| {
        let mut planned = PlannedArg { bytes: vec![0; arg.size_bytes()], addresses: Vec::new() };
        place(&mut planned, 0, arg, values, at)?;
        Ok(planned)
    };
    Ok(PlannedLaunch {
        entry: launch.entry.of(case.dtype, values)?,
        args: launch.args.iter().map(arg).collect::<Result<_, ExprError>>()?,
        config: LaunchConfig {
            grid: dims(&launch.grid, values)?,
            block: dims(&launch.block, values)?,
            cluster: dims(&launch.cluster, values)?,
            shared_bytes: launch.shared_bytes.whole(values, 0, i64::from(u32::MAX))? as u32,
        },
    })
}

/// Writes `arg` to `start` of the planned bytes.
fn place(planned: &mut PlannedArg, start: usize, arg: &Arg, values: &[f64], at: &StepRegions) -> Result<(), ExprError> {
    match arg {
        Arg::Value(expr, scalar) => {
            let bytes = scalar.bytes(expr, values)?;
            planned.bytes[start..][..bytes.len()].copy_from_slice(&bytes);
        }
        Arg::Struct(fields) => {
            for (offset, field) in &fields.fields {
                place(planned, start + offset, field, values, at)?;
            }
        }
        Arg::Pointer(pointer) => {
            let offset = pointer.offset.as_ref().map_or(Ok(0), |expr| expr.whole(values, 0, MAX_OFFSET))? as u64;
            if let Some((region, before)) = at.of(pointer.memory) {
                planned.addresses.push(Address { at: start, region, offset: before + offset });
            }
        }
    }
    Ok(())
}

pub(super) fn dims(exprs: &[Expr; 3], values: &[f64]) -> Result<[u32; 3], ExprError> {
    let [x, y, z] = exprs;
    let dim = |expr: &Expr| Ok(expr.whole(values, 1, i64::from(u32::MAX))? as u32);
    Ok([dim(x)?, dim(y)?, dim(z)?])
}
