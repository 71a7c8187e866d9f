//! f64 attention from its definition, and the quantities the bound needs.
//!
//! One query row over its visible keys, with none of the tricks of a fast kernel: no tiles, no
//! running maximum, no approximate exponential. Masks, GQA head mapping, paging and layout are not
//! known here; the caller gathers the visible keys and values of the row.
//!
//! With `c` the scale, `t` the output column and `j` the key:
//!
//! ```text
//! r_j = c sum_k q_k K_jk                      dot product, scaled
//! s_j = r_j, or cap tanh(r_j / cap)           logit, with softcap
//! M = max_j s_j    w_j = exp(s_j - M)    L = sum_j w_j    p_j = w_j / L
//! o_t = sum_j p_j V_jt                        lse = M + ln L
//! ```
//!
//! An attention sink is one more element whose logit is given and whose value row is zero: it
//! enters `M`, `L` and `lse`, and adds nothing to the numerator.
//!
//! **Determinism.** Every operation is IEEE binary64 in a fixed order, without fused multiply-add,
//! and `exp`, `ln` and `tanh` come from the pure Rust `libm`, so the same row gives the same bits
//! on every machine. The error of this reference is part of the bound: `bound` adds a term for it.

mod dot;

use crate::float::tile::{ROWS, put, tile};
use crate::float::{larger, lowest_bit};
use dot::Dot;

/// One query row and what it may see.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The query, `[head_dim]`.
    pub q: &'a [f64],
    /// The visible keys only, `[n, head_dim]`.
    pub k: &'a [f64],
    /// The values of the same keys, `[n, v_head_dim]`.
    pub v: &'a [f64],
    /// Elements of a query and of a key.
    pub head_dim: usize,
    /// Elements of a value.
    pub v_head_dim: usize,
    /// The factor on the dot product, the very number the kernel receives.
    pub scale: f32,
    /// `cap` in `cap tanh(x / cap)`, applied to the scaled dot product.
    pub softcap: Option<f32>,
    /// An extra logit in the denominator, with a value of zero.
    pub sink: Option<f64>,
}

impl Row<'_> {
    /// How many keys the row sees, the sink not counted.
    pub fn keys(&self) -> usize {
        self.k.len().checked_div(self.head_dim).unwrap_or(0)
    }
}

/// The exact answer for one row, to f64 accuracy, and the sums from which the bound is made.
///
/// Vectors "per element" hold the visible keys in order and then the sink, if there is one.
#[derive(Clone, Debug)]
pub struct Reference<'a> {
    /// `o_t`, the output.
    pub o: Vec<f64>,
    /// `M + ln L` in nats; minus infinity for an empty row.
    pub lse: f64,
    /// `s_j` per element.
    pub s: Vec<f64>,
    /// `r_j` per element: the logit before softcap. Empty without softcap, where it equals `s`.
    pub uncapped: Vec<f64>,
    /// `Q_j = |c| sum_k |q_k K_jk|` per element; 0 for the sink.
    pub dot_abs: Vec<f64>,
    /// `|c| sqrt(sum_k (q_k K_jk)^2)` per element; 0 for the sink.
    pub dot_rms: Vec<f64>,
    /// How many of the products `q_k K_jk` are not zero, per element.
    pub nonzeros: Vec<u32>,
    /// Whether every partial sum of the dot product, in any order, is a binary32 number.
    pub exact: Vec<bool>,
    /// `p_j` per element.
    pub p: Vec<f64>,
    /// `max_k |q_k|`.
    pub q_max: f64,
    /// How many entries of `q` are not zero.
    pub q_nonzeros: usize,
    /// `M`; minus infinity for an empty row.
    pub max: f64,
    /// `L`; 0 for an empty row.
    pub sum: f64,
    /// `A_t = sum_j p_j |V_jt|`.
    pub v_mean_abs: Vec<f64>,
    /// `T2_t = sqrt(sum_j p_j^2 V_jt^2)`.
    pub v_rms: Vec<f64>,
    /// `min_j V_jt`, over elements.
    pub v_min: Vec<f64>,
    /// `max_j V_jt`, over elements.
    pub v_max: Vec<f64>,
    /// The keys that the row sees, borrowed.
    pub k: &'a [f64],
    /// Their values, borrowed.
    pub v: &'a [f64],
    /// Visible keys, the sink not counted.
    pub keys: usize,
    /// Elements of a query and of a key.
    pub head_dim: usize,
    /// Elements of a value.
    pub v_head_dim: usize,
    /// `c`.
    pub scale: f64,
    /// `cap`.
    pub softcap: Option<f64>,
    /// The sink's logit; its element is the last one.
    pub sink: Option<f64>,
}

