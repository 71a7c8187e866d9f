//! Correct kernels in plain binary32, each in its own order, with the worst exponentials and quotients
//! that the documentation allows. And incorrect ones.

use attnfuzz::bound::Contract;
use attnfuzz::float::Dtype;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::f32::consts::LOG2_E;

/// One row in binary32, as a kernel sees it.
#[derive(Clone, Debug)]
pub(super) struct Inputs {
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
    pub(super) d: usize,
    pub(super) dv: usize,
    pub(super) scale: f32,
    pub(super) softcap: Option<f32>,
    pub(super) sink: Option<f32>,
}

impl Inputs {
    pub(super) fn n(&self) -> usize {
        self.k.len() / self.d
    }

    fn key(&self, j: usize) -> &[f32] {
        &self.k[j * self.d..][..self.d]
    }

    fn value(&self, j: usize) -> &[f32] {
        &self.v[j * self.dv..][..self.dv]
    }
}

/// A simulated kernel: its order of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// Two passes, one after the other, `expf` and IEEE division.
    Sequential,
    /// Two passes, every sum a binary tree.
    Pairwise,
    /// Weights normalised and rounded to binary16 before they meet the values.
    Unfused,
    /// Four warps take every fourth key each, with running maxima, and are merged. Fast math, flushing.
    Warps,
    /// Tiles of 16 with a running maximum, `exp2(fma(s, c, -m c))`, weights rounded to bfloat16.
    Tiles,
    /// Three splits merged through their log-sum-exp; the query is scaled first.
    Splits,
}

/// What is wrong with a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// Nothing.
    None,
    /// The last key is not seen.
    DroppedKey,
    /// The scale is 1 % too large.
    Scale,
    /// The output went through binary16.
    HalfOutput,
    /// The accumulator is not rescaled when the maximum grows.
    NoRescale,
    /// The key at the beginning counts in the sum of weights only.
    LostValue,
}

impl Kernel {
    pub(super) const ALL: [Self; 6] =
        [Self::Sequential, Self::Pairwise, Self::Unfused, Self::Warps, Self::Tiles, Self::Splits];

    /// The contract that the kernel's author would write.
    pub(super) fn contract(self) -> Contract {
        let text = match self {
            Self::Sequential => "preset = 'naive'",
            Self::Pairwise => {
                "preset = 'naive'\nh_qk = 'ceil(log2(d)) + 1'\nh_l = 'ceil(log2(n)) + 1'\nh_pv = 'ceil(log2(n)) + 1'"
            }
            Self::Unfused => "preset = 'naive'\np_norm = true\np_round = 'f16'",
            Self::Warps => {
                "preset = 'split'\nh_qk = 'ceil(d/32) + 5'\nk_qk = 1\nr = 'ceil(n/4)'\nh_l = 'ceil(n/4) + 4'\nh_pv = 'ceil(n/4) + 4'"
            }
            Self::Tiles => "preset = 'online'\nk_m = 1\nr = 'ceil(n/16) - 1'\np_round = 'bf16'\nftz = false",
            Self::Splits => {
                "preset = 'split-lse'\np_lse = false\nprescale_lossy = true\nr = 'ceil(n/3)'\nh_l = 'ceil(n/3) + 3'\nh_pv = 'ceil(n/3) + 3'\nftz = false"
            }
        };
        toml::from_str(text).unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }

    /// The output before the store, and the log-sum-exp.
    pub(super) fn run(self, inputs: &Inputs, bug: Bug, seed: u64) -> (Vec<f32>, f32) {
        let mut machine = Machine { rng: StdRng::seed_from_u64(seed), flush: self == Self::Warps, style: seed % 3 };
        let mut inputs = inputs.clone();
        if bug == Bug::Scale {
            inputs.scale *= 1.01;
        }
        if bug == Bug::DroppedKey {
            let n = inputs.n() - 1;
            inputs.k.truncate(n * inputs.d);
            inputs.v.truncate(n * inputs.dv);
        }
        let (mut out, lse) = match self {
            Self::Sequential | Self::Pairwise | Self::Unfused => machine.two_passes(&inputs, self, bug),
            Self::Warps => machine.warps(&inputs, bug),
            Self::Tiles => machine.tiles(&inputs, bug),
            Self::Splits => machine.splits(&inputs, bug),
        };
        if bug == Bug::HalfOutput {
            for x in &mut out {
                *x = Dtype::F16.round(f64::from(*x)) as f32;
            }
        }
        (out, lse)
    }
}

/// Maximum, sum and accumulator of a part of the row.
#[derive(Clone, Debug)]
struct Partial {
    max: f32,
    sum: f32,
    acc: Vec<f32>,
}

struct Machine {
    rng: StdRng,
    flush: bool,
    /// 0: exact functions; 1: random errors; 2: errors that are always as large as allowed.
    style: u64,
}

