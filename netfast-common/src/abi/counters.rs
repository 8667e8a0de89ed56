//! Counters and events.

use super::pod;

/// Packets and bytes (frame length without FCS). Element of per-CPU maps: `INTERFACE_COUNTERS` (index
/// `(row * Reason::SLOTS + reason) * Verdict::COUNT + verdict`), `TARGET_COUNTERS` (`target * 2 + direction`),
/// `ECHO_COUNTERS` (index of the reflector), `FILTER_COUNTERS` (the rule's number).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What the program asks of the agent.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A packet needed next hop `hop` and it is not valid: resolve `key` now.
    HopUnresolved = 1,
    /// The program has learned a next hop and given it index `hop`: keep it current.
    HopLearned = 2,
    /// Another station (`mac`) uses, or asks for, the claimed address in `key`, on interface `key.ifindex` with tag `vlan`.
    ClaimSeen = 3,
}

/// Record of the ring buffer `EVENTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// [`EventKind`].
    pub kind: u32,
    /// Index of the next hop.
    pub hop: u32,
    /// What it is ([`EventKind::HopLearned`]).
    pub key: super::HopKey,
    /// A station's MAC address ([`EventKind::ClaimSeen`]).
    pub mac: [u8; 6],
    /// VLAN identifier that its frame came with, 0: untagged.
    pub vlan: u16,
}

pod!(Traffic => 16, Event => 40);
