//! A launch on several threads comes to what it comes to on one.

use attnfuzz::emulator::{
    BitMap, Checks, Initialised, Launch, Memory, Options, Region, Stats, Stop, ViolationKind, launch,
};
use attnfuzz::ptx::parse;

const BLOCKS: u32 = 24;
const THREADS: u32 = 64;

/// Each thread counts for a while and writes what it came to at its index in the grid, modulo `modulus`.
const COUNT: &str = r"
.version 7.8
.target sm_80
.address_size 64
.global .align 4 .b8 scratch[8192];
.visible .entry count(.param .u64 out, .param .u32 modulus)
{
    .reg .pred %p<2>;
    .reg .b32 %r<10>;
    .reg .b64 %rd<6>;
    ld.param.u64 %rd1, [out];
    ld.param.u32 %r1, [modulus];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    rem.u32 %r5, %r5, %r1;
    mul.wide.u32 %rd2, %r5, 4;
    add.s64 %rd3, %rd1, %rd2;
    mov.u64 %rd4, scratch;
    add.s64 %rd5, %rd4, %rd2;
    mov.u32 %r6, 0;
    mov.u32 %r7, 0;
AGAIN:
    mad.lo.s32 %r7, %r6, %r5, %r7;
    add.s32 %r6, %r6, 1;
    setp.lt.u32 %p1, %r6, 1500;
    @%p1 bra AGAIN;
    st.global.u32 [%rd5], %r7;
    ld.global.u32 %r8, [%rd5];
    st.global.u32 [%rd3], %r8;
    ret;
}
";

type Came = (Result<Stats, Stop>, Vec<u8>, BitMap, BitMap);

fn count(modulus: u32, options: Options) -> Came {
    run(COUNT, modulus, options)
}

fn run(text: &str, modulus: u32, options: Options) -> Came {
    let program = parse(text).unwrap().lower("count").unwrap();
    let mut memory = Memory::new();
    let out = memory.map(Region {
        name: "out".into(),
        bytes: vec![0; 4 * (BLOCKS * THREADS) as usize + 100],
        initialised: Initialised::None,
        writable: true,
        misalign: 0,
    });
    let mut params = memory.address(out).to_le_bytes().to_vec();
    params.extend(modulus.to_le_bytes());
    params.resize(program.params().iter().map(|p| p.offset + p.size_bytes).max().unwrap(), 0);
    let shape = Launch { grid: [BLOCKS, 1, 1], block: [THREADS, 1, 1], dynamic_shared_bytes: 0, params: &params };
    let outcome = launch(&program, &mut memory, &shape, &options);
    (outcome, memory.bytes(out).to_vec(), memory.initialised(out).clone(), memory.written(out).clone())
}

#[test]
fn independent_blocks_come_to_the_same_on_any_number_of_threads() {
    let options = Options { coverage: true, ..Options::default() };
    let one = count(u32::MAX, options);
    assert!(one.0.as_ref().unwrap().warp_instructions > 200_000);
    for threads in [2, 3, 64] {
        assert!(count(u32::MAX, Options { threads, ..options }) == one, "{threads} threads");
    }
}

#[test]
fn undefined_data_left_behind_is_reported_as_on_one_thread() {
    let text = COUNT.replace("mov.u32 %r7, 0;", "");
    let one = run(&text, u32::MAX, Options::default());
    let Err(Stop::Violation(violation)) = &one.0 else { panic!("{:?}", one.0) };
    assert_eq!(violation.kind, ViolationKind::UninitialisedRead);
    for threads in [2, 5] {
        assert!(run(&text, u32::MAX, Options { threads, ..Options::default() }) == one, "{threads} threads");
    }
}

/// Registers are not cleared between blocks but for those that may be read before they are written.
#[test]
fn what_an_earlier_block_left_in_a_register_is_not_seen() {
    let checks = Checks { uninitialised: false, ..Checks::default() };
    let unchecked = Options { checks, ..Options::default() };
    let zeroed = count(u32::MAX, unchecked);
    let read_first = run(&COUNT.replace("mov.u32 %r7, 0;", ""), u32::MAX, unchecked);
    assert!(zeroed.0.is_ok() && read_first.0.is_ok());
    assert_eq!(zeroed.1, read_first.1);
}

#[test]
fn blocks_that_meet_are_reported_as_on_one_thread() {
    for modulus in [BLOCKS * THREADS - 1, THREADS] {
        let one = count(modulus, Options::default());
        assert!(matches!(one.0, Err(Stop::Violation(_))), "{:?}", one.0);
        assert!(count(modulus, Options { threads: 3, ..Options::default() }) == one);
    }
}

#[test]
fn the_budget_is_one_for_all_threads() {
    let needed = count(u32::MAX, Options::default()).0.unwrap().warp_instructions;
    for (instruction_budget, finishes) in [(needed, true), (needed - 1, false)] {
        let options = Options { instruction_budget, ..Options::default() };
        let one = count(u32::MAX, options);
        assert_eq!(one.0.is_ok(), finishes);
        assert!(count(u32::MAX, Options { threads: 3, ..options }) == one);
    }
}
