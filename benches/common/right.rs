//! The right kernels that benchmarks judge.

use crate::common::manifests;
use attnfuzz::backend::{Kernel, shipped_names};

/// The shipped kernels and every variant in `kernels/variants`.
pub(crate) fn right_kernels() -> Vec<Kernel> {
    let shipped = shipped_names().into_iter().map(str::to_owned);
    let variants = manifests("kernels/variants").into_iter().map(|path| path.display().to_string());
    shipped.chain(variants).map(|name| Kernel::open(&name).unwrap_or_else(|error| panic!("{error}"))).collect()
}
