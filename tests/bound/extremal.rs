//! A correct kernel that is as wrong as its contract lets it be.
//!
//! It runs one row in f64, and wherever its contract allows an error it makes the largest one, in the direction
//! that moves the output most. What it does is what the contract's fields say of a kernel's operations; it knows
//! nothing of the bound's formulas. So its error must stay within the bound, and comes near it.

use super::kernels::Inputs;
use attnfuzz::bound::{PDen, Resolved, TensorCore};
use attnfuzz::float::lowest_bit;

const SMALLEST_NORMAL: f64 = f32::MIN_POSITIVE as f64;
const SUBNORMAL: f64 = SMALLEST_NORMAL * f32::EPSILON as f64;

/// One column of a row, run under a contract.
pub(super) struct Extremal<'a> {
    pub(super) contract: &'a Resolved,
    pub(super) inputs: &'a Inputs,
    /// The exact output, which the kernel moves away from.
    pub(super) exact: f64,
    /// Up or down: 1 or -1.
    pub(super) push: f64,
    /// Whether the denominator sums rounded weights, where the contract leaves it open.
    pub(super) sums_rounded: bool,
}

/// Maximum, sum and accumulator of a part of the row.
struct Partial {
    max: f64,
    sum: f64,
    acc: f64,
}

impl Extremal<'_> {
    /// The output before the store, and the log-sum-exp.
    pub(super) fn run(&self) -> (f64, f64) {
        let (c, n) = (self.contract, self.inputs.n());
        let logits: Vec<f64> = (0..n).map(|j| self.logit(j)).collect();
        let splits = if c.r_comb > 0.0 { 2 } else { 1 };
        let keys: Vec<usize> = (0..n).collect();
        let mut whole: Option<Partial> = None;
        for split in keys.chunks(n.div_ceil(splits).max(1)) {
            let part = self.split(&logits, split);
            whole = Some(match whole {
                None => part,
                Some(before) => self.merge(before, part),
            });
        }
        let mut whole = whole.unwrap_or(Partial { max: f64::NEG_INFINITY, sum: 0.0, acc: 0.0 });
        if let Some(sink) = self.inputs.sink {
            let e = self.toward(0.0);
            let logit = f64::from(sink) * (1.0 + e * sink.signum() as f64 * c.u * (c.k_s + 1.0));
            self.rescale(&mut whole, logit);
            whole.sum = self.sum_step(whole.sum, self.weight(logit, whole.max, e));
        }
        let lse = whole.max + c.off + whole.sum.ln() + self.push * (-21.4f64).exp2();
        if c.p_norm { (self.normalised_first(&logits), lse) } else { (self.divide(whole.acc, whole.sum), lse) }
    }

    /// The direction in which a weight moves the output by `push`.
    fn toward(&self, value: f64) -> f64 {
        if value >= self.exact { self.push } else { -self.push }
    }

    fn value(&self, j: usize) -> f64 {
        self.input(self.inputs.v[j * self.inputs.dv])
    }

    fn input(&self, x: f32) -> f64 {
        if self.contract.ftz && x.is_subnormal() { 0.0 } else { f64::from(x) }
    }

    /// Whether `x` is a number of the accumulator's precision, so that no operation may miss it.
    fn representable(&self, x: f64) -> bool {
        let bits = -self.contract.u.log2();
        x == 0.0 || x.abs().log2().floor() - f64::from(lowest_bit(x)) < bits
    }

    /// `x` after `count` roundings in the direction of `e`.
    fn rounded(&self, x: f64, e: f64, count: f64) -> f64 {
        if self.representable(x) { x } else { x + e * x.abs() * ((1.0 + self.contract.u).powf(count) - 1.0) }
    }

    /// A sum rounded to nearest: it never errs by more than its smaller operand.
    fn add(&self, a: f64, b: f64, e: f64, errs: bool) -> f64 {
        let x = a + b;
        let most = (self.contract.u * x.abs()).min(a.abs()).min(b.abs());
        let x = if !errs || self.representable(x) { x } else { x + e * most };
        if self.contract.ftz { self.underflowed(x) } else { x }
    }

    /// A product's result where it is subnormal.
    fn underflowed(&self, x: f64) -> f64 {
        if x.abs() >= SMALLEST_NORMAL {
            x
        } else if self.contract.ftz {
            0.0
        } else {
            (x / SUBNORMAL).round_ties_even() * SUBNORMAL
        }
    }

    fn logit(&self, j: usize) -> f64 {
        let (c, d) = (self.contract, self.inputs.d);
        let (scale, e) = (f64::from(self.inputs.scale), self.toward(self.value(j)));
        let row = &self.inputs.k[j * d..][..d];
        let pairs: Vec<(f64, f64)> =
            self.inputs.q.iter().zip(row).map(|(&q, &k)| (self.input(q), self.input(k))).collect();
        // A dot product over one product is a monotone function of it: its roundings choose no direction.
        let single = pairs.iter().filter(|(q, k)| q * k != 0.0).count() == 1;
        let round = |x: f64, e: f64, count: f64| {
            if single && count > 0.0 { f64::from(x as f32) } else { self.rounded(x, e, count) }
        };
        let (products, scaling) = ((c.k_qk - 1.0).max(0.0), c.k_qk.min(1.0));
        // The sign of the scale, where it comes last.
        let last = if c.prescale_lossy { 1.0 } else { scale.signum() };
        let mut terms = Vec::new();
        for (q, k) in pairs {
            // Away from zero if that moves the logit in the right direction.
            let away = e * (q * k * scale).signum();
            let operand = if single { 1.0 } else { 1.0 + away * c.u_in };
            let (mut q, k) = (q * operand, k * operand);
            if c.prescale_lossy {
                q = self.underflowed(round(q * scale, away * (q * scale).signum(), scaling));
            }
            terms.push(self.underflowed(round(q * k, e * last, products)));
        }
        let mut raw = if let Some(tc) = c.tc {
            terms.chunks(tc.width as usize).fold(0.0, |acc, block| tensor_core(tc, acc, block))
        } else {
            let errs = c.h_qk.is_none_or(|h| h >= d as f64);
            terms.iter().fold(0.0, |acc, &term| self.add(acc, term, e * last, errs))
        };
        let exact = self.representable(raw) && raw == terms.iter().sum::<f64>();
        if !c.prescale_lossy {
            raw = self.underflowed(if exact && scaling > 0.0 {
                f64::from((raw * scale) as f32)
            } else {
                round(raw * scale, e, scaling)
            });
        }
        // So is what follows, and what follows an exact one.
        raw += c.k_s * c.u * if single || exact { self.push * raw } else { e * raw.abs() };
        match self.inputs.softcap {
            None => raw,
            Some(cap) => {
                let cap = f64::from(cap);
                let argument = raw / cap;
                // tanh(0) = 0, as exp(0) = 1.
                let missed = if raw == 0.0 { 0.0 } else { c.e_tanh };
                let tanh = (argument + e * argument.abs() * c.u).tanh() + e * missed;
                cap * tanh * (1.0 + e * tanh.signum() * c.u)
            }
        }
    }

    /// `exp(x)`, off by all that is allowed in the direction of `e`.
    fn exp(&self, x: f64, e: f64) -> f64 {
        let c = self.contract;
        if x == 0.0 {
            return 1.0;
        }
        let mut w = (x + e * c.u * c.k_x * x.abs()).exp() * (1.0 + e * c.e0);
        if w < SMALLEST_NORMAL {
            w = if c.ftz { 0.0 } else { (w + e * 3.0 * SUBNORMAL).max(0.0) };
        }
        if w <= c.w_cut { 0.0 } else { w }
    }

    fn weight(&self, logit: f64, max: f64, e: f64) -> f64 {
        let c = self.contract;
        let product = if logit == max { 0.0 } else { e * c.u * c.k_m * logit.abs().max(max.abs()) };
        self.exp(logit - (max + c.off) + product, e)
    }

    /// A weight as it meets its value.
    fn rounded_weight(&self, w: f64, e: f64) -> f64 {
        let c = self.contract;
        if c.u_p == 0.0 || (w == 1.0 && c.off == 0.0) {
            return w;
        }
        // To nearest: at most u_p of the result, which is u_p / (1 + u_p) of the weight.
        w + e * (c.u_p / (1.0 + c.u_p) * w).max(c.tau_p).min(w)
    }

    fn sum_step(&self, sum: f64, w: f64) -> f64 {
        let e = -self.push * self.exact.signum();
        self.add(sum, w, e, self.contract.h_l.is_none_or(|h| h >= self.inputs.n() as f64))
    }

    /// A new maximum, if it is ahead by more than the contract lets it lag.
    fn rescale(&self, part: &mut Partial, max: f64) {
        if max <= part.max + self.contract.lazy {
            return;
        }
        if part.max > f64::NEG_INFINITY {
            self.multiply(part, part.max - max, 0.0);
        }
        part.max = max;
    }

    /// Multiplies by `exp(x)`, itself off by `error` in the logarithm.
    fn multiply(&self, part: &mut Partial, x: f64, error: f64) {
        let e = self.push * (part.acc - self.exact * part.sum).signum();
        let factor = self.exp(x, e) * (e * error).exp();
        part.acc = self.underflowed(self.rounded(part.acc * factor, self.push, 1.0));
        part.sum = self.underflowed(self.rounded(part.sum * factor, -self.push * self.exact.signum(), 1.0));
    }

    fn split(&self, logits: &[f64], keys: &[usize]) -> Partial {
        let c = self.contract;
        let one_tile = keys.len().max(1);
        let tile = match (c.r, c.tc) {
            _ if c.p_norm => one_tile,
            (Some(r), _) => one_tile.div_ceil(r as usize + 1),
            (None, Some(tc)) => tc.width as usize,
            (None, None) => 1,
        };
        let mut part = Partial { max: f64::NEG_INFINITY, sum: 0.0, acc: 0.0 };
        for tile in keys.chunks(tile) {
            let max = tile.iter().fold(f64::NEG_INFINITY, |m, &j| logits[j].max(m));
            self.rescale(&mut part, max);
            let mut terms = Vec::new();
            for &j in tile {
                let v = self.value(j);
                let e = self.toward(v);
                let w = self.weight(logits[j], part.max, e);
                let sums_rounded = match c.p_den {
                    // Divided first, weights are rounded when their sum is known.
                    _ if c.p_norm => false,
                    PDen::No => false,
                    PDen::Yes => true,
                    PDen::Either => self.sums_rounded,
                };
                let p = self.rounded_weight(w, if sums_rounded { e } else { self.push * v.signum() });
                let counted = if sums_rounded { p } else { w };
                part.sum = self.sum_step(part.sum, counted);
                terms.push(self.term(p, v));
            }
            part.acc = self.accumulate(part.acc, &terms);
        }
        part
    }

    fn term(&self, p: f64, v: f64) -> f64 {
        let away = self.push * v.signum();
        let product = p * (1.0 + away * self.contract.u_in) * v * (1.0 + away * self.contract.u_in);
        self.underflowed(self.rounded(product, self.push, self.contract.k_pv))
    }

    fn accumulate(&self, acc: f64, terms: &[f64]) -> f64 {
        match self.contract.tc {
            Some(tc) => terms.chunks(tc.width as usize).fold(acc, |acc, block| tensor_core(tc, acc, block)),
            None => {
                let errs = self.contract.h_pv.is_none_or(|h| h >= self.inputs.n() as f64);
                terms.iter().fold(acc, |acc, &term| self.add(acc, term, self.push, errs))
            }
        }
    }

    fn merge(&self, mut a: Partial, mut b: Partial) -> Partial {
        let max = a.max.max(b.max);
        for part in [&mut a, &mut b] {
            self.multiply(part, part.max - max, self.contract.e_abs);
        }
        let acc = self.accumulate(a.acc, &[b.acc]);
        Partial { max, sum: self.sum_step(a.sum, b.sum), acc }
    }

    fn divide(&self, acc: f64, sum: f64) -> f64 {
        let out = acc / sum;
        let out = out * (1.0 + self.push * out.signum() * self.contract.e_div);
        if out.abs() >= SMALLEST_NORMAL {
            out
        } else if self.contract.ftz {
            0.0
        } else {
            out + self.push * 2.5 * SUBNORMAL
        }
    }

    /// Weights divided by their sum before they are rounded and meet the values.
    fn normalised_first(&self, logits: &[f64]) -> f64 {
        let keys: Vec<usize> = (0..self.inputs.n()).collect();
        let whole = self.split(logits, &keys);
        let mut sum = whole.sum;
        if let Some(sink) = self.inputs.sink {
            sum += self.weight(f64::from(sink), whole.max, self.toward(0.0));
        }
        let terms: Vec<f64> = keys
            .iter()
            .map(|&j| {
                let v = self.value(j);
                let w = self.weight(logits[j], whole.max, self.toward(v)) / sum;
                let e = self.push * v.signum();
                self.term(self.rounded_weight(self.underflowed(w * (1.0 + e * self.contract.e_div)), e), v)
            })
            .collect();
        self.accumulate(0.0, &terms)
    }
}

/// The accumulator after one block: every addend cut to `bits` fractional bits of the largest, the sum to binary32.
pub(super) fn tensor_core(tc: TensorCore, acc: f64, products: &[f64]) -> f64 {
    let largest = products.iter().fold(acc.abs(), |m, x| m.max(x.abs()));
    if largest == 0.0 {
        return 0.0;
    }
    let cut = |x: f64, bits: f64| {
        let unit = (largest.log2().floor() - bits).exp2();
        (x / unit).trunc() * unit
    };
    let sum = cut(acc, f64::from(tc.bits)) + products.iter().map(|&x| cut(x, f64::from(tc.bits))).sum::<f64>();
    if sum == 0.0 {
        return 0.0;
    }
    let unit = (sum.abs().log2().floor() - 23.0).exp2();
    (sum / unit).trunc() * unit
}
