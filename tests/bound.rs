//! The bound room: against a second implementation, against simulated kernels, and at its edges.

mod derivation;
mod double_double;
mod draws;
mod exact;
mod extremal;
mod inputs;
mod kernels;
mod licences;
mod limits;
mod presets;
mod prototype;
mod simulated;
mod terms;
mod vectors;
