//! All 2^32 inputs of the approximate functions on the GPU, against f64.

use attnfuzz::backend::compile::{CompileSpec, Source, compile as compile_source};
use attnfuzz::backend::cuda_raw::{RawArg, RawCuda, RawLaunch};
use attnfuzz::backend::nvrtc::Nvrtc;
use std::error::Error;
use std::fmt::Write;

const SOURCE: &str = include_str!("sweep.cu");
const PTX: &str = include_str!("sweep.ptx");
/// Bytes of a `Stats` in `sweep.cu`.
const STATS_BYTES: usize = 64;

/// Entry without its prefix, what the manual documents, what the second class of inputs is.
const FUNCTIONS: [(&str, &str, &str); 19] = [
    ("ex2", "2 ulp", "subnormal results"),
    ("ex2_ftz", "2 ulp", "subnormal results"),
    ("rcp", "1 ulp", "subnormal results"),
    ("rcp_ftz", "1 ulp", "subnormal results"),
    ("sqrt", "relative 2^-23", ""),
    ("sqrt_ftz", "relative 2^-23", ""),
    ("rsqrt", "relative 2^-22.9", ""),
    ("rsqrt_ftz", "relative 2^-22.9", ""),
    ("lg2", "absolute 2^-22 in (0.5, 2), else relative 2^-22", "outside (0.5, 2)"),
    ("lg2_ftz", "absolute 2^-22 in (0.5, 2), else relative 2^-22", "outside (0.5, 2)"),
    ("sin", "absolute 2^-20.5 within pi", "past pi"),
    ("sin_ftz", "absolute 2^-20.5 within pi", "past pi"),
    ("cos", "absolute 2^-20.5 within pi", "past pi"),
    ("cos_ftz", "absolute 2^-20.5 within pi", "past pi"),
    ("tanh", "relative 2^-11", ""),
    ("expf", "1 ulp", "subnormal results"),
    ("fast_expf", "2 + floor(abs(1.173 x)) ulp", "subnormal results"),
    ("fast_divide", "2 ulp for 2^-126 <= abs(y) <= 2^126", "other divisors, subnormal quotients"),
    ("div_full", "2 ulp", "other divisors, subnormal quotients"),
];

/// Makes `sweep.ptx`.
pub(crate) fn compile() -> Result<(), Box<dyn Error>> {
    let spec = CompileSpec { arch: Some("compute_75".into()), ..CompileSpec::default() };
    let text = compile_source(&Nvrtc::find()?, &Source::of("sweep.cu", SOURCE), &spec)?;
    std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/fidelity/sweep.ptx"), text)?;
    Ok(())
}

/// Sweeps every function and writes the table.
pub(crate) fn measure(cuda: &RawCuda, body: &mut String) -> Result<(), Box<dyn Error>> {
    let module = cuda.load(PTX)?;
    writeln!(
        body,
        "Every f32 (for the divisions 2^32 pairs of random bits), against f64 on the same device. Not nearest: share of \
         results that are not the correctly rounded one. Special: NaN or infinity on one side only.\n"
    )?;
    writeln!(
        body,
        "| function | inputs | count | worst ulp | at | worst absolute | at | worst relative | at | not nearest | special | documented |"
    )?;
    writeln!(body, "|---|---|---|---|---|---|---|---|---|---|---|---|")?;
    for (name, documented, other) in FUNCTIONS {
        let mut args = [RawArg::Buffer(vec![0; 2 * STATS_BYTES])];
        let shape = RawLaunch { grid: [132 * 8, 1, 1], block: [256, 1, 1] };
        if let Err(error) = module.launch(&format!("sweep_{name}"), shape, &mut args) {
            writeln!(body, "| {name} | {error} | | | | | | | | | | |")?;
            continue;
        }
        let [RawArg::Buffer(bytes)] = &args else { continue };
        for (stats, class) in bytes.chunks(STATS_BYTES).zip(["as documented", other]) {
            let word: Vec<u64> = stats.chunks(8).map(|b| u64::from_le_bytes(std::array::from_fn(|i| b[i]))).collect();
            let [ulp, absolute, relative, count, not_nearest, special, special_input, _] = word[..] else { continue };
            if count == 0 {
                continue;
            }
            let error = |packed: u64| f32::from_bits((packed >> 32) as u32);
            let at = |packed: u64| format!("{:#010x}", packed as u32);
            let log = |packed: u64| format!("2^{:.3}", error(packed).log2());
            let share = not_nearest as f64 / count as f64;
            let special = if special == 0 { "0".into() } else { format!("{special}, {:#010x}", special_input - 1) };
            writeln!(
                body,
                "| {name} | {} | {count} | {:.4} | {} | {} | {} | {} | {} | {:.4} % | {special} | {documented} |",
                if other.is_empty() { "all" } else { class },
                error(ulp),
                at(ulp),
                log(absolute),
                at(absolute),
                log(relative),
                at(relative),
                share * 100.0,
            )?;
        }
    }
    Ok(())
}
