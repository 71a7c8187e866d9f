//! What has been done to global memory, for the race check: cells in pages, made when first touched.
//!
//! Most pages are only ever read. Such a page has a short log of reads instead of cells: what the cells would hold is
//! worked out when somebody writes to the page, or the log is full.

use super::race::Access;

/// Cells of a page.
pub(super) const PAGE: usize = 64;

/// Reads in a log.
const LOG: usize = 4;

/// A cell of a region.
pub(super) type Location = (usize, usize);

/// For each page of each region, which cells have been read and which written.
#[derive(Debug)]
pub(in crate::emulator) struct Touched(Vec<Vec<[u64; 2]>>);

impl Touched {
    /// Adds what others did. False if it matters who did it first.
    pub(in crate::emulator) fn join(&mut self, other: &Self) -> bool {
        let pages = self.0.iter_mut().flatten().zip(other.0.iter().flatten());
        pages.fold(true, |apart, ([reads, writes], [other_reads, other_writes])| {
            let meet = *writes & (other_reads | other_writes) | *reads & other_writes;
            *reads |= other_reads;
            *writes |= other_writes;
            apart && meet == 0
        })
    }
}

/// All pages of a launch.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// For each region, the number of each page plus one, or 0.
    regions: Vec<Vec<u32>>,
    pages: Vec<Page>,
    cells: Vec<Cell>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Page {
    /// Where the cells begin, in pages, plus one; 0 while the log stands for them.
    cells: u32,
    length: usize,
    log: [Logged; LOG],
}

#[derive(Clone, Copy, Debug, Default)]
struct Logged {
    read: Read,
    /// Which earlier entries of the log it comes after.
    settles: u8,
    /// All its cells would hold it: there was room, and no later entry comes after it.
    kept: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cell {
    pub(super) write: Entry,
    pub(super) reads: [Entry; 2],
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Entry {
    pub(super) access: Access,
    /// 0 for none.
    pub(super) block: u32,
    /// When it was made.
    pub(super) time: u32,
}

impl Entry {
    /// Of the same warp, and as long as the warp has not synchronised: one stands for both.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let (a, b) = (&self.access, &other.access);
        self.block == other.block && a.warp == b.warp && a.strong == b.strong && a.clock == b.clock
    }

    /// Takes in a later access that [`Entry::is_like`] it.
    pub(super) fn absorb(&mut self, later: &Self) {
        self.access.lanes |= later.access.lanes;
        self.access.pc = later.access.pc;
        self.time = later.time;
    }
}

/// Cells of one page read by one instruction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Read {
    /// With all lanes that read.
    pub(super) entry: Entry,
    pub(super) first: u8,
    pub(super) count: u8,
    /// Cells each lane reads, one lane's after the other's; 0 if every lane reads all.
    pub(super) each: u8,
    /// The lane that reads the first cell, and which of its cells that is.
    pub(super) lane: u8,
    pub(super) skipped: u8,
}

impl Read {
    fn covers(&self, other: &Self) -> bool {
        self.first <= other.first && other.first + other.count <= self.first + self.count
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.first < other.first + other.count && other.first < self.first + self.count
    }

    fn is_shaped_like(&self, other: &Self) -> bool {
        let shape = |r: &Self| (r.first, r.count, r.each, r.lane, r.skipped);
        shape(self) == shape(other)
    }

    /// What the cell in the page remembers of it.
    pub(super) fn entry_of(&self, cell: usize) -> Entry {
        let mut entry = self.entry;
        if self.each != 0 {
            let at = cell - usize::from(self.first) + usize::from(self.skipped);
            entry.access.lanes = 1 << (usize::from(self.lane) + at / usize::from(self.each));
        }
        entry
    }

    pub(super) fn cells(&self) -> std::ops::Range<usize> {
        usize::from(self.first)..usize::from(self.first) + usize::from(self.count)
    }
}

impl Pages {
    /// Forgets everything. Regions have as many cells as `sizes` says.
    pub(super) fn clear(&mut self, sizes: impl Iterator<Item = usize>) {
        let mut count = 0;
        for (index, size) in sizes.enumerate() {
            if self.regions.len() <= index {
                self.regions.push(Vec::new());
            }
            self.regions[index].clear();
            self.regions[index].resize(size / PAGE + 1, 0);
            count += 1;
        }
        self.regions.truncate(count);
        self.pages.clear();
        self.cells.clear();
    }

    /// What has been read and written.
    pub(super) fn touched(&self) -> Touched {
        let of = |number: &u32| number.checked_sub(1).map_or([0; 2], |number| self.touched_page(number as usize));
        Touched(self.regions.iter().map(|pages| pages.iter().map(of).collect()).collect())
    }

    fn touched_page(&self, number: usize) -> [u64; 2] {
        let page = &self.pages[number];
        let Some(start) = page.cells.checked_sub(1) else {
            let logged = page.log[..page.length].iter().flat_map(|l| l.read.cells());
            return [logged.fold(0, |reads, cell| reads | 1 << cell), 0];
        };
        let cells = &self.cells[start as usize * PAGE..][..PAGE];
        let bits = |has: fn(&Cell) -> bool| cells.iter().zip(0..).fold(0, |bits, (c, i)| bits | u64::from(has(c)) << i);
        [bits(|cell| cell.reads[0].block != 0), bits(|cell| cell.write.block != 0)]
    }

