//! The numbers of a case that can be turned down, each with what must follow it.

use super::descent::Effort;
use crate::case::{Case, CaseParts, Domain, Pages, Range, Storage, default_scale};

/// One number of a case, or several that move together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Knob {
    KvHeads,
    QPerKv,
    /// The scale stays 1/sqrt(head_dim) if it was that.
    HeadDim,
    /// The scale stays the number it was.
    HeadDimAlone,
    /// The scale becomes 1/sqrt(head_dim).
    HeadDimPlain,
    VHeadDim,
    /// Where no past may be longer.
    PastCap,
    /// The same, and the capacity stays the number it was.
    PastCapAlone,
    /// Tokens taken from every past alike, counted on the shortest.
    PastShift,
    Past(usize),
    PastAlone(usize),
    Steps,
    /// The capacity stays the number it was.
    StepsAlone,
    QLenCap,
    /// The capacity stays the number it was.
    QLenCapAlone,
    QLen(usize),
    RowPad,
    /// Token slots above what is needed.
    Spare,
    Capacity,
    /// Keys of a window.
    Window,
    PageSize,
    /// Pages of no request.
    SparePages,
    SharedPages,
    /// A knob of the kernel's own, by its place among them.
    Own(usize),
}

impl Knob {
    /// Every knob of a case, in the order in which turning them down pays.
    pub(super) fn all(case: &Case) -> Vec<Self> {
        let requests = case.shape.requests.len();
        let mut knobs = vec![
            Self::Steps,
            Self::QLenCap,
            Self::PastCap,
            Self::KvHeads,
            Self::QPerKv,
            Self::HeadDim,
            Self::HeadDimAlone,
            Self::HeadDimPlain,
            Self::VHeadDim,
        ];
        if requests > 1 {
            knobs.push(Self::PastShift);
            knobs.extend((0..requests).map(Self::QLen));
            knobs.extend((0..requests).map(Self::Past));
        }
        knobs.extend((0..case.knobs.len()).map(Self::Own));
        knobs.extend([Self::Window, Self::PageSize, Self::SparePages, Self::SharedPages]);
        knobs.push(Self::RowPad);
        knobs.push(Self::Spare);
        knobs.push(Self::StepsAlone);
        knobs.push(Self::QLenCapAlone);
        knobs.push(Self::PastCapAlone);
        if requests > 1 {
            knobs.extend((0..requests).map(Self::PastAlone));
        }
        knobs
    }

    /// Whether `case` has it.
    pub(super) fn is_in(self, case: &Case) -> bool {
        match self {
            Self::Past(i) | Self::PastAlone(i) | Self::QLen(i) => i < case.shape.requests.len(),
            Self::Own(i) => i < case.knobs.len(),
            Self::Window => case.features.window.is_some(),
            Self::PageSize | Self::SparePages | Self::SharedPages => case.cache.storage.pages().is_some(),
            _ => true,
        }
    }

    /// What a first search is worth: a number that another knob turns too is bisected only.
    pub(super) fn effort(self) -> Effort {
        match self {
            Self::HeadDimAlone
            | Self::HeadDimPlain
            | Self::PastCapAlone
            | Self::PastShift
            | Self::PastAlone(_)
            | Self::StepsAlone
            | Self::QLenCapAlone => Effort::Bisect,
            _ => Effort::Full,
        }
    }

    /// Its number in `case`.
    pub(super) fn of(self, case: &Case) -> u32 {
        let shape = &case.shape;
        let past = |i: usize| shape.requests[i].past_len;
        let pasts = shape.requests.iter().map(|r| r.past_len);
        let of_pages = |number: fn(Pages) -> u32| case.cache.storage.pages().map_or(0, number);
        match self {
            Self::KvHeads => shape.num_kv_heads,
            Self::QPerKv => shape.q_per_kv,
            Self::HeadDim | Self::HeadDimAlone | Self::HeadDimPlain => shape.head_dim,
            Self::VHeadDim => shape.v_head_dim,
            Self::PastCap | Self::PastCapAlone => pasts.max().unwrap_or(0),
            Self::PastShift => pasts.min().unwrap_or(0),
            Self::Past(i) | Self::PastAlone(i) => past(i),
            Self::Steps | Self::StepsAlone => case.steps,
            Self::QLenCap | Self::QLenCapAlone => shape.requests.iter().map(|r| r.q_len).max().unwrap_or(1),
            Self::QLen(i) => shape.requests[i].q_len,
            Self::RowPad => case.cache.row_pad,
            Self::Spare => case.cache.capacity - case.needed_capacity(),
            Self::Capacity => case.cache.capacity,
            Self::Window => case.features.window.unwrap_or(0),
            Self::PageSize => of_pages(|pages| pages.size),
            Self::SparePages => of_pages(|pages| pages.spare),
            Self::SharedPages => of_pages(|pages| pages.shared),
            Self::Own(i) => case.knobs.values().nth(i).copied().unwrap_or(0),
        }
    }