impl Machine {
    fn f(&self, x: f32) -> f32 {
        if self.flush && x.abs() < f32::MIN_POSITIVE { 0.0 } else { x }
    }

    /// `x` moved by at most `ulps` values.
    fn blur(&mut self, x: f32, ulps: i32) -> f32 {
        if x == 0.0 || !x.is_finite() {
            return x;
        }
        let by = match self.style {
            0 => 0,
            1 => self.rng.random_range(-ulps..=ulps),
            _ => {
                if self.rng.random() {
                    ulps
                } else {
                    -ulps
                }
            }
        };
        let moved = f32::from_bits((x.to_bits() as i32 + by).max(0) as u32);
        if moved.is_finite() && moved.signum() == x.signum() { self.f(moved) } else { x }
    }

    fn expf(&mut self, x: f32) -> f32 {
        if x == 0.0 {
            1.0
        } else {
            let y = f64::from(x).exp() as f32;
            self.blur(y, 2)
        }
    }

    fn exp2(&mut self, x: f32) -> f32 {
        if x == 0.0 {
            1.0
        } else {
            let y = f64::from(x).exp2() as f32;
            self.blur(y, 2)
        }
    }

    /// `__expf`: a product with log2 e, then exp2.
    fn fast_exp(&mut self, x: f32) -> f32 {
        self.exp2(x * LOG2_E)
    }

    fn softcap(&mut self, inputs: &Inputs, s: f32) -> f32 {
        match inputs.softcap {
            None => s,
            Some(cap) => {
                let t = f64::from(s * (1.0 / cap)).tanh() as f32;
                cap * self.blur(t, 2)
            }
        }
    }

    fn tree(&self, terms: &mut Vec<f32>) -> f32 {
        while terms.len() > 1 {
            *terms = terms.chunks(2).map(|pair| self.f(pair.iter().sum())).collect();
        }
        terms.first().copied().unwrap_or(0.0)
    }

    fn dot(&self, inputs: &Inputs, j: usize) -> f32 {
        let mut sum = 0.0f32;
        for (q, k) in inputs.q.iter().zip(inputs.key(j)) {
            sum += q * k;
        }
        sum
    }

    /// 32 lanes over the head dim, then a tree.
    fn lane_dot(&self, inputs: &Inputs, j: usize) -> f32 {
        let mut lanes = vec![0.0f32; 32];
        for (i, (q, k)) in inputs.q.iter().zip(inputs.key(j)).enumerate() {
            lanes[i % 32] = self.f(self.f(*q).mul_add(self.f(*k), lanes[i % 32]));
        }
        self.tree(&mut lanes)
    }

    fn two_passes(&mut self, inputs: &Inputs, kernel: Kernel, bug: Bug) -> (Vec<f32>, f32) {
        let n = inputs.n();
        let pairwise = kernel == Kernel::Pairwise;
        let mut s: Vec<f32> = (0..n)
            .map(|j| {
                let dot = if pairwise {
                    self.tree(&mut inputs.q.iter().zip(inputs.key(j)).map(|(q, k)| q * k).collect())
                } else {
                    self.dot(inputs, j)
                };
                self.softcap(inputs, dot * inputs.scale)
            })
            .collect();
        s.extend(inputs.sink);
        let max = s.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut w: Vec<f32> = s.iter().map(|&x| self.expf(x - max)).collect();
        let sum: f32 = if pairwise { self.tree(&mut w.clone()) } else { w.iter().fold(0.0, |a, b| a + b) };
        if kernel == Kernel::Unfused {
            for w in &mut w {
                *w = Dtype::F16.round(f64::from(*w / sum)) as f32;
            }
        }
        if bug == Bug::LostValue {
            w[0] = 0.0;
        }
        let out = (0..inputs.dv)
            .map(|t| {
                let mut terms: Vec<f32> = (0..n).map(|j| w[j] * inputs.value(j)[t]).collect();
                let x = if pairwise { self.tree(&mut terms) } else { terms.iter().fold(0.0, |a, b| a + b) };
                if kernel == Kernel::Unfused { x } else { x / sum }
            })
            .collect();
        (out, max + sum.ln())
    }