impl Reference<'_> {
    /// How many elements enter the softmax: the visible keys and the sink.
    pub fn elements(&self) -> usize {
        self.s.len()
    }

    /// The logits before softcap, per element.
    pub fn raw_logits(&self) -> &[f64] {
        if self.uncapped.is_empty() { &self.s } else { &self.uncapped }
    }

    /// `max_k |K_jk|` of an element; 0 for the sink.
    pub fn k_max(&self, j: usize) -> f64 {
        let key = self.k.chunks_exact(self.head_dim.max(1)).nth(j).unwrap_or_default();
        key.iter().fold(0.0, |m, x| if x.abs() > m { x.abs() } else { m })
    }

    /// The value rows, key by key. The sink has none.
    pub fn value_rows(&self) -> impl Iterator<Item = &[f64]> {
        // `chunks_exact` refuses 0; without columns there is nothing to iterate for.
        self.v.chunks_exact(self.v_head_dim.max(1)).take(self.keys)
    }
}

/// Attention of one row. A row that sees nothing gives `o = 0` and `lse = -inf`.
///
/// # Panics
/// If the slices do not have the lengths that `head_dim`, `v_head_dim` and `n` say.
pub fn attend<'a>(row: &Row<'a>) -> Reference<'a> {
    attend_on(pulp::Arch::new(), row)
}

fn attend_on<'a>(processor: pulp::Arch, row: &Row<'a>) -> Reference<'a> {
    let keys = row.keys();
    assert_eq!(row.q.len(), row.head_dim, "length of q");
    assert_eq!(row.k.len(), keys * row.head_dim, "length of k");
    assert_eq!(row.v.len(), keys * row.v_head_dim, "length of v");
    let elements = keys + usize::from(row.sink.is_some());
    let mut reference = Reference {
        o: vec![0.0; row.v_head_dim],
        lse: f64::NEG_INFINITY,
        s: Vec::with_capacity(elements),
        uncapped: Vec::with_capacity(if row.softcap.is_some() { elements } else { 0 }),
        dot_abs: Vec::with_capacity(elements),
        dot_rms: Vec::with_capacity(elements),
        nonzeros: Vec::with_capacity(elements),
        exact: Vec::with_capacity(elements),
        p: Vec::new(),
        q_max: nan_largest(row.q.iter().map(|x| x.abs()), 0.0),
        q_nonzeros: row.q.iter().filter(|&&x| x != 0.0).count(),
        max: f64::NEG_INFINITY,
        sum: 0.0,
        v_mean_abs: vec![0.0; row.v_head_dim],
        v_rms: vec![0.0; row.v_head_dim],
        v_min: vec![f64::INFINITY; row.v_head_dim],
        v_max: vec![f64::NEG_INFINITY; row.v_head_dim],
        k: row.k,
        v: row.v,
        keys,
        head_dim: row.head_dim,
        v_head_dim: row.v_head_dim,
        scale: f64::from(row.scale),
        softcap: row.softcap.map(f64::from),
        sink: row.sink,
    };
    processor.dispatch(Attend { reference: &mut reference, row });
    reference
}

/// What [`attend`] does for each kind of processor: the same operations in the same order, only their width differs.
struct Attend<'a, 'r> {
    reference: &'a mut Reference<'r>,
    row: &'a Row<'r>,
}

impl pulp::WithSimd for Attend<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        self.reference.score(self.row);
        self.reference.weigh();
        // One vector for each column's sums.
        match S::F64_LANES {
            8 => self.reference.average::<8>(),
            _ => self.reference.average::<4>(),
        }
    }
}

