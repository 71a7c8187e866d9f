//! Shape and Case: everything needed to run one test once.
