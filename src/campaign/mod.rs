//! A budgeted search over kernels and backends.
