//! What judging a case costs on one core as its keys grow: decoding with 28 query heads over 4 KV heads of 128 dimensions in
//! binary16, as `gqa_decode_split_kv`'s contract has it.
//!
//! `cargo bench --bench reference_cost [-- MOST_KEYS]` prints milliseconds a case: the tensors' values, in their type and order; the
//! reference in f64, with the values that it makes for itself; the bounds; and all of judging one run, which compares caches too.
//! With a GPU, the kernel's own time for the same case. Each is the least of some repetitions. docs/measurements.md keeps a
//! table.

#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use attnfuzz::backend::Kernel;
use attnfuzz::bound;
use attnfuzz::case::{Case, Inputs};
use attnfuzz::oracle::{SGN_LAMBDA, Verdict, for_each_row, judge};
use attnfuzz::outcome::Output;
use attnfuzz::tensor::Buffer;
use std::hint::black_box;
use std::time::{Duration, Instant};

const KERNEL: &str = "gqa_decode_split_kv";
/// Lengths unless fewer are asked for.
const KEYS: [u32; 8] = [16, 64, 256, 1024, 4096, 16_384, 65_536, 131_072];
/// Time that repetitions of one measurement may take.
const BUDGET: Duration = Duration::from_millis(400);

fn main() {
    let most = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(u32::MAX);
    let kernel = Kernel::open(KERNEL).expect("a shipped kernel opens");
    println!("{KERNEL}, 28:4:128, f16, one query token, 32 splits; ms on one core");
    println!("{:>8} {:>10} {:>10} {:>10} {:>10} {:>10}", "kv_len", "values", "reference", "bounds", "judge", "kernel");
    for keys in KEYS.into_iter().filter(|&keys| keys <= most) {
        let line = format!(
            "kv=4 g=7 d=128 past={} dtype=f16 cache=hnd:{keys} scale=0.088388346 knobs=num_splits:32 values=normal:0",
            keys - 1
        );
        let case: Case = line.parse().expect("a case");
        assert_eq!(kernel.manifest.domain.excludes(&case), None, "{line}");
        let values = least(|| drop(black_box(Inputs::of(&case, case.poison))));
        let reference = least(|| for_each_row(&case, |row| drop(black_box(row.reference))));
        let bounds = least_of(|| bounds(&kernel, &case));
        let output = right_output(&kernel, &case);
        let judged = least(|| {
            let verdict = judge(&case, &kernel.manifest, case.poison, &output);
            assert!(matches!(verdict, Verdict::Agree(_)), "{verdict:?}");
        });
        let kernel_time = on_gpu(&kernel, &case).map_or_else(|why| format!("({why})"), ms);
        println!(
            "{keys:>8} {:>10} {:>10} {:>10} {:>10} {kernel_time:>10}",
            ms(values),
            ms(reference),
            ms(bounds),
            ms(judged)
        );
    }
}

/// The time that goes into bounds alone.
fn bounds(kernel: &Kernel, case: &Case) -> Duration {
    let mut spent = Duration::ZERO;
    for_each_row(case, |row| {
        let numbers = kernel.manifest.numerics.at_case(row.n, case);
        let start = Instant::now();
        if bound::domain_ok(&row.reference, &numbers) {
            black_box(bound::bounds(&row.reference, &numbers, SGN_LAMBDA));
        }
        spent += start.elapsed();
    });
    spent
}

/// The reference's output, rounded to the case's type, as a right kernel could leave it.
fn right_output(kernel: &Kernel, case: &Case) -> Output {
    let mut out = Buffer::filled(case.dtype, case.output_layout().span(), 0);
    let mut lse = Buffer::filled(attnfuzz::float::Dtype::F32, case.lse_layout().span(), 0);
    for_each_row(case, |row| {
        out.set_values(case.output_layout().offset(&[row.at[0], row.at[1], 0]), &row.reference.o);
        if let Some(kind) = kernel.manifest.lse {
            let numbers = kernel.manifest.numerics.at_case(row.n, case);
            let (value, _) = kind.base.value_and_bound(&row.reference, &numbers, 0.0);
            lse.set_values(case.lse_layout().offset(&row.at), &[value]);
        }
    });
    let (k_cache, v_cache) = Inputs::final_caches(case, case.poison);
    Output { out: vec![out], lse: vec![lse], k_cache, v_cache }
}

fn least(mut run: impl FnMut()) -> Duration {
    least_of(|| {
        let start = Instant::now();
        run();
        start.elapsed()
    })
}

/// The least of as many measurements as the budget allows, at least one.
fn least_of(mut measure: impl FnMut() -> Duration) -> Duration {
    let start = Instant::now();
    let mut least = measure();
    while start.elapsed() < BUDGET {
        least = least.min(measure());
    }
    least
}

fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    format!("{ms:.*}", (2 - ms.max(1e-3).log10().floor() as i32).clamp(0, 4) as usize)
}

#[cfg(feature = "cuda")]
fn on_gpu(kernel: &Kernel, case: &Case) -> Result<Duration, String> {
    let gpu = attnfuzz::backend::cuda_bare::BareCuda::open(0).map_err(|_| "no GPU")?;
    let times = gpu.time(kernel, case, 20).map_err(|error| error.to_string())?;
    Ok(times.into_iter().min().unwrap_or_default())
}

#[cfg(not(feature = "cuda"))]
fn on_gpu(_: &Kernel, _: &Case) -> Result<Duration, String> {
    Err("no GPU".into())
}
