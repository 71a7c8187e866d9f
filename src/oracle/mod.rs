//! (case, outcome) to Verdict.
