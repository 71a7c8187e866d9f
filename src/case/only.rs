//! A case whose values are 0 but for a few elements.
//!
//! In a line it is `only=v0.1.0.0,k0.0.3.0-7`: a tensor's letter, then for each of its axes a number, a range with both
//! ends, or `*` for all; `*` at the end is left out, so `only=q,v0` is all of Q and request 0 of V. `only=none` is no
//! element at all. Axes are those that values depend on:
//!
//! | tensor | axes |
//! |---|---|
//! | `q` | request, KV head, member of its group, query token from the first step on, dim |
//! | `k`, `v` | request, KV head, position, dim |
//! | `s`, sinks | KV head, member of its group |

use super::CaseParts;
use super::values::{Role, RowAt};
use crate::float::Dtype;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Most regions that an [`Only`] may have.
pub const MAX_REGIONS: usize = 64;

/// The elements that keep the value their recipe gives; every other one is 0.
///
/// They are named by coordinates, as values are made from: a case with another shape keeps those of them that it has. Of a
/// case with a [`View`](super::View) they are those of the case that the view looks up.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Only(Vec<Region>);

/// Elements of one tensor: all whose coordinate lies within a span on every axis.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Region {
    role: Role,
    /// By axis; all of those that the tensor lacks.
    spans: [Span; 5],
}

/// Numbers in a row, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Span {
    /// The lowest.
    pub first: u32,
    /// The highest, not below the lowest.
    pub last: u32,
}

/// An axis of the tensors that recipes fill.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Axis {
    /// Request in the batch.
    Request,
    /// KV head.
    KvHead,
    /// Query head within its KV head's group.
    Member,
    /// Token, as [`RowAt`] counts it.
    Token,
    /// Element of a row.
    Dim,
}

/// An element that isn't 0.
#[derive(Clone, PartialEq, Debug)]
pub struct Element {
    /// Its tensor.
    pub role: Role,
    /// Its place on each of the tensor's [`Role::axes`].
    pub at: Vec<u32>,
    /// Its value, before any view.
    pub value: f64,
}

impl Role {
    /// Every tensor that a recipe fills.
    pub const ALL: [Self; 4] = [Self::Q, Self::K, Self::V, Self::Sink];

    /// The axes by which its elements are told apart.
    pub fn axes(self) -> &'static [Axis] {
        match self {
            Self::Q => &[Axis::Request, Axis::KvHead, Axis::Member, Axis::Token, Axis::Dim],
            Self::K | Self::V => &[Axis::Request, Axis::KvHead, Axis::Token, Axis::Dim],
            Self::Sink => &[Axis::KvHead, Axis::Member],
        }
    }

    fn letter(self) -> char {
        match self {
            Self::Q => 'q',
            Self::K => 'k',
            Self::V => 'v',
            Self::Sink => 's',
        }
    }
}

impl Span {
    /// Every number.
    pub const ALL: Self = Self { first: 0, last: u32::MAX };

    /// How many numbers.
    pub fn count(self) -> u64 {
        u64::from(self.last - self.first) + 1
    }

    fn contains(self, n: u32) -> bool {
        (self.first..=self.last).contains(&n)
    }

    /// What of it is below `end`.
    fn below(self, end: u32) -> Option<Self> {
        let last = self.last.min(end.checked_sub(1)?);
        (self.first <= last).then_some(Self { last, ..self })
    }

    fn count_below(self, end: u32) -> u64 {
        self.below(end).map_or(0, Self::count)
    }
}

impl Region {
    /// All of a tensor.
    pub fn whole(role: Role) -> Self {
        Self { role, spans: [Span::ALL; 5] }
    }

    /// Its tensor.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Its extent along an axis.
    pub fn span(&self, axis: Axis) -> Span {
        self.spans[axis as usize]
    }

    /// The same with another extent along an axis. An axis that the tensor lacks stays.
    pub fn with(mut self, axis: Axis, span: Span) -> Self {
        if self.role.axes().contains(&axis) {
            self.spans[axis as usize] = span;
        }
        self
    }

    /// What of it a case has, and no larger than need be; nothing if the case has none of it.
    pub fn within(self, case: &CaseParts) -> Option<Self> {
        if self.role == Role::Sink && !case.features.sinks {
            return None;
        }
        let mut region = self;
        for &axis in self.role.axes() {
            region = region.with(axis, self.span(axis).below(region.extent(axis, case))?);
        }
        Some(region)
    }

    /// The same elements of a case, but every span that is all there is, and more than one, becomes [`Span::ALL`]. All of a
    /// tensor is all of it in every case.
    pub fn widened(self, case: &CaseParts) -> Self {
        let whole = Self::whole(self.role);
        let count = self.count(case);
        if count > 1 && count == whole.count(case) {
            return whole;
        }
        let axes = self.role.axes().iter();
        axes.fold(self, |region, &axis| {
            let (span, extent) = (self.span(axis), self.extent(axis, case));
            let all = extent > 1 && span.first == 0 && span.count() >= u64::from(extent);
            if all { region.with(axis, Span::ALL) } else { region }
        })
    }

