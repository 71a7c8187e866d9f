//! Makes a failing Case smaller.
