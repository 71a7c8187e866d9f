//! Closures under test, as a crate that uses this one has them.

use attnfuzz::backend::{Claim, Emulator};
use attnfuzz::bound::LseBase;
use attnfuzz::case::{Case, Domain, StorageKind};
use attnfuzz::float::{Dtype, bf16, f16};
use attnfuzz::harness::{Harness, Inputs, Outputs, Settings, Storable, Tensor};
use attnfuzz::oracle::examine;
use attnfuzz::regression::{Finding, Replayed, Store, replay};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// What a subject of this file gets wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// Query head `h` takes KV head `h mod num_kv_heads`.
    HeadMod,
    /// Panics from this many keys on.
    PanicsFrom(u32),
    /// Panics at another place.
    PanicsElsewhere,
    /// The last element of the output is left as it was.
    LastNotWritten,
    /// One element too few where there is more than one KV head.
    OneTooFew,
    /// The output of another type.
    OutInF32,
    /// The caches are not given back.
    CachesKept,
    /// New tokens are attended to, but not in the cache that is given back.
    NotAppended,
    /// The slot behind the last token is multiplied by no weight.
    ReadsBehind,
    /// The first number changes from call to call.
    Counts,
    /// The log-sum-exp is in base 2.
    LseBaseTwo,
    /// The log-sum-exp is missing.
    NoLse,
}

trait Element: Storable
where
    Tensor: From<Vec<Self>>,
{
    fn get(self) -> f32;
    fn put(x: f32) -> Self;
}

macro_rules! element {
    ($type:ty, $get:expr, $put:expr) => {
        impl Element for $type {
            fn get(self) -> f32 {
                $get(self)
            }

            fn put(x: f32) -> Self {
                $put(x)
            }
        }
    };
}

element!(f32, |x| x, |x| x);
element!(f16, f16::to_f32, f16::from_f32);
element!(bf16, bf16::to_f32, bf16::from_f32);

