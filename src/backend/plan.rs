//! What both backends do with a case: which regions of memory there are, what is in them, what is launched.

mod launch;
mod region;

#[cfg(feature = "cuda")]
pub(super) use launch::LaunchConfig;
pub(super) use launch::PlannedLaunch;
pub(super) use region::{Initialised, Region};

use super::manifest::{Manifest, Memory, Placement};
use super::{BackendError, Kernel, Run};
use crate::case::{Case, Inputs, Poison, StepInputs, TensorName};
use crate::expr::ExprError;
use crate::float::Dtype;
use crate::outcome::{Fault, FaultKind, Output};
use crate::tensor::{Buffer, Layout};
use launch::{Array, StepRegions, dims, plan_launch};
use region::{Address, Filled, Given};
#[cfg(feature = "cuda")]
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Regions and launches of one run.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) regions: Vec<Region>,
    /// The launches of each step.
    pub(super) steps: Vec<Vec<PlannedLaunch>>,
    /// That its regions hold.
    pub(super) poison: Poison,
}

/// Tensors that are there before the first step, and stay.
const OF_CASE: [TensorName; 3] = [TensorName::KCache, TensorName::VCache, TensorName::Sinks];

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
        let (inputs, run) = contents.unzip();
        let variables: Vec<Vec<f64>> = (0..case.steps).map(|step| manifest.variables(case, step)).collect();
        let placements = manifest.placements(case, &variables).map_err(|e| BackendError::Launch(e.to_string()))?;
        let mut building = Building { manifest, case, run, regions: Vec::new() };
        let taken: BTreeSet<Memory> =
            manifest.launches.iter().flat_map(|l| &l.args).flat_map(|arg| arg.memories()).collect();
        let arrays: Vec<Array> = taken.iter().filter_map(Memory::array).collect();

        let mut of_case = StepRegions::default();
        let mut contents = inputs.map(Contents::of);
        if let Some(contents) = &mut contents {
            contents.next_step();
        }
        let first = &placements[0];
        building.tensors(&mut of_case, first, contents.as_mut(), &|name| {
            OF_CASE.contains(&name) && (name != TensorName::Sinks || taken.contains(&Memory::Tensor(name)))
        });
        of_case.workspaces = building.regions.len();
        for workspace in &manifest.workspaces {
            building.add(Region::workspace(workspace, case, run, &variables)?);
        }
        // Block tables are the same in each step.
        for &array in arrays.iter().filter(|(index, ..)| index.is_constant()) {
            of_case.arrays.insert(array, building.array(array, 0)?);
        }
        let mut steps = Vec::new();
        for ((step, values), placements) in (0..).zip(&variables).zip(&placements) {
            let mut at = of_case.clone();
            if let Some(contents) = contents.as_mut().filter(|_| step > 0) {
                contents.next_step();
            }
            building.tensors(&mut at, placements, contents.as_mut(), &|name| !OF_CASE.contains(&name));
            for &array in arrays.iter().filter(|(index, ..)| !index.is_constant()) {
                at.arrays.insert(array, building.array(array, step)?);
            }
            for memory in &taken {
                let Memory::Pointers(name) = *memory else { continue };
                let Some(&(region, _)) = at.tensors.get(&name) else { continue };
                let pointers = pointers_region(name, region, placements.get(&name).map(|place| &**place), case);
                at.pointers.insert(name, building.add(pointers));
            }
            let launches = manifest.launches.iter().map(|launch| plan_launch(launch, case, values, &at));
            steps.push(launches.collect::<Result<_, BackendError>>()?);
        }
        Ok(Self { regions: building.regions, steps, poison: run.map_or(case.poison, |run| run.poison) })
    }

    /// Bytes of all regions.
    #[cfg(feature = "cuda")]
    pub(super) fn size_bytes(&self) -> usize {
        self.regions.iter().map(|region| region.size_bytes).sum()
    }

    /// The same with other poison.
    pub(super) fn under(&self, case: &Case, poison: Poison) -> Self {
        let mut plan = Self { poison, ..self.clone() };
        plan.regions.iter_mut().for_each(|region| region.poison(poison, case.dtype));
        plan
    }

    /// What region `index` holds before a run under `poison`, where regions are at the addresses that `of` gives.
    #[cfg(feature = "cuda")]
    pub(super) fn contents(
        &self,
        case: &Case,
        index: usize,
        poison: Poison,
        of: impl Fn(usize) -> u64,
    ) -> Cow<'_, [u8]> {
        let region = &self.regions[index];
        if region.addresses.is_empty() && (poison == self.poison || region.poisoned.is_none()) {
            return Cow::Borrowed(&region.bytes);
        }
        let mut bytes = vec![0; region.bytes.len()];
        self.write(case, index, poison, of, &mut bytes);
        Cow::Owned(bytes)
    }

    /// The same, written to `bytes`.
    #[cfg(feature = "cuda")]
    pub(super) fn write(&self, case: &Case, index: usize, poison: Poison, of: impl Fn(usize) -> u64, bytes: &mut [u8]) {
        let region = &self.regions[index];
        bytes.copy_from_slice(&region.bytes);
        if poison != self.poison {
            region.poison_gaps(poison, case.dtype, bytes);
        }
        region.addresses.iter().for_each(|address| address.write(bytes, &of));
    }

    /// Puts the Output of a run under `poison` together; `bytes` gives a region's bytes after it.
    pub(super) fn output(&self, case: &Case, poison: Poison, mut bytes: impl FnMut(usize) -> Vec<u8>) -> Output {
        let mut read = |wanted: TensorName| -> Vec<Buffer> {
            let regions = self.regions.iter().enumerate();
            let found = regions.filter_map(|(index, region)| Some((index, region.placement(wanted)?)));
            let dtype = dtype_of(wanted, case);
            found.map(|(index, place)| Region::gathered(place, dtype, bytes(index), poison)).collect()
        };
        let [out, lse] = [TensorName::Out, TensorName::Lse].map(&mut read);
        let [k_cache, v_cache] = [TensorName::KCache, TensorName::VCache]
            .map(|cache| read(cache).pop().unwrap_or_else(|| unreachable!("every plan has both caches")));
        Output { out, lse, k_cache, v_cache }
    }

    /// What region `index` tells of a write between tensors, if there was one; `bytes` are its bytes after a run under
    /// `poison`.
    pub(super) fn stray(&self, case: &Case, index: usize, poison: Poison, bytes: &[u8]) -> Option<Fault> {
        let region = &self.regions[index];
        let at = region.stray(case, bytes, poison)?;
        let detail = format!("{} was changed at element {at}, which is of no tensor", region.name);
        Some(Fault::new(FaultKind::GuardTouched, detail))
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
        let (name, placement) = region.tensors.first().filter(|(name, _)| is_output(*name))?;
        let size = dtype_of(*name, case).size_bytes();
        match placement {
            None => first_clear(0..region.size_bytes),
            Some(placement) => {
                placement.ranges().into_iter().find_map(|range| first_clear(range.start * size..range.end * size))
            }
        }
    }

    /// The element of an output that a byte belongs to, such as `out[0, 3, 0]`.
    pub(super) fn element(&self, case: &Case, index: usize, byte: usize) -> String {
        let region = &self.regions[index];
        let Some((name, placement)) = region.tensors.first() else { return region.name.clone() };
        let (layout, offset) = (layout_of(*name, case), byte / dtype_of(*name, case).size_bytes());
        let axes = layout.extents().len();
        let placed = |placement: &Arc<Placement>| Some(placement.coordinate(offset)?[..axes].to_vec());
        let at = placement.as_ref().map_or_else(|| layout.coordinate(offset), placed).unwrap_or_default();
        format!("{}[{}]", region.name, at.iter().map(u64::to_string).collect::<Vec<_>>().join(", "))
    }
}

