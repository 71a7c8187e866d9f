//! What a case asks of attention besides softmax(scale QK^T)V, and which keys a query may see.

use super::{CaseParts, Invalid, Request};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Masks, and changes of the logits. The default is causal attention over a cache to which each step appends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Features {
    /// Whether each step appends its tokens' keys and values to the cache. If not, the cache holds every key from the
    /// start, and `past_len` is the number of them.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub append: bool,
    /// Whether a query sees no key after its own position.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub causal: bool,
    /// A query sees at most so many keys up to its own position, that one included, and none before (sliding window).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
    /// `cap` in `cap * tanh(scale * q.k / cap)`, which replaces the logit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub softcap: Option<f32>,
    /// Whether each query head has an attention sink: a logit more, neither scaled nor capped, whose value is zero.
    #[serde(default, skip_serializing_if = "is_no")]
    pub sinks: bool,
}

impl Features {
    /// Causal attention that appends, with nothing else.
    pub const PLAIN: Self = Self { append: true, causal: true, window: None, softcap: None, sinks: false };

    /// Whether this is [`Features::PLAIN`].
    pub fn is_plain(&self) -> bool {
        *self == Self::PLAIN
    }

    pub(super) fn check(&self) -> Result<(), Invalid> {
        if self.window == Some(0) {
            return Err(Invalid { field: "window", expected: "at least 1 key".into(), found: "0".into() });
        }
        if let Some(cap) = self.softcap.filter(|cap| !cap.is_finite() || *cap <= 0.0) {
            let expected = "a finite number above 0".into();
            return Err(Invalid { field: "softcap", expected, found: cap.to_string() });
        }
        Ok(())
    }
}

impl Default for Features {
    fn default() -> Self {
        Self::PLAIN
    }
}

impl CaseParts {
    /// Tokens that a step of `request` appends.
    pub fn appended_len(&self, request: usize) -> u32 {
        if self.features.append { self.shape.requests[request].q_len } else { 0 }
    }

    /// Tokens in the cache of `request` when step `step` (from 0) starts.
    pub fn past_len_at(&self, request: usize, step: u32) -> u32 {
        self.shape.requests[request].past_len + step * self.appended_len(request)
    }

    /// Keys of `request` at `step`, those that the step appends included.
    pub fn kv_len_at(&self, request: usize, step: u32) -> u32 {
        self.past_len_at(request, step + 1)
    }

    /// Token slots that the longest request needs, and at least one; at most `u32::MAX`. Also of parts that are no Case.
    pub fn needed_capacity(&self) -> u32 {
        let appended = |r: &Request| if self.features.append { u64::from(self.steps) * u64::from(r.q_len) } else { 0 };
        let most = self.shape.requests.iter().map(|r| u64::from(r.past_len) + appended(r)).max();
        u32::try_from(most.unwrap_or(0).max(1)).unwrap_or(u32::MAX)
    }

    /// Keys that query token `query` (from 0, within its step) of `request` may see at `step`.
    ///
    /// The last query is at the position of the last key, as in FlashAttention since 2.1: with more queries than keys, the
    /// first ones are before every key, and causally see none.
    pub fn visible(&self, request: usize, step: u32, query: u32) -> Range<u32> {
        let kv_len = i64::from(self.kv_len_at(request, step));
        let after = kv_len - i64::from(self.shape.requests[request].q_len) + i64::from(query) + 1;
        let high = if self.features.causal { after.clamp(0, kv_len) } else { kv_len };
        let low = self.features.window.map_or(0, |window| (after - i64::from(window)).clamp(0, high));
        low as u32..high as u32
    }

    /// Whether every query of `request` sees every key that the request ever has.
    pub fn sees_all(&self, request: usize) -> bool {
        let [first, last] = self.first_and_last_view(request);
        let q_len = self.shape.requests[request].q_len;
        q_len == 0 || last.start == 0 && first.end == self.kv_len_at(request, self.steps - 1)
    }

    /// Ranges of keys of `request` of which each query sees all or nothing, so that their order doesn't matter: those
    /// before every window, and those that every query sees.
    pub fn interchangeable(&self, request: usize) -> [Range<u32>; 2] {
        let [first, last] = self.first_and_last_view(request);
        [0..first.start, last.start..first.end.max(last.start)]
    }

