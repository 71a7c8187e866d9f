//! Inputs that are functions of an integer hash, so that a vector need not hold them. As in vectors.py.

/// Which inputs, and their shape.
pub(super) struct Drawn<'a> {
    pub(super) row: u64,
    pub(super) recipe: &'a str,
    /// Significant bits of every number before a recipe scales it.
    pub(super) bits: u32,
    /// Keys.
    pub(super) n: usize,
    /// Head dim of query and keys.
    pub(super) d: usize,
    /// Columns of V.
    pub(super) v_head_dim: usize,
}

impl<'a> Drawn<'a> {
    /// From the first fields of a vector: row, recipe, contract, bits, n, d, columns.
    pub(super) fn parse(fields: &[&'a str]) -> Self {
        Self {
            row: fields[0].parse().unwrap(),
            recipe: fields[1],
            bits: fields[3].parse().unwrap(),
            n: fields[4].parse().unwrap(),
            d: fields[5].parse().unwrap(),
            v_head_dim: fields[6].parse().unwrap(),
        }
    }

    /// The recipes of vectors.py: query, keys and values.
    pub(super) fn inputs(&self) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
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
            "enormous" => {
                times(&mut q, (40.0 + modulo(self.draw(3, 0), 64)).exp2());
                times(&mut k, modulo(self.draw(3, 1), 64).exp2());
                times(&mut v, (106.0 + modulo(self.draw(3, 2), 16)).exp2());
            }
            "faint" => {
                times(&mut q, 2f64.powi(-120));
                times(&mut k, 2f64.powi(118));
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
