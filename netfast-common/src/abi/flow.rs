//! Flows: the key, the authority's entry, and the lines of the flow cache in front of it.

use super::pod;

/// One direction of a conversation as it stands on the wire: key of the flow tables.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
    /// Source port.
    pub source_port: [u8; 2],
    /// Destination port.
    pub destination_port: [u8; 2],
    /// IP protocol number: 6 or 17. Of an ICMP query (1 or 58) the identifier stands in the port of the asking side, the
    /// other port is 0.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

impl FlowKey {
    /// Makes this the key of `other` seen from the other side ([`crate::flow::reverse`]), by stores of whole words: a word that is read
    /// soon after it was written in parts waits until all that was written before has left the CPU, and a table is asked for this
    /// key at once.
    #[inline(always)]
    pub fn reverse_of(&mut self, other: &Self) {
        let [source, source_low, destination, destination_low, _] = other.words();
        let ([s0, s1], [d0, d1]) = (other.source_port, other.destination_port);
        let last = u64::from_ne_bytes([d0, d1, s0, s1, other.protocol, 0, 0, 0]);
        let words = [destination, destination_low, source, source_low, last];
        let place = core::ptr::from_mut(self).cast::<u64>();
        let mut i = 0;
        while i < words.len() {
            // SAFETY: the key is five words long and aligned to one. Volatile, so that the stores stay whole.
            unsafe { place.add(i).write_volatile(words[i]) };
            i += 1;
        }
    }

    /// The key as it lies in memory.
    #[inline(always)]
    pub const fn words(&self) -> [u64; 5] {
        let key = core::ptr::from_ref(self).cast::<u64>();
        // SAFETY: the key is five words long and aligned to one, and has no padding.
        unsafe { [*key, *key.add(1), *key.add(2), *key.add(3), *key.add(4)] }
    }
}

/// Entry of the flow tables. Both directions have one; the entry of the *original* direction (client to service) is
/// the authority for state and age, the *reply* entry only leads to it (its translated tuple, reversed, is the
/// original key).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// The tuple that a packet of this direction leaves with.
    pub translated: FlowKey,
    /// Jiffies (low 32 bits) of the last packet that reached the table, either direction. Original entry only. It lags
    /// by up to the lifetime of a cached line.
    pub last_seen: u32,
    /// Jiffies (low 32 bits) at creation. In the reply entry: sequence number of the target's last SYN (host order),
    /// once there was one.
    pub created: u32,
    /// Generation under which the filter last allowed the flow. Original entry only.
    pub generation: u32,
    /// [`super::Forward::uid`] of the forward that made the flow.
    pub forward_uid: u32,
    /// Index of the target.
    pub target: u16,
    /// Index of the next hop of this direction.
    pub next_hop: u16,
    /// Index of the forward.
    pub forward: u16,
    /// [`crate::flow::State`]. Original entry only.
    pub state: u8,
    /// 0: original direction, 1: reply direction.
    pub direction: u8,
}

/// Slots of a set of the map `HALF_OPEN`: the first one is its head, the others are entries.
pub const HALF_OPEN_SLOTS: u32 = 16;

/// A slot of the map `HALF_OPEN`: an entry, two of the CPU's cache lines. The first slot of a set is no entry but its head: 16 words
/// of 32 bits, the first one the set's counter, the others the words of the entries ([`crate::half_open`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HalfOpen {
    /// Key of the entry.
    pub key: FlowKey,
    /// The entry.
    pub flow: Flow,
    /// Zero.
    pub pad: [u64; 3],
}

/// What a cached line says to do.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// No line.
    Empty = 0,
    /// Original direction of a TCP or UDP flow. What changes with the flow stands in `address` ([`ORIGINAL_PORTS`],
    /// [`ORIGINAL_DELTA`]); the new addresses are the target's.
    Original = 1,
    /// Reply direction of a TCP or UDP flow.
    Reply = 2,
    /// UDP echo: the source may use the reflector.
    Echo = 3,
    /// Forward in mode `dsr`.
    Direct = 4,
    /// Forward in mode `ipip`.
    Tunnel = 5,
    /// A packet of no flow: what the rules say of it. The tail's port is verdict and reason; `address` ends with the number of
    /// the rule that decides (all ones: none), native; `next_hop` is the VLAN (0: none); the interface is the IPv4 line's `deltas`,
    /// the word before the rule in the IPv6 line.
    Verdict = 6,
}

/// Offset in the `address` of a line of kind [`LineKind::Original`]: both new ports, as on the wire.
pub const ORIGINAL_PORTS: usize = 0;
/// Likewise, of an IPv6 line only: what the transport checksum changes by, a native `u16` ([`crate::checksum::kept`]).
pub const ORIGINAL_DELTA: usize = 4;