    /// How long an axis is in a case; tokens, those of the longest of its requests.
    fn extent(&self, axis: Axis, case: &CaseParts) -> u32 {
        let shape = &case.shape;
        match axis {
            Axis::Request => shape.requests.len() as u32,
            Axis::KvHead => shape.num_kv_heads,
            Axis::Member => shape.q_per_kv,
            Axis::Token => self.lengths(case).max().unwrap_or(0),
            Axis::Dim if self.role == Role::V => shape.v_head_dim,
            Axis::Dim => shape.head_dim,
        }
    }

    /// Tokens of each of its requests.
    fn lengths<'a>(&self, case: &'a CaseParts) -> impl Iterator<Item = u32> + use<'a> {
        let (role, requests) = (self.role, self.span(Axis::Request));
        let all = 0..case.shape.requests.len();
        all.filter(move |&r| requests.contains(r as u32)).map(move |r| match role {
            Role::Q => case.steps.saturating_mul(case.shape.requests[r].q_len),
            Role::K | Role::V => case.past_len_at(r, case.steps),
            Role::Sink => 0,
        })
    }

    /// How many elements of a case it names.
    pub fn count(&self, case: &CaseParts) -> u64 {
        if self.role == Role::Sink && !case.features.sinks {
            return 0;
        }
        self.role.axes().iter().fold(1, |count: u64, &axis| {
            count.saturating_mul(match axis {
                // Tokens of each request are counted together.
                Axis::Request => 1,
                Axis::Token => {
                    let tokens = self.lengths(case).map(|length| self.span(Axis::Token).count_below(length));
                    tokens.fold(0, u64::saturating_add)
                }
                _ => self.span(axis).count_below(self.extent(axis, case)),
            })
        })
    }

    fn has_row(&self, role: Role, at: RowAt) -> bool {
        let row = [at.request, at.kv_head, at.member, at.token];
        self.role == role && row.into_iter().zip(self.spans).all(|(n, span)| span.contains(n))
    }
}

impl Only {
    /// No element at all.
    pub const NONE: Self = Self(Vec::new());

    /// The elements of these regions; nothing if they are more than [`MAX_REGIONS`].
    pub fn new(mut regions: Vec<Region>) -> Option<Self> {
        regions.sort_unstable();
        regions.dedup();
        (regions.len() <= MAX_REGIONS).then_some(Self(regions))
    }

    /// Its regions, in a fixed order.
    pub fn regions(&self) -> &[Region] {
        &self.0
    }

    /// Makes every element of a row 0 that is not one of these. The row is one of [`Values::row`](super::Values::row).
    pub(super) fn apply(&self, role: Role, at: RowAt, row: &mut [f64]) {
        let dims: Vec<Span> = self.0.iter().filter(|r| r.has_row(role, at)).map(|r| r.span(Axis::Dim)).collect();
        for (dim, x) in (0..).zip(row) {
            if !dims.iter().any(|span| span.contains(dim)) {
                *x = 0.0;
            }
        }
    }
}

impl CaseParts {
    /// How many elements of Q, K, V and sinks keep the values of their recipe: all, or those that [`Only`] names (once for
    /// each region that names them).
    pub fn kept_elements(&self) -> u64 {
        let Some(only) = &self.only else { return self.all_elements() };
        only.0.iter().map(|region| region.count(self)).fold(0, u64::saturating_add)
    }

    /// How many elements Q, K, V and sinks have.
    fn all_elements(&self) -> u64 {
        Role::ALL.into_iter().map(|role| Region::whole(role).count(self)).fold(0, u64::saturating_add)
    }

    /// The elements that aren't 0 of a case whose values are restricted; nothing of another case, or if more than `most` keep
    /// their values.
    pub fn nonzero_elements(&self, most: usize) -> Option<Vec<Element>> {
        // A view's case has the shape of another one.
        let within = |region: Region| if self.view.is_none() { region.within(self) } else { Some(region) };
        let mut elements = Vec::new();
        let regions: Vec<Region> = self.only.as_ref()?.regions().iter().copied().filter_map(within).collect();
        let volume = |r: &Region| r.role.axes().iter().fold(1, |n: u64, &axis| n.saturating_mul(r.span(axis).count()));
        if regions.iter().map(volume).fold(0, u64::saturating_add) > most as u64 {
            return None;
        }
        for region in regions {
            let mut places = vec![Vec::new()];
            for &axis in region.role.axes() {
                let Span { first, last } = region.span(axis);
                places = places.iter().flat_map(|at| (first..=last).map(move |n| [&at[..], &[n]].concat())).collect();
            }
            elements.extend(places.into_iter().map(|at| Element {
                role: region.role,
                value: self.value(region.role, &at),
                at,
            }));
        }
        elements.retain(|e| e.value != 0.0);
        elements.dedup();
        Some(elements)
    }

