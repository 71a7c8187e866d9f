//! The bound room: against a second implementation, against simulated kernels, and at its edges.

mod draws;
mod exact;
mod inputs;
mod kernels;
mod limits;
mod prototype;
mod simulated;
mod vectors;