    /// The numbers it may have in `domain`.
    pub(super) fn range(self, domain: &Domain) -> Range {
        match self {
            Self::KvHeads => domain.num_kv_heads.clone(),
            Self::QPerKv => domain.q_per_kv.clone(),
            Self::HeadDim | Self::HeadDimAlone | Self::HeadDimPlain => domain.head_dim.clone(),
            Self::VHeadDim => domain.v_head_dim.clone().unwrap_or_else(|| domain.head_dim.clone()),
            Self::PastCap | Self::PastCapAlone | Self::PastShift | Self::Past(_) | Self::PastAlone(_) => {
                domain.past_len.clone()
            }
            Self::Steps | Self::StepsAlone => domain.steps.clone(),
            Self::QLenCap | Self::QLenCapAlone | Self::QLen(_) => domain.q_len.clone(),
            Self::RowPad => domain.row_pad.clone(),
            Self::Window => domain.window.clone().unwrap_or(Range::Span(1, u32::MAX)),
            Self::PageSize => domain.page_size.clone().unwrap_or(Range::Span(1, u32::MAX)),
            Self::Spare | Self::Capacity | Self::SparePages | Self::SharedPages => Range::Span(0, u32::MAX),
            Self::Own(i) => domain.knobs.values().nth(i).cloned().unwrap_or(Range::Span(0, u32::MAX)),
        }
    }

    /// `case` with the number at `n`; nothing if that is no case at all.
    pub(super) fn turned(self, case: &Case, n: u32) -> Option<Case> {
        let spare = Self::Spare.of(case);
        let by = self.of(case).saturating_sub(n);
        case.with(|parts| {
            let was_default = parts.scale == default_scale(parts.shape.head_dim);
            let was_one_dim = parts.shape.head_dim == parts.shape.v_head_dim;
            let shape = &mut parts.shape;
            match self {
                Self::KvHeads => shape.num_kv_heads = n,
                Self::QPerKv => shape.q_per_kv = n,
                Self::HeadDim | Self::HeadDimAlone | Self::HeadDimPlain => {
                    shape.head_dim = n;
                    if was_one_dim {
                        shape.v_head_dim = n;
                    }
                    if self == Self::HeadDimPlain || (self == Self::HeadDim && was_default) {
                        parts.scale = default_scale(n);
                    }
                }
                Self::VHeadDim => shape.v_head_dim = n,
                Self::PastCap | Self::PastCapAlone => {
                    for r in &mut shape.requests {
                        r.past_len = r.past_len.min(n);
                    }
                }
                Self::PastShift => {
                    for r in &mut shape.requests {
                        r.past_len = r.past_len.saturating_sub(by);
                    }
                }
                Self::Past(i) | Self::PastAlone(i) => shape.requests[i].past_len = n,
                Self::Steps | Self::StepsAlone => parts.steps = n,
                Self::QLenCap | Self::QLenCapAlone => {
                    for r in &mut shape.requests {
                        r.q_len = r.q_len.min(n);
                    }
                }
                Self::QLen(i) => shape.requests[i].q_len = n,
                Self::RowPad => parts.cache.row_pad = n,
                Self::Capacity => parts.cache.capacity = n,
                Self::Window => parts.features.window = Some(n),
                Self::PageSize | Self::SparePages | Self::SharedPages => {
                    if let Storage::Paged(pages) = &mut parts.cache.storage {
                        match self {
                            Self::PageSize => pages.size = n,
                            Self::SparePages => pages.spare = n,
                            _ => pages.shared = n,
                        }
                    }
                }
                Self::Own(i) => {
                    if let Some(knob) = parts.knobs.values_mut().nth(i) {
                        *knob = n;
                    }
                }
                Self::Spare => parts.cache.capacity = parts.needed_capacity().saturating_add(n),
            }
            if self.moves_capacity() {
                parts.cache.capacity = parts.needed_capacity().saturating_add(spare);
            }
        })
        .ok()
    }

    fn moves_capacity(self) -> bool {
        matches!(self, Self::PastCap | Self::PastShift | Self::Past(_) | Self::Steps | Self::QLenCap | Self::QLen(_))
    }
}

/// `case` with `change` applied, the capacity as much above what is needed as before.
pub(super) fn followed(case: &Case, change: impl FnOnce(&mut CaseParts)) -> Option<Case> {
    let spare = case.cache.capacity - case.needed_capacity();
    case.with(|parts| {
        change(parts);
        parts.cache.capacity = parts.needed_capacity().saturating_add(spare);
    })
    .ok()
}