    /// What the first query of `request` sees and what the last one does; both ends of what is seen only rise between.
    fn first_and_last_view(&self, request: usize) -> [Range<u32>; 2] {
        let last = self.shape.requests[request].q_len.saturating_sub(1);
        [self.visible(request, 0, 0), self.visible(request, self.steps - 1, last)]
    }
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_yes(b: &bool) -> bool {
    *b
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_no(b: &bool) -> bool {
    !*b
}

#[cfg(test)]
mod tests {
    use crate::case::Case;

    fn visible(line: &str) -> Vec<(u32, u32)> {
        let line = format!("kv=1 g=1 d=8 dtype=f32 scale=1 values=flat:0 {line}");
        let case: Case = line.parse().unwrap();
        (0..case.shape.requests[0].q_len)
            .map(|query| case.visible(0, case.steps - 1, query))
            .map(|keys| (keys.start, keys.end))
            .collect()
    }

    #[test]
    fn the_last_query_sees_the_last_key() {
        assert_eq!(visible("past=3 cache=hnd:4"), [(0, 4)]);
        assert_eq!(visible("past=3 q=2 steps=2 cache=hnd:7"), [(0, 6), (0, 7)]);
        assert_eq!(visible("past=3 append=no cache=hnd:4"), [(0, 3)]);
        assert_eq!(visible("past=2 q=4 append=no cache=hnd:4"), [(0, 0), (0, 0), (0, 1), (0, 2)]);
        assert_eq!(visible("past=2 q=3 append=no causal=no cache=hnd:4"), [(0, 2), (0, 2), (0, 2)]);
        assert_eq!(visible("past=0 q=1 append=no cache=hnd:4"), [(0, 0)]);
    }

    #[test]
    fn keys_that_may_change_places_are_seen_by_all_or_none() {
        for line in [
            "past=9 cache=hnd:40",
            "past=9 window=4 cache=hnd:40",
            "past=9 q=3 steps=2 cache=hnd:40",
            "past=9 q=3 steps=2 window=8 cache=hnd:40",
            "past=9 q=3 steps=2 window=2 cache=hnd:40",
            "past=9 q=3 causal=no cache=hnd:40",
            "past=9 q=3 steps=3 causal=no window=7 cache=hnd:40",
            "past=9 q=4 append=no causal=no window=5 cache=hnd:40",
            "past=9 q=4 append=no cache=hnd:40",
            "past=3 q=7 append=no cache=hnd:40",
            "past=3,8 q=7,0 append=no causal=no cache=hnd:40",
            "past=0 append=no cache=hnd:40",
        ] {
            let case: Case = format!("kv=1 g=1 d=8 dtype=f32 scale=1 values=flat:0 {line}").parse().unwrap();
            let views: Vec<_> = (0..case.steps)
                .flat_map(|step| (0..case.shape.requests[0].q_len).map(move |query| (step, query)))
                .map(|(step, query)| case.visible(0, step, query))
                .collect();
            let kv_len = case.kv_len_at(0, case.steps - 1);
            for keys in case.interchangeable(0) {
                assert!(keys.end <= kv_len, "{line}");
                for view in &views {
                    let seen = keys.clone().filter(|key| view.contains(key)).count();
                    assert!(seen == 0 || seen == keys.len(), "{line}: {keys:?} {view:?}");
                }
            }
            assert_eq!(case.sees_all(0), views.iter().all(|view| *view == (0..kv_len)), "{line}");
        }
        let case: Case = "kv=1 g=1 d=8 dtype=f32 scale=1 values=flat:0 past=9 window=4 cache=hnd:40".parse().unwrap();
        assert_eq!(case.interchangeable(0), [0..6, 6..10]);
    }

    #[test]
    fn a_window_ends_at_the_query() {
        assert_eq!(visible("past=3 window=1 cache=hnd:4"), [(3, 4)]);
        assert_eq!(visible("past=3 window=3 cache=hnd:4"), [(1, 4)]);
        assert_eq!(visible("past=3 window=4 cache=hnd:4"), [(0, 4)]);
        assert_eq!(visible("past=3 window=9 cache=hnd:4"), [(0, 4)]);
        assert_eq!(visible("past=5 q=3 append=no window=2 cache=hnd:5"), [(1, 3), (2, 4), (3, 5)]);
        assert_eq!(visible("past=5 q=3 append=no causal=no window=2 cache=hnd:5"), [(1, 5), (2, 5), (3, 5)]);
        assert_eq!(visible("past=1 q=3 append=no window=1 cache=hnd:5"), [(0, 0), (0, 0), (0, 1)]);
    }
}
