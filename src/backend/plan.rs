//! What both backends do with a case: which regions of memory there are, what is in them, what is launched.

use super::manifest::{self, Arg, Lengths, Manifest, Workspace, WorkspaceType};
use super::{BackendError, Kernel, Run};
use crate::case::{Case, Inputs, MAX_TENSOR_ELEMENTS, NO_PAGE, Poison, TensorName};
use crate::expr::{Expr, ExprError};
use crate::float::Dtype;
use crate::outcome::Output;
use crate::tensor::Buffer;
use std::collections::BTreeMap;
use std::ops::Range;

/// Regions and launches of one run.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) regions: Vec<Region>,
    /// The launches of each step.
    pub(super) steps: Vec<Vec<PlannedLaunch>>,
}

/// One tensor or array in memory.
#[derive(Clone)]
pub(super) struct Region {
    pub(super) name: String,
    /// What it holds before the first launch; empty in a sketch, unless it holds lengths or pages.
    pub(super) bytes: Vec<u8>,
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only a GPU is given memory without content"))]
    pub(super) size_bytes: usize,
    /// Byte ranges that hold data before the launch; the rest is poison.
    pub(super) initialised: Initialised,
    pub(super) writable: bool,
    /// What becomes of it in the Output.
    use_: Use,
    /// Type of its elements, if there are any that must not be read.
    poisoned: Option<WorkspaceType>,
}

#[derive(Clone)]
pub(super) enum Initialised {
    All,
    Nothing,
    Ranges(Vec<Range<usize>>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Input,
    KCache,
    VCache,
    Out,
    Lse,
    Workspace,
}

/// One launch with everything evaluated but the addresses.
#[derive(Clone)]
pub(super) struct PlannedLaunch {
    pub(super) entry: String,
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) shared_bytes: u32,
    pub(super) args: Vec<PlannedArg>,
}

impl PlannedLaunch {
    /// The bytes of each argument, where a region is at `address` of its index.
    pub(super) fn arg_bytes(&self, address: impl Fn(usize) -> u64) -> Vec<Vec<u8>> {
        let bytes = |arg: &PlannedArg| match arg {
            PlannedArg::Region(index) => address(*index).to_le_bytes().to_vec(),
            PlannedArg::Bytes(bytes) => bytes.clone(),
        };
        self.args.iter().map(bytes).collect()
    }
}

#[derive(Clone)]
pub(super) enum PlannedArg {
    /// The address of the region with this index.
    Region(usize),
    /// These bytes.
    Bytes(Vec<u8>),
}

/// Index of each region of a step.
struct StepRegions {
    /// The first workspace; the others follow.
    workspaces: usize,
    /// Only of a kernel that returns it.
    lse: Option<usize>,
    q: usize,
    /// New keys and values, of a kernel that appends them.
    new: Option<[usize; 2]>,
    out: usize,
    /// Those that some launch takes.
    lengths: BTreeMap<Lengths, usize>,
    block_table: Option<usize>,
    /// Only of a case that has them.
    sinks: Option<usize>,
}

const K_CACHE: usize = 0;
const V_CACHE: usize = 1;

impl Plan {
    pub(super) fn new(kernel: &Kernel, case: &Case, run: Run) -> Result<Self, BackendError> {
        Self::build(kernel, case, Some((Inputs::of(case, run.poison), run)))
    }

    /// The same without contents: tensors and workspaces have a size only, arrays of lengths and pages are whole. For
    /// cases too large to make their inputs.
    #[cfg(feature = "cuda")]
    pub(super) fn sketch(kernel: &Kernel, case: &Case) -> Result<Self, BackendError> {
        Self::build(kernel, case, None)
    }