    fn warps(&mut self, inputs: &Inputs, bug: Bug) -> (Vec<f32>, f32) {
        let mut parts: Vec<Partial> = (0..4)
            .map(|warp| {
                let mut part = Partial { max: f32::NEG_INFINITY, sum: 0.0, acc: vec![0.0; inputs.dv] };
                for j in (warp..inputs.n()).step_by(4) {
                    let s = self.f(self.lane_dot(inputs, j) * inputs.scale);
                    let s = self.softcap(inputs, s);
                    let max = part.max.max(s);
                    let factor = if part.max == f32::NEG_INFINITY { 0.0 } else { self.fast_exp(part.max - max) };
                    let weight = self.fast_exp(s - max);
                    part.sum = self.f(part.sum.mul_add(factor, weight));
                    for (acc, &v) in part.acc.iter_mut().zip(inputs.value(j)) {
                        let scaled = if bug == Bug::NoRescale { *acc } else { self.f(*acc * factor) };
                        let weight = if bug == Bug::LostValue && j == 0 { 0.0 } else { weight };
                        *acc = self.f(self.f(v).mul_add(weight, scaled));
                    }
                    part.max = max;
                }
                part
            })
            .collect();
        let max = parts.iter().fold(f32::NEG_INFINITY, |m, part| m.max(part.max));
        let mut total = Partial { max, sum: 0.0, acc: vec![0.0; inputs.dv] };
        for part in &mut parts {
            let factor = if part.max == f32::NEG_INFINITY { 0.0 } else { self.fast_exp(part.max - max) };
            total.sum = self.f(self.f(part.sum * factor) + total.sum);
            for (acc, x) in total.acc.iter_mut().zip(&part.acc) {
                *acc = self.f(self.f(x * factor) + *acc);
            }
        }
        self.finish(inputs, total)
    }

    fn tiles(&mut self, inputs: &Inputs, bug: Bug) -> (Vec<f32>, f32) {
        let c = LOG2_E;
        let mut part = Partial { max: f32::NEG_INFINITY, sum: 0.0, acc: vec![0.0; inputs.dv] };
        let keys: Vec<usize> = (0..inputs.n()).collect();
        for tile in keys.chunks(16) {
            let s: Vec<f32> = tile
                .iter()
                .map(|&j| {
                    let raw = self.dot(inputs, j) * inputs.scale;
                    self.softcap(inputs, raw)
                })
                .collect();
            let max = s.iter().copied().fold(part.max, f32::max);
            let factor = if part.max == f32::NEG_INFINITY { 0.0 } else { self.exp2((part.max - max) * c) };
            part.sum *= factor;
            if bug != Bug::NoRescale {
                part.acc.iter_mut().for_each(|acc| *acc *= factor);
            }
            for (&j, s) in tile.iter().zip(s) {
                let w = self.exp2(s.mul_add(c, -(max * c)));
                part.sum += w;
                let p = if bug == Bug::LostValue && j == 0 { 0.0 } else { Dtype::Bf16.round(f64::from(w)) as f32 };
                for (acc, &v) in part.acc.iter_mut().zip(inputs.value(j)) {
                    *acc = p.mul_add(v, *acc);
                }
            }
            part.max = max;
        }
        self.finish(inputs, part)
    }

    fn splits(&mut self, inputs: &Inputs, bug: Bug) -> (Vec<f32>, f32) {
        let q: Vec<f32> = inputs.q.iter().map(|q| q * inputs.scale).collect();
        let scaled = Inputs { q, ..inputs.clone() };
        let n = inputs.n();
        let keys: Vec<usize> = (0..n).collect();
        let mut parts = Vec::new();
        for split in keys.chunks(n.div_ceil(3)) {
            let mut part = Partial { max: f32::NEG_INFINITY, sum: 0.0, acc: vec![0.0; inputs.dv] };
            for &j in split {
                let dot = self.dot(&scaled, j);
                let s = self.softcap(inputs, dot);
                let max = part.max.max(s);
                let factor = if part.max == f32::NEG_INFINITY { 0.0 } else { self.fast_exp(part.max - max) };
                let w = self.fast_exp(s - max);
                part.sum = part.sum.mul_add(factor, w);
                for (acc, &v) in part.acc.iter_mut().zip(inputs.value(j)) {
                    let scaled = if bug == Bug::NoRescale { *acc } else { *acc * factor };
                    let w = if bug == Bug::LostValue && j == 0 { 0.0 } else { w };
                    *acc = v.mul_add(w, scaled);
                }
                part.max = max;
            }
            let inverse = 1.0 / part.sum;
            part.acc.iter_mut().for_each(|acc| *acc *= inverse);
            let lse = part.max + part.sum.ln();
            parts.push((lse, part.acc));
        }
        let max = parts.iter().fold(f32::NEG_INFINITY, |m, part| m.max(part.0));
        let mut total = Partial { max, sum: 0.0, acc: vec![0.0; inputs.dv] };
        for (lse, acc) in parts {
            let w = self.fast_exp(lse - max);
            total.sum += w;
            for (sum, x) in total.acc.iter_mut().zip(acc) {
                *sum = w.mul_add(x, *sum);
            }
        }
        self.finish(inputs, total)
    }

    /// The sink, left out of the maximum, and the division.
    fn finish(&mut self, inputs: &Inputs, mut part: Partial) -> (Vec<f32>, f32) {
        if let Some(sink) = inputs.sink {
            part.sum += self.fast_exp(sink - part.max);
        }
        let out = part
            .acc
            .iter()
            .map(|x| {
                let y = self.f(x / part.sum);
                self.blur(y, 2)
            })
            .collect();
        (out, part.max + part.sum.ln())
    }
}
