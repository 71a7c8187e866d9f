//! The sums over elements that the bound of each column is made of.

use super::contract::{PDen, Resolved};
use super::terms::{Factors, Terms};
use crate::float::tile::{ROWS, padded, put, tile};
use crate::reference::Reference;

/// Columns of a tile.
pub(super) const LANES: usize = 8;

/// What the bounds of some neighbouring columns are made of: the reference's numbers, and sums over elements, each of a
/// coefficient times `|V|`, `|V - o|` or a square. Past a row's last column there are zeros.
pub(super) struct Tile {
    /// `o`.
    pub(super) o: [f64; LANES],
    /// `min_j V_j`.
    pub(super) v_min: [f64; LANES],
    /// `max_j V_j`.
    pub(super) v_max: [f64; LANES],
    /// `A`.
    pub(super) mean_abs: [f64; LANES],
    /// `T2`.
    pub(super) rms: [f64; LANES],
    /// `sum p_j eta_j |V_j - o|`.
    pub(super) eta_deviation: [f64; LANES],
    /// `sum p_j (1 + eta_j) |V_j|`.
    pub(super) grown_absolute: [f64; LANES],
    /// `sum p_j (1 + eta_j) |V_j - o|`.
    pub(super) grown_deviation: [f64; LANES],
    /// `sum p_j (1 + eta_j) |V_j|` over the small terms.
    pub(super) small_absolute: [f64; LANES],
    /// `sum min(p_j (1 + eta_j), tau) |V_j|`.
    pub(super) p_underflow: [f64; LANES],
    /// `sum |V_j - o|`.
    pub(super) deviation: [f64; LANES],
    /// `sum` of the reference's error times `|V_j - o|`.
    pub(super) reference_deviation: [f64; LANES],
    /// `sum p_j^2 eta_j^2 V_j^2`.
    pub(super) eta_squares: [f64; LANES],
    /// `sum p_j^2 (1 + eta_j)^2 V_j^2`.
    pub(super) grown_squares: [f64; LANES],
    /// `sum p_j^2 sigma_j^2 (V_j - o)^2`.
    pub(super) sigma_squares: [f64; LANES],
    /// `sum p_j (u X_j / 2 + underflow_j) |V_j - o|`.
    pub(super) systematic_deviation: [f64; LANES],
    /// `sum p_j |V_j - o|` over weights that may be dropped.
    pub(super) dropped_deviation: [f64; LANES],
}

/// The tiles of a row, from its first column on.
pub(super) fn tiles(processor: pulp::Arch, reference: &Reference<'_>, contract: &Resolved, terms: &Terms) -> Vec<Tile> {
    // Of a plain range and inlined, so that tiles are made where they stay: they are large to move.
    let count = reference.v_head_dim.div_ceil(LANES);
    let mut tiles: Vec<Tile> = (0..count).map(|index| Tile::empty(reference, index * LANES)).collect();
    let either = contract.p_den == PDen::Either;
    processor.dispatch(Sum { tiles: &mut tiles, reference, terms, either });
    if reference.sink.is_some() {
        let zeros = vec![0.0; reference.v_head_dim];
        add::<1>(&mut tiles, reference, terms, either, reference.keys, &zeros);
    }
    tiles
}

/// The pass over V for each kind of processor: the same operations in the same order, only their width differs.
struct Sum<'a, 'r> {
    tiles: &'a mut [Tile],
    reference: &'a Reference<'r>,
    terms: &'a Terms,
    either: bool,
}

impl pulp::WithSimd for Sum<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Self { tiles, reference, terms, either } = self;
        let columns = reference.v_head_dim.max(1);
        for (values, block) in reference.v.chunks(columns * ROWS).zip(0..) {
            // One vector for each column's sums.
            match S::F64_LANES {
                8 => add::<8>(tiles, reference, terms, either, block * ROWS, values),
                _ => add::<4>(tiles, reference, terms, either, block * ROWS, values),
            }
        }
    }
}

/// Adds the values of some keys, of which `first` is the first, to `WIDTH` columns at once.
#[inline(always)]
fn add<const WIDTH: usize>(
    tiles: &mut [Tile],
    reference: &Reference<'_>,
    terms: &Terms,
    either: bool,
    first: usize,
    values: &[f64],
) {
    let columns = reference.v_head_dim;
    let keys = values.len() / columns.max(1);
    let factors = &terms.factors[first..first + keys];
    for start in (0..columns - columns % WIDTH).step_by(WIDTH) {
        tiles[start / LANES].add::<WIDTH>(start % LANES, factors, &values[start..], columns);
    }
    for start in columns - columns % WIDTH..columns {
        tiles[start / LANES].add::<1>(start % LANES, factors, &values[start..], columns);
    }
    for (v, j) in values.chunks_exact(columns.max(1)).zip(first..) {
        add_seldom(tiles, reference, terms, either, j, v);
    }
}

