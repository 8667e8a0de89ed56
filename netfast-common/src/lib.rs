//! The datapath's logic, as an ordinary crate.
//!
//! What is decided about a frame is decided here, by pure code over byte arrays: the same functions run inside the
//! kernel (compiled into `netfast-ebpf`) and on the host (unit tests, property tests, fuzzing, `netfast check`). The
//! BPF crate adds only what needs the kernel: packet pointers, map look-ups, helper calls.
//!
//! Start with [`abi`] (what the kernel and the agent share) and [`reason`] (why a frame went where it went).
#![cfg_attr(not(any(test, feature = "user")), no_std)]

pub mod abi;
pub mod addr;
pub mod answer;
pub mod checksum;
pub mod claim;
pub mod classify;
pub mod echo;
pub mod family;
pub mod flow;
pub mod half_open;
pub mod hash;
pub mod limit;
pub mod maglev;
pub mod quic;
pub mod quota;
pub mod reason;
pub mod rewrite;
pub mod services;
pub mod snat;
pub mod stamp;
pub mod tunnel;
pub mod wire;

pub use reason::{Reason, Verdict};
