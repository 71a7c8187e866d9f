//! What both backends do with a case: which regions of memory there are, what is in them, what is launched.

use super::manifest::{self, Arg, Lengths, Workspace};
use super::{BackendError, Kernel, Run};
use crate::case::{Case, Inputs, MAX_TENSOR_ELEMENTS, NO_PAGE, TensorName};
use crate::expr::{Expr, ExprError};
use crate::float::Dtype;
use crate::outcome::Output;
use crate::tensor::Buffer;
use std::collections::BTreeMap;
use std::ops::Range;

/// Regions and launches of one run.
pub(super) struct Plan {
    pub(super) regions: Vec<Region>,
    /// The launches of each step.
    pub(super) steps: Vec<Vec<PlannedLaunch>>,
}

/// One tensor or array in memory.
pub(super) struct Region {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    /// Byte ranges that hold data before the launch; the rest is poison.
    pub(super) initialised: Initialised,
    pub(super) writable: bool,
    /// What becomes of it in the Output.
    use_: Use,
}

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
pub(super) struct PlannedLaunch {
    pub(super) entry: String,
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) shared_bytes: u32,
    pub(super) args: Vec<PlannedArg>,
}

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
        let inputs = Inputs::of(case, run.poison);
        let cached = |dim: u32| {
            let size = case.dtype.size_bytes();
            Initialised::Ranges(case.cached_ranges(dim, 0).into_iter().map(|r| r.start * size..r.end * size).collect())
        };
        let mut regions = vec![
            Region::cache("k_cache", case, inputs.k_cache.into_bytes(), cached(case.shape.head_dim), Use::KCache),
            Region::cache("v_cache", case, inputs.v_cache.into_bytes(), cached(case.shape.v_head_dim), Use::VCache),
        ];
        let manifest = &kernel.manifest;
        let variables: Vec<Vec<f64>> =
            (0..case.steps).map(|step| manifest::variables(&manifest.domain, case, step)).collect();
        let workspaces = regions.len();
        for workspace in &manifest.workspaces {
            regions.push(Region::workspace(workspace, case, run, &variables).map_err(BackendError::Launch)?);
        }
        let takes = |wanted: &dyn Fn(&Arg) -> bool| manifest.launches.iter().flat_map(|l| &l.args).any(wanted);
        let block_table = takes(&|arg| matches!(arg, Arg::BlockTable)).then(|| {
            regions.push(Region::new("block_table", block_table(case), Initialised::All, Use::Input));
            regions.len() - 1
        });
        let sinks = inputs.sinks.filter(|_| takes(&|arg| matches!(arg, Arg::Tensor(TensorName::Sinks)))).map(|sinks| {
            regions.push(Region::new("sinks", sinks.into_bytes(), Initialised::All, Use::Input));
            regions.len() - 1
        });
        let mut steps = Vec::new();
        for (step, tensors) in inputs.steps.into_iter().enumerate() {
            let step = step as u32;
            let out = Buffer::filled(case.dtype, case.output_layout().span(), run.poison.bits(case.dtype));
            let mut add = |region: Region| {
                regions.push(region);
                regions.len() - 1
            };
            let lse = manifest.lse.map(|_| {
                let lse = Buffer::filled(Dtype::F32, case.lse_layout().span(), run.poison.bits(Dtype::F32));
                add(Region::new("lse", lse.into_bytes(), Initialised::Nothing, Use::Lse))
            });
            let at = StepRegions {
                workspaces,
                lse,
                q: add(Region::new("q", tensors.q.into_bytes(), Initialised::All, Use::Input)),
                new: case.features.append.then(|| {
                    [("k_new", tensors.k_new), ("v_new", tensors.v_new)]
                        .map(|(name, tensor)| add(Region::new(name, tensor.into_bytes(), Initialised::All, Use::Input)))
                }),
                out: add(Region::new("out", out.into_bytes(), Initialised::Nothing, Use::Out)),
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
            steps.push(launches.collect::<Result<_, _>>().map_err(BackendError::Launch)?);
        }
        Ok(Self { regions, steps })
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
        Self { name: name.into(), bytes, initialised, writable: use_ != Use::Input, use_ }
    }

    /// A cache, which only a kernel that appends to it may write.
    fn cache(name: &str, case: &Case, bytes: Vec<u8>, initialised: Initialised, use_: Use) -> Self {
        Self { writable: case.features.append, ..Self::new(name, bytes, initialised, use_) }
    }

    /// A workspace as it is before the first step, as large as any step asks for.
    fn workspace(workspace: &Workspace, case: &Case, run: Run, variables: &[Vec<f64>]) -> Result<Self, ExprError> {
        let mut elements = 0;
        for values in variables {
            elements = elements.max(workspace.elements.whole(values, 0, MAX_TENSOR_ELEMENTS as i64)?);
        }
        let element = workspace.dtype.poison(run.poison, case.dtype);
        let (element, initialised) =
            if workspace.zeroed { (vec![0; element.len()], Initialised::All) } else { (element, Initialised::Nothing) };
        Ok(Self::new(&workspace.name, element.repeat(elements as usize), initialised, Use::Workspace))
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

fn plan_launch(
    launch: &manifest::Launch,
    case: &Case,
    values: &[f64],
    at: &StepRegions,
) -> Result<PlannedLaunch, ExprError> {
    let dims = |exprs: &[Expr; 3]| -> Result<[u32; 3], ExprError> {
        let [x, y, z] = exprs;
        let dim = |expr: &Expr| Ok(expr.whole(values, 1, i64::from(u32::MAX))? as u32);
        Ok([dim(x)?, dim(y)?, dim(z)?])
    };
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
        grid: dims(&launch.grid)?,
        block: dims(&launch.block)?,
        shared_bytes: launch.shared_bytes.whole(values, 0, i64::from(u32::MAX))? as u32,
    })
}
