//! Per-element error bounds.
