//! Counters and events.

use super::{MAX_ECHOES, MAX_INTERFACES, MAX_TARGETS, pod};
use crate::reason::{Reason, Verdict};

/// Packets and bytes (frame length without FCS). Part of a [`CounterBlock`], or element of a per-CPU map: `FILTER_COUNTERS` (the
/// rule's number) and others.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// The counters of one CPU that packets of cached flows write: element of the map `COUNTERS`, whose index is the CPU's number.
/// One look-up leads to all of them. A block is a number of whole pages, so that CPUs share none.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CounterBlock {
    /// All parts, one after the other: see [`CounterPart`].
    pub counters: [Traffic; COUNTERS as usize],
}

/// A part of a [`CounterBlock`]. Its length is a power of two, so that a mask keeps an index inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterPart {
    /// Its first counter.
    pub at: u32,
    /// Its number of counters.
    pub length: u32,
}

/// By interface, `(row * Reason::SLOTS + reason) * Verdict::COUNT + verdict`; the row behind those of interfaces is of unknown ones.
pub const INTERFACE_COUNTERS: CounterPart =
    CounterPart { at: 0, length: 2 * MAX_INTERFACES * Reason::SLOTS * Verdict::COUNT };
/// By target, `target * 2 + direction`.
pub const TARGET_COUNTERS: CounterPart =
    CounterPart { at: INTERFACE_COUNTERS.length, length: 2 * MAX_TARGETS };
/// Answers, by echo reflector.
pub const ECHO_COUNTERS: CounterPart =
    CounterPart { at: TARGET_COUNTERS.at + TARGET_COUNTERS.length, length: MAX_ECHOES };
/// Counters of a [`CounterBlock`].
pub const COUNTERS: u32 = ECHO_COUNTERS.at + ECHO_COUNTERS.length;

const _: () = {
    assert!(INTERFACE_COUNTERS.length.is_power_of_two() && TARGET_COUNTERS.length.is_power_of_two());
    assert!(ECHO_COUNTERS.length.is_power_of_two() && COUNTERS.is_multiple_of(4096 / 16), "whole pages");
};

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
