//! Decoding against the card's copy rate, and against a copy that moves as many bytes: a small one is slow too.

use attnfuzz::backend::cuda_bare::BareCuda;
use attnfuzz::backend::{BackendError, Kernel, shipped_names};
use attnfuzz::case::{Case, StorageKind};
use attnfuzz::float::Dtype;
use std::time::Duration;

/// KV heads, query heads of each, head_dim: Qwen2.5-7B and Llama-3-8B.
const HEADS: [(u32, u32, u32); 2] = [(4, 7, 128), (8, 4, 128)];
const BATCHES: [u32; 3] = [1, 8, 64];
const KV_LENS: [u32; 4] = [4096, 16384, 65536, 131_072];
const PAGE_SIZE: u32 = 64;
const SAMPLES: usize = 7;
/// Bytes of the copy that sets the limit: far beyond caches.
const COPY_BYTES: usize = 4 << 30;

pub(super) fn table(gpu: &BareCuda, filter: &str) {
    let copy = gpu.copy_rate(COPY_BYTES, SAMPLES).expect("a copy runs");
    println!("{}: a copy of 4 GiB moves {:.0} GB/s, read and written", gpu.name(), copy / 1e9);
    println!(
        "{:24} {:5} {:>9} {:>5} {:>7} {:>7} {:>10} {:>8} {:>8} {:>17}",
        "kernel", "dtype", "heads", "batch", "kv_len", "splits", "time", "GB/s", "of copy", "of one as large"
    );
    for name in shipped_names().into_iter().filter(|name| name.contains(filter)) {
        let kernel = Kernel::open(name).expect("a shipped kernel opens");
        if kernel.manifest.domain.q_len.high() > 1 {
            continue;
        }
        for heads in HEADS {
            for batch in BATCHES {
                for kv_len in KV_LENS {
                    row(gpu, &kernel, heads, batch, kv_len, copy);
                }
            }
        }
    }
}

/// The fastest of the numbers of splits that a caller would try, and what it comes to.
fn row(gpu: &BareCuda, kernel: &Kernel, heads: (u32, u32, u32), batch: u32, kv_len: u32, copy: f64) {
    let (kv_heads, q_per_kv, dim) = heads;
    let dtype = Dtype::F16;
    let title = format!("{:24} {dtype:5} {kv_heads:>3}x{q_per_kv}x{dim:<3} {batch:>5} {kv_len:>7}", kernel.name());
    let mut best: Option<(Duration, u32)> = None;
    for splits in splits(kernel) {
        let case = case(kernel, heads, batch, kv_len, splits);
        let times = match case.as_ref().map(|case| gpu.time(kernel, case, SAMPLES)) {
            Ok(Ok(times)) => times,
            Ok(Err(BackendError::OutOfMemory(_))) => return println!("{title} too large for the card"),
            Ok(Err(error)) => return println!("{title} not measured: {error}"),
            Err(error) => return println!("{title} not measured: {error}"),
        };
        let time = median(times);
        if best.is_none_or(|(least, _)| time < least) {
            best = Some((time, splits));
        }
    }
    let Some((time, splits)) = best else { return };
    let bytes =
        2.0 * f64::from(batch) * f64::from(kv_heads) * f64::from(kv_len) * f64::from(dim) * dtype.size_bytes() as f64;
    let rate = bytes / time.as_secs_f64();
    // It reads half of what it moves and writes the other half.
    let same = match gpu.copy_rate(bytes as usize / 2, SAMPLES) {
        Ok(same) => format!("{:.0} %", 100.0 * rate / same),
        Err(error) => error.to_string(),
    };
    let of_copy = 100.0 * rate / copy;
    println!("{title} {splits:>7} {time:>10.1?} {:>8.0} {of_copy:>6.0} % {same:>17}", rate / 1e9);
}

fn splits(kernel: &Kernel) -> Vec<u32> {
    let knob = kernel.manifest.domain.knobs.iter().find(|(name, _)| name.as_str() == "num_splits");
    let Some((_, range)) = knob else { return vec![1] };
    [1, 2, 4, 8, 16, 32, 64, 128, 256].into_iter().filter(|&n| range.contains(n)).collect()
}

fn case(kernel: &Kernel, heads: (u32, u32, u32), batch: u32, kv_len: u32, splits: u32) -> Result<Case, String> {
    let domain = &kernel.manifest.domain;
    let (kv_heads, q_per_kv, dim) = heads;
    // A kernel that appends finds all but the newest position in its cache.
    let past_len = if domain.append { kv_len - 1 } else { kv_len };
    let past = vec![past_len.to_string(); batch as usize].join(",");
    let append = if domain.append { "" } else { " append=no" };
    let pages =
        if domain.storage.contains(&StorageKind::Paged) { format!(" pages={PAGE_SIZE},seed:9") } else { String::new() };
    let knobs = if domain.knobs.is_empty() { String::new() } else { format!(" knobs=num_splits:{splits}") };
    let line = format!(
        "kv={kv_heads} g={q_per_kv} d={dim} past={past}{append} dtype=f16 cache=hnd:{kv_len}{pages} scale=0.088388346{knobs} values=normal:0"
    );
    let case: Case = line.parse().map_err(|error: attnfuzz::case::ParseError| error.to_string())?;
    domain.excludes(&case).map_or(Ok(case), Err)
}

pub(super) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
