//! Owned tensor data: dtype, strides, guard zones, poison.
