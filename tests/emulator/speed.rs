//! How fast the emulator is. Ignored by default; run in release with `--ignored --nocapture`.

use super::decode::{Case, SM80};
use attnfuzz::float::Dtype;
use attnfuzz::ptx;
use std::time::Instant;

#[test]
#[ignore = "a measurement, not a test"]
#[expect(clippy::print_stderr, reason = "the measurement is the output")]
fn lane_instructions_per_second() {
    for (entry, dtype, dim) in
        [("dec_f32_128", Dtype::F32, 128), ("dec_f16_128", Dtype::F16, 128), ("dec_bf16_128", Dtype::Bf16, 128)]
    {
        let program = ptx::parse(SM80).unwrap().lower(entry).unwrap();
        for (lens, heads, kv_heads) in [(vec![1500], 28, 4), (vec![3], 2, 1)] {
            let case = Case { lens, heads, kv_heads, dim, dtype };
            let mut setup = case.set_up(1);
            let start = Instant::now();
            let (mut lanes, mut warps, mut launches) = (0, 0, 0);
            while start.elapsed().as_secs_f64() < 1.0 {
                let stats = setup.launch(&program, launches);
                lanes += stats.lane_instructions;
                warps += stats.warp_instructions;
                launches += 1;
            }
            let seconds = start.elapsed().as_secs_f64();
            eprintln!(
                "{entry} {:?}: {:.3e} lane instructions/s, {:.1} ns/warp instruction, {:.1} us/launch",
                case.lens,
                lanes as f64 / seconds,
                seconds * 1e9 / warps as f64,
                seconds * 1e6 / launches as f64
            );
        }
    }
}
