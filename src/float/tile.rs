//! Tiles of columns, whose sums over many rows stay in registers.
//!
//! For code that is compiled for each kind of processor: closures and iterators that are not inlined there would be
//! compiled for the oldest.

/// Rows that all tiles pass over before any goes on, so that they come from the nearest cache.
pub(crate) const ROWS: usize = 32;

/// The `N` numbers from `start` on.
#[inline(always)]
#[expect(clippy::manual_memcpy, reason = "a call, where it is not inlined")]
pub(crate) fn tile<const N: usize>(row: &[f64], start: usize) -> [f64; N] {
    let row = &row[start..start + N];
    let mut tile = [0.0; N];
    for i in 0..N {
        tile[i] = row[i];
    }
    tile
}

/// The `N` numbers from `start` on, with zeros for those that there are not.
pub(crate) fn padded<const N: usize>(row: &[f64], start: usize) -> [f64; N] {
    let row = &row[start..];
    row.first_chunk().copied().unwrap_or_else(|| {
        let mut tile = [0.0; N];
        tile[..row.len()].copy_from_slice(row);
        tile
    })
}

/// Puts as much of a tile back as the row has room for.
pub(crate) fn put_padded<const N: usize>(row: &mut [f64], start: usize, tile: &[f64; N]) {
    let row = &mut row[start..];
    match row.first_chunk_mut() {
        Some(row) => *row = *tile,
        None => row.copy_from_slice(&tile[..row.len()]),
    }
}

/// Puts a tile back.
#[inline(always)]
#[expect(clippy::manual_memcpy, reason = "a call, where it is not inlined")]
pub(crate) fn put<const N: usize>(row: &mut [f64], start: usize, tile: [f64; N]) {
    let row = &mut row[start..start + N];
    for i in 0..N {
        row[i] = tile[i];
    }
}
