//! Per-element error bounds.
mod contract;
mod formula;
pub use contract::{Contract, EmptyRow, PDen, Resolved, Rounding, TensorCore, UnknownPreset};
pub use formula::{Depth, Formula, FormulaError};
