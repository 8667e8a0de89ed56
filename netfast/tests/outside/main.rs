//! netfast judged by what no one here wrote: the kernel's own NAT on the same packets, scapy, hping3.

#[path = "../../examples/replay/checksums.rs"]
mod checksums;
#[path = "../support/mod.rs"]
mod support;

mod boxes;
mod oracle;
#[path = "../netns/peers.rs"]
#[allow(dead_code, reason = "the servers are for the tests in namespaces")]
mod peers;
mod script;
mod wire;
