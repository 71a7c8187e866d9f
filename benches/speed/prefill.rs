//! Prefill against the attention of the PyTorch at hand.

use super::decode::median;
use attnfuzz::backend::cuda_bare::BareCuda;
use attnfuzz::backend::{Kernel, shipped_names};
use attnfuzz::case::{Case, StorageKind, default_scale};
use std::process::Command;

/// Query heads over KV heads, head_dim, batch, tokens.
const SHAPES: [(u32, u32, u32, u32, u32); 9] = [
    (28, 4, 128, 1, 4096),
    (28, 4, 128, 1, 16384),
    (28, 4, 128, 8, 2048),
    (32, 8, 128, 1, 4096),
    (32, 8, 128, 1, 16384),
    (32, 8, 128, 8, 2048),
    (32, 8, 64, 4, 4096),
    (32, 8, 96, 4, 4096),
    (16, 8, 256, 2, 4096),
];
const SAMPLES: usize = 9;

pub(super) fn table(gpu: &BareCuda, filter: &str) {
    println!(
        "{:14} {:5} {:6} {:>12} {:>6} {:>7} {:>9} {:>9} {:>9} {:>7}",
        "kernel", "dtype", "causal", "heads", "batch", "tokens", "time", "TFLOP/s", "PyTorch", "of it"
    );
    for name in shipped_names().into_iter().filter(|name| name.contains(filter)) {
        let kernel = Kernel::open(name).expect("a shipped kernel opens");
        if kernel.manifest.domain.q_len.high() == 1 {
            continue;
        }
        for dtype in ["f16", "bf16"] {
            for causal in [true, false] {
                for shape in SHAPES {
                    row(gpu, &kernel, dtype, causal, shape);
                }
            }
        }
    }
}

fn row(gpu: &BareCuda, kernel: &Kernel, dtype: &str, causal: bool, shape: (u32, u32, u32, u32, u32)) {
    let (q_heads, kv_heads, dim, batch, tokens) = shape;
    let word = if causal { "yes" } else { "no" };
    let title =
        format!("{:14} {dtype:5} {word:6} {q_heads:>4}:{kv_heads}:{dim:<5} {batch:>6} {tokens:>7}", kernel.name());
    let times = case(kernel, dtype, causal, shape)
        .and_then(|case| gpu.time(kernel, &case, SAMPLES).map_err(|error| error.to_string()));
    let time = match times {
        Ok(times) => median(times),
        Err(error) => return println!("{title} not measured: {error}"),
    };
    let (n, operations) = (f64::from(tokens), 4.0 * f64::from(dim));
    let pairs = if causal { n * (n + 1.0) / 2.0 } else { n * n };
    let all = f64::from(batch) * f64::from(q_heads) * pairs * operations;
    let own = all / time.as_secs_f64();
    let rival = match rival(dtype, causal, shape) {
        Ok(seconds) => all / seconds,
        Err(why) => return println!("{title} {:>9.2?} {:>9.0} {why}", time, own / 1e12),
    };
    println!("{title} {:>9.2?} {:>9.0} {:>9.0} {:>5.0} %", time, own / 1e12, rival / 1e12, 100.0 * own / rival);
}

/// Seconds that PyTorch takes.
fn rival(dtype: &str, causal: bool, shape: (u32, u32, u32, u32, u32)) -> Result<f64, String> {
    let python = std::env::var("ATTNFUZZ_PYTHON").unwrap_or_else(|_| "python3".into());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/speed/sdpa.py");
    let (q_heads, kv_heads, dim, batch, tokens) = shape;
    let numbers = [q_heads, kv_heads, dim, batch, tokens].map(|n| n.to_string());
    let output =
        Command::new(&python).arg(script).arg(dtype).arg(if causal { "1" } else { "0" }).args(numbers).output();
    let output = output.map_err(|error| format!("no rival: {python}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().map_err(|_| {
        let last = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or("no output").to_owned();
        format!("no rival: {last}")
    })
}

fn case(kernel: &Kernel, dtype: &str, causal: bool, shape: (u32, u32, u32, u32, u32)) -> Result<Case, String> {
    let domain = &kernel.manifest.domain;
    let (q_heads, kv_heads, dim, batch, tokens) = shape;
    let packed = if domain.storage.contains(&StorageKind::Packed) { "packed-" } else { "" };
    let past_len = if domain.append { 0 } else { tokens };
    let past = vec![past_len.to_string(); batch as usize].join(",");
    let append = if domain.append { "" } else { " append=no" };
    let causal = if causal { "" } else { " causal=no" };
    let line = format!(
        "kv={kv_heads} g={} d={dim} past={past} q={tokens}{append}{causal} dtype={dtype} cache={packed}nhd:{tokens} scale={} values=normal:0",
        q_heads / kv_heads,
        default_scale(dim),
    );
    let case: Case = line.parse().map_err(|error: attnfuzz::case::ParseError| error.to_string())?;
    domain.excludes(&case).map_or(Ok(case), Err)
}
