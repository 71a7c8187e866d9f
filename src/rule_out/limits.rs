//! What ruling a kernel out does not cover, in words that are true of this kernel, this device and these cases.

use super::Config;
use crate::backend::BackendKind;
use crate::campaign::{Extent, Statistic};
use crate::case::{CacheOrder, Domain, Range, StorageKind};
use crate::float::Dtype;

/// Of each suspect's statistic, what all of them together met, against what the kernel claims.
pub(super) fn limits(config: &Config, met: &[&Statistic]) -> Vec<String> {
    let domain = &config.kernel.manifest.domain;
    let mut limits = match config.backend.kind() {
        BackendKind::Emulator => vec![
            "GPU hardware: the kernel's PTX ran in the emulator, not what ptxas makes of it".to_owned(),
            "approximate instructions (ex2.approx and the like) are taken to err within their documentation".to_owned(),
            "timing, and orders of warps and blocks other than those drawn".to_owned(),
        ],
        BackendKind::Cuda => vec![
            "on a GPU memory is watched by poison and guards only: reads of what nobody wrote, races and wrong masks show \
             only where they change a result (--backend emulator sees them by themselves)"
                .to_owned(),
        ],
        BackendKind::Closure => vec![
            "what the closure runs is not watched: reads of what nobody wrote and races show only where they change a result"
                .to_owned(),
        ],
    };
    limits.push("errors smaller than the bound that the kernel's numerics contract allows".to_owned());
    limits.extend(Extent::ALL.into_iter().filter_map(|extent| beyond(extent, domain, met)));
    limits.extend(unclaimed(domain));
    if config.heads.is_some() {
        limits.push("other heads and dims than --shape".to_owned());
    }
    limits
}

/// What the kernel claims of an extent and no case had.
fn beyond(extent: Extent, domain: &Domain, met: &[&Statistic]) -> Option<String> {
    let span = |range: &Range| [range.low(), range.high()];
    let claimed = match extent {
        Extent::NumKvHeads => span(&domain.num_kv_heads),
        Extent::QPerKv => span(&domain.q_per_kv),
        Extent::HeadDim => span(&domain.head_dim),
        Extent::VHeadDim => span(domain.v_head_dim.as_ref()?),
        Extent::Batch => span(&domain.batch),
        Extent::KvLen => {
            let appended = if domain.append { domain.steps.high().saturating_mul(domain.q_len.high()) } else { 0 };
            [domain.past_len.low(), domain.past_len.high().saturating_add(appended)]
        }
        Extent::QLen => span(&domain.q_len),
        Extent::Steps => span(&domain.steps),
        Extent::RowPad => span(&domain.row_pad),
        Extent::PageSize => span(domain.page_size.as_ref()?),
    };
    let high = met.iter().filter_map(|statistic| statistic.met.get(&extent)).map(|met| met.high).max()?;
    let [_, most] = claimed;
    (high < most).then(|| format!("{extent} above {high} (the kernel claims up to {most})"))
}

/// What the kernel does not claim, so that nothing is known of it.
fn unclaimed(domain: &Domain) -> Vec<String> {
    let mut names = Vec::new();
    names.extend(Dtype::ALL.into_iter().filter(|d| !domain.dtype.contains(d)).map(|d| format!("dtype {d}")));
    let orders = [CacheOrder::Hnd, CacheOrder::Nhd].into_iter();
    names.extend(orders.filter(|o| !domain.cache.contains(o)).map(|o| format!("cache order {o}")));
    let kinds = [StorageKind::PerRequest, StorageKind::Packed, StorageKind::Paged].into_iter();
    names.extend(kinds.filter(|k| !domain.storage.contains(k)).map(|k| format!("{k} caches")));
    if !domain.any_scale {
        names.push("scales other than 1/sqrt(head_dim)".to_owned());
    }
    if names.is_empty() { names } else { vec![format!("what the kernel does not claim: {}", names.join(", "))] }
}