/// Attention in binary32, as a caller's launcher would be asked for it.
fn attend<T: Element>(case: &Case, mut inputs: Inputs, bug: Bug, calls: &AtomicU32) -> Outputs
where
    Tensor: From<Vec<T>>,
{
    let shape = &case.shape;
    let (dim, v_dim) = (shape.head_dim as usize, shape.v_head_dim as usize);
    let before = (inputs.k_cache.clone(), inputs.v_cache.clone());
    let (k, v) = (inputs.k_cache.as_mut_slice::<T>(), inputs.v_cache.as_mut_slice::<T>());
    let (q, out) = (inputs.q.as_slice::<T>(), inputs.out.as_mut_slice::<T>());
    let row_of = |layout: &attnfuzz::case::CacheMap, request, head, token: u32| layout.offset(request, head, token);
    let mut first_token = 0;
    for request in 0..shape.batch() {
        let at = request as usize;
        let (past_len, q_len) = (inputs.past_len[at] as u32, inputs.q_len[at] as u32);
        assert_eq!(first_token, inputs.cu_q_len[at] as u32);
        assert_eq!(inputs.kv_len[at], inputs.cu_kv_len[at + 1] - inputs.cu_kv_len[at]);
        for (query, head) in (0..q_len).flat_map(|query| (0..shape.num_kv_heads).map(move |head| (query, head))) {
            if case.features.append {
                let from = ((first_token + query) * shape.num_kv_heads + head) as usize;
                let k_row = row_of(&inputs.k_layout, request, head, past_len + query);
                let v_row = row_of(&inputs.v_layout, request, head, past_len + query);
                k[k_row..][..dim].copy_from_slice(&inputs.k_new.as_slice()[from * dim..][..dim]);
                v[v_row..][..v_dim].copy_from_slice(&inputs.v_new.as_slice()[from * v_dim..][..v_dim]);
            }
        }
        for (query, head) in (0..q_len).flat_map(|query| (0..shape.num_q_heads()).map(move |head| (query, head))) {
            let keys = case.visible(at, inputs.step, query);
            assert!(bug != Bug::PanicsElsewhere || keys.end < 7, "too many keys");
            if let Bug::PanicsFrom(limit) = bug {
                assert!(keys.end < limit, "{} keys are too many", keys.end);
            }
            let kv_head = if bug == Bug::HeadMod { head % shape.num_kv_heads } else { head / shape.q_per_kv };
            let row = ((first_token + query) * shape.num_q_heads() + head) as usize;
            let q = &q[row * dim..][..dim];
            let logits: Vec<f32> = keys
                .clone()
                .map(|token| {
                    let k = &k[row_of(&inputs.k_layout, request, kv_head, token)..][..dim];
                    inputs.scale * q.iter().zip(k).map(|(q, k)| q.get() * k.get()).sum::<f32>()
                })
                .collect();
            let sink = inputs.sinks.get(head as usize).copied();
            let max = logits.iter().copied().chain(sink).fold(f32::NEG_INFINITY, f32::max);
            let weights: Vec<f32> = logits.iter().map(|logit| (logit - max).exp()).collect();
            let sum = weights.iter().sum::<f32>() + sink.map_or(0.0, |sink| (sink - max).exp());
            if let Some(lse) = inputs.lse.get_mut(row) {
                let nats = max + sum.ln();
                *lse = if bug == Bug::LseBaseTwo { nats * std::f32::consts::LOG2_E } else { nats };
            }
            for (i, element) in out[row * v_dim..][..v_dim].iter_mut().enumerate() {
                let value = |token| v[row_of(&inputs.v_layout, request, kv_head, token) + i].get();
                let mut total: f32 = keys.clone().zip(&weights).map(|(token, weight)| weight * value(token)).sum();
                if bug == Bug::ReadsBehind && keys.end < case.cache.capacity {
                    total += 0.0 * value(keys.end);
                }
                let is_last = bug == Bug::LastNotWritten && row + 1 == shape.num_q_heads() as usize && i + 1 == v_dim;
                if !is_last {
                    *element = T::put(if keys.is_empty() { 0.0 } else { total / sum });
                }
            }
        }
        first_token += q_len;
    }
    let mut made = out.to_vec();
    match bug {
        Bug::OneTooFew if shape.num_kv_heads > 1 => drop(made.pop()),
        Bug::Counts => made[0] = T::put((calls.fetch_add(1, Ordering::Relaxed) % 1024) as f32),
        _ => {}
    }
    let outputs = match bug {
        Bug::OutInF32 => Outputs::new(made.into_iter().map(T::get).collect::<Vec<f32>>()),
        _ => Outputs::new(made),
    };
    let outputs = if inputs.lse.is_empty() || bug == Bug::NoLse { outputs } else { outputs.lse(inputs.lse) };
    match bug {
        Bug::CachesKept => outputs,
        _ if !case.features.append => outputs,
        Bug::NotAppended => outputs.caches(before.0, before.1),
        _ => outputs.caches(inputs.k_cache, inputs.v_cache),
    }
}

fn harness(claim: impl Into<Claim>, bug: Bug) -> Harness {
    let calls = AtomicU32::new(0);
    Harness::of_closure("subject", claim, move |case, inputs| match case.dtype {
        Dtype::F32 => attend::<f32>(case, inputs, bug, &calls),
        Dtype::F16 => attend::<f16>(case, inputs, bug, &calls),
        Dtype::Bf16 => attend::<bf16>(case, inputs, bug, &calls),
    })
    .unwrap()
}

/// Decoding in every dtype, with appended tokens, several steps and padded rows.
fn appending() -> Domain {
    Domain {
        dtype: Dtype::ALL.to_vec(),
        head_dim: (1..=64).into(),
        q_per_kv: (1..=8).into(),
        q_len: (1..=3).into(),
        past_len: (0..=64).into(),
        steps: (1..=3).into(),
        row_pad: (0..=4).into(),
        ..Domain::default()
    }
}

