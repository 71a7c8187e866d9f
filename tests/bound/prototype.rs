//! Rust against the prototype that the bounds were first written and tried in: see prototype.py, which made
//! prototype.tsv.
//!
//! Rust deviates from it on purpose, in the places that [`DEVIATIONS`] lists and no other: a result that none
//! of them touches must agree, and one that some touch must agree with the prototype edited in just those
//! places, and lie on the side of the prototype's result that they say.

use super::draws::Drawn;
use attnfuzz::bound::{Contract, bounds, domain_ok, lse_bound};
use attnfuzz::reference::{Row, attend};
use std::collections::BTreeMap;

const LAMBDA: f64 = 8.0;
const TOLERANCE: f64 = 1e-6;

/// What a deviation does to a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// The prototype's bound can be violated by a kernel that keeps its contract.
    Larger,
    /// A smaller bound is proven.
    Smaller,
    /// Another proof, whose bound is sometimes the one and sometimes the other.
    Either,
}

use Effect::{Either, Larger, Smaller};

/// Name, effect, how many of the table's results it is named in, and why Rust is right.
const DEVIATIONS: [(&str, Effect, usize, &str); 18] = [
    (
        "order",
        Larger,
        687,
        "Rescales happen in the order of the kernel's logits; the prototype counts the exact ones that are larger. \
         Two keys of exact logits 1 and 1 - 2^-30 may be computed as 1 and 1 + 2^-23: the second, seen later, \
         rescales the first, which the prototype says is never rescaled.",
    ),
    (
        "declared",
        Smaller,
        1194,
        "A maximum that did not change rescales by exactly 1, so no element is rescaled more often than there are \
         elements that may come out larger, whatever number of rescales the contract declares.",
    ),
    (
        "bits",
        Larger,
        476,
        "An accumulator that keeps 13 bits cuts 2^-14 off (1 + 2^-7)^2, whose product the prototype calls exact; and \
         a block of zeros cuts again where a carry brought a bit more, which it does not count.",
    ),
    (
        "prescale",
        Larger,
        139,
        "A query scaled before the product may underflow: q = 2^-124, scale 2^-3, k = 2^120 with flushing gives a \
         logit of 0 instead of 2^-7. The prototype allows 2^-9 for the underflow of q k and none for q scale.",
    ),
    (
        "combine",
        Larger,
        1376,
        "Splits combined through their log-sum-exp are weighed against the largest sum, up to n times the largest \
         weight, so a split of one key may be flushed where its weight is n times 2^-126; and their sums are in \
         units of 1, not of the denominator.",
    ),
    (
        "rounded",
        Larger,
        927,
        "A denominator that sums rounded weights is smaller by up to 1 - u_p: values 1 and 0, weights p and 1 - p, p \
         rounded up and 1 - p down give an error of 2 p (1 - p) u_p / (1 - u_p (1 - 2 p)), and the prototype has no \
         such divisor. A maximum raised by `off` puts weights e^off deeper into the subnormals.",
    ),
    (
        "depth",
        Smaller,
        1616,
        "Adding an exact zero is exact, so a row of n elements passes at most n inexact additions however deep the \
         kernel's tree is.",
    ),
    ("hull", Smaller, 58, "A mean of |V_j - o| is at most the largest of them, whatever the weights."),
    (
        "unit",
        Larger,
        1823,
        "What underflows is measured in units of the kernel's own denominator, at least e^-off max(L Z, 1/2), not of \
         the exact L; and with flushing an addition may underflow too: 2^-126 - 1.5 2^-126 is flushed.",
    ),
    (
        "format",
        Larger,
        295,
        "What the format of P may take from a weight is at most the kernel's weight, up to p (1 + eta) / Z, not \
         p (1 + eta); and a weight normalised in binary32 underflows there even if it is rounded no further.",
    ),
    (
        "exact",
        Smaller,
        273,
        "On rows whose weights are 1 and 0 every kernel is exact but for the division: see src/bound/exact.rs.",
    ),
    (
        "terms",
        Either,
        241,
        "Hoeffding needs the root mean square of the kernel's terms, at most sqrt(sum p^2 (1 + eta)^2 V^2) / Z. The \
         prototype multiplies the exact one by exp(2 D) of elements with p > 1e-3 / n only: too little where a \
         lighter one has a large D or may be dropped, too much elsewhere.",
    ),
    (
        "nodes",
        Either,
        235,
        "Partial sums over disjoint elements add up like sqrt(n h), not like n; but a rounding of each of n terms \
         costs up to sqrt(n) times the root mean square, not once.",
    ),
    (
        "lse",
        Larger,
        1029,
        "mu / (1 - mu) bounds nothing from mu = 1 on, where the prototype's bound is negative; weights that may be \
         dropped lower the sum by -ln Z, and its subnormals weigh e^off more; a maximum that lags or overshoots is \
         rounded as a number that much larger.",
    ),
    (
        "domain",
        Larger,
        7,
        "A maximum that lags by `lazy` makes weights as large as e^lazy, which 256 does not cover from 5.55 on. (The \
         domain is what shrinks.)",
    ),
    (
        "overhang",
        Larger,
        1,
        "Under a maximum that lags by `lazy`, weights reach e^lazy and the factor that rescales them later may be cut \
         off whole: a weight of w_cut e^lazy, in the end, is lost with it.",
    ),
    (
        "amplified",
        Larger,
        978,
        "What a weight or product loses to underflow is multiplied, summed and rescaled afterwards, each with its \
         roundings: with u = 2^-11, four roundings make 0.2 % more of it.",
    ),
    (
        "computed",
        Larger,
        1887,
        "What is rounded is the computed logit and the maximum of computed ones, lagging or overshooting: where \
         products cancel they may be far larger than the exact ones, 0 among them.",
    ),
];

