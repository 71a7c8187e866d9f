//! The state spaces of a running warp: addresses to bytes, under the checks.

use super::check::global::{Extent, GlobalRaces};
use super::check::race::{Party, SharedRaces};
use super::check::taint::Taint;
use super::check::{Checks, Fault, ViolationKind, access as check, fault};
use super::memory::{FIRST_ADDRESS, Segment, segment_before};
use super::ops::matrix::TensorCore;
use super::ops::mbarrier::Arrivals;
use super::warp::{LANES, Lanes};
use crate::ptx::op::AccessSpace;
use crate::ptx::{CONST_WINDOW, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, Space, WINDOW_BYTES};

/// Everything a warp can address.
pub(super) struct Spaces<'a> {
    pub(super) global: &'a mut [Segment],
    pub(super) module: &'a mut [Segment],
    pub(super) constant: &'a mut [Segment],
    pub(super) shared: &'a mut Segment,
    /// Its variables in order, if there are several.
    pub(super) shared_pieces: &'a [Piece<'a>],
    pub(super) local: &'a mut Segment,
    pub(super) local_bytes: u64,
    pub(super) params: &'a mut Segment,
    pub(super) checks: Checks,
    pub(super) tensor_core: TensorCore,
    /// Seed of the errors of approximate functions.
    pub(super) perturb: Option<u64>,
    /// Whether this processor has a fused multiply-add of its own.
    pub(super) fused: bool,
    pub(super) races: &'a mut SharedRaces,
    pub(super) mbarriers: &'a mut Arrivals,
    pub(super) global_races: &'a mut GlobalRaces,
    /// The instruction being executed, for the race check.
    pub(super) party: Party,
    pub(super) taint: &'a mut Taint,
    /// Position of the block in the order of the launch.
    pub(super) block: u64,
    /// The first use of memory that nobody had written yet: if another thread writes it later without a barrier between,
    /// it is a race that the schedule happened to lose, so it is reported only if no race turns up.
    pub(super) pending: &'a mut Option<Pending>,
}

/// A violation that is held back until the block ends.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) pc: u32,
    pub(super) warp: u32,
    pub(super) fault: Box<Fault>,
}

/// A shared variable, or dynamic shared memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'a> {
    pub(super) name: &'a str,
    pub(super) start: u64,
    pub(super) end: u64,
}

/// A segment, and an offset into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) store: Store,
    pub(super) offset: usize,
}

impl Place {
    pub(super) fn is_shared(self) -> bool {
        matches!(self.store, Store::Shared)
    }
}

/// A segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Store {
    Global(usize),
    Module(usize),
    Constant(usize),
    Shared,
    Local,
    Params,
}

/// Addresses of one access by a warp.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) space: AccessSpace,
    pub(super) addresses: [u64; LANES],
    /// Bytes each lane accesses.
    pub(super) size: usize,
    pub(super) verb: &'static str,
}

/// How a warp's addresses lie in memory.
pub(super) enum Span {
    /// Every lane at one place.
    Uniform(Place),
    /// The lanes from `first` on, `count` of them, side by side.
    Consecutive { place: Place, first: usize, count: usize },
    /// All in one segment: each lane's place.
    Scattered(Box<[Place; LANES]>),
}

impl Span {
    /// Where one of the lanes' bytes are, of `size` each.
    #[inline]
    pub(super) fn place(&self, lane: usize, size: usize) -> Place {
        match self {
            Self::Uniform(place) => *place,
            Self::Consecutive { place, first, .. } => Place { offset: place.offset + (lane - first) * size, ..*place },
            Self::Scattered(places) => places[lane],
        }
    }
}

