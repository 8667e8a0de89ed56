//! The agent, the CLI and what they share. ARCHITECTURE.md has the code map.

pub mod api;
pub mod metrics;
pub mod netlink;
pub mod rules;
