//! Runs cases of kernels on a GPU without judging them, for a memory checker to watch:
//!
//! ```text
//! compute-sanitizer --tool memcheck target/release/examples/bare 200 gqa_decode gqa_prefill
//! ```
//!
//! The tools are `memcheck`, `racecheck`, `initcheck` and `synccheck`. Each tensor is an allocation of its own and holds
//! data only where the case says so. The first argument is the number of cases of each kernel; without names, every shipped
//! kernel is run. Exits with 1 if a case can't be run.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example prints what it did")]

use attnfuzz::backend::cuda_bare::BareCuda;
use attnfuzz::backend::{Kernel, shipped_names};
use std::error::Error;
use std::process::ExitCode;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let count: u64 = args.next().ok_or("expected the number of cases, found no argument")?.parse()?;
    let names: Vec<String> = args.collect();
    let names = if names.is_empty() { shipped_names().into_iter().map(str::to_owned).collect() } else { names };
    let gpu = BareCuda::open(0)?;
    let mut failed = 0;
    for name in names {
        let kernel = Kernel::open(&name)?;
        for index in 0..count {
            let case = kernel.space().case_at(0, index);
            if let Err(error) = gpu.launch(&kernel, &case) {
                eprintln!("{name}: {error}: {case}");
                failed += 1;
            }
        }
        println!("{name}: {count} cases ran on {}", gpu.name());
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