impl Spaces<'_> {
    #[inline]
    pub(super) fn segment(&self, place: Place) -> &Segment {
        match place.store {
            Store::Global(i) => &self.global[i],
            Store::Module(i) => &self.module[i],
            Store::Constant(i) => &self.constant[i],
            Store::Shared => self.shared,
            Store::Local => self.local,
            Store::Params => self.params,
        }
    }

    #[inline]
    pub(super) fn segment_mut(&mut self, place: Place) -> &mut Segment {
        match place.store {
            Store::Global(i) => &mut self.global[i],
            Store::Module(i) => &mut self.module[i],
            Store::Constant(i) => &mut self.constant[i],
            Store::Shared => self.shared,
            Store::Local => self.local,
            Store::Params => self.params,
        }
    }

    /// Finds the bytes of an access by all of `lanes`, checked for bounds and alignment.
    #[inline(always)]
    pub(super) fn resolve(&self, lanes: Lanes, request: &mut Request) -> Result<Span, Box<Fault>> {
        let first = lanes.first();
        let space = one_space(lanes, request);
        let size = request.size as u64;
        if let Some(space) = space
            && space != Space::Local
        {
            let base = request.addresses[first];
            if is_uniform(lanes, &request.addresses) {
                return self.locate(space, base, size, first, request.verb).map(Span::Uniform);
            }
            let count = lanes.mask.count_ones() as usize;
            if is_consecutive(lanes, &request.addresses, size)
                && let Some(place) = self.find(space, base, size * count as u64)
                && (base.is_multiple_of(size) || !self.checks.alignment)
            {
                return Ok(Span::Consecutive { place, first, count });
            }
        }
        let mut places = Box::new([Place { store: Store::Params, offset: 0 }; LANES]);
        for lane in lanes.iter() {
            let (space, address) = match space {
                Some(space) => (space, request.addresses[lane]),
                None => generic(request.addresses[lane]),
            };
            places[lane] = self.locate(space, address, size, lane, request.verb)?;
        }
        Ok(Span::Scattered(places))
    }

    /// Objects to reading bytes that nobody wrote.
    #[inline(always)]
    pub(super) fn check_initialised(&self, lanes: Lanes, span: &Span, size: usize) -> Result<(), Box<Fault>> {
        if !self.checks.uninitialised || self.taint.follows {
            return Ok(());
        }
        match span {
            Span::Uniform(place) => self.check_bytes(*place, size, lanes.first(), size),
            Span::Consecutive { place, first, count } => self.check_bytes(*place, size * count, *first, size),
            Span::Scattered(places) => {
                lanes.iter().try_for_each(|lane| self.check_bytes(places[lane], size, lane, size))
            }
        }
    }

    #[inline(always)]
    fn check_bytes(&self, place: Place, count: usize, lane: usize, each: usize) -> Result<(), Box<Fault>> {
        let segment = self.segment(place);
        let Some(byte) = segment.initialised.first_clear(place.offset, count) else {
            return Ok(());
        };
        Err(check::uninitialised(segment, byte, lane + (byte - place.offset) / each))
    }

    /// Whether another thread may yet write a place that this one has read.
    pub(super) fn may_race(&self, place: Place) -> bool {
        match place.store {
            Store::Shared => self.checks.shared_races,
            _ => self.checks.global_races && self.watched_region(place).is_some(),
        }
    }

    /// Objects to writing what the kernel may only read; otherwise marks the bytes as written.
    #[inline]
    pub(super) fn mark_written(&mut self, lanes: Lanes, span: &Span, size: usize) -> Result<(), Box<Fault>> {
        match span {
            Span::Uniform(place) => self.mark(*place, size, lanes.first()),
            Span::Consecutive { place, first, count } => self.mark(*place, size * count, *first),
            Span::Scattered(places) => lanes.iter().try_for_each(|lane| self.mark(places[lane], size, lane)),
        }
    }

    /// Objects to reading bytes of one segment that aren't all there, or that nobody wrote.
    pub(super) fn check_readable(&mut self, place: Place, count: usize, lane: usize) -> Result<(), Box<Fault>> {
        let segment = self.segment(place);
        let address = segment.base + place.offset as u64;
        if segment.offset(address, count as u64).is_none() {
            return Err(self.outside(Space::Global, address, count as u64, lane, "read"));
        }
        if self.checks.uninitialised && !self.taint.follows {
            self.check_bytes(place, count, lane, count)?;
        }
        self.read_global(place, count, (1 << lane, None), self.party, false)
    }

    /// Whether a store must go lane by lane for the race check.
    #[inline]
    pub(super) fn watches_writes(&self, span: &Span) -> bool {
        let watched = |place: &Place| match place.store {
            Store::Shared => self.checks.shared_races,
            _ => self.watched_region(*place).is_some(),
        };
        match span {
            Span::Uniform(place) | Span::Consecutive { place, .. } => watched(place),
            Span::Scattered(places) => places.iter().any(watched),
        }
    }

    /// Objects to reading memory that another thread writes, or non-coherently what anyone writes.
    #[inline]
    pub(super) fn check_read_races(
        &mut self,
        lanes: Lanes,
        span: &Span,
        size: usize,
        strong: bool,
        non_coherent: bool,
    ) -> Result<(), Box<Fault>> {
        let party = Party { strong, ..self.party };
        match span {
            Span::Uniform(place) | Span::Consecutive { place, .. } if !place.is_shared() => {
                let (bytes, each) = match span {
                    Span::Consecutive { count, .. } => (size * count, Some(size)),
                    _ => (size, None),
                };
                self.read_global(*place, bytes, (lanes.mask, each), party, non_coherent)
            }
            Span::Scattered(places) => lanes.iter().try_for_each(|lane| match places[lane].store {
                Store::Shared if !self.checks.shared_races => Ok(()),
                Store::Shared => self.races.read(places[lane].offset, size, 1 << lane, party),
                _ => self.read_global(places[lane], size, (1 << lane, None), party, non_coherent),
            }),
            _ if !self.checks.shared_races => Ok(()),
            Span::Uniform(place) => self.races.read(place.offset, size, lanes.mask, party),
            Span::Consecutive { place, first, count } => {
                self.races.read_span(place.offset, size, (*first, *count), party)
            }
        }
    }

    /// Number of a place's region in the check of global memory, unless nothing can go wrong there.
    #[inline]
    fn watched_region(&self, place: Place) -> Option<usize> {
        let (segment, region) = match place.store {
            Store::Global(i) => (&self.global[i], i),
            Store::Module(i) => (&self.module[i], self.global.len() + i),
            _ => return None,
        };
        let on = self.checks.global_races || self.checks.non_coherent;
        (on && (segment.writable || !self.checks.read_only)).then_some(region)
    }

    fn read_global(
        &mut self,
        place: Place,
        bytes: usize,
        lanes: (u32, Option<usize>),
        party: Party,
        non_coherent: bool,
    ) -> Result<(), Box<Fault>> {
        let Some(region) = self.watched_region(place) else { return Ok(()) };
        let segment = match place.store {
            Store::Module(i) => &self.module[i],
            _ => &self.global[region],
        };
        let extent = Extent { region, name: &segment.name, offset: place.offset, bytes };
        self.global_races.read(self.races, extent, lanes, party, non_coherent)
    }

    /// Objects to one lane's writing memory that another thread accesses. To be asked before the write.
    #[inline]
    pub(super) fn check_write_race(
        &mut self,
        place: Place,
        lane: usize,
        value: &[u8],
        strong: bool,
    ) -> Result<(), Box<Fault>> {
        let party = Party { strong, ..self.party };
        if let Some(region) = self.watched_region(place) {
            let segment = match place.store {
                Store::Module(i) => &self.module[i],
                _ => &self.global[region],
            };
            let same = || segment.bytes.get(place.offset..place.offset + value.len()) == Some(value);
            let extent = Extent { region, name: &segment.name, offset: place.offset, bytes: value.len() };
            return self.global_races.write(self.races, extent, lane, party, same);
        }
        if !place.is_shared() || !self.checks.shared_races {
            return Ok(());
        }
        let bytes = &self.shared.bytes;
        let same = || bytes.get(place.offset..place.offset + value.len()) == Some(value);
        self.races.write(place.offset, value.len(), lane, party, same)
    }

    fn mark(&mut self, place: Place, count: usize, lane: usize) -> Result<(), Box<Fault>> {
        let read_only = self.checks.read_only;
        let segment = self.segment_mut(place);
        if read_only && !segment.writable {
            return Err(check::read_only(segment, segment.base + place.offset as u64, count as u64, lane));
        }
        segment.initialised.insert(place.offset, count);
        segment.written.insert(place.offset, count);
        Ok(())
    }

    fn locate(&self, space: Space, address: u64, size: u64, lane: usize, verb: &str) -> Result<Place, Box<Fault>> {
        if self.checks.alignment && !address.is_multiple_of(size) {
            return Err(self.misaligned(space, address, size, lane, verb));
        }
        if space == Space::Local {
            if address > self.local_bytes || size > self.local_bytes - address {
                let detail =
                    format!("{verb} {size} bytes at offset {address} of a local frame of {} bytes", self.local_bytes);
                return Err(fault(ViolationKind::OutOfBounds, lane, detail));
            }
            let offset = (lane as u64 * self.local_bytes + address) as usize;
            return Ok(Place { store: Store::Local, offset });
        }
        self.find(space, address, size).ok_or_else(|| self.outside(space, address, size, lane, verb))
    }

    /// The place of `size` bytes, if they lie in one segment.
    #[inline]
    fn find(&self, space: Space, address: u64, size: u64) -> Option<Place> {
        let in_list = |segments: &[Segment], store: fn(usize) -> Store| {
            let index = segment_before(segments, address)?;
            segments[index].offset(address, size).map(|offset| Place { store: store(index), offset })
        };
        let alone = |segment: &Segment, store| segment.offset(address, size).map(|offset| Place { store, offset });
        match space {
            Space::Global if address >= FIRST_ADDRESS => in_list(self.global, Store::Global),
            Space::Global => in_list(self.module, Store::Module),
            Space::Const => in_list(self.constant, Store::Constant),
            Space::Shared if self.is_in_gap(address, size) => None,
            Space::Shared => alone(self.shared, Store::Shared),
            Space::Param => alone(self.params, Store::Params),
            Space::Local | Space::Reg => None,
        }
    }

    /// Whether bytes of shared memory lie in no variable, or in two.
    #[inline]
    fn is_in_gap(&self, address: u64, size: u64) -> bool {
        let before = self.shared_pieces.partition_point(|p| p.start <= address);
        let piece = before.checked_sub(1).and_then(|i| self.shared_pieces.get(i));
        !self.shared_pieces.is_empty() && piece.is_none_or(|p| address.saturating_add(size) > p.end)
    }

    #[cold]
    fn outside(&self, space: Space, address: u64, size: u64, lane: usize, verb: &str) -> Box<Fault> {
        let name = space.to_string();
        match space {
            Space::Global => {
                let all = self.global.iter().chain(self.module.iter());
                check::out_of_bounds(all, &name, address, size, lane, verb)
            }
            Space::Const => check::out_of_bounds(self.constant.iter(), &name, address, size, lane, verb),
            Space::Shared if !self.shared_pieces.is_empty() => {
                let segment = |p: &Piece<'_>| Segment {
                    name: p.name.to_owned(),
                    base: p.start,
                    bytes: vec![0; (p.end - p.start) as usize],
                    ..Segment::default()
                };
                let pieces: Vec<Segment> = self.shared_pieces.iter().map(segment).collect();
                check::out_of_bounds(pieces.iter(), &name, address, size, lane, verb)
            }
            Space::Shared => check::out_of_bounds(std::iter::once(&*self.shared), &name, address, size, lane, verb),
            _ => check::out_of_bounds(std::iter::once(&*self.params), &name, address, size, lane, verb),
        }
    }

    #[cold]
    fn misaligned(&self, space: Space, address: u64, size: u64, lane: usize, verb: &str) -> Box<Fault> {
        match self.find(space, address, 1) {
            Some(place) => check::misaligned(self.segment(place), address, size, lane, verb),
            None if space == Space::Local => {
                let detail = format!(
                    "{verb} {size} bytes at offset {address} of the local frame, which isn't a multiple of {size}"
                );
                fault(ViolationKind::Misaligned, lane, detail)
            }
            None => self.outside(space, address, size, lane, verb),
        }
    }
}