const RESULTS: [&str; 5] = ["det", "sgn", "hm", "lse_bound", "domain_ok"];

/// A result of prototype.tsv.
struct Expected<'a> {
    /// What the prototype says.
    said: f64,
    /// The deviations that matter.
    why: Vec<&'a str>,
    /// What it says with them.
    meant: f64,
}

impl<'a> Expected<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split('/');
        let said = parts.next().unwrap().parse().unwrap();
        let why: Vec<&str> = parts.next().map_or_else(Vec::new, |why| why.split(',').collect());
        let meant = parts.next().map_or(said, |meant| meant.parse().unwrap());
        Self { said, why, meant }
    }

    /// What is wrong with a result of Rust's, if anything.
    fn complaint(&self, found: f64) -> Option<String> {
        if !(found == self.meant || (found - self.meant).abs() <= TOLERANCE * self.meant.abs()) {
            return Some(format!("expected {:e}, found {found:e}, {:?}", self.meant, self.why));
        }
        let has = |effect| {
            self.why.iter().any(|why| DEVIATIONS.iter().any(|(name, other, ..)| name == why && *other == effect))
        };
        let side = (has(Larger), has(Smaller), has(Either));
        let right = match side {
            // The domain shrinks: 1 becomes 0.
            _ if self.why == ["domain"] => found < self.said,
            (true, false, false) => found > self.said,
            (false, true, false) => found < self.said,
            _ => true,
        };
        (!right).then(|| {
            let named = DEVIATIONS.iter().filter(|(name, ..)| self.why.contains(name));
            let reasons: Vec<&str> = named.map(|(.., reason)| *reason).collect();
            format!("expected the other side of {:e}, found {found:e}, although {reasons:?}", self.said)
        })
    }
}

#[test]
fn the_prototype_agrees_but_for_the_deviations_listed() {
    let contracts: BTreeMap<String, Contract> = toml::from_str(include_str!("contracts.toml")).unwrap();
    let mut failures = Vec::new();
    let (mut agreed, mut related) = ([0; RESULTS.len()], [0; RESULTS.len()]);
    let mut named: BTreeMap<&str, usize> = BTreeMap::new();
    for line in include_str!("prototype.tsv").lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split('\t').collect();
        let found = results(&fields, &contracts);
        let mut text = "";
        for (i, (&field, found)) in fields[9..].iter().zip(found).enumerate() {
            if field != "=" {
                text = field;
            }
            let expected = Expected::parse(text);
            *(if expected.why.is_empty() { &mut agreed } else { &mut related }).get_mut(i).unwrap() += 1;
            for why in &expected.why {
                *named.entry(why).or_default() += 1;
            }
            if let Some(complaint) = expected.complaint(found) {
                failures.push(format!("{}: {complaint} in {line}", RESULTS[i]));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures[..failures.len().min(20)].join("\n"));
    let counts: BTreeMap<&str, usize> = DEVIATIONS.iter().map(|(name, _, count, _)| (*name, *count)).collect();
    assert_eq!(
        (agreed, related),
        ([1099, 1056, 1173, 1199, 2993], [1901, 1944, 1827, 1801, 7]),
        "results that agree, and results that deviate, of {RESULTS:?}"
    );
    assert_eq!(named, counts, "results that each deviation is named in");
}

/// det, sgn, hm, the bound of the log-sum-exp, and whether the row is in the domain.
fn results(fields: &[&str], contracts: &BTreeMap<String, Contract>) -> [f64; RESULTS.len()] {
    let drawn = Drawn::parse(fields);
    let (q, k, v) = drawn.inputs();
    let reference = attend(&Row {
        q: &q,
        k: &k,
        v: &v,
        head_dim: drawn.d,
        v_head_dim: drawn.v_head_dim,
        scale: fields[7].parse().unwrap(),
        softcap: None,
        sink: None,
    });
    let contract = contracts[fields[2]].at(reference.elements(), drawn.d);
    let bounds = bounds(&reference, &contract, LAMBDA);
    let column: usize = fields[8].parse().unwrap();
    [
        bounds.det[column],
        bounds.sgn[column],
        bounds.hm[column],
        lse_bound(&reference, &contract),
        f64::from(u8::from(domain_ok(&reference, &contract))),
    ]
}
