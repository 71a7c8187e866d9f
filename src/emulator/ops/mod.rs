//! What each operation computes, by family. Handlers read slots, compute 32 lanes, write slots; they decide no control flow.

pub(super) mod atomic;
pub(super) mod compare;
pub(super) mod convert;
pub(super) mod copy;
pub(super) mod float;
pub(super) mod half;
pub(super) mod integer;
pub(super) mod matrix;
pub(super) mod matrix_exact;
pub(super) mod mbarrier;
pub(super) mod memory;
pub(super) mod packed;
pub(super) mod warp;
pub(super) mod wide;
pub(super) mod wmma;

use super::warp::LANES;

#[inline(always)]
fn map1<A: Copy, R: Copy + Default>(a: &[A; LANES], f: impl Fn(A) -> R) -> [R; LANES] {
    let mut out = [R::default(); LANES];
    for lane in 0..LANES {
        out[lane] = f(a[lane]);
    }
    out
}

#[inline(always)]
pub(super) fn map2<A: Copy, B: Copy, R: Copy + Default>(
    a: &[A; LANES],
    b: &[B; LANES],
    f: impl Fn(A, B) -> R,
) -> [R; LANES] {
    let mut out = [R::default(); LANES];
    for lane in 0..LANES {
        out[lane] = f(a[lane], b[lane]);
    }
    out
}

#[inline(always)]
fn map3<A: Copy, B: Copy, C: Copy, R: Copy + Default>(
    a: &[A; LANES],
    b: &[B; LANES],
    c: &[C; LANES],
    f: impl Fn(A, B, C) -> R,
) -> [R; LANES] {
    let mut out = [R::default(); LANES];
    for lane in 0..LANES {
        out[lane] = f(a[lane], b[lane], c[lane]);
    }
    out
}

/// One bit a lane.
#[inline(always)]
fn bits(f: impl Fn(usize) -> bool) -> u32 {
    let mut out = 0;
    for lane in 0..LANES {
        out |= u32::from(f(lane)) << lane;
    }
    out
}
