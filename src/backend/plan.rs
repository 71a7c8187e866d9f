//! What both backends do with a case: which regions of memory there are, what is in them, what is launched.

mod launch;
mod region;

pub(super) use launch::PlannedLaunch;
pub(super) use region::{Initialised, Region};

use super::manifest::{self, Index, IndexType, Manifest, Memory, Placement, WorkspaceType};
use super::{BackendError, Kernel, Run};
use crate::case::{Case, Inputs, Poison, TensorName};
use crate::expr::ExprError;
use crate::float::Dtype;
use crate::outcome::Output;
use crate::tensor::Buffer;
use launch::{StepRegions, dims, plan_launch};
use region::{Address, Use};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Regions and launches of one run.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) regions: Vec<Region>,
    /// The launches of each step.
    pub(super) steps: Vec<Vec<PlannedLaunch>>,
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
        let taken: Vec<Memory> =
            manifest.launches.iter().flat_map(|l| &l.args).flat_map(|arg| arg.memories()).collect();
        let indices: BTreeSet<(Index, IndexType)> = taken
            .iter()
            .filter_map(|memory| if let Memory::Index(index, kind) = memory { Some((*index, *kind)) } else { None })
            .collect();
        let pointers: BTreeSet<TensorName> = taken
            .iter()
            .filter_map(|memory| if let Memory::Pointers(name) = memory { Some(*name) } else { None })
            .collect();
        // Block tables are the same in each step.
        let mut of_case = BTreeMap::new();
        for &(index, kind) in indices.iter().filter(|(index, _)| index.is_constant()) {
            of_case.insert((index, kind), add(index_region(index, kind, case, 0)?));
        }
        let mut tensors = BTreeMap::from([(TensorName::KCache, K_CACHE), (TensorName::VCache, V_CACHE)]);
        if case.features.sinks && taken.contains(&Memory::Tensor(TensorName::Sinks)) {
            let num_q_heads = shape.num_q_heads() as usize;
            let sinks = Region::input("sinks", Dtype::F32, num_q_heads, sinks, None, 0);
            tensors.insert(TensorName::Sinks, add(sinks));
        }
        let poison = |dtype: Dtype| run.map(|run| run.poison.bits(dtype));
        let mut step_inputs = step_inputs.into_iter();
        let mut steps = Vec::new();
        for step in 0..case.steps {
            let values = &variables[step as usize];
            let mut placements = BTreeMap::new();
            for (&name, layout) in &manifest.layouts {
                let placement = layout.place(name, case, values).map_err(|e| BackendError::Launch(e.to_string()))?;
                placements.insert(name, Arc::new(placement));
            }
            let place = |name: TensorName| placements.get(&name).cloned();
            let (q, new) = step_inputs.next().map(|tensors| (tensors.q, [tensors.k_new, tensors.v_new])).unzip();
            let [k_new, v_new] = new.map_or([None, None], |new| new.map(Some));
            let [k_len, v_len] = [shape.head_dim, shape.v_head_dim].map(|dim| case.new_token_layout(dim).span());
            let input = |name: TensorName, len: usize, content: Option<Buffer>| {
                let bits = poison(case.dtype).unwrap_or(0);
                Region::input(&name.to_string(), case.dtype, len, content, place(name), bits)
            };
            let output = |name: TensorName, dtype: Dtype, len: usize, use_: Use| {
                Region::output(&name.to_string(), dtype, len, use_, place(name), poison(dtype))
            };
            let mut tensors = tensors.clone();
            if manifest.lse.is_some() {
                let lse = output(TensorName::Lse, Dtype::F32, case.lse_layout().span(), Use::Lse);
                tensors.insert(TensorName::Lse, add(lse));
            }
            tensors.insert(TensorName::Q, add(input(TensorName::Q, case.query_layout().span(), q)));
            if case.features.append {
                tensors.insert(TensorName::KNew, add(input(TensorName::KNew, k_len, k_new)));
                tensors.insert(TensorName::VNew, add(input(TensorName::VNew, v_len, v_new)));
            }
            let out = output(TensorName::Out, case.dtype, case.output_layout().span(), Use::Out);
            tensors.insert(TensorName::Out, add(out));
            let mut of_step = of_case.clone();
            for &(index, kind) in indices.iter().filter(|(index, _)| !index.is_constant()) {
                of_step.insert((index, kind), add(index_region(index, kind, case, step)?));
            }
            let mut of_requests = BTreeMap::new();
            for &name in &pointers {
                let Some(&region) = tensors.get(&name) else { continue };
                of_requests.insert(name, add(pointers_region(name, region, place(name).as_deref(), case)));
            }
            let at = StepRegions { workspaces, tensors, indices: of_step, pointers: of_requests };
            let launches = manifest.launches.iter().map(|launch| plan_launch(launch, case, values, &at));
            steps.push(launches.collect::<Result<_, BackendError>>()?);
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
            let found = self.regions.iter().enumerate().filter(|(_, region)| region.use_ == wanted);
            let dtype = if wanted == Use::Lse { Dtype::F32 } else { case.dtype };
            found.map(|(index, region)| region.gathered(dtype, bytes(index))).collect()
        };
        let [out, lse] = [Use::Out, Use::Lse].map(&mut read);
        let [k_cache, v_cache] = [Use::KCache, Use::VCache]
            .map(|cache| read(cache).pop().unwrap_or_else(|| unreachable!("every plan has both caches")));
        Output { out, lse, k_cache, v_cache }
    }

    /// The first byte of region `index` that should have been written and was not: every element of an output.
    /// `first_clear` gives the first byte in a range that was not written.
    pub(super) fn unwritten(
        &self,
        case: &Case,
        index: usize,
        first_clear: impl Fn(std::ops::Range<usize>) -> Option<usize>,
    ) -> Option<usize> {
        let region = &self.regions[index];
        let size = match region.use_ {
            Use::Out => case.dtype.size_bytes(),
            Use::Lse => Dtype::F32.size_bytes(),
            _ => return None,
        };
        match &region.placement {
            None => first_clear(0..region.size_bytes),
            Some(placement) => {
                placement.ranges().into_iter().find_map(|range| first_clear(range.start * size..range.end * size))
            }
        }
    }

    /// The element of an output that a byte belongs to, such as `out[0, 3, 0]`.
    pub(super) fn element(&self, case: &Case, index: usize, byte: usize) -> String {
        let region = &self.regions[index];
        let (layout, size) = match region.use_ {
            Use::Lse => (case.lse_layout(), Dtype::F32.size_bytes()),
            _ => (case.output_layout(), case.dtype.size_bytes()),
        };
        let axes = layout.extents().len();
        let placed = |placement: &Arc<Placement>| Some(placement.coordinate(byte / size)?[..axes].to_vec());
        let at = region.placement.as_ref().map_or_else(|| layout.coordinate(byte / size), placed).unwrap_or_default();
        format!("{}[{}]", region.name, at.iter().map(u64::to_string).collect::<Vec<_>>().join(", "))
    }
}

