//! The bound room: against a second implementation, against simulated kernels, and at its edges.

mod exact;
mod inputs;
mod kernels;
mod limits;
mod simulated;
mod vectors;
