//! What the schedule draws from its seed: the order of blocks and the turns of their warps.

/// A small generator (SplitMix64): the schedule must be the same everywhere and for ever.
#[derive(Clone, Debug, Default)]
pub(super) struct Random(u64);

impl Random {
    /// The turns of the block at a position in the launch's order.
    pub(super) fn of_block(seed: u64, position: u64) -> Self {
        Self(Self(seed ^ Self(position).next()).next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// A permutation of `0..count` drawn from the seed, without storing it: a step prime to the count, and a start.
pub(super) fn permuted(position: u64, count: u64, seed: u64) -> u64 {
    let mut own = Random(seed ^ 0x5bd1_e995);
    let start = own.below(count);
    let mut step = own.below(count).max(1);
    while gcd(step, count) != 1 {
        step += 1;
    }
    ((u128::from(position) * u128::from(step) + u128::from(start)) % u128::from(count)) as u64
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
