//! Owned tensor data: dtype, layout in memory, poison.
//!
//! A tensor here is bytes plus a [`Layout`]. It has no arithmetic: the reference works on f64 rows of its own.

use crate::float::Dtype;
use std::ops::Range;

/// Extents and strides, in elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    extents: Vec<u64>,
    strides: Vec<u64>,
}

impl Layout {
    /// Row-major, without gaps.
    pub fn contiguous(extents: &[u32]) -> Self {
        let extents: Vec<u64> = extents.iter().map(|&n| u64::from(n)).collect();
        let mut strides = vec![1; extents.len()];
        for axis in (1..extents.len()).rev() {
            strides[axis - 1] = strides[axis] * extents[axis];
        }
        Self { extents, strides }
    }

    /// Any strides, one for each extent.
    pub fn strided(extents: &[u64], strides: &[u64]) -> Self {
        debug_assert_eq!(extents.len(), strides.len());
        Self { extents: extents.to_vec(), strides: strides.to_vec() }
    }

    /// Extent of each axis.
    pub fn extents(&self) -> &[u64] {
        &self.extents
    }

    /// Stride of each axis.
    pub fn strides(&self) -> &[u64] {
        &self.strides
    }

    /// Element offset of a coordinate.
    pub fn offset(&self, at: &[u64]) -> usize {
        debug_assert!(at.iter().zip(&self.extents).all(|(i, n)| i < n), "{at:?} outside {:?}", self.extents);
        at.iter().zip(&self.strides).map(|(i, s)| i * s).sum::<u64>() as usize
    }

    /// Elements from the first to one past the last, gaps between rows included and a gap after the last row not.
    pub fn span(&self) -> usize {
        if self.extents.contains(&0) {
            return 0;
        }
        1 + self.extents.iter().zip(&self.strides).map(|(n, s)| (n - 1) * s).sum::<u64>() as usize
    }

    /// The coordinate that lies at an element offset, or nothing for a gap. For messages, not for speed.
    pub fn coordinate(&self, offset: usize) -> Option<Vec<u64>> {
        let mut order: Vec<usize> = (0..self.strides.len()).filter(|&a| self.extents[a] > 1).collect();
        order.sort_by_key(|&a| std::cmp::Reverse(self.strides[a]));
        let mut at = vec![0; self.extents.len()];
        let mut rest = offset as u64;
        for axis in order {
            at[axis] = rest / self.strides[axis];
            rest %= self.strides[axis];
            if at[axis] >= self.extents[axis] {
                return None;
            }
        }
        (rest == 0).then_some(at)
    }
}

/// Elements of one dtype, in memory order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    dtype: Dtype,
    bytes: Vec<u8>,
}

impl Buffer {
    /// `len` elements, all with these bits.
    pub fn filled(dtype: Dtype, len: usize, bits: u32) -> Self {
        let element = bits.to_le_bytes();
        Self { dtype, bytes: element[..dtype.size_bytes()].repeat(len) }
    }

    /// Elements with these values, each rounded to `dtype`.
    pub fn of_values(dtype: Dtype, values: &[f64]) -> Self {
        let mut buffer = Self { dtype, bytes: vec![0; values.len() * dtype.size_bytes()] };
        buffer.set_values(0, values);
        buffer
    }

