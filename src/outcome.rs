//! What a backend may say: an Output or a Fault.
