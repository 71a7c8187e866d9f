//! Rust against a second implementation, in Python: see vectors.py, which made vectors.tsv.

use attnfuzz::bound::{Contract, bounds, lse_bound};
use attnfuzz::reference::{Row, attend};
use std::collections::BTreeMap;

const LAMBDA: f64 = 8.0;

/// Sums come in another order, and `exp` from another library.
const TOLERANCE: f64 = 1e-9;

#[test]
fn every_vector_agrees() {
    let contracts: BTreeMap<String, Contract> = toml::from_str(include_str!("contracts.toml")).unwrap();
    let mut failures = Vec::new();
    let mut rows = 0;
    for line in include_str!("vectors.tsv").lines().filter(|line| !line.starts_with('#')) {
        let vector = Vector::parse(line);
        rows += 1;
        for (what, found, expected, slack) in vector.compare(&contracts) {
            let same = found == expected || (found - expected).abs() <= TOLERANCE * expected.abs() + slack;
            if !same {
                failures.push(format!("{what}: expected {expected:e}, found {found:e} in {line}"));
            }
        }
    }
    assert!(rows >= 2000, "only {rows} vectors");
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures[..failures.len().min(20)].join("\n"));
}

/// One line of vectors.tsv.
struct Vector<'a> {
    row: u64,
    recipe: &'a str,
    contract: &'a str,
    bits: u32,
    n: usize,
    d: usize,
    v_head_dim: usize,
    scale: f32,
    softcap: Option<f32>,
    sink: Option<f64>,
    column: usize,
    results: Vec<f64>,
}

impl<'a> Vector<'a> {
    fn parse(line: &'a str) -> Self {
        let fields: Vec<&str> = line.split('\t').collect();
        Self {
            row: fields[0].parse().unwrap(),
            recipe: fields[1],
            contract: fields[2],
            bits: fields[3].parse().unwrap(),
            n: fields[4].parse().unwrap(),
            d: fields[5].parse().unwrap(),
            v_head_dim: fields[6].parse().unwrap(),
            scale: fields[7].parse().unwrap(),
            softcap: fields[8].parse().ok(),
            sink: fields[9].parse().ok(),
            column: fields[10].parse().unwrap(),
            results: fields[11..].iter().map(|x| x.parse().unwrap()).collect(),
        }
    }

    /// Name, found, expected and absolute slack of each result.
    fn compare(&self, contracts: &BTreeMap<String, Contract>) -> Vec<(&'static str, f64, f64, f64)> {
        let (q, k, v) = self.inputs();
        let reference = attend(&Row {
            q: &q,
            k: &k,
            v: &v,
            head_dim: self.d,
            v_head_dim: self.v_head_dim,
            scale: self.scale,
            softcap: self.softcap,
            sink: self.sink,
        });
        let contract = contracts[self.contract].at(reference.elements(), self.d);
        let bounds = bounds(&reference, &contract, LAMBDA);
        let (t, expected) = (self.column, &self.results);
        // The output may cancel; the bounds depend on it through |V - o|.
        let slack = TOLERANCE * reference.v_mean_abs[t];
        vec![
            ("o", reference.o[t], expected[0], slack),
            ("det", bounds.det[t], expected[1], 1e-12 * slack),
            ("sgn", bounds.sgn[t], expected[2], 1e-12 * slack),
            ("hm", bounds.hm[t], expected[3], 1e-12 * slack),
            ("lse", reference.lse, expected[4], TOLERANCE),
            ("lse_bound", lse_bound(&reference, &contract), expected[5], 0.0),
        ]
    }

    /// The recipes of vectors.py.
    fn inputs(&self) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let (n, d, dv) = (self.n, self.d, self.v_head_dim);
        let tensor = |tensor: u64, count: usize| -> Vec<f64> {
            (0..count as u64).map(|i| self.unit(self.draw(tensor, i))).collect()
        };
        let (mut q, mut k, mut v) = (tensor(0, d), tensor(1, n * d), tensor(2, n * dv));
        let times = |x: &mut Vec<f64>, factor: f64| x.iter_mut().for_each(|x| *x *= factor);
        let modulo = |h: u64, m: u64| (h % m) as f64;
        match self.recipe {
            "uniform" => {}
            "peaky" => times(&mut q, 8.0),
            "huge" => {
                times(&mut q, 32.0);
                times(&mut k, 16.0);
            }
            "tiny" => {
                times(&mut q, 2f64.powi(-12));
                times(&mut k, 2f64.powi(-12));
                times(&mut v, 2f64.powi(-20));
            }
            "zero" => times(&mut q, 0.0),
            "integer" => {
                let integer = |tensor, i: usize| modulo(self.draw(tensor, i as u64), 5) - 2.0;
                q = (0..d).map(|i| integer(0, i)).collect();
                k = (0..n * d).map(|i| integer(1, i)).collect();
                times(&mut v, 8.0);
            }
            "cancel" => {
                q = vec![16.0; d];
                times(&mut k, 32.0);
                for key in k.chunks_exact_mut(d) {
                    for i in (1..d).step_by(2) {
                        key[i] = -key[i - 1] + key[i] / 2048.0;
                    }
                }
            }
            "ties" => {
                for j in 3..n {
                    let (first, rest) = k.split_at_mut(j * d);
                    rest[..d].copy_from_slice(&first[j % 3 * d..][..d]);
                }
            }
            "constant" => v = (0..n * dv).map(|i| 0.375 * (i % dv + 1) as f64).collect(),
            "wide" => {
                for (i, x) in v.iter_mut().enumerate() {
                    *x *= (modulo(self.draw(3, i as u64), 81) - 40.0).exp2();
                }
            }
            "selector" => {
                q = vec![0.0; d];
                q[d - 1] = 2048.0;
                for j in 0..n {
                    k[j * d + d - 1] = if j == 0 { 0.0 } else { -modulo(self.draw(3, j as u64), 2) };
                }
            }
            "spread" => {
                q = vec![0.0; d];
                q[0] = 8.0;
                for j in 0..n {
                    k[j * d] = if j == 0 { 0.0 } else { -modulo(self.draw(3, j as u64), 1024) / 8.0 };
                }
            }
            "subnormal" => {
                times(&mut q, 2f64.powi(100));
                times(&mut k, 2f64.powi(-130));
                times(&mut v, 2f64.powi(-130));
            }
            "sparse" => {
                q[1..d - 1].fill(0.0);
                times(&mut q, 4.0);
            }
            other => panic!("no recipe {other}"),
        }
        (q, k, v)
    }

    fn draw(&self, tensor: u64, i: u64) -> u64 {
        splitmix((self.row << 40) ^ (tensor << 36) ^ i)
    }

    /// A number in [-1, 1) with at most `bits` bits.
    fn unit(&self, h: u64) -> f64 {
        let half = 1i64 << (self.bits - 1);
        ((h >> (64 - self.bits)) as i64 - half) as f64 / half as f64
    }
}

fn splitmix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