/// Everything else that a closure can be asked for.
fn everything_else() -> Claim {
    let domain = Domain {
        dtype: Dtype::ALL.to_vec(),
        head_dim: (1..=64).into(),
        v_head_dim: Some((1..=64).into()),
        q_len: (0..=3).into(),
        past_len: (0..=64).into(),
        append: false,
        causal: vec![true, false],
        window: Some((1..=64).into()),
        sinks: true,
        storage: vec![StorageKind::PerRequest, StorageKind::Packed, StorageKind::Paged],
        page_size: Some((1..=16).into()),
        ..Domain::default()
    };
    Claim::from(domain).lse(LseBase::E)
}

#[test]
fn a_right_closure_agrees() {
    harness(appending(), Bug::None).test(&Settings::cases(150)).unwrap();
    harness(everything_else(), Bug::None).test(&Settings::cases(150)).unwrap();
}

/// The report of a wrong closure, and the finding that was saved.
fn caught(claim: impl Into<Claim>, bug: Bug) -> (String, Finding) {
    let folder = tempfile::tempdir().unwrap();
    let harness = harness(claim, bug).saving_below(folder.path());
    let report = harness.test(&Settings::cases(200)).unwrap_err();
    let files = Store::new(folder.path()).files_of("subject").unwrap();
    assert!(files[0].starts_with(folder.path().join("cases/subject")));
    let finding = Finding::load(&files[0]).unwrap();
    assert!(report.contains(&finding.line), "{bug:?}: {report}");
    // The second time it is told by its file, before any search.
    let again = harness.test(&Settings::cases(0)).unwrap_err();
    assert!(again.contains(&*files[0].to_string_lossy()), "{bug:?}: {again}");
    (report, finding)
}

#[test]
fn each_bug_is_told_as_what_it_is() {
    for (bug, class) in [
        (Bug::HeadMod, "diverge out value"),
        (Bug::PanicsFrom(7), "fault panic"),
        (Bug::LastNotWritten, "fault not-written"),
        (Bug::OneTooFew, "fault malformed-output"),
        (Bug::OutInF32, "fault malformed-output"),
        (Bug::CachesKept, "fault malformed-output"),
        (Bug::ReadsBehind, "fault reads-poison"),
        (Bug::Counts, "fault not-repeatable"),
    ] {
        let (report, finding) = caught(appending(), bug);
        assert_eq!(finding.signature.class, class, "{bug:?}: {report}");
        assert_eq!(finding.backend, "closure");
    }
    let (report, finding) = caught(appending(), Bug::NotAppended);
    assert!(finding.signature.class.starts_with("diverge k_cache"), "{report}");
    for (bug, class) in [(Bug::LseBaseTwo, "diverge lse value"), (Bug::NoLse, "fault malformed-output")] {
        assert_eq!(caught(everything_else(), bug).1.signature.class, class);
    }
}

#[test]
fn messages_have_what_was_expected_and_found() {
    let (report, finding) = caught(appending(), Bug::OneTooFew);
    assert_eq!(finding.case.shape.num_kv_heads, 2, "{report}");
    assert!(report.contains("out: expected 2 elements of f32, found 1 of f32 (step 1)"), "{report}");
    let (report, finding) = caught(appending(), Bug::PanicsFrom(7));
    assert_eq!(finding.case.kv_len_at(0, finding.case.steps - 1), 7, "{report}");
    assert!(
        report.contains("  --> tests/closure.rs:") && report.contains("= 7 keys are too many (step 1)"),
        "{report}"
    );
    let place = finding.signature.place.clone().unwrap();
    assert!(place.starts_with("tests/closure.rs:"), "{place}");
    // Another panic is another finding.
    let (_, other) = caught(appending(), Bug::PanicsElsewhere);
    assert_eq!(other.signature.class, finding.signature.class);
    assert!(!other.signature.matches(&finding.signature), "{place}");
    assert!(report.contains("replay: cargo test subject"), "{report}");
    let (report, _) = caught(appending(), Bug::OutInF32);
    assert!(report.contains("out: expected 1 elements of f16, found 1 of f32"), "{report}");
    let (report, _) = caught(appending(), Bug::CachesKept);
    assert!(report.contains("caches: expected them back, since the domain has append = true, found none"), "{report}");
}