    fn build(kernel: &Kernel, case: &Case, contents: Option<(Inputs, Run)>) -> Result<Self, BackendError> {
        let manifest = &kernel.manifest;
        let shape = &case.shape;
        let (inputs, run) = contents.unzip();
        let mut caches = [None, None];
        let mut sinks = None;
        let mut step_inputs = Vec::new();
        if let Some(inputs) = inputs {
            caches = [Some(inputs.k_cache), Some(inputs.v_cache)];
            sinks = inputs.sinks;
            step_inputs = inputs.steps;
        }
        let mut regions = Vec::new();
        for (name, dim, use_, content) in [
            ("k_cache", shape.head_dim, Use::KCache, caches[0].take()),
            ("v_cache", shape.v_head_dim, Use::VCache, caches[1].take()),
        ] {
            let size = case.dtype.size_bytes();
            // Nobody looks where a sketch is initialised.
            let rows = if content.is_some() { case.cached_ranges(dim, 0) } else { Vec::new() };
            let initialised = Initialised::Ranges(rows.into_iter().map(|r| r.start * size..r.end * size).collect());
            let region = Region::of(name, case.dtype, case.cache_map(dim).span(), content, initialised, use_);
            // Only a kernel that appends may write its caches.
            regions.push(Region { writable: case.features.append, poisoned: Some(WorkspaceType::Storage), ..region });
        }
        let variables: Vec<Vec<f64>> =
            (0..case.steps).map(|step| manifest::variables(&manifest.domain, case, step)).collect();
        let workspaces = regions.len();
        for workspace in &manifest.workspaces {
            regions.push(Region::workspace(workspace, case, run, &variables)?);
        }
        let mut add = |region: Region| {
            regions.push(region);
            regions.len() - 1
        };
        let input = |name: &str, dtype: Dtype, len: usize, content: Option<Buffer>| {
            Region::of(name, dtype, len, content, Initialised::All, Use::Input)
        };
        let output = |name: &str, dtype: Dtype, len: usize, use_: Use| {
            let poison = run.map(|run| Buffer::filled(dtype, len, run.poison.bits(dtype)));
            let poisoned = Some(if use_ == Use::Lse { WorkspaceType::F32 } else { WorkspaceType::Storage });
            Region { poisoned, ..Region::of(name, dtype, len, poison, Initialised::Nothing, use_) }
        };
        let takes = |wanted: &dyn Fn(&Arg) -> bool| manifest.launches.iter().flat_map(|l| &l.args).any(wanted);
        let block_table = takes(&|arg| matches!(arg, Arg::BlockTable))
            .then(|| add(Region::new("block_table", block_table(case), Initialised::All, Use::Input)));
        let has_sinks = case.features.sinks && takes(&|arg| matches!(arg, Arg::Tensor(TensorName::Sinks)));
        let num_q_heads = shape.num_q_heads() as usize;
        let sinks = has_sinks.then(|| add(input("sinks", Dtype::F32, num_q_heads, sinks)));
        let mut step_inputs = step_inputs.into_iter();
        let mut steps = Vec::new();
        for step in 0..case.steps {
            let (q, new) = step_inputs.next().map(|tensors| (tensors.q, [tensors.k_new, tensors.v_new])).unzip();
            let [k_new, v_new] = new.map_or([None, None], |new| new.map(Some));
            let [k_len, v_len] = [shape.head_dim, shape.v_head_dim].map(|dim| case.new_token_layout(dim).span());
            let at = StepRegions {
                workspaces,
                lse: manifest.lse.map(|_| add(output("lse", Dtype::F32, case.lse_layout().span(), Use::Lse))),
                q: add(input("q", case.dtype, case.query_layout().span(), q)),
                new: case.features.append.then(|| {
                    [("k_new", k_len, k_new), ("v_new", v_len, v_new)]
                        .map(|(name, len, content)| add(input(name, case.dtype, len, content)))
                }),
                out: add(output("out", case.dtype, case.output_layout().span(), Use::Out)),
                lengths: Lengths::ALL
                    .into_iter()
                    .filter(|wanted| takes(&|arg| matches!(arg, Arg::Lengths(lengths) if lengths == wanted)))
                    .map(|which| {
                        let bytes = int32s(&which.of(case, step));
                        (which, add(Region::new(which.name(), bytes, Initialised::All, Use::Input)))
                    })
                    .collect(),
                block_table,
                sinks,
            };
            let values = &variables[step as usize];
            let launches = manifest.launches.iter().map(|launch| plan_launch(launch, case, values, &at));
            steps.push(launches.collect::<Result<_, ExprError>>()?);
        }
        Ok(Self { regions, steps })
    }

