//! The whole of netfast in namespaces: the real agent, the real CLI, native XDP on veth pairs, and at both ends programs
//! that no one here wrote. Every test has its own topology ([`world`]).

#[path = "../support/mod.rs"]
mod support;

mod changes;
mod claim;
mod direct;
mod drain;
mod family;
mod filter;
mod filter_oracle;
mod floods;
mod forward;
mod health;
mod health_tls;
mod hops;
mod icmp;
mod jumbo;
mod peers;
mod programs;
mod quic;
mod restart;
mod snat;
mod stream;
mod tags;
mod vlan;
mod world;
