//! Rows that are hard for kernels or for bounds.

use super::kernels::Inputs;
use attnfuzz::float::Dtype;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Distribution {
    Normal,
    Tiny,
    Huge,
    Peaky,
    BigTie,
    NearTie,
    Cancel,
    Sink,
    ConstantV,
    Subnormal,
    Increasing,
    Decreasing,
    ZeroQ,
    OutlierV,
    WideV,
    Integer,
    Underflow,
    SortedV,
    BigV,
}

impl Distribution {
    pub(super) const ALL: [Self; 19] = [
        Self::Normal,
        Self::Tiny,
        Self::Huge,
        Self::Peaky,
        Self::BigTie,
        Self::NearTie,
        Self::Cancel,
        Self::Sink,
        Self::ConstantV,
        Self::Subnormal,
        Self::Increasing,
        Self::Decreasing,
        Self::ZeroQ,
        Self::OutlierV,
        Self::WideV,
        Self::Integer,
        Self::Underflow,
        Self::SortedV,
        Self::BigV,
    ];

    /// Whether the signs of V are independent and random.
    pub(super) fn random_signs(self) -> bool {
        !matches!(self, Self::ConstantV | Self::Decreasing | Self::SortedV | Self::BigV)
    }

    /// A row whose elements are numbers of `dtype`.
    pub(super) fn row(self, n: usize, d: usize, dv: usize, dtype: Dtype, seed: u64) -> Inputs {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut normal = || (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
        let mut q: Vec<f64> = (0..d).map(|_| normal()).collect();
        let mut k: Vec<f64> = (0..n * d).map(|_| normal()).collect();
        let mut v: Vec<f64> = (0..n * dv).map(|_| normal()).collect();
        let half = dtype == Dtype::F16;
        let scale_all = |x: &mut Vec<f64>, f: f64| x.iter_mut().for_each(|x| *x *= f);
        let root = (d as f64).sqrt();
        // Logits that are a given function of the position.
        let logits = |k: &mut Vec<f64>, q: &mut Vec<f64>, noise: f64, f: &dyn Fn(usize) -> f64| {
            q.iter_mut().for_each(|q| *q = 0.0);
            q[0] = root;
            k.iter_mut().for_each(|k| *k *= noise);
            for j in 0..n {
                k[j * d] = f(j);
            }
        };
        let fraction = |j: usize| j as f64 / n.max(2) as f64;
        match self {
            Self::Normal => {}
            Self::Tiny => {
                scale_all(&mut q, 1e-4);
                scale_all(&mut k, 1e-4);
                scale_all(&mut v, 1e-6);
            }
            Self::Huge => {
                scale_all(&mut q, 30.0);
                scale_all(&mut k, 10.0);
            }
            Self::Peaky => scale_all(&mut q, 6.0),
            Self::BigTie => {
                let square: f64 = q.iter().map(|x| x * x).sum::<f64>().max(1e-3);
                for (i, x) in k.iter_mut().enumerate() {
                    *x = 0.05 * *x + 200.0 * root * q[i % d] / square;
                }
                scale_all(&mut q, 8.0);
            }
            Self::NearTie => {
                for i in d..n * d {
                    k[i] = k[i % d] * (1.0 + 1e-6 * k[i]);
                }
            }
            Self::Cancel => {
                q = vec![16.0; d];
                for key in k.chunks_mut(d) {
                    for i in 0..d {
                        key[i] = if i % 2 == 0 { 30.0 * key[i] } else { -key[i - 1] + 0.01 * key[i] };
                    }
                }
            }
            Self::Sink => {
                let square: f64 = q.iter().map(|x| x * x).sum::<f64>().max(1e-3);
                for i in 0..d {
                    k[i] = q[i] / square * 10.0 * root;
                }
                v[..dv].iter_mut().for_each(|x| *x *= 0.01);
            }
            Self::ConstantV => v = (0..n * dv).map(|i| 0.1 + 0.37 * (i % dv) as f64).collect(),
            Self::Subnormal => scale_all(&mut v, if half { 3e-7 } else { 1e-40 }),
            Self::Increasing => logits(&mut k, &mut q, 0.1, &|j| 20.0 * fraction(j)),
            Self::Decreasing => {
                logits(&mut k, &mut q, 0.1, &|j| 20.0 - 20.0 * fraction(j));
                v.iter_mut().for_each(|x| *x = x.abs());
            }
            Self::ZeroQ => q = vec![0.0; d],
            Self::OutlierV => v.iter_mut().step_by(37).for_each(|x| *x *= 1e4),
            Self::WideV => {
                let range = if half { 12 } else { 40 };
                for (i, x) in v.iter_mut().enumerate() {
                    *x *= f64::from(((i * 7919 + 13) % (2 * range + 1)) as i32 - range as i32).exp2();
                }
            }
            Self::Integer => {
                for x in q.iter_mut().chain(&mut k).chain(&mut v) {
                    *x = x.round().clamp(-2.0, 2.0);
                }
            }
            Self::Underflow => {
                logits(&mut k, &mut q, 0.01, &|j| {
                    if j == 0 { 0.0 } else { -55.0 - 56.0 * fraction(j * 7 % n) }
                });
                let big = if half { 6e4 } else { 1e30 };
                v.iter_mut().enumerate().for_each(|(i, x)| *x *= if i < dv { 1e-3 } else { big / 6.0 });
            }
            Self::SortedV => {
                q.iter_mut().for_each(|x| *x *= 0.3);
                v.sort_by(f64::total_cmp);
            }
            Self::BigV => {
                let big = if half { 5e4 } else { 1e30 };
                v.iter_mut().for_each(|x| *x = big * (1.0 + 0.02 * *x));
            }
        }
        let store = |x: Vec<f64>| x.into_iter().map(|x| dtype.round(x) as f32).collect();
        Inputs { q: store(q), k: store(k), v: store(v), d, dv, scale: (1.0 / root) as f32, softcap: None, sink: None }
    }
}
