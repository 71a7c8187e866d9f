//! Rust against a second implementation, in Python: see vectors.py, which made vectors.tsv.

use super::draws::Drawn;
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
    contract: &'a str,
    drawn: Drawn<'a>,
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
            contract: fields[2],
            drawn: Drawn::parse(&fields),
            scale: fields[7].parse().unwrap(),
            softcap: fields[8].parse().ok(),
            sink: fields[9].parse().ok(),
            column: fields[10].parse().unwrap(),
            results: fields[11..].iter().map(|x| x.parse().unwrap()).collect(),
        }
    }

    /// Name, found, expected and absolute slack of each result.
    fn compare(&self, contracts: &BTreeMap<String, Contract>) -> Vec<(&'static str, f64, f64, f64)> {
        let (q, k, v) = self.drawn.inputs();
        let reference = attend(&Row {
            q: &q,
            k: &k,
            v: &v,
            head_dim: self.drawn.d,
            v_head_dim: self.drawn.v_head_dim,
            scale: self.scale,
            softcap: self.softcap,
            sink: self.sink,
        });
        let contract = contracts[self.contract].at(reference.elements(), self.drawn.d);
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
}
