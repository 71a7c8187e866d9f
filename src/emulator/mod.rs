//! Executes lowered PTX on the CPU under checks.
