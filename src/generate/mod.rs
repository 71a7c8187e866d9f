//! Case generators: proptest strategies and Arbitrary through one legalize.
