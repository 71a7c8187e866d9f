//! Runs a kernel on the CPU, under checks: `cargo run --example emulate`.
//!
//! The kernel reverses a block's numbers through shared memory. With its barrier it is right; without, the emulator
//! names both sides of the race, whatever the schedule did.

#![expect(clippy::print_stdout, reason = "an example is read at the terminal")]

use attnfuzz::emulator::{Initialised, Launch, Memory, Options, Region, Stop, launch};
use attnfuzz::ptx::parse;

const THREADS: u32 = 64;

const KERNEL: &str = "
.version 8.4
.target sm_80
.address_size 64
.visible .entry reverse(.param .u64 in, .param .u64 out)
{
    .reg .b32 %r<6>;
    .reg .b64 %rd<6>;
    .shared .align 4 .b8 cells[256];
    ld.param.u64 %rd1, [in];
    ld.param.u64 %rd2, [out];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd3, %r1, 4;
    add.s64 %rd4, %rd1, %rd3;
    ld.global.u32 %r2, [%rd4];
    mov.u32 %r3, cells;
    shl.b32 %r4, %r1, 2;
    add.s32 %r5, %r3, %r4;
    st.shared.u32 [%r5], %r2;
    bar.sync 0;
    sub.s32 %r4, 252, %r4;
    add.s32 %r5, %r3, %r4;
    ld.shared.u32 %r2, [%r5];
    add.s64 %rd5, %rd2, %rd3;
    st.global.u32 [%rd5], %r2;
    ret;
}
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("reversed: {:?} …", &reversed(KERNEL)?[..4]);
    match reversed(&KERNEL.replace("bar.sync 0;", "")) {
        Err(why) => println!("without the barrier: {why}"),
        Ok(_) => return Err("the race went unseen".into()),
    }
    Ok(())
}

/// What the kernel makes of 0, 1, 2, …
fn reversed(text: &str) -> Result<Vec<u32>, Box<dyn std::error::Error>> {
    // 1. Text to program. Errors name the line and column.
    let program = parse(text)?.lower("reverse")?;

    // 2. Memory: each buffer is a region of its own, so that one can't be reached through another.
    let mut memory = Memory::new();
    let numbers = memory.map(Region {
        name: "in".into(),
        bytes: (0..THREADS).flat_map(u32::to_le_bytes).collect(),
        initialised: Initialised::All,
        writable: false,
        misalign: 0,
    });
    let out = memory.map(Region {
        name: "out".into(),
        bytes: vec![0; 4 * THREADS as usize],
        initialised: Initialised::None,
        writable: true,
        misalign: 0,
    });

    // 3. The parameter block, as `program.params()` lays it out.
    let mut params = vec![0; program.param_bytes()];
    for (param, region) in program.params().iter().zip([numbers, out]) {
        params[param.offset..][..param.size_bytes].copy_from_slice(&memory.address(region).to_le_bytes());
    }

    // 4. The launch. Any seed must give the same result; another seed is another schedule.
    let shape = Launch { grid: [1; 3], block: [THREADS, 1, 1], dynamic_shared_bytes: 0, params: &params };
    match launch(&program, &mut memory, &shape, &Options { schedule_seed: 7, ..Options::default() }) {
        Ok(stats) => println!("{} warp instructions", stats.warp_instructions),
        // The kernel's fault, with `site` and, for a race, `other`.
        Err(Stop::Violation(violation)) => return Err(violation.to_string().into()),
        // This program's limit, or the caller's mistake.
        Err(stop) => return Err(stop.into()),
    }

    // 5. Results. Bytes that nothing has written are still uninitialised.
    assert_eq!(memory.written(out).first_clear(0, 4 * THREADS as usize), None);
    Ok(memory.bytes(out).chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}
