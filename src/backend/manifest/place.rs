//! What a manifest's layouts come to in a case.

use super::{Axis, LayoutError, Manifest, Placement, VARIABLES, variables};
use crate::case::{Case, TensorName};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Manifest {
    /// Values of [`VARIABLES`] and then of the knobs for one step of a case. Strides of a cache that the manifest lays out are
    /// those of its layout; NaN along an axis in groups.
    pub fn variables(&self, case: &Case, step: u32) -> Vec<f64> {
        let mut values = variables(&self.domain, case, step);
        for (tensor, letter) in [(TensorName::KCache, "k"), (TensorName::VCache, "v")] {
            let Some(layout) = self.layouts.get(&tensor) else { continue };
            let slots = [Axis::Request, Axis::Page, Axis::Token, Axis::Head].map(|axis| {
                let name = format!("{letter}_stride_{}", axis.name());
                (axis, VARIABLES.iter().position(|variable| *variable == name))
            });
            for slot in slots.iter().filter_map(|(_, slot)| *slot) {
                values[slot] = f64::NAN;
            }
            // What is wrong with it is told where it is placed.
            let Ok(numbers) = layout.numbers(tensor, case, &values) else { continue };
            for (axis, slot) in slots {
                if let Some((slot, stride)) = slot.zip(numbers.stride(axis)) {
                    values[slot] = stride as f64;
                }
            }
        }
        values
    }

    /// Where the caches are that do not lie as this program has them, and the other tensors of a step; `values` are the
    /// variables' of each step.
    ///
    /// # Errors
    /// Some tensor can't lie so in this case, or a cache would move between steps.
    pub fn placements(
        &self,
        case: &Case,
        values: &[Vec<f64>],
    ) -> Result<Vec<BTreeMap<TensorName, Arc<Placement>>>, LayoutError> {
        let is_cache = |name: TensorName| matches!(name, TensorName::KCache | TensorName::VCache);
        let mut caches = BTreeMap::new();
        for (&name, layout) in self.layouts.iter().filter(|(name, _)| is_cache(**name)) {
            let first = layout.numbers(name, case, &values[0])?;
            for (step, values) in (1..).zip(&values[1..]) {
                if layout.numbers(name, case, values)? != first {
                    return Err(LayoutError::Moves(name, step));
                }
            }
            caches.insert(name, layout.place(name, case, &values[0])?);
        }
        if self.v_pages {
            let of_v = caches.remove(&TensorName::VCache);
            let of_v = of_v.unwrap_or_else(|| Placement::of_pages(case, case.shape.v_head_dim));
            caches.insert(TensorName::VCache, of_v.reversed());
        }
        let caches: BTreeMap<_, _> = caches.into_iter().map(|(name, place)| (name, Arc::new(place))).collect();
        let of_step = |values: &Vec<f64>| {
            let mut all = caches.clone();
            for (&name, layout) in self.layouts.iter().filter(|(name, _)| !is_cache(**name)) {
                all.insert(name, Arc::new(layout.place(name, case, values)?));
            }
            self.buffers.iter().try_for_each(|buffer| buffer.check(|name| all.get(&name).map(|place| &**place)))?;
            Ok(all)
        };
        values.iter().map(of_step).collect()
    }
}
