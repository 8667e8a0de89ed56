//! The agent's API: HTTP + JSON over a Unix socket. [`types`] is shared by the server, the CLI and the files.

pub mod client;
pub mod server;
pub mod types;