    /// The value that the recipe gives an element.
    fn value(&self, role: Role, place: &[u32]) -> f64 {
        let on = |axis: Axis| role.axes().iter().position(|&a| a == axis).map_or(0, |i| place[i]);
        let at = RowAt {
            request: on(Axis::Request),
            kv_head: on(Axis::KvHead),
            member: on(Axis::Member),
            token: on(Axis::Token),
        };
        let (dim, dtype) = match role {
            Role::Q | Role::K => (self.shape.head_dim, self.dtype),
            Role::V => (self.shape.v_head_dim, self.dtype),
            Role::Sink => (1, Dtype::F32),
        };
        let mut row = Vec::new();
        self.values.row(role, at, dim, dtype, &mut row);
        row.get(on(Axis::Dim) as usize).copied().unwrap_or(0.0)
    }
}

impl Only {
    /// What of a case's values isn't 0, for people: the elements where they are few.
    pub fn in_words(&self, case: &CaseParts) -> String {
        if self.0.is_empty() {
            return "nothing".into();
        }
        let Some(elements) = case.nonzero_elements(FEW) else {
            return match case.view {
                None => {
                    format!("{} of {} elements at most, those of {self}", case.kept_elements(), case.all_elements())
                }
                Some(view) => format!("at most the elements of {self}, before {view}"),
            };
        };
        let told = Role::ALL.into_iter().filter_map(|role| {
            let of: Vec<String> = elements.iter().filter(|e| e.role == role).map(Element::to_string).collect();
            let axes: Vec<String> = role.axes().iter().map(Axis::to_string).collect();
            (!of.is_empty()).then(|| format!("{} ({})", of.join(", "), axes.join(", ")))
        });
        let told: Vec<String> = told.collect();
        if told.is_empty() { "nothing".into() } else { told.join("; ") }
    }
}

/// So many elements are told one by one.
pub const FEW: usize = 8;

/// Why a text is no [`Only`]: what was expected, and what was there instead.
pub(super) struct NotOnly {
    pub(super) expected: String,
    pub(super) found: String,
}

impl Only {
    pub(super) fn parse(text: &str) -> Result<Self, NotOnly> {
        if text == "none" {
            return Ok(Self::NONE);
        }
        let too_many = || {
            let found = format!("{} regions", text.split(',').count());
            NotOnly { expected: format!("at most {MAX_REGIONS} regions"), found }
        };
        let words = text.split(',').take(MAX_REGIONS + 1);
        let regions = words.map(region).collect::<Result<Vec<_>, _>>()?;
        if regions.len() > MAX_REGIONS {
            return Err(too_many());
        }
        Self::new(regions).ok_or_else(too_many)
    }
}

fn region(word: &str) -> Result<Region, NotOnly> {
    let wrong = |expected: &str| NotOnly { expected: expected.into(), found: word.into() };
    let role = Role::ALL.into_iter().find(|role| word.starts_with(role.letter()));
    let role = role.ok_or_else(|| wrong("none, or q, k, v or s, each with coordinates, like q,v0.1.0.0-7"))?;
    let mut region = Region::whole(role);
    let rest = &word[1..];
    if rest.is_empty() {
        return Ok(region);
    }
    let mut axes = role.axes().iter();
    for text in rest.split('.') {
        let Some(&axis) = axes.next() else {
            let names: Vec<String> = role.axes().iter().map(Axis::to_string).collect();
            return Err(wrong(&format!("no more coordinates of {} than {}", role.letter(), names.join(", "))));
        };
        let span = span(text).ok_or_else(|| wrong("coordinates N, FIRST-LAST or *, like v0.1.*.0-7"))?;
        region = region.with(axis, span);
    }
    Ok(region)
}

fn span(text: &str) -> Option<Span> {
    if text == "*" {
        return Some(Span::ALL);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let span = Span { first: first.parse().ok()?, last: last.parse().ok()? };
    (span.first <= span.last).then_some(span)
}

impl fmt::Display for Only {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (i, region) in self.0.iter().enumerate() {
            write!(f, "{}{region}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Only {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spans: Vec<Span> = self.role.axes().iter().map(|&axis| self.span(axis)).collect();
        let told = spans.iter().rposition(|&span| span != Span::ALL).map_or(0, |last| last + 1);
        let spans: Vec<String> = spans[..told].iter().map(Span::to_string).collect();
        write!(f, "{}{}", self.role.letter(), spans.join("."))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            &Self::ALL => f.write_str("*"),
            Self { first, last } if first == last => write!(f, "{first}"),
            Self { first, last } => write!(f, "{first}-{last}"),
        }
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Request => "request",
            Self::KvHead => "kv_head",
            Self::Member => "member",
            Self::Token => "token",
            Self::Dim => "dim",
        })
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at: Vec<String> = self.at.iter().map(u32::to_string).collect();
        write!(f, "{}[{}] = {}", self.role, at.join(", "), self.value)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Q => "q",
            Self::K => "k",
            Self::V => "v",
            Self::Sink => "sink",
        })
    }
}

impl FromStr for Only {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text).map_err(|NotOnly { expected, found }| format!("expected {expected}, found {found:?}"))
    }
}

impl TryFrom<String> for Only {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Only> for String {
    fn from(only: Only) -> Self {
        only.to_string()
    }
}