/// A closure that asks for another type than the case has is told so, as the panic that it is.
#[test]
fn a_slice_of_another_type_says_both() {
    let domain = Domain { dtype: vec![Dtype::F16], append: false, ..Domain::default() };
    let harness = Harness::of_closure("subject", domain, |_, inputs| Outputs::new(inputs.q.as_slice::<f32>().to_vec()));
    let report = harness.unwrap().test(&Settings::cases(1)).unwrap_err();
    assert!(report.contains("expected a tensor of f32, found one of f16"), "{report}");
}

#[test]
fn a_fixed_closure_passes_with_its_old_finding() {
    let folder = tempfile::tempdir().unwrap();
    harness(appending(), Bug::HeadMod).saving_below(folder.path()).test(&Settings::cases(200)).unwrap_err();
    let fixed = harness(appending(), Bug::None);
    assert_eq!(fixed.replay_saved(folder.path()).map(|files| files.len()), Ok(1));
    fixed.saving_below(folder.path()).test(&Settings::cases(5)).unwrap();
}

#[test]
fn a_finding_of_a_closure_says_which_test_has_it() {
    let (_, finding) = caught(appending(), Bug::HeadMod);
    assert_eq!(finding.kernel, "code:subject");
    let error = finding.open_kernel(Path::new("finding.toml")).unwrap_err().to_string();
    assert!(error.starts_with("the kernel \"subject\" is made in code"), "{error}");
    // No kernel's code is there to be run by another backend: that is no fault of the closure.
    let harness = harness(appending(), Bug::None);
    let error = examine(&Emulator, harness.kernel(), &finding.case).unwrap_err().to_string();
    assert!(error.contains("it is a closure"), "{error}");
    assert!(matches!(replay(&finding, harness.kernel(), &Emulator), Replayed::CannotRun(_)));
}

#[test]
fn wrong_claims_are_refused_with_their_field() {
    let refused = |name: &str, claim: Claim| {
        let error = Harness::of_closure(name, claim, |_, inputs| Outputs::new(inputs.out)).err();
        error.expect("it is refused").to_string()
    };
    let error = refused("a/b", appending().into());
    assert_eq!(error, "code:a/b: name: expected 1 to 64 letters, digits, _ or -, found \"a/b\"");
    let error = refused("x", Domain { head_dim: 5000.into(), ..appending() }.into());
    assert!(error.starts_with("code:x: domain: domain.head_dim: expected a value from 1 to 4096"), "{error}");
    let error = refused("x", Domain { dtype: Vec::new(), ..appending() }.into());
    assert!(error.contains("domain.dtype: expected at least one choice"), "{error}");
    let mut claim = Claim::from(appending());
    claim.numerics.r = "ceil(n / num_splits)".parse().unwrap();
    let error = refused("x", claim);
    assert!(error.starts_with("code:x: numerics.r: ") && error.contains("num_splits"), "{error}");
}

// What the macro makes is a test like any other; ATTNFUZZ_CASES would make it longer.
attnfuzz::test_kernel!(
    closure_by_macro,
    Domain { append: false, past_len: (1..=64).into(), ..Domain::default() },
    |case, inputs| attend::<f32>(case, inputs, Bug::None, &AtomicU32::new(0))
);
attnfuzz::test_kernel!(
    #[should_panic(expected = "code:closure_by_macro_refused: domain: domain.dtype: expected at least one choice")]
    closure_by_macro_refused,
    Domain { dtype: Vec::new(), ..Domain::default() },
    |_, inputs| Outputs::new(inputs.out)
);