/// The tensors' contents that regions have not yet taken.
struct Contents {
    of_case: BTreeMap<TensorName, Buffer>,
    steps: std::vec::IntoIter<StepInputs>,
}

impl Contents {
    fn of(inputs: Inputs) -> Self {
        let caches = [(TensorName::KCache, inputs.k_cache), (TensorName::VCache, inputs.v_cache)];
        let of_case = caches.into_iter().chain(inputs.sinks.map(|sinks| (TensorName::Sinks, sinks))).collect();
        Self { of_case, steps: inputs.steps.into_iter() }
    }

    fn next_step(&mut self) {
        let Some(StepInputs { q, k_new, v_new, .. }) = self.steps.next() else { return };
        self.of_case.extend([(TensorName::Q, q), (TensorName::KNew, k_new), (TensorName::VNew, v_new)]);
    }
}

/// A plan under way.
struct Building<'a> {
    manifest: &'a Manifest,
    case: &'a Case,
    run: Option<Run>,
    regions: Vec<Region>,
}

impl Building<'_> {
    fn add(&mut self, region: Region) -> usize {
        self.regions.push(region);
        self.regions.len() - 1
    }

    fn array(&mut self, (index, kind, pages): Array, step: u32) -> Result<usize, BackendError> {
        let name = index.region_name();
        let too_large = |n| BackendError::Launch(format!("{name}: expected numbers that fit into 32 bits, found {n}"));
        let bytes = kind.bytes(&index.of_pages(self.case, step, pages)).map_err(too_large)?;
        Ok(self.add(Region::array(name, bytes)))
    }

    /// Adds the regions of the tensors that `wanted` picks, each with those that lie in its buffer.
    fn tensors(
        &mut self,
        at: &mut StepRegions,
        placements: &BTreeMap<TensorName, Arc<Placement>>,
        mut contents: Option<&mut Contents>,
        wanted: &dyn Fn(TensorName) -> bool,
    ) {
        let (manifest, case) = (self.manifest, self.case);
        for name in TensorName::ALL {
            let exists = match name {
                TensorName::KNew | TensorName::VNew => case.features.append,
                TensorName::Lse => manifest.lse.is_some(),
                TensorName::Sinks => case.features.sinks,
                _ => true,
            };
            if !exists || !wanted(name) || at.tensors.contains_key(&name) {
                continue;
            }
            let shared = manifest.buffers.iter().position(|buffer| buffer.tensors.contains(&name));
            let names = shared.map_or_else(|| vec![name], |index| manifest.buffers[index].tensors.clone());
            let given = |name: TensorName| Given {
                name,
                len: layout_of(name, case).span(),
                content: contents.as_deref_mut().and_then(|contents| contents.of_case.remove(&name)),
                filled: self.filled(name),
                placement: placements.get(&name).cloned(),
            };
            let given: Vec<Given> = names.iter().copied().map(given).collect();
            let dtype = dtype_of(name, case);
            let writable = is_output(name) || (case.features.append && is_cache(name));
            let of = shared.map_or_else(|| name.to_string(), |index| manifest.buffers[index].name.clone());
            let poison = self.run.map(|run| run.poison.bits(dtype));
            let region = self.add(Region::tensors(&of, dtype, given, writable, poison));
            at.buffers.extend(shared.map(|index| (index, region)));
            for name in names {
                let start = placements.get(&name).map_or(0, |placement| placement.start());
                at.tensors.insert(name, (region, (start * dtype.size_bytes()) as u64));
            }
        }
    }

    fn filled(&self, name: TensorName) -> Filled {
        let case = self.case;
        match name {
            // Nobody looks where a sketch is initialised.
            TensorName::KCache | TensorName::VCache if self.run.is_none() => Filled::Nothing,
            TensorName::KCache => Filled::Rows(case.cached_ranges(case.shape.head_dim, 0)),
            TensorName::VCache => Filled::Rows(case.cached_ranges(case.shape.v_head_dim, 0)),
            name if is_output(name) => Filled::Nothing,
            _ => Filled::All,
        }
    }
}

