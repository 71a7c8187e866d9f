//! Saved findings and their replay.
