//! The agent, the CLI and what they share.
