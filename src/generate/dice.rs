//! What random choices are made with.
//!
//! Only `next_u64` is asked of a generator, so a later version of `rand` can't change what a seed stands for.

use rand::RngCore;

/// Random choices out of 64 random bits each.
pub(super) struct Dice<'a, R>(pub(super) &'a mut R);

impl<R: RngCore> Dice<'_, R> {
    /// From 0 to `n - 1`; 0 if `n` is 0. The bias, below 2^-32, does not matter here.
    pub(super) fn below(&mut self, n: u32) -> u32 {
        ((u128::from(self.0.next_u64()) * u128::from(n)) >> 64) as u32
    }

    pub(super) fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    /// One of `choices`, of which there must be at least one.
    pub(super) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u32) as usize]
    }
}