/// A line of the IPv4 flow cache: two of them are one 64-byte cache line.
///
/// The last word, made by [`line_tail`], holds what is compared or applied beside the addresses. `address` and the
/// tail's port are what changes with the flow: in the original direction the new ports, in the other one the client.
/// Everything else of the rewrite stands in the [`super::Target`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheLine4 {
    /// Source address, as received.
    pub source: [u8; 4],
    /// Destination address, as received.
    pub destination: [u8; 4],
    /// Source port, destination port, as received.
    pub ports: [u8; 4],
    /// New destination address of an answer; for others see [`LineKind`].
    pub address: [u8; 4],
    /// Index of the next hop.
    pub next_hop: u16,
    /// Index of the target, or of the echo reflector.
    pub target: u16,
    /// What the checksums change by ([`crate::rewrite::deltas4`]); of an echo 0.
    pub deltas: u32,
    /// See [`line_tail`].
    pub tail: u64,
}

/// A line of the IPv6 flow cache; see [`CacheLine4`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheLine6 {
    /// Source address, as received.
    pub source: [u8; 16],
    /// Destination address, as received.
    pub destination: [u8; 16],
    /// New destination address of an answer; for others see [`LineKind`].
    pub address: [u8; 16],
    /// Source port, destination port, as received.
    pub ports: [u8; 4],
    /// Index of the next hop.
    pub next_hop: u16,
    /// Index of the target, or of the echo reflector.
    pub target: u16,
    /// See [`line_tail`].
    pub tail: u64,
}

/// A two-way set of the IPv4 flow cache: one cache line of the CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheSet4 {
    /// The lines.
    pub ways: [CacheLine4; 2],
}

/// A two-way set of the IPv6 flow cache: two adjacent cache lines of the CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheSet6 {
    /// The lines.
    pub ways: [CacheLine6; 2],
}

/// A line's age is counted in units of so many jiffies.
pub const LINE_TICK: u32 = 16;

/// Packs a line's last word: the port (bytes as on the wire, read as a native `u16`) in bits 0-15, the generation's low 16
/// bits in 16-31, the kind in 32-34, bit 35 set for UDP, the upper 28 bits of the jiffies (`now`) in 36-63.
#[inline(always)]
pub const fn line_tail(kind: LineKind, udp: bool, generation: u32, port: u16, now: u32) -> u64 {
    let (kind, now) = (kind as u32 | (udp as u32) << 3, now & !(LINE_TICK - 1));
    (port as u64) | (((generation & 0xffff) as u64) << 16) | ((kind | now) as u64) << 32
}

/// Kind and protocol of a tail, by its upper half: the kind's number, and 8 for UDP.
#[inline(always)]
pub const fn line_kind(upper: u32) -> u8 {
    (upper & (LINE_TICK - 1)) as u8
}

/// Jiffies since a line was made, by its tail's upper half: less than one [`LINE_TICK`] too few, less than two too many. (2^32 jiffies,
/// 49 days at 1,000 Hz, it does not see: a line that nothing has asked for or overwritten for so long.)
#[inline(always)]
pub const fn line_age(upper: u32, now: u32) -> u32 {
    // The kind stands where the stamp has no bits: it is not above what is put into the clock there.
    (now | (LINE_TICK - 1)).wrapping_sub(upper)
}

/// Jiffies after which no line acts that was made before; `lifetime` is [`super::Config::line_lifetime`].
#[inline(always)]
pub const fn line_end(lifetime: u32) -> u32 {
    lifetime + LINE_TICK
}

/// The upper half of a tail: kind, protocol and stamp.
#[inline(always)]
pub const fn tail_upper(tail: u64) -> u32 {
    (tail >> 32) as u32
}

/// The generation's low 16 bits of a tail.
#[inline(always)]
pub const fn tail_generation(tail: u64) -> u16 {
    (tail >> 16) as u16
}

/// The port of a tail (bytes as on the wire, read as a native `u16`): the new source port of the original direction,
/// the new destination port of the reply direction.
#[inline(always)]
pub const fn tail_port(tail: u64) -> u16 {
    tail as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_as_old_as_it_is() {
        for made in [0u32, 15, 16, 12_345, u32::MAX - 300, u32::MAX] {
            for after in [0u32, 1, 15, 16, 17, 250, 4_000, 1 << 30] {
                for (kind, udp) in
                    [(LineKind::Empty, false), (LineKind::Original, true), (LineKind::Verdict, true)]
                {
                    let tail = line_tail(kind, udp, 0x12345, 0x6789, made);
                    let age = line_age(tail_upper(tail), made.wrapping_add(after));
                    assert!(after < age + LINE_TICK && age < after + 2 * LINE_TICK, "{made} {after}: {age}");
                    assert_eq!(line_kind(tail_upper(tail)), kind as u8 | (udp as u8) << 3);
                    assert_eq!((tail_generation(tail), tail_port(tail)), (0x2345, 0x6789));
                }
            }
        }
    }
}

pod!(FlowKey => 40, Flow => 64, HalfOpen => 128, CacheLine4 => 32, CacheLine6 => 64, CacheSet4 => 64, CacheSet6 => 128);
