//! Where the tensors of a case's runs lie: one after another, with guard zones between them.

use super::super::plan::Plan;
use crate::case::{Case, Poison};
use crate::outcome::{Fault, FaultKind, Outcome};
use std::ops::Range;
use std::sync::Arc;

/// Bytes before and after every tensor that no kernel may touch.
const GUARD_BYTES: usize = 512;
/// What they hold: as binary32, binary16 or bfloat16 a number no recipe makes.
pub(super) const GUARD_BYTE: u8 = 0xa5;
/// Alignment of a tensor and of an arena, as cudaMalloc gives.
pub(super) const ALIGNMENT: usize = 256;

/// Runs of one plan under different poison, and where the regions of each are.
pub(super) struct Arena {
    pub(super) case: Case,
    pub(super) plan: Arc<Plan>,
    poisons: Vec<Poison>,
    /// Of each run and region, from the arena's start.
    starts: Vec<Vec<usize>>,
    /// Where each run's last guard zone ends.
    ends: Vec<usize>,
}

impl Arena {
    /// One run for each of `poisons`.
    pub(super) fn of(case: Case, plan: Arc<Plan>, poisons: Vec<Poison>) -> Self {
        let mut end = 0;
        let (mut starts, mut ends) = (Vec::new(), Vec::new());
        for _ in &poisons {
            let mut place = |size_bytes: usize| {
                let start = (end + GUARD_BYTES).next_multiple_of(ALIGNMENT);
                end = start + size_bytes;
                start
            };
            starts.push(plan.regions.iter().map(|region| place(region.bytes.len())).collect());
            end += GUARD_BYTES;
            ends.push(end);
        }
        Self { case, plan, poisons, starts, ends }
    }

