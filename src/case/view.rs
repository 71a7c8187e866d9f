//! Cases whose elements are another case's, looked up elsewhere or changed exactly.

use super::values::{Role, RowAt};
use super::{Case, CaseParts};
use crate::float::Dtype;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How a row of a case is made from the row that its values give: the other half of a [`Relation`](super::Relation).
///
/// A case with a view is a case like any other: it can be run, judged and saved.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum View {
    /// Keys and values in another order: those that every query sees among themselves, and those that none does, see
    /// [`CaseParts::interchangeable`].
    KeysPermuted,
    /// Token `t` is token `t / n`.
    KeysRepeated(u32),
    /// Token `t` is token `t + n`, modulo 2^32.
    KeysFrom(u32),
    /// Query token `t` is query token `t + n`, modulo 2^32.
    QueriesFrom(u32),
    /// KV head `h` is KV head `h / n`, its query head is that head's `h % n`-th.
    HeadsRepeated(u32),
    /// The last request is first.
    RequestsReversed,
    /// Every request is this one.
    Request(u32),
    /// The last dimension of Q and K is first.
    DimsReversed,
    /// The last column of V is first.
    ColumnsReversed,
    /// The last dimension is 1 in every query and this number in every key.
    Reserved(i32),
    /// Q is times 2 to this power, K is over it.
    FactorsMoved(i32),
    /// V is times 2 to this power.
    ValuesScaled(i32),
    /// V is negated.
    ValuesNegated,
    /// V is 1 more.
    ValuesRaised,
    /// V is 1.
    ValuesOne,
}

impl Case {
    /// Appends the row of `role` at `at` to `out`: `head_dim` elements, of V `v_head_dim`, all of the case's dtype. Of a
    /// sink it is one element, in binary32.
    pub fn row(&self, role: Role, at: RowAt, out: &mut Vec<f64>) {
        let dim = match role {
            Role::V => self.shape.v_head_dim,
            Role::Q | Role::K => self.shape.head_dim,
            Role::Sink => 1,
        };
        let at = match role {
            Role::K | Role::V => RowAt { request: self.owner(at.request, at.token), ..at },
            Role::Q | Role::Sink => at,
        };
        let dtype = if role == Role::Sink { Dtype::F32 } else { self.dtype };
        let start = out.len();
        let source = self.view.map_or(at, |view| view.source(self, role, at));
        self.values.row(role, source, dim, dtype, out);
        if let Some(only) = &self.only {
            only.apply(role, source, &mut out[start..]);
        }
        if let Some(view) = self.view {
            view.change(role, self.dtype, &mut out[start..]);
        }
    }

    /// The logit of a query head's sink, if there are sinks.
    pub fn sink(&self, kv_head: u32, member: u32) -> Option<f64> {
        self.features.sinks.then(|| {
            let mut row = Vec::with_capacity(1);
            self.row(Role::Sink, RowAt { request: 0, kv_head, member, token: 0 }, &mut row);
            row[0]
        })
    }

    /// Whether V has independent random signs, independent of Q, K and |V|.
    ///
    /// Not where only some elements keep their values. A set of elements that was fixed before the signs were drawn would
    /// do no harm, but a search chose this one by what the kernel made of the signs: each answer halves or keeps a set, so
    /// a union bound would have to count every set that any answers lead to, not the few hundred that were tried.
    pub fn v_is_sign_random(&self) -> bool {
        let viewed = !matches!(self.view, Some(View::KeysRepeated(_) | View::ValuesRaised | View::ValuesOne));
        viewed && self.only.is_none() && self.values.recipe.v_is_sign_random()
    }
}

impl View {
    /// Which row of the case without a view is at `at`.
    fn source(self, case: &CaseParts, role: Role, at: RowAt) -> RowAt {
        match self {
            Self::KeysPermuted if matches!(role, Role::K | Role::V) => {
                RowAt { token: exchanged(case, at.request, at.token), ..at }
            }
            Self::KeysRepeated(n) if matches!(role, Role::K | Role::V) => RowAt { token: at.token / n.max(1), ..at },
            Self::KeysFrom(n) if matches!(role, Role::K | Role::V) => RowAt { token: at.token.wrapping_add(n), ..at },
            Self::QueriesFrom(n) if role == Role::Q => RowAt { token: at.token.wrapping_add(n), ..at },
            Self::HeadsRepeated(n) => {
                let member = if matches!(role, Role::Q | Role::Sink) { at.kv_head % n.max(1) } else { at.member };
                RowAt { kv_head: at.kv_head / n.max(1), member, ..at }
            }
            Self::RequestsReversed | Self::Request(_) if role == Role::Sink => at,
            Self::RequestsReversed => RowAt { request: (case.shape.batch() - 1).saturating_sub(at.request), ..at },
            Self::Request(request) => RowAt { request, ..at },
            _ => at,
        }
    }

    fn change(self, role: Role, dtype: Dtype, row: &mut [f64]) {
        let scale = |row: &mut [f64], power: i32| {
            let factor = libm::ldexp(1.0, power);
            row.iter_mut().for_each(|x| *x = dtype.round(*x * factor));
        };
        match (self, role) {
            (Self::DimsReversed, Role::Q | Role::K) | (Self::ColumnsReversed, Role::V) => row.reverse(),
            (Self::Reserved(_), Role::Q) => row.iter_mut().rev().take(1).for_each(|x| *x = 1.0),
            (Self::Reserved(n), Role::K) => {
                row.iter_mut().rev().take(1).for_each(|x| *x = dtype.round(f64::from(n)));
            }
            (Self::FactorsMoved(power), Role::Q) | (Self::ValuesScaled(power), Role::V) => scale(row, power),
            (Self::FactorsMoved(power), Role::K) => scale(row, power.saturating_neg()),
            (Self::ValuesNegated, Role::V) => row.iter_mut().for_each(|x| *x = -*x),
            (Self::ValuesRaised, Role::V) => row.iter_mut().for_each(|x| *x = dtype.round(*x + 1.0)),
            (Self::ValuesOne, Role::V) => row.fill(1.0),
            _ => {}
        }
    }
}

