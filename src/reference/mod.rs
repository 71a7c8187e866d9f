//! f64 attention from its definition, and the quantities the bound needs.