impl Reference<'_> {
    /// Pass over K: the logits and what their error depends on.
    #[inline(always)]
    fn score(&mut self, row: &Row<'_>) {
        let scale = self.scale;
        let q_lowest = row.q.iter().map(|&x| lowest_bit(x)).min().unwrap_or(i32::MAX);
        for key in row.k.chunks_exact(self.head_dim.max(1)).take(self.keys) {
            let dot = Dot::of(row.q, key);
            let raw = scale * dot.sum;
            if let Some(cap) = self.softcap {
                self.uncapped.push(raw);
                self.s.push(cap * libm::tanh(raw / cap));
            } else {
                self.s.push(raw);
            }
            self.dot_abs.push(scale.abs() * dot.abs);
            self.dot_rms.push(scale.abs() * dot.squares.sqrt());
            self.nonzeros.push(dot.nonzeros);
            self.exact.push(dot.is_exact(row.q, key, q_lowest));
        }
        if let Some(logit) = self.sink {
            self.s.push(logit);
            if self.softcap.is_some() {
                self.uncapped.push(logit);
            }
            self.dot_abs.push(0.0);
            self.dot_rms.push(0.0);
            self.nonzeros.push(0);
            self.exact.push(false);
        }
    }

    /// The softmax.
    #[inline(always)]
    fn weigh(&mut self) {
        if self.s.is_empty() {
            return;
        }
        let max = nan_largest(self.s.iter().copied(), f64::NEG_INFINITY);
        self.p = self.s.iter().map(|&s| libm::exp(s - max)).collect();
        let sum = self.p.iter().sum::<f64>();
        for p in &mut self.p {
            *p /= sum;
        }
        self.max = max;
        self.sum = sum;
        self.lse = max + libm::log(sum);
    }

    /// Pass over V: the output, and its sums of absolute values and squares.
    #[inline(always)]
    fn average<const TILE: usize>(&mut self) {
        let columns = self.v_head_dim;
        if columns == 0 {
            return;
        }
        let p = std::mem::take(&mut self.p);
        for (v, p) in self.v.chunks(columns * ROWS).zip(p.chunks(ROWS)) {
            for tile in 0..columns / TILE {
                self.average_tile::<TILE>(v, p, tile * TILE);
            }
            for column in columns - columns % TILE..columns {
                self.average_tile::<1>(v, p, column);
            }
        }
        self.p = p;
        for x in &mut self.v_rms {
            *x = x.sqrt();
        }
        if self.sink.is_some() || self.keys == 0 {
            // The sink is an element whose value is zero, so it is a corner of the hull.
            for t in 0..columns {
                self.v_min[t] = self.v_min[t].min(0.0);
                self.v_max[t] = self.v_max[t].max(0.0);
            }
        }
    }

    /// Adds the values of some keys with weights `p` to `N` columns.
    #[inline(always)]
    fn average_tile<const N: usize>(&mut self, values: &[f64], p: &[f64], start: usize) {
        let mut o: [f64; N] = tile(&self.o, start);
        let mut mean_abs: [f64; N] = tile(&self.v_mean_abs, start);
        let mut squares: [f64; N] = tile(&self.v_rms, start);
        let mut low: [f64; N] = tile(&self.v_min, start);
        let mut high: [f64; N] = tile(&self.v_max, start);
        for j in 0..values.len() / self.v_head_dim {
            let (p, v) = (p[j], tile::<N>(values, j * self.v_head_dim + start));
            for t in 0..N {
                let x = p * v[t];
                o[t] += x;
                mean_abs[t] += x.abs();
                squares[t] += x * x;
                // One instruction each, unlike `f64::min` and `max`, which see to NaN.
                low[t] = if v[t] < low[t] { v[t] } else { low[t] };
                high[t] = if v[t] > high[t] { v[t] } else { high[t] };
            }
        }
        put(&mut self.o, start, o);
        put(&mut self.v_mean_abs, start, mean_abs);
        put(&mut self.v_rms, start, squares);
        put(&mut self.v_min, start, low);
        put(&mut self.v_max, start, high);
    }
}