/// Where the key at `token` comes from: one that no query can tell from it by its place.
fn exchanged(case: &CaseParts, request: u32, token: u32) -> u32 {
    let ranges = case.interchangeable(request as usize);
    let range = ranges.into_iter().find(|range| range.contains(&token));
    range.map_or(token, |range| range.start + permuted(token - range.start, range.len() as u32))
}

/// A permutation of `0..count`; what is not below `count` stays.
fn permuted(token: u32, count: u32) -> u32 {
    if token >= count {
        return token;
    }
    let (token, count) = (u64::from(token), u64::from(count));
    // A step of about the golden section puts neighbours far apart.
    let step = (count * 5 / 8..count).find(|&step| gcd(step, count) == 1).unwrap_or(1);
    ((token * step + count / 3) % count) as u32
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeysPermuted => f.write_str("keys-permuted"),
            Self::KeysRepeated(n) => write!(f, "keys-repeated:{n}"),
            Self::KeysFrom(n) => write!(f, "keys-from:{n}"),
            Self::QueriesFrom(n) => write!(f, "queries-from:{n}"),
            Self::HeadsRepeated(n) => write!(f, "heads-repeated:{n}"),
            Self::RequestsReversed => f.write_str("requests-reversed"),
            Self::Request(n) => write!(f, "request:{n}"),
            Self::DimsReversed => f.write_str("dims-reversed"),
            Self::ColumnsReversed => f.write_str("columns-reversed"),
            Self::Reserved(n) => write!(f, "reserved:{n}"),
            Self::FactorsMoved(n) => write!(f, "factors-moved:{n}"),
            Self::ValuesScaled(n) => write!(f, "values-scaled:{n}"),
            Self::ValuesNegated => f.write_str("values-negated"),
            Self::ValuesRaised => f.write_str("values-raised"),
            Self::ValuesOne => f.write_str("values-one"),
        }
    }
}

impl FromStr for View {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let (name, number) = s.split_once(':').map_or((s, None), |(name, number)| (name, Some(number)));
        let wrong = || {
            format!(
                "expected keys-permuted, keys-repeated:N, keys-from:N, queries-from:N, heads-repeated:N, requests-reversed, request:N, \
                 dims-reversed, columns-reversed, reserved:N, factors-moved:N, values-scaled:N, values-negated, \
                 values-raised or values-one, found {s:?}"
            )
        };
        let count = || number.and_then(|n| n.parse::<u32>().ok()).ok_or_else(wrong);
        // Exponents that can't turn a number of any dtype into nothing or infinity by themselves.
        let signed = |limit: i32| {
            number.and_then(|n| n.parse::<i32>().ok()).filter(|n| (-limit..=limit).contains(n)).ok_or_else(wrong)
        };
        let view = match name {
            "keys-repeated" => Self::KeysRepeated(count()?.max(1)),
            "keys-from" => Self::KeysFrom(count()?),
            "queries-from" => Self::QueriesFrom(count()?),
            "heads-repeated" => Self::HeadsRepeated(count()?.max(1)),
            "request" => Self::Request(count()?),
            "reserved" => Self::Reserved(signed(1 << 16)?),
            "factors-moved" => Self::FactorsMoved(signed(64)?),
            "values-scaled" => Self::ValuesScaled(signed(64)?),
            _ => {
                let plain = [
                    Self::KeysPermuted,
                    Self::RequestsReversed,
                    Self::DimsReversed,
                    Self::ColumnsReversed,
                    Self::ValuesNegated,
                    Self::ValuesRaised,
                    Self::ValuesOne,
                ];
                return plain.into_iter().find(|view| view.to_string() == s).ok_or_else(wrong);
            }
        };
        Ok(view)
    }
}

impl TryFrom<String> for View {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<View> for String {
    fn from(view: View) -> Self {
        view.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_permuted_one_to_one_and_seldom_stay() {
        for count in 1..300 {
            let mut places: Vec<u32> = (0..count).map(|t| permuted(t, count)).collect();
            let stay = places.iter().enumerate().filter(|&(t, &place)| t as u32 == place).count();
            assert!(count < 3 || stay * 3 <= count as usize, "{stay} of {count} stay");
            places.sort_unstable();
            assert!(places.into_iter().eq(0..count));
        }
        assert_eq!(permuted(7, 5), 7);
    }

    #[test]
    fn a_view_prints_back() {
        for text in [
            "keys-permuted",
            "keys-repeated:2",
            "keys-from:9",
            "queries-from:4294967295",
            "heads-repeated:7",
            "requests-reversed",
            "request:3",
            "dims-reversed",
            "columns-reversed",
            "reserved:-5",
            "factors-moved:4",
            "values-scaled:-6",
            "values-negated",
            "values-raised",
            "values-one",
        ] {
            assert_eq!(text.parse::<View>().unwrap().to_string(), text);
        }
        for text in ["", "keys", "keys-permuted:3", "keys-repeated", "request:-1", "values-scaled:65", "reserved:x"] {
            assert!(text.parse::<View>().unwrap_err().starts_with("expected keys-permuted, "), "{text}");
        }
    }
}
