//! PTX text to a validated, lowered program. Knows no attention and executes nothing.
