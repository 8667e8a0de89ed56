//! Rewriting headers in place, with their checksums.
//!
//! All functions take the header bytes as fixed-size arrays: the caller has checked that they are there.

use crate::checksum::Delta;

/// New addresses and ports of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple4 {
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
    /// Source port and destination port.
    pub ports: [u8; 4],
}

/// New addresses and ports of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple6 {
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
    /// Source port and destination port.
    pub ports: [u8; 4],
}

#[inline(always)]
const fn array4(bytes: &[u8], at: usize) -> [u8; 4] {
    [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]
}

/// Puts new addresses into an IPv4 header, lowers its TTL by one (RFC 1812 5.3.1) and updates its checksum. Returns
/// what the transport checksum's pseudo-header has changed by. The caller has checked that the TTL is above 1.
#[inline(always)]
pub fn ipv4(header: &mut [u8; 20], new: &Tuple4) -> Delta {
    let addresses =
        Delta::NONE.field4(array4(header, 12), new.source).field4(array4(header, 16), new.destination);
    let ttl = header[8].wrapping_sub(1);
    let delta = addresses.word([header[8], header[9]], [ttl, header[9]]);
    let checksum = delta.apply([header[10], header[11]]);
    header[8] = ttl;
    header[10] = checksum[0];
    header[11] = checksum[1];
    put4(header, 12, new.source);
    put4(header, 16, new.destination);
    addresses
}

/// Puts new addresses into an IPv6 header and lowers its hop limit by one. Returns what the transport checksum's
/// pseudo-header has changed by. The caller has checked that the hop limit is above 1.
#[inline(always)]
pub fn ipv6(header: &mut [u8; 40], new: &Tuple6) -> Delta {
    let mut delta = Delta::NONE;
    let mut i = 0;
    while i < 16 {
        delta = delta.field4(array4(header, 8 + i), array4(&new.source, i));
        delta = delta.field4(array4(header, 24 + i), array4(&new.destination, i));
        put4(header, 8 + i, array4(&new.source, i));
        put4(header, 24 + i, array4(&new.destination, i));
        i += 4;
    }
    header[7] = header[7].wrapping_sub(1);
    delta
}

/// Puts new ports into the first bytes of a TCP or UDP header and returns the whole change for its checksum.
#[inline(always)]
pub fn ports(header: &mut [u8; 4], new: [u8; 4], pseudo: Delta) -> Delta {
    let delta = pseudo.field4(*header, new);
    *header = new;
    delta
}

/// Swaps the two addresses of an IPv4 header and sets its TTL, for an answer. The checksum changes by the TTL alone.
#[inline(always)]
pub fn reflect_ipv4(header: &mut [u8; 20], ttl: u8) {
    let (source, destination) = (array4(header, 12), array4(header, 16));
    let checksum = Delta::NONE.word([header[8], header[9]], [ttl, header[9]]).apply([header[10], header[11]]);
    header[8] = ttl;
    header[10] = checksum[0];
    header[11] = checksum[1];
    put4(header, 12, destination);
    put4(header, 16, source);
}

/// Swaps the two addresses of an IPv6 header and sets its hop limit, for an answer.
#[inline(always)]
pub fn reflect_ipv6(header: &mut [u8; 40], hop_limit: u8) {
    let mut i = 0;
    while i < 16 {
        let (source, destination) = (array4(header, 8 + i), array4(header, 24 + i));
        put4(header, 8 + i, destination);
        put4(header, 24 + i, source);
        i += 4;
    }
    header[7] = hop_limit;
}

#[inline(always)]
fn put4(bytes: &mut [u8], at: usize, value: [u8; 4]) {
    bytes[at] = value[0];
    bytes[at + 1] = value[1];
    bytes[at + 2] = value[2];
    bytes[at + 3] = value[3];
}
