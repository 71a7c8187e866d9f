//! Kernels, their manifests, and the two ways to execute them.