fn index_region(index: Index, kind: IndexType, case: &Case, step: u32) -> Result<Region, BackendError> {
    let name = index.region_name();
    let too_large = |n| BackendError::Launch(format!("{name}: expected numbers that fit into 32 bits, found {n}"));
    let bytes = kind.bytes(&index.of(case, step)).map_err(too_large)?;
    Ok(Region::new(name, bytes, Initialised::All, Use::Input))
}

/// The addresses of each request's first row in a tensor.
fn pointers_region(name: TensorName, region: usize, placement: Option<&Placement>, case: &Case) -> Region {
    let shape = &case.shape;
    let size = if name == TensorName::Lse { Dtype::F32 } else { case.dtype }.size_bytes();
    let row = |layout: crate::tensor::Layout| layout.strides()[0] as usize;
    let start = |request: usize| -> usize {
        let before = || shape.requests[..request].iter().map(|r| r.q_len as usize).sum::<usize>();
        match (name, placement) {
            (TensorName::KCache, _) => case.cache_map(shape.head_dim).offset(request as u32, 0, 0),
            (TensorName::VCache, _) => case.cache_map(shape.v_head_dim).offset(request as u32, 0, 0),
            (_, Some(placement)) => placement.start(request),
            (TensorName::KNew, None) => before() * row(case.new_token_layout(shape.head_dim)),
            (TensorName::VNew, None) => before() * row(case.new_token_layout(shape.v_head_dim)),
            (TensorName::Out, None) => before() * row(case.output_layout()),
            (TensorName::Lse, None) => before() * row(case.lse_layout()),
            (_, None) => before() * row(case.query_layout()),
        }
    };
    let requests = 0..shape.requests.len();
    let address = |request: usize| Address { at: 8 * request, region, offset: (start(request) * size) as u64 };
    let addresses = requests.clone().map(address).collect();
    let name = format!("pointers of {name}");
    Region { addresses, ..Region::new(&name, vec![0; 8 * requests.len()], Initialised::All, Use::Input) }
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