    /// How many runs there are.
    pub(super) fn runs(&self) -> usize {
        self.poisons.len()
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The address of a region in a run, where the arena is at `base`.
    pub(super) fn address(&self, base: u64, run: usize, region: usize) -> u64 {
        base + self.starts[run][region] as u64
    }

    fn range(&self, run: usize, region: usize) -> Range<usize> {
        let start = self.starts[run][region];
        start..start + self.plan.regions[region].bytes.len()
    }

    /// Writes what is in the arena before the first launch, where it is at the address `base`.
    pub(super) fn fill(&self, base: u64, host: &mut [u8]) {
        let mut guard_start = 0;
        for (run, &poison) in self.poisons.iter().enumerate() {
            for region in 0..self.plan.regions.len() {
                let range = self.range(run, region);
                host[guard_start..range.start].fill(GUARD_BYTE);
                guard_start = range.end;
                let address = |region| self.address(base, run, region);
                self.plan.write(&self.case, region, poison, address, &mut host[range]);
            }
        }
        host[guard_start..].fill(GUARD_BYTE);
    }

    /// What became of each run, up to the first that ended in a fault; `host` is what is in the arena now.
    pub(super) fn outcomes(&self, base: u64, host: &[u8]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(self.poisons.len());
        for (run, &poison) in self.poisons.iter().enumerate() {
            let bytes = |region: usize| &host[self.range(run, region)];
            let stray = |region: usize| self.plan.stray(&self.case, region, poison, bytes(region));
            let damage = self.damage(base, run, poison, host);
            if let Some(fault) = damage.or_else(|| (0..self.plan.regions.len()).find_map(stray)) {
                outcomes.push(Outcome::Fault(fault));
                break;
            }
            outcomes.push(Outcome::Output(self.plan.output(&self.case, poison, |region| bytes(region).to_vec())));
        }
        outcomes
    }

    /// The first guard byte or input byte of a run that is not what it was.
    fn damage(&self, base: u64, run: usize, poison: Poison, host: &[u8]) -> Option<Fault> {
        let host = &host[..self.ends[run]];
        let mut guard_start = if run == 0 { 0 } else { self.ends[run - 1] };
        for (index, region) in self.plan.regions.iter().enumerate() {
            let range = self.range(run, index);
            if let Some(distance) = host[guard_start..range.start].iter().rev().position(|&b| b != GUARD_BYTE) {
                let detail = format!("{} bytes before {} (of {} bytes)", distance + 1, region.name, region.bytes.len());
                return Some(Fault::new(FaultKind::GuardTouched, detail));
            }
            guard_start = range.end;
            if region.writable {
                continue;
            }
            let expected = self.plan.contents(&self.case, index, poison, |region| self.address(base, run, region));
            if host[range.clone()] != *expected {
                let byte = host[range].iter().zip(&*expected).position(|(a, b)| a != b).unwrap_or(0);
                return Some(Fault::new(
                    FaultKind::InputModified,
                    format!("{} was changed at byte {byte}", region.name),
                ));
            }
        }
        let last = host[guard_start..].iter().position(|&b| b != GUARD_BYTE)?;
        let name = self.plan.regions.last().map_or("", |r| &r.name);
        Some(Fault::new(FaultKind::GuardTouched, format!("{last} bytes after the end of {name}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Kernel, Run, shipped_names};
    use proptest::prelude::*;

    const BASE: u64 = 0x7f00_0000_0000;

    /// The shipped ones, and one that takes arrays of pointers and has a layout of its own.
    fn kernels() -> Vec<&'static str> {
        shipped_names().into_iter().chain(["tests/manifests/params.toml"]).collect()
    }

    /// What one changed byte is found to be.
    fn expected(arena: &Arena, run: usize, byte: usize) -> Option<FaultKind> {
        let regions = arena.plan.regions.iter().enumerate();
        let mut hit = regions.filter(|(index, _)| arena.range(run, *index).contains(&byte));
        match hit.next() {
            None => Some(FaultKind::GuardTouched),
            Some((_, region)) => (!region.writable).then_some(FaultKind::InputModified),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn a_byte_that_no_kernel_may_write_is_a_fault_of_its_run(
            kernel in prop::sample::select(kernels()),
            (seed, index) in (0..4u64, 0..64u64),
            place in prop::sample::Index::arbitrary(),
            flip in 1..=255u8,
        ) {
            let kernel = Kernel::open(kernel).unwrap();
            let case = kernel.space().case_at(seed, index);
            let first = Run::first(&case);
            let plan = Arc::new(Plan::new(&kernel, &case, first).unwrap());
            let arena = Arena::of(case, plan.clone(), vec![first.poison, first.next().poison]);
            let mut host = vec![0; arena.size_bytes()];
            arena.fill(BASE, &mut host);
            let unharmed = arena.outcomes(BASE, &host);
            prop_assert_eq!(unharmed.len(), 2);
            prop_assert!(unharmed.iter().all(|outcome| matches!(outcome, Outcome::Output(_))));

            let byte = place.index(host.len());
            host[byte] ^= flip;
            let run = usize::from(byte >= arena.ends[0]);
            let outcomes = arena.outcomes(BASE, &host);
            match (expected(&arena, run, byte), &outcomes[outcomes.len() - 1]) {
                (None, Outcome::Output(_)) => prop_assert_eq!(outcomes.len(), 2),
                // A cache between whose rows nothing may be written.
                (None, Outcome::Fault(fault)) => prop_assert!(fault.detail.ends_with("which is of no tensor")),
                (Some(kind), Outcome::Fault(fault)) => prop_assert_eq!((outcomes.len(), fault.kind), (run + 1, kind)),
                (Some(kind), Outcome::Output(_)) => prop_assert!(false, "byte {byte}: no {kind}"),
            }
        }

        #[test]
        fn runs_are_apart_and_aligned_and_know_their_addresses(
            kernel in prop::sample::select(kernels()),
            index in 0..64u64,
        ) {
            let kernel = Kernel::open(kernel).unwrap();
            let case = kernel.space().case_at(1, index);
            let first = Run::first(&case);
            let plan = Arc::new(Plan::new(&kernel, &case, first).unwrap());
            let arena = Arena::of(case, plan.clone(), vec![first.poison, first.next().poison]);
            let mut host = vec![0; arena.size_bytes()];
            arena.fill(BASE, &mut host);
            let mut end = 0;
            for run in 0..2 {
                for region in 0..plan.regions.len() {
                    for address in &plan.regions[region].addresses {
                        let found = host[arena.range(run, region)][address.at..].first_chunk().unwrap();
                        let expected = arena.address(BASE, run, address.region) + address.offset;
                        prop_assert_eq!(u64::from_le_bytes(*found), expected);
                    }
                    let range = arena.range(run, region);
                    prop_assert!(range.start >= end + GUARD_BYTES && range.start.is_multiple_of(ALIGNMENT));
                    prop_assert_eq!(arena.address(BASE, run, region), BASE + range.start as u64);
                    end = range.end;
                }
                prop_assert_eq!(arena.ends[run], end + GUARD_BYTES);
                end += GUARD_BYTES;
            }
            prop_assert_eq!(arena.size_bytes(), end);
        }
    }
}