    /// Bytes of all regions.
    #[cfg(feature = "cuda")]
    pub(super) fn size_bytes(&self) -> usize {
        self.regions.iter().map(|region| region.size_bytes).sum()
    }

    /// The same with other poison.
    pub(super) fn under(&self, case: &Case, poison: Poison) -> Self {
        let mut plan = self.clone();
        for (region, original) in plan.regions.iter_mut().zip(&self.regions) {
            let Some(dtype) = region.poisoned else { continue };
            let ranges = match &region.initialised {
                Initialised::All => continue,
                Initialised::Nothing => &[][..],
                Initialised::Ranges(ranges) => ranges,
            };
            let element = dtype.poison(poison, case.dtype);
            region.bytes = element.repeat(original.bytes.len() / element.len());
            ranges.iter().for_each(|range| region.bytes[range.clone()].copy_from_slice(&original.bytes[range.clone()]));
        }
        plan
    }

    /// Puts the Output together; `bytes` gives a region's bytes after the run.
    pub(super) fn output(&self, case: &Case, mut bytes: impl FnMut(usize) -> Vec<u8>) -> Output {
        let mut read = |wanted: Use| -> Vec<Buffer> {
            let indices = self.regions.iter().enumerate().filter(|(_, r)| r.use_ == wanted).map(|(i, _)| i);
            let dtype = if wanted == Use::Lse { Dtype::F32 } else { case.dtype };
            indices.map(|i| Buffer::from_bytes(dtype, bytes(i))).collect()
        };
        let [out, lse] = [Use::Out, Use::Lse].map(&mut read);
        let [k_cache, v_cache] = [Use::KCache, Use::VCache]
            .map(|cache| read(cache).pop().unwrap_or_else(|| unreachable!("every plan has both caches")));
        Output { out, lse, k_cache, v_cache }
    }

    /// Whether region `index` is an output, all of whose elements must be written.
    pub(super) fn is_out(&self, index: usize) -> bool {
        matches!(self.regions[index].use_, Use::Out | Use::Lse)
    }

    /// The element of an output that a byte belongs to, such as `out[0, 3, 0]`.
    pub(super) fn element(&self, case: &Case, index: usize, byte: usize) -> String {
        let (layout, size) = match self.regions[index].use_ {
            Use::Lse => (case.lse_layout(), Dtype::F32.size_bytes()),
            _ => (case.output_layout(), case.dtype.size_bytes()),
        };
        let at = layout.coordinate(byte / size).unwrap_or_default();
        format!("{}[{}]", self.regions[index].name, at.iter().map(u64::to_string).collect::<Vec<_>>().join(", "))
    }
}

impl Region {
    fn new(name: &str, bytes: Vec<u8>, initialised: Initialised, use_: Use) -> Self {
        let size_bytes = bytes.len();
        Self { name: name.into(), bytes, size_bytes, initialised, writable: use_ != Use::Input, use_, poisoned: None }
    }

    /// A tensor of so many elements, with its content unless it is part of a sketch.
    fn of(name: &str, dtype: Dtype, len: usize, content: Option<Buffer>, initialised: Initialised, use_: Use) -> Self {
        let bytes = content.map(Buffer::into_bytes).unwrap_or_default();
        Self { size_bytes: len * dtype.size_bytes(), ..Self::new(name, bytes, initialised, use_) }
    }

    /// A workspace as it is before the first step, as large as any step asks for.
    fn workspace(
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
        let (element, initialised) =
            if workspace.zeroed { (vec![0; poison.len()], Initialised::All) } else { (poison, Initialised::Nothing) };
        let bytes = if run.is_some() { element.repeat(elements) } else { Vec::new() };
        let size_bytes = elements * element.len();
        let poisoned = Some(workspace.dtype);
        Ok(Self { size_bytes, poisoned, ..Self::new(&workspace.name, bytes, initialised, Use::Workspace) })
    }
}

