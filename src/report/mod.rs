//! Events and findings for people and machines.
