//! The emulator: real kernels against a plain f64 computation, and one small program for each instruction and check.

mod cases;
mod decode;
mod threads;
