//! Typed elements, for code that is not this program's.

use crate::float::{Dtype, bf16, f16};
use crate::tensor::Buffer;

/// The elements of a tensor in memory order, gaps between rows included.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Tensor {
    /// binary32.
    F32(Vec<f32>),
    /// binary16.
    F16(Vec<f16>),
    /// bfloat16.
    Bf16(Vec<bf16>),
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for crate::float::f16 {}
    impl Sealed for crate::float::bf16 {}
}

/// A type that tensors are stored in: `f32`, [`f16`](struct@f16) or [`bf16`](struct@bf16).
pub trait Storable: sealed::Sealed + Copy {
    /// Its name as a dtype.
    const DTYPE: Dtype;
    /// The elements, if they are of this type.
    fn of(tensor: &Tensor) -> Option<&[Self]>;
    /// The same, to be changed.
    fn of_mut(tensor: &mut Tensor) -> Option<&mut [Self]>;
}

macro_rules! storable {
    ($type:ty, $variant:ident) => {
        impl Storable for $type {
            const DTYPE: Dtype = Dtype::$variant;

            fn of(tensor: &Tensor) -> Option<&[Self]> {
                if let Tensor::$variant(elements) = tensor { Some(elements) } else { None }
            }

            fn of_mut(tensor: &mut Tensor) -> Option<&mut [Self]> {
                if let Tensor::$variant(elements) = tensor { Some(elements) } else { None }
            }
        }

        impl From<Vec<$type>> for Tensor {
            fn from(elements: Vec<$type>) -> Self {
                Self::$variant(elements)
            }
        }
    };
}

storable!(f32, F32);
storable!(f16, F16);
storable!(bf16, Bf16);

impl Tensor {
    /// Their type.
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::F16(_) => Dtype::F16,
            Self::Bf16(_) => Dtype::Bf16,
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(elements) => elements.len(),
            Self::F16(elements) => elements.len(),
            Self::Bf16(elements) => elements.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements.
    ///
    /// # Panics
    /// They are of another type than `T`: a domain with several dtypes asks for a look at the case's.
    pub fn as_slice<T: Storable>(&self) -> &[T] {
        let found = self.dtype();
        T::of(self).unwrap_or_else(|| panic!("expected a tensor of {}, found one of {found}", T::DTYPE))
    }

    /// The elements, to be changed.
    ///
    /// # Panics
    /// As for [`Tensor::as_slice`].
    pub fn as_mut_slice<T: Storable>(&mut self) -> &mut [T] {
        let found = self.dtype();
        T::of_mut(self).unwrap_or_else(|| panic!("expected a tensor of {}, found one of {found}", T::DTYPE))
    }

    /// The elements as binary32, which holds those of every type.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Self::F32(elements) => elements.clone(),
            Self::F16(elements) => elements.iter().map(|x| x.to_f32()).collect(),
            Self::Bf16(elements) => elements.iter().map(|x| x.to_f32()).collect(),
        }
    }

    /// Little-endian bytes of the elements, as a GPU has them.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::F32(elements) => elements.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Self::F16(elements) => elements.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Self::Bf16(elements) => elements.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }

    /// Elements of `dtype` from their little-endian bytes; a part of one at the end is dropped.
    pub fn from_bytes(dtype: Dtype, bytes: &[u8]) -> Self {
        match dtype {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|&x| f32::from_le_bytes(x)).collect::<Vec<_>>().into(),
            Dtype::F16 => bytes.as_chunks().0.iter().map(|&x| f16::from_le_bytes(x)).collect::<Vec<_>>().into(),
            Dtype::Bf16 => bytes.as_chunks().0.iter().map(|&x| bf16::from_le_bytes(x)).collect::<Vec<_>>().into(),
        }
    }

    pub(super) fn of(buffer: &Buffer) -> Self {
        Self::from_bytes(buffer.dtype(), buffer.bytes())
    }

    pub(super) fn to_buffer(&self) -> Buffer {
        Buffer::from_bytes(self.dtype(), self.to_bytes())
    }
}
