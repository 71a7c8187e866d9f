//! proptest strategies over the generator and the shrinker.
