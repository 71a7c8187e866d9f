//! One bit a byte, handled a word at a time.

/// A fixed number of bits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BitMap {
    words: Vec<u64>,
    bits: usize,
}

impl BitMap {
    /// `bits` bits, all `value`.
    pub fn new(bits: usize, value: bool) -> Self {
        Self { words: vec![if value { u64::MAX } else { 0 }; bits.div_ceil(64)], bits }
    }

    /// Number of bits.
    pub fn len(&self) -> usize {
        self.bits
    }

    /// Whether there are no bits at all.
    pub fn is_empty(&self) -> bool {
        self.bits == 0
    }

    /// One bit; bits past the end are clear.
    pub fn contains(&self, bit: usize) -> bool {
        bit < self.bits && self.words.get(bit / 64).is_some_and(|w| w >> (bit % 64) & 1 == 1)
    }

    /// Up to 64 bits from `first` on; bits past the end are clear.
    pub(super) fn bits(&self, first: usize, count: usize) -> u64 {
        let word = |index: usize| self.words.get(index).copied().unwrap_or(0);
        let both = u128::from(word(first / 64 + 1)) << 64 | u128::from(word(first / 64));
        (both >> (first % 64)) as u64 & (u64::MAX >> (64 - count))
    }

    /// Sets `count` bits from `first` on, as far as they exist.
    pub fn insert(&mut self, first: usize, count: usize) {
        self.each_word(first, count, |word, mask| *word |= mask);
    }

    /// Clears `count` bits from `first` on, as far as they exist.
    pub fn remove(&mut self, first: usize, count: usize) {
        self.each_word(first, count, |word, mask| *word &= !mask);
    }

    /// Clears every bit.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Sets the bits that are set in a map of the same size.
    pub(super) fn union(&mut self, other: &Self) {
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word |= other;
        }
    }

    /// The set bits.
    pub(super) fn ones(&self) -> impl Iterator<Item = usize> {
        let words = self.words.iter().enumerate().filter(|(_, word)| **word != 0);
        words.flat_map(|(index, word)| (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index * 64 + bit))
    }

    /// Number of set bits.
    pub fn count(&self) -> usize {
        let whole = self.words.iter().map(|w| w.count_ones() as usize).sum::<usize>();
        let spare = self.words.len() * 64 - self.bits;
        let last = self.words.last().copied().unwrap_or(0);
        let excess = if spare == 0 { 0 } else { (last >> (64 - spare)).count_ones() as usize };
        whole - excess
    }

    /// The first clear bit among `count` from `first` on; bits past the end count as clear.
    #[inline]
    pub fn first_clear(&self, first: usize, count: usize) -> Option<usize> {
        let mut at = first;
        let end = first + count;
        while at < end {
            let word = self.words.get(at / 64).copied().unwrap_or(0) >> (at % 64);
            let here = (64 - at % 64).min(end - at);
            let clear = (!word).trailing_zeros() as usize;
            if clear < here {
                return Some(at + clear);
            }
            at += here;
        }
        None
    }

    #[inline]
    fn each_word(&mut self, first: usize, count: usize, mut act: impl FnMut(&mut u64, u64)) {
        let mut at = first;
        let end = (first + count).min(self.bits);
        while at < end {
            let here = (64 - at % 64).min(end - at);
            let mask = (u64::MAX >> (64 - here)) << (at % 64);
            if let Some(word) = self.words.get_mut(at / 64) {
                act(word, mask);
            }
            at += here;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_are_bits(bits in 1usize..300, a in 0usize..300, n in 0usize..300, b in 0usize..300, m in 0usize..300) {
            let mut map = BitMap::new(bits, false);
            map.insert(a, n);
            map.remove(b, m);
            let expected: Vec<bool> = (0..bits).map(|i| (a..a + n).contains(&i) && !(b..b + m).contains(&i)).collect();
            for (i, e) in expected.iter().enumerate() {
                prop_assert_eq!(map.contains(i), *e);
            }
            prop_assert_eq!(map.count(), expected.iter().filter(|e| **e).count());
            let first = (b..b + m).find(|i| !map.contains(*i));
            prop_assert_eq!(map.first_clear(b, m), first);
            let count = m.clamp(1, 64);
            let word = (0..count).fold(0, |word, i| word | u64::from(map.contains(b + i)) << i);
            prop_assert_eq!(map.bits(b, count), word);
        }
    }

    #[test]
    fn bits_past_the_end_are_not_counted() {
        assert_eq!(BitMap::new(70, true).count(), 70);
        assert!(!BitMap::new(70, true).contains(70));
    }
}
