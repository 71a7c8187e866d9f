//! Global memory: named regions far apart, with a bit a byte for "initialised" and "written by the kernel".
//!
//! Regions never touch, so that an address outside every region is a fault and names the nearest one.

use super::bitmap::BitMap;

/// A region to map.
#[derive(Clone, Debug)]
pub struct Region {
    /// Name used in reports.
    pub name: String,
    /// Contents at launch; the size of the region.
    pub bytes: Vec<u8>,
    /// Which bytes hold something meaningful.
    pub initialised: Initialised,
    /// Whether the kernel may write it.
    pub writable: bool,
    /// Bytes past a 256-byte boundary at which the region starts.
    pub misalign: usize,
}

/// Which bytes of a region hold something meaningful.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Initialised {
    All,
    None,
    These(BitMap),
}

/// A mapped region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RegionId(usize);

/// Global memory as a kernel sees it.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub(super) segments: Vec<Segment>,
    pub(super) scratch: super::scratch::Scratch,
    next: u64,
}

/// Bytes between regions that belong to none, at least.
pub const GAP_BYTES: u64 = 1 << 20;

/// Where the first region starts: above every window, recognisable in a report.
pub(super) const FIRST_ADDRESS: u64 = 0x7f00_0000_0000;

impl Memory {
    /// Nothing mapped.
    pub fn new() -> Self {
        Self { next: FIRST_ADDRESS, ..Self::default() }
    }

    /// Maps a region after all others.
    pub fn map(&mut self, region: Region) -> RegionId {
        let base = self.next.next_multiple_of(256) + (region.misalign % 256) as u64;
        let size = region.bytes.len();
        self.next = base + size as u64 + GAP_BYTES;
        let initialised = match region.initialised {
            Initialised::All => BitMap::new(size, true),
            Initialised::None => BitMap::new(size, false),
            Initialised::These(map) => map,
        };
        self.segments.push(Segment {
            name: region.name,
            base,
            bytes: region.bytes,
            initialised,
            written: BitMap::new(size, false),
            writable: region.writable,
        });
        RegionId(self.segments.len() - 1)
    }

    /// Unmaps everything, keeping the allocations that launches reuse.
    pub fn clear(&mut self) {
        self.segments.clear();
        self.next = FIRST_ADDRESS;
    }

    /// First address of a region.
    ///
    /// # Panics
    /// If `region` comes from another `Memory`.
    pub fn address(&self, region: RegionId) -> u64 {
        self.segments[region.0].base
    }

    /// Contents of a region.
    ///
    /// # Panics
    /// If `region` comes from another `Memory`.
    pub fn bytes(&self, region: RegionId) -> &[u8] {
        &self.segments[region.0].bytes
    }

    /// Contents of a region, to change between launches. Doesn't mark bytes as initialised.
    ///
    /// # Panics
    /// If `region` comes from another `Memory`.
    pub fn bytes_mut(&mut self, region: RegionId) -> &mut [u8] {
        &mut self.segments[region.0].bytes
    }

    /// Which bytes of a region are initialised, writes by the kernel included.
    ///
    /// # Panics
    /// If `region` comes from another `Memory`.
    pub fn initialised(&self, region: RegionId) -> &BitMap {
        &self.segments[region.0].initialised
    }

    /// The same, to change between launches.
    ///
    /// # Panics
    /// If `region` comes from another `Memory`.
    pub fn initialised_mut(&mut self, region: RegionId) -> &mut BitMap {
        &mut self.segments[region.0].initialised
    }

    /// Which bytes of a region the kernel has written since it was mapped or [`Memory::forget_writes`].
    ///
    /// # Panics
    /// If `region` comes from another `Memory`.
    pub fn written(&self, region: RegionId) -> &BitMap {
        &self.segments[region.0].written
    }

    /// Starts counting writes anew, in every region.
    pub fn forget_writes(&mut self) {
        for segment in &mut self.segments {
            segment.written.clear();
        }
    }

    /// Changes whether the kernel may write a region.
    ///
    /// # Panics
    /// If `region` comes from another `Memory`.
    pub fn set_writable(&mut self, region: RegionId, writable: bool) {
        self.segments[region.0].writable = writable;
    }
}

/// Consecutive bytes with one name and one set of rights.
#[derive(Clone, Debug, Default)]
pub(super) struct Segment {
    pub(super) name: String,
    pub(super) base: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) initialised: BitMap,
    pub(super) written: BitMap,
    pub(super) writable: bool,
}

impl Segment {
    /// Offset of `address` if `size` bytes from there lie inside.
    #[inline]
    pub(super) fn offset(&self, address: u64, size: u64) -> Option<usize> {
        let offset = address.wrapping_sub(self.base);
        let length = self.bytes.len() as u64;
        (offset <= length && size <= length - offset).then_some(offset as usize)
    }

    /// Takes over what a copy has written since it was made.
    pub(super) fn take_writes(&mut self, copy: &Self) {
        for byte in copy.written.ones() {
            self.bytes[byte] = copy.bytes[byte];
        }
        self.initialised.union(&copy.initialised);
        self.written.union(&copy.written);
    }

    pub(super) fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }
}

/// Index of the last segment that starts at or before `address`; segments are in order.
#[inline]
pub(super) fn segment_before(segments: &[Segment], address: u64) -> Option<usize> {
    segments.partition_point(|s| s.base <= address).checked_sub(1)
}
