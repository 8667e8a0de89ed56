//! The agent, the CLI and what they share. ARCHITECTURE.md has the code map.

pub mod agent;
pub mod api;
pub mod classifier;
pub mod cli;
pub mod config;
pub mod datapath;
pub mod edit;
pub mod health;
pub mod metrics;
pub mod netlink;
pub mod rules;
pub mod store;