/// The largest of some numbers, at least `least`; NaN if any of them is, so that a poisoned input cannot look like a number.
fn nan_largest(numbers: impl Iterator<Item = f64> + Clone, least: f64) -> f64 {
    if numbers.clone().any(f64::is_nan) { f64::NAN } else { numbers.fold(least, larger) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn row<'a>(q: &'a [f64], k: &'a [f64], v: &'a [f64], v_head_dim: usize) -> Row<'a> {
        Row { q, k, v, head_dim: q.len(), v_head_dim, scale: 0.5, softcap: None, sink: None }
    }

    proptest! {
        #[test]
        fn every_processor_gives_the_same_bits(
            (head_dim, v_head_dim, keys) in (1..40usize, 0..40usize, 0..80usize),
            seed: u64,
            softcap in proptest::option::of(1f32..50.0),
            sink in proptest::option::of(-5f64..5.0),
        ) {
            let mut dice = ChaCha8Rng::seed_from_u64(seed);
            let mut numbers = |count: usize| -> Vec<f64> { (0..count).map(|_| dice.random_range(-2.0..2.0)).collect() };
            let (q, k, v) = (numbers(head_dim), numbers(keys * head_dim), numbers(keys * v_head_dim));
            let row = Row { softcap, sink, ..row(&q, &k, &v, v_head_dim) };
            let [scalar, wide] = [pulp::Arch::Scalar, pulp::Arch::new()].map(|arch| format!("{:?}", attend_on(arch, &row)));
            prop_assert_eq!(scalar, wide);
        }
    }

    #[test]
    fn an_empty_row_is_zero() {
        let reference = attend(&row(&[1.0, 2.0], &[], &[], 3));
        assert_eq!(reference.o, [0.0; 3]);
        assert_eq!(reference.lse, f64::NEG_INFINITY);
        assert_eq!(reference.elements(), 0);
    }

    #[test]
    fn two_keys_are_a_logistic() {
        let reference = attend(&row(&[2.0], &[1.0, -1.0], &[1.0, 10.0, -3.0, 5.0], 2));
        let p = 1.0 / (1.0 + (-2.0f64).exp());
        assert!((reference.o[0] - (p - 3.0 * (1.0 - p))).abs() < 1e-15);
        assert!((reference.o[1] - (10.0 * p + 5.0 * (1.0 - p))).abs() < 1e-14);
        assert!((reference.lse - (1.0f64.exp() + (-1.0f64).exp()).ln()).abs() < 1e-15);
    }

    #[test]
    fn a_sink_takes_weight_and_gives_nothing() {
        let with = Row { sink: Some(1.0), ..row(&[2.0], &[1.0], &[8.0], 1) };
        let reference = attend(&with);
        assert_eq!(reference.o, [4.0]);
        assert_eq!(reference.v_min, [0.0]);
        assert!((reference.lse - (1.0 + 2f64.ln())).abs() < 1e-15);
        let alone = attend(&Row { sink: Some(3.0), ..row(&[2.0], &[], &[], 1) });
        assert_eq!((alone.o[0], alone.lse), (0.0, 3.0));
    }

    #[test]
    fn a_poisoned_input_cannot_look_like_a_number() {
        for place in 0..3 {
            let mut q = [1.0, 2.0, 3.0];
            q[place] = f64::NAN;
            let reference = attend(&row(&q, &[1.0; 6], &[1.0, 2.0], 1));
            assert!([reference.q_max, reference.max, reference.lse, reference.o[0]].iter().all(|x| x.is_nan()));
        }
        // One key of several.
        let reference = attend(&row(&[1.0], &[1.0, f64::NAN, 2.0], &[1.0; 3], 1));
        assert!(reference.q_max == 1.0 && reference.max.is_nan() && reference.o[0].is_nan());
    }

    #[test]
    fn softcap_squeezes_the_logit() {
        let capped = attend(&Row { softcap: Some(2.0), ..row(&[200.0], &[1.0, 0.0], &[1.0, 0.0], 1) });
        assert_eq!(capped.s, [2.0, 0.0]);
        assert_eq!(capped.raw_logits(), [100.0, 0.0]);
    }
}