fn int32s(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

/// The rows of a block table, those behind a request's last page included.
fn block_table(case: &Case) -> Vec<u8> {
    let row_len = case.pages_per_request() as usize;
    let mut rows = case.block_table();
    rows.iter_mut().for_each(|row| row.resize(row_len, NO_PAGE as u32));
    int32s(&rows.concat())
}

/// Warps of all launches of every step.
pub(super) fn warps(manifest: &Manifest, case: &Case) -> Result<u64, ExprError> {
    let product = |dims: [u32; 3]| dims.iter().fold(1u64, |n, &dim| n.saturating_mul(u64::from(dim)));
    let mut warps = 0u64;
    for step in 0..case.steps {
        let values = manifest::variables(&manifest.domain, case, step);
        for launch in &manifest.launches {
            let of_block = product(dims(&launch.block, &values)?).div_ceil(32);
            warps = warps.saturating_add(product(dims(&launch.grid, &values)?).saturating_mul(of_block));
        }
    }
    Ok(warps)
}

fn dims(exprs: &[Expr; 3], values: &[f64]) -> Result<[u32; 3], ExprError> {
    let [x, y, z] = exprs;
    let dim = |expr: &Expr| Ok(expr.whole(values, 1, i64::from(u32::MAX))? as u32);
    Ok([dim(x)?, dim(y)?, dim(z)?])
}

fn plan_launch(
    launch: &manifest::Launch,
    case: &Case,
    values: &[f64],
    at: &StepRegions,
) -> Result<PlannedLaunch, ExprError> {
    let declared = |region: Option<usize>| {
        PlannedArg::Region(region.unwrap_or_else(|| unreachable!("the manifest declares what it binds")))
    };
    let args = launch.args.iter().map(|arg| {
        Ok(match arg {
            Arg::Tensor(TensorName::Q) => PlannedArg::Region(at.q),
            Arg::Tensor(TensorName::KNew) => declared(at.new.map(|[k, _]| k)),
            Arg::Tensor(TensorName::VNew) => declared(at.new.map(|[_, v]| v)),
            Arg::Tensor(TensorName::KCache) => PlannedArg::Region(K_CACHE),
            Arg::Tensor(TensorName::VCache) => PlannedArg::Region(V_CACHE),
            Arg::Tensor(TensorName::Out) => PlannedArg::Region(at.out),
            Arg::Tensor(TensorName::Lse) => declared(at.lse),
            Arg::Tensor(TensorName::Sinks) => {
                at.sinks.map_or_else(|| PlannedArg::Bytes(0u64.to_le_bytes().into()), PlannedArg::Region)
            }
            Arg::Workspace(index) => PlannedArg::Region(at.workspaces + index),
            Arg::Lengths(lengths) => declared(at.lengths.get(lengths).copied()),
            Arg::BlockTable => declared(at.block_table),
            Arg::Value(expr, scalar) => PlannedArg::Bytes(scalar.bytes(expr, values)?),
        })
    });
    Ok(PlannedLaunch {
        entry: launch.entry.of(case.dtype, values)?,
        args: args.collect::<Result<_, ExprError>>()?,
        grid: dims(&launch.grid, values)?,
        block: dims(&launch.block, values)?,
        shared_bytes: launch.shared_bytes.whole(values, 0, i64::from(u32::MAX))? as u32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::shipped_names;

    #[test]
    fn a_plan_under_other_poison_is_the_plan_of_that_run() {
        for name in shipped_names() {
            let kernel = Kernel::open(name).unwrap();
            for index in 0..64 {
                let case = kernel.space().case_at(9, index);
                let (first, second) = (Run::first(&case), Run::first(&case).next());
                let plan = Plan::new(&kernel, &case, first).unwrap();
                let (under, new) = (plan.under(&case, second.poison), Plan::new(&kernel, &case, second).unwrap());
                assert!(plan.regions.iter().zip(&new.regions).any(|(a, b)| a.bytes != b.bytes), "{case}");
                for (under, new) in under.regions.iter().zip(&new.regions) {
                    assert!(under.bytes == new.bytes, "{} of {name} {case}", new.name);
                }
            }
        }
    }
}