    /// Takes over bytes; a part of an element at the end is dropped.
    pub fn from_bytes(dtype: Dtype, mut bytes: Vec<u8>) -> Self {
        bytes.truncate(bytes.len() / dtype.size_bytes() * dtype.size_bytes());
        Self { dtype, bytes }
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size_bytes()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Little-endian bytes of the elements.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Gives the bytes away.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Bits of an element.
    pub fn bits(&self, index: usize) -> u32 {
        match self.dtype {
            Dtype::F32 => u32::from_le_bytes(self.bytes.as_chunks().0[index]),
            Dtype::F16 | Dtype::Bf16 => u32::from(u16::from_le_bytes(self.bytes.as_chunks().0[index])),
        }
    }

    /// Value of an element.
    pub fn value(&self, index: usize) -> f64 {
        self.dtype.decode(self.bits(index))
    }

    /// Sets the elements from `first` on.
    pub fn set_values(&mut self, first: usize, values: &[f64]) {
        let (dtype, size) = (self.dtype, self.dtype.size_bytes());
        let bytes = &mut self.bytes[first * size..][..values.len() * size];
        if dtype == Dtype::F32 {
            let elements = bytes.as_chunks_mut::<4>().0;
            elements.iter_mut().zip(values).for_each(|(element, x)| *element = (*x as f32).to_le_bytes());
        } else {
            let elements = bytes.as_chunks_mut::<2>().0;
            elements.iter_mut().zip(values).for_each(|(element, x)| *element = (dtype.encode(*x) as u16).to_le_bytes());
        }
    }

    /// Whether the elements from `first` on are these values, each rounded to the buffer's type.
    pub fn has_values(&self, first: usize, values: &[f64]) -> bool {
        let (dtype, size) = (self.dtype, self.dtype.size_bytes());
        let bytes = &self.bytes[first * size..][..values.len() * size];
        // Without an end at the first difference, several elements at once.
        if dtype == Dtype::F32 {
            let elements = bytes.as_chunks().0.iter().zip(values);
            elements.fold(0, |all, (element, x)| all | u32::from_le_bytes(*element) ^ (*x as f32).to_bits()) == 0
        } else {
            let elements = bytes.as_chunks().0.iter().zip(values);
            elements.fold(0, |all, (element, x)| all | u32::from(u16::from_le_bytes(*element)) ^ dtype.encode(*x)) == 0
        }
    }

    /// Whether these elements all have these bits.
    pub fn is_filled(&self, elements: Range<usize>, bits: u32) -> bool {
        let size = self.dtype.size_bytes();
        let bytes = &self.bytes[elements.start * size..elements.end * size];
        // The first has them, and every other is as the one before it.
        bytes.is_empty() || bytes[..size] == bits.to_le_bytes()[..size] && bytes[size..] == bytes[..bytes.len() - size]
    }

    /// Sets an element's bits.
    pub fn set_bits(&mut self, index: usize, bits: u32) {
        let size = self.dtype.size_bytes();
        self.bytes[index * size..][..size].copy_from_slice(&bits.to_le_bytes()[..size]);
    }

    /// Index of the first element whose bits differ from those of `other`, a buffer of the same length and dtype.
    pub fn first_difference(&self, other: &Self) -> Option<usize> {
        if self.bytes == other.bytes {
            return None;
        }
        (0..self.len().min(other.len())).find(|&i| self.bits(i) != other.bits(i))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_padded_layout_knows_its_gaps() {
        let layout = Layout::strided(&[2, 3, 4], &[18, 6, 1]);
        assert_eq!(layout.span(), 18 + 12 + 4);
        assert_eq!(layout.coordinate(layout.offset(&[1, 2, 3])), Some(vec![1, 2, 3]));
        assert_eq!(layout.coordinate(4), None);
    }

    #[test]
    fn elements_of_every_dtype_round_trip() {
        for dtype in Dtype::ALL {
            let mut buffer = Buffer::filled(dtype, 3, dtype.encode(1.5));
            assert!(buffer.is_filled(0..3, dtype.encode(1.5)) && buffer.has_values(1, &[1.5, 1.5]));
            buffer.set_bits(1, dtype.encode(-2.0));
            assert_eq!([0, 1, 2].map(|i| buffer.value(i)), [1.5, -2.0, 1.5]);
            assert!(!buffer.is_filled(0..3, dtype.encode(1.5)) && !buffer.is_filled(0..1, dtype.encode(-1.5)));
            assert!(buffer.is_filled(2..3, dtype.encode(1.5)) && buffer.is_filled(3..3, 0));
            assert!(buffer.has_values(0, &[1.5, -2.0]) && !buffer.has_values(0, &[1.5, 2.0]));
        }
    }
}
