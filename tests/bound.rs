//! The bound room: against a second implementation, and against simulated kernels.

mod vectors;