    /// A cell. From here on its page has cells.
    #[inline]
    pub(super) fn cell(&mut self, (region, cell): Location) -> &mut Cell {
        let number = self.number(region, cell / PAGE);
        if self.pages[number].cells == 0 {
            self.materialise(number);
        }
        let start = (self.pages[number].cells as usize - 1) * PAGE;
        &mut self.cells[start + cell % PAGE]
    }

    /// Notes a read in the log of a page; false if the page has cells, which must be asked one by one then. `settles` says
    /// whether the read comes after an earlier one.
    #[inline]
    pub(super) fn log(&mut self, region: usize, page: usize, read: Read, settles: impl Fn(&Entry) -> bool) -> bool {
        let number = self.number(region, page);
        let Page { cells, length, log } = &mut self.pages[number];
        if *cells != 0 {
            return false;
        }
        let log_of = &mut log[..*length];
        if let Some(like) =
            log_of.iter_mut().find(|l| l.kept && l.read.entry.is_like(&read.entry) && l.read.is_shaped_like(&read))
        {
            like.read.entry.absorb(&read.entry);
            return true;
        }
        let mut new = Logged { read, settles: 0, kept: true };
        // Two readers that every cell holds, and keeps rather than this one.
        let mut first: Option<Entry> = None;
        let (mut known, mut has_like, mut overlapping) = (false, false, 0);
        for (index, old) in log_of.iter_mut().enumerate() {
            let entry = old.read.entry;
            has_like |= entry.is_like(&read.entry);
            overlapping += usize::from(old.read.overlaps(&read));
            if settles(&entry) {
                new.settles |= 1 << index;
                old.kept = false;
            } else if old.kept && old.read.covers(&read) {
                let is_kept_beside = |first: &Entry| {
                    let blocks = first.block != entry.block || entry.block == read.entry.block;
                    blocks && !first.is_like(&entry)
                };
                known |= first.as_ref().is_some_and(is_kept_beside);
                first = first.or(Some(entry));
            }
        }
        new.kept = overlapping < 2;
        if known && !has_like && new.settles == 0 {
            return true;
        }
        if *length == LOG {
            self.materialise(number);
            return false;
        }
        log[*length] = new;
        *length += 1;
        true
    }

    #[inline]
    fn number(&mut self, region: usize, page: usize) -> usize {
        let number = &mut self.regions[region][page];
        if *number == 0 {
            self.pages.push(Page::default());
            *number = self.pages.len() as u32;
        }
        *number as usize - 1
    }

    /// Makes the cells that the log stands for.
    #[cold]
    fn materialise(&mut self, number: usize) {
        let page = &mut self.pages[number];
        let start = self.cells.len();
        self.cells.resize(start + PAGE, Cell::default());
        page.cells = (start / PAGE + 1) as u32;
        let log = &page.log[..page.length];
        for (index, cell) in self.cells[start..].iter_mut().enumerate() {
            // Where in the log the two readers come from.
            let mut from = [0; 2];
            for (position, logged) in log.iter().enumerate().filter(|(_, l)| l.read.cells().contains(&index)) {
                let settled = |slot: usize| logged.settles >> from[slot] & 1 == 1;
                if let Some(slot) = noted(&mut cell.reads, logged.read.entry_of(index), settled) {
                    from[slot] = position;
                }
            }
        }
    }
}

/// Remembers two readers, of two blocks if there are two; a reader that the new one comes after makes room. Tells which
/// place the new reader has taken.
#[inline]
pub(super) fn noted(reads: &mut [Entry; 2], new: Entry, settled: impl Fn(usize) -> bool) -> Option<usize> {
    if let Some(read) = reads.iter_mut().find(|read| read.is_like(&new)) {
        read.absorb(&new);
        return None;
    }
    let free = (0..2).find(|slot| reads[*slot].block == 0 || settled(*slot));
    let one_block = reads[0].block == reads[1].block && reads[0].block != new.block;
    let slot = free.or(one_block.then_some(1))?;
    reads[slot] = new;
    Some(slot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read() -> impl Strategy<Value = Read> {
        (1u32..4, 0u16..3, 1u32..4, 0u8..40, 1u8..24, 0u8..3).prop_map(|(block, warp, clock, first, count, each)| {
            let access = Access { clock, lanes: u32::MAX >> (32 - count), pc: clock, warp, strong: false };
            Read { entry: Entry { access, block, time: 0 }, first, count, each, lane: 1, skipped: 0 }
        })
    }

    /// Of one block, the earlier clock; of two, the lower number, for some.
    fn settles(new: &Entry, old: &Entry) -> bool {
        if old.block == new.block { old.access.clock < new.access.clock } else { old.block + 1 < new.block }
    }

    proptest! {
        #[test]
        fn a_log_stands_for_what_cells_would_hold(reads in prop::collection::vec(read(), 1..8)) {
            let mut pages = Pages::default();
            pages.clear(std::iter::once(PAGE));
            let mut cells = [[Entry::default(); 2]; PAGE];
            for read in &reads {
                let logged = pages.log(0, 0, *read, |old| settles(&read.entry, old));
                for index in read.cells() {
                    let new = read.entry_of(index);
                    let note = |reads: &mut [Entry; 2]| {
                        let settled = reads.map(|old| settles(&new, &old));
                        noted(reads, new, |slot| settled[slot]);
                    };
                    note(&mut cells[index]);
                    if !logged {
                        note(&mut pages.cell((0, index)).reads);
                    }
                }
            }
            for (index, cell) in cells.iter().enumerate() {
                prop_assert_eq!(format!("{:?}", pages.cell((0, index)).reads), format!("{cell:?}"));
            }
        }
    }
}
