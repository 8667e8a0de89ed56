//! Programs of the benchmark `cargo xtask bench prog`, for BPF_PROG_TEST_RUN.
//!
//! TEST_RUN hands the same buffer to the program again and again. `bench_packet` makes of it a fresh packet of the next
//! flow, then tail-calls the program under test. What it costs itself is measured by the same way to `bench_empty`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod live;
#[cfg(target_arch = "bpf")]
mod programs;
