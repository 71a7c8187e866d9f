//! The bits that a run left, in 64 bits.

use crate::backend::{BackendError, BackendKind, Kernel};
use crate::case::Case;
use crate::case::codec::fnv1a;
use crate::oracle::Examiner;
use crate::outcome::{Fault, Outcome, Output};
use crate::tensor::Buffer;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Stands for every bit that the first run of a case left: outputs and log-sum-exps of each step, both caches with their
/// poison. A run that ended in a fault has no output and stands for the fault's kind and detail.
///
/// It is made of the dtype, the number and the little-endian bytes of the elements, in that order of tensors, so it is the
/// same on every machine that computes the same bits. In files it is sixteen hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(u64);

impl Digest {
    /// Of the first run of `case`, which is run here.
    pub fn of_first_run(backend: &dyn Examiner, kernel: &Kernel, case: &Case) -> Result<Self, BackendError> {
        backend.run_first(kernel, case).map(|outcome| Self::of(&outcome))
    }

    /// What a finding remembers of its case: nothing unless the backend gives the same bits each time, as the emulator does.
    pub(crate) fn to_remember(backend: &dyn Examiner, kernel: &Kernel, case: &Case) -> Option<Self> {
        let repeats = backend.kind() == BackendKind::Emulator;
        repeats.then(|| Self::of_first_run(backend, kernel, case).ok()).flatten()
    }

    /// Of what a run left.
    pub fn of(outcome: &Outcome) -> Self {
        Self(fnv1a(
            match outcome {
                Outcome::Output(output) => outputs(output),
                Outcome::Fault(Fault { kind, detail, .. }) => format!("fault {kind}: {detail}"),
            }
            .as_bytes(),
        ))
    }
}

fn outputs(output: &Output) -> String {
    let Output { out, lse, k_cache, v_cache } = output;
    let steps = |name, buffers: &[Buffer]| buffers.iter().map(move |buffer| tensor(name, buffer)).collect::<String>();
    steps("out", out) + &steps("lse", lse) + &tensor("k_cache", k_cache) + &tensor("v_cache", v_cache)
}

fn tensor(name: &str, buffer: &Buffer) -> String {
    format!("{name} {} {} {:016x}\n", buffer.dtype(), buffer.len(), fnv1a(buffer.bytes()))
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let digits = s.len() == 16 && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let number = digits.then(|| u64::from_str_radix(s, 16).ok()).flatten();
        number.map(Self).ok_or_else(|| format!("expected sixteen hexadecimal digits, found {s:?}"))
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float::Dtype;
    use crate::outcome::FaultKind;
    use proptest::prelude::*;
    use proptest::sample::Index;

    fn output(lens: [usize; 4], seed: u32) -> Output {
        let mut next = seed;
        let mut buffer = |dtype: Dtype, len: usize| {
            let mut buffer = Buffer::filled(dtype, len, 0);
            (0..len).for_each(|i| {
                next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                buffer.set_bits(i, next);
            });
            buffer
        };
        Output {
            out: vec![buffer(Dtype::F16, lens[0]), buffer(Dtype::F16, lens[0])],
            lse: vec![buffer(Dtype::F32, lens[1])],
            k_cache: buffer(Dtype::F16, lens[2]),
            v_cache: buffer(Dtype::F16, lens[3]),
        }
    }

    fn digest(output: Output) -> Digest {
        Digest::of(&Outcome::Output(output))
    }

    proptest! {
        #[test]
        fn any_bit_of_any_output_counts(lens in [1..40usize, 1..40, 1..40, 1..40], seed: u32, place: Index, bit: Index) {
            let whole = output(lens, seed);
            let mut other = whole.clone();
            let Output { out, lse, k_cache, v_cache } = &mut other;
            let mut buffers: Vec<&mut Buffer> = out.iter_mut().chain(lse).chain([k_cache, v_cache]).collect();
            let buffer = &mut buffers[place.index(5)];
            let (element, bits) = (place.index(buffer.len()), 8 * buffer.dtype().size_bytes());
            let changed = buffer.bits(element) ^ (1 << bit.index(bits));
            buffer.set_bits(element, changed);
            prop_assert_eq!(digest(whole.clone()), digest(output(lens, seed)));
            prop_assert_ne!(digest(whole), digest(other));
        }

        #[test]
        fn it_prints_back(number: u64) {
            let digest = Digest(number);
            prop_assert_eq!(digest.to_string().parse(), Ok(digest));
        }
    }

    #[test]
    fn the_same_bytes_elsewhere_are_other_outputs() {
        let whole = output([4, 0, 3, 3], 1);
        let mut moved = whole.clone();
        std::mem::swap(&mut moved.k_cache, &mut moved.v_cache);
        assert_ne!(digest(whole.clone()), digest(moved));
        let mut retyped = whole.clone();
        retyped.k_cache = Buffer::from_bytes(Dtype::Bf16, whole.k_cache.bytes().to_vec());
        assert_ne!(digest(whole), digest(retyped));
    }

    #[test]
    fn a_fault_is_its_kind_and_detail_and_not_its_place() {
        let of = |fault: Fault| Digest::of(&Outcome::Fault(fault));
        let fault = Fault::new(FaultKind::Race, "two writes of 4 bytes");
        let site = crate::outcome::Site {
            ptx_line: Some(7),
            instruction: "st.shared.f32 [%r1], %f1".into(),
            source: None,
            block: Some([0; 3]),
            warp: Some(0),
            lane: Some(0),
        };
        assert_eq!(of(fault.clone()), of(Fault { site: Some(site), ..fault.clone() }));
        assert_ne!(of(fault.clone()), of(Fault { kind: FaultKind::Trap, ..fault.clone() }));
        assert_ne!(of(fault), of(Fault::new(FaultKind::Race, "two writes of 8 bytes")));
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        for text in
            ["", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeg", "+123456789abcdef", "0123456789ABCDEF"]
        {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    /// Never to change: stored findings hold it.
    #[test]
    fn the_digest_of_known_bits_stays() {
        assert_eq!(digest(output([2, 1, 3, 2], 5)).to_string(), "71ae969a5bdf8656");
    }
}