fn is_cache(name: TensorName) -> bool {
    matches!(name, TensorName::KCache | TensorName::VCache)
}

fn is_output(name: TensorName) -> bool {
    matches!(name, TensorName::Out | TensorName::Lse)
}

fn dtype_of(name: TensorName, case: &Case) -> Dtype {
    if matches!(name, TensorName::Lse | TensorName::Sinks) { Dtype::F32 } else { case.dtype }
}

/// This program's own layout of a tensor; of a cache what it takes, as one axis.
fn layout_of(name: TensorName, case: &Case) -> Layout {
    let shape = &case.shape;
    match name {
        TensorName::Q => case.query_layout(),
        TensorName::KNew => case.new_token_layout(shape.head_dim),
        TensorName::VNew => case.new_token_layout(shape.v_head_dim),
        TensorName::KCache => Layout::strided(&[case.cache_map(shape.head_dim).span() as u64], &[1]),
        TensorName::VCache => Layout::strided(&[case.cache_map(shape.v_head_dim).span() as u64], &[1]),
        TensorName::Out => case.output_layout(),
        TensorName::Lse => case.lse_layout(),
        TensorName::Sinks => Layout::contiguous(&[shape.num_q_heads()]),
    }
}

/// The addresses of each request's first row in a tensor.
fn pointers_region(name: TensorName, region: usize, placement: Option<&Placement>, case: &Case) -> Region {
    let shape = &case.shape;
    let size = dtype_of(name, case).size_bytes();
    let start = |request: usize| -> usize {
        let before = || shape.requests[..request].iter().map(|r| r.q_len as usize).sum::<usize>();
        match (name, placement) {
            (_, Some(placement)) => placement.start_of(request),
            (TensorName::KCache, None) => case.cache_map(shape.head_dim).offset(request as u32, 0, 0),
            (TensorName::VCache, None) => case.cache_map(shape.v_head_dim).offset(request as u32, 0, 0),
            (_, None) => before() * layout_of(name, case).strides()[0] as usize,
        }
    };
    let requests = 0..shape.requests.len();
    let address = |request: usize| Address { at: 8 * request, region, offset: (start(request) * size) as u64 };
    let addresses = requests.clone().map(address).collect();
    Region { addresses, ..Region::array(&format!("pointers of {name}"), vec![0; 8 * requests.len()]) }
}

/// Warps of all launches of every step.
pub(super) fn warps(manifest: &Manifest, case: &Case) -> Result<u64, ExprError> {
    let product = |dims: [u32; 3]| dims.iter().fold(1u64, |n, &dim| n.saturating_mul(u64::from(dim)));
    let mut warps = 0u64;
    for step in 0..case.steps {
        let values = manifest.variables(case, step);
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
                #[cfg(feature = "cuda")]
                for (index, new) in new.regions.iter().enumerate() {
                    assert!(
                        plan.contents(&case, index, second.poison, |_| 0) == new.bytes,
                        "{} of {name} {case}",
                        new.name
                    );
                }
            }
        }
    }
}
