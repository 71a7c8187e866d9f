//! How fast the shipped kernels are on a GPU: decoding against the copy rate of the same card, prefill against PyTorch.
//!
//! `cargo bench --bench speed [-- FILTER]` prints two tables of the kernels whose name contains the filter. A kernel that is far from what a card can do is
//! not one that people would write, and its bugs would not be theirs.
//!
//! - Decoding reads every cached key and value once, so its rate is those bytes over its time, and the limit what the
//!   card's own copy reads and writes in a second. Every launch starts with cold caches.
//! - Prefill does `2 * (head_dim + v_head_dim)` floating-point operations for each pair of a query and a key that it may
//!   see. The rival is `scaled_dot_product_attention` of the PyTorch that `python3` (or `ATTNFUZZ_PYTHON`) has, the fastest
//!   of its backends, in the same run on the same card.
//!
//! Without a GPU nothing is measured, and the exit code is 4.

#![expect(clippy::print_stderr, reason = "a benchmark prints why it measured nothing")]
#![cfg_attr(feature = "cuda", expect(clippy::print_stdout, reason = "a benchmark prints what it measured"))]

#[cfg(feature = "cuda")]
mod decode;
#[cfg(feature = "cuda")]
mod prefill;

#[cfg(feature = "cuda")]
fn main() -> std::process::ExitCode {
    use attnfuzz::backend::cuda_bare::BareCuda;
    let gpu = match BareCuda::open(0) {
        Ok(gpu) => gpu,
        Err(error) => return nothing(&error.to_string()),
    };
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with("--")).unwrap_or_default();
    decode::table(&gpu, &filter);
    prefill::table(&gpu, &filter);
    std::process::ExitCode::SUCCESS
}

#[cfg(not(feature = "cuda"))]
fn main() -> std::process::ExitCode {
    nothing("this build has no CUDA backend")
}

fn nothing(why: &str) -> std::process::ExitCode {
    eprintln!("nothing was measured: {why}");
    std::process::ExitCode::from(4)
}