/// What only some terms are in.
#[inline(always)]
fn add_seldom(tiles: &mut [Tile], reference: &Reference<'_>, terms: &Terms, either: bool, j: usize, v: &[f64]) {
    let Factors { grown, dropped, .. } = terms.factors[j];
    let small = terms.split.as_ref().is_some_and(|split| reference.p[j] < split.threshold);
    let underflow = terms.p_underflow.get(j);
    if !small && underflow.is_none() && dropped == 0.0 {
        return;
    }
    for (tile, v) in tiles.iter_mut().zip(v.chunks(LANES)) {
        for (t, v) in v.iter().enumerate() {
            let (value, distance) = (v.abs(), (v - tile.o[t]).abs());
            if small {
                tile.small_absolute[t] += grown * value;
            }
            if let Some(&underflow) = underflow {
                tile.p_underflow[t] += underflow * value.max(if either { distance } else { 0.0 });
            }
            if dropped > 0.0 {
                tile.dropped_deviation[t] += dropped * distance;
            }
        }
    }
}

impl Tile {
    /// The columns from `start` on, before any element.
    #[inline(always)]
    fn empty(reference: &Reference<'_>, start: usize) -> Self {
        const ZEROS: [f64; LANES] = [0.0; LANES];
        Self {
            o: padded(&reference.o, start),
            v_min: padded(&reference.v_min, start),
            v_max: padded(&reference.v_max, start),
            mean_abs: padded(&reference.v_mean_abs, start),
            rms: padded(&reference.v_rms, start),
            eta_deviation: ZEROS,
            grown_absolute: ZEROS,
            grown_deviation: ZEROS,
            small_absolute: ZEROS,
            p_underflow: ZEROS,
            deviation: ZEROS,
            reference_deviation: ZEROS,
            eta_squares: ZEROS,
            grown_squares: ZEROS,
            sigma_squares: ZEROS,
            systematic_deviation: ZEROS,
            dropped_deviation: ZEROS,
        }
    }

    /// Adds elements to the `N` columns from `lane` on: their values come `stride` apart.
    #[inline(always)]
    fn add<const N: usize>(&mut self, lane: usize, factors: &[Factors], values: &[f64], stride: usize) {
        let o: [f64; N] = tile(&self.o, lane);
        let mut eta_deviation: [f64; N] = tile(&self.eta_deviation, lane);
        let mut grown_absolute: [f64; N] = tile(&self.grown_absolute, lane);
        let mut grown_deviation: [f64; N] = tile(&self.grown_deviation, lane);
        let mut deviation: [f64; N] = tile(&self.deviation, lane);
        let mut reference_deviation: [f64; N] = tile(&self.reference_deviation, lane);
        let mut systematic_deviation: [f64; N] = tile(&self.systematic_deviation, lane);
        let mut eta_squares: [f64; N] = tile(&self.eta_squares, lane);
        let mut grown_squares: [f64; N] = tile(&self.grown_squares, lane);
        let mut sigma_squares: [f64; N] = tile(&self.sigma_squares, lane);
        for (key, f) in factors.iter().enumerate() {
            let v: [f64; N] = tile(values, key * stride);
            for t in 0..N {
                let (value, distance) = (v[t].abs(), (v[t] - o[t]).abs());
                let (x, y, z) = (f.eta * value, f.grown * value, f.sigma * distance);
                eta_deviation[t] += f.eta * distance;
                grown_absolute[t] += y;
                grown_deviation[t] += f.grown * distance;
                deviation[t] += distance;
                reference_deviation[t] += f.reference * distance;
                systematic_deviation[t] += f.systematic * distance;
                eta_squares[t] += x * x;
                grown_squares[t] += y * y;
                sigma_squares[t] += z * z;
            }
        }
        put(&mut self.eta_deviation, lane, eta_deviation);
        put(&mut self.grown_absolute, lane, grown_absolute);
        put(&mut self.grown_deviation, lane, grown_deviation);
        put(&mut self.deviation, lane, deviation);
        put(&mut self.reference_deviation, lane, reference_deviation);
        put(&mut self.systematic_deviation, lane, systematic_deviation);
        put(&mut self.eta_squares, lane, eta_squares);
        put(&mut self.grown_squares, lane, grown_squares);
        put(&mut self.sigma_squares, lane, sigma_squares);
    }
}