/// The space all lanes access, with generic addresses made relative to it; `None` if lanes differ.
#[inline(always)]
fn one_space(lanes: Lanes, request: &mut Request) -> Option<Space> {
    if let AccessSpace::Is(space) = request.space {
        return Some(space);
    }
    let (space, relative) = generic(request.addresses[lanes.first()]);
    let window = request.addresses[lanes.first()] - relative;
    if lanes.iter().any(|lane| generic(request.addresses[lane]).0 != space) {
        return None;
    }
    for address in &mut request.addresses {
        *address = address.wrapping_sub(window);
    }
    Some(space)
}

/// The space a generic address is in, and the address within it.
fn generic(address: u64) -> (Space, u64) {
    let windows = [
        (Space::Shared, SHARED_WINDOW),
        (Space::Local, LOCAL_WINDOW),
        (Space::Const, CONST_WINDOW),
        (Space::Param, PARAM_WINDOW),
    ];
    let found = windows.into_iter().find(|(_, start)| address.wrapping_sub(*start) < WINDOW_BYTES);
    found.map_or((Space::Global, address), |(space, start)| (space, address - start))
}

#[inline(always)]
fn is_uniform(lanes: Lanes, addresses: &[u64; LANES]) -> bool {
    let base = addresses[lanes.first()];
    let mut differing = 0;
    for (lane, address) in addresses.iter().enumerate() {
        let active = 0u64.wrapping_sub(u64::from(lanes.mask >> lane & 1));
        differing |= (address ^ base) & active;
    }
    differing == 0
}

/// Whether the active lanes have no hole between them and lie side by side in memory.
#[inline(always)]
fn is_consecutive(lanes: Lanes, addresses: &[u64; LANES], size: u64) -> bool {
    let first = lanes.first();
    let run = u64::from(lanes.mask >> first);
    if run & (run + 1) != 0 {
        return false;
    }
    let base = addresses[first].wrapping_sub(first as u64 * size);
    let mut differing = 0;
    for (lane, address) in addresses.iter().enumerate() {
        let active = 0u64.wrapping_sub(u64::from(lanes.mask >> lane & 1));
        differing |= (address ^ base.wrapping_add(lane as u64 * size)) & active;
    }
    differing == 0
}
