//! The STAMP session-reflector (RFC 8762), unauthenticated mode, stateless: its answers' sequence numbers are the
//! session-sender's (RFC 8762 4.2).
//!
//! Of RFC 8972 the session identifier and the TLVs are given back as they came. A TLV that nobody has looked at has to carry the
//! flag U, with which the session-sender sends each of them (RFC 8972 4): so the answer says of each that it was not
//! understood, which is so.

use crate::{checksum::Delta, rewrite::Words};

/// The port of the session-reflector (RFC 8762 4.1).
pub const PORT: u16 = 862;
/// Bytes of a test packet's base part; what is shorter is none, what follows is given back (RFC 8762 4.3).
pub const LENGTH: usize = 44;
/// TTL and hop limit of a test packet (RFC 8762 4.1.1 by RFC 5357 4.2.1: then the other side can tell how many hops there are).
pub const TTL: u8 = 255;

const SEQUENCE: usize = 0;
const TIMESTAMP: usize = 1;
const ERROR: usize = 3;
const RECEIVED: usize = 4;
const SENDER_SEQUENCE: usize = 6;
const SENDER_TIMESTAMP: usize = 7;
const SENDER_ERROR: usize = 9;
const SENDER_TTL: usize = 10;

/// Seconds from 1900 to 1970 (RFC 868).
const NTP_EPOCH: u64 = 2_208_988_800;
const NANOSECONDS: u64 = 1_000_000_000;

/// A timestamp in NTP's 64-bit format (RFC 5905 6; bit Z of the error estimate is 0), as two words on the wire. `tai`: nanoseconds
/// of CLOCK_TAI; `offset`: seconds that it is before CLOCK_REALTIME.
#[inline(always)]
pub const fn ntp(tai: u64, offset: u32) -> [u32; 2] {
    let seconds = (tai / NANOSECONDS).wrapping_add(NTP_EPOCH).wrapping_sub(offset as u64) as u32;
    // Below 2^62.
    let fraction = (((tai % NANOSECONDS) << 32) / NANOSECONDS) as u32;
    [seconds.to_be(), fraction.to_be()]
}

/// An error estimate (RFC 4656 4.1.2): at least `microseconds` off; `synchronized` to a source outside this host.
pub const fn error_estimate(microseconds: u64, synchronized: bool) -> u16 {
    // Units of 2^-32 seconds; multiplier times 2^scale, rounded up. The multiplier must not be 0.
    let mut units = ((microseconds as u128) << 32).div_ceil(1_000_000);
    let mut scale = 0;
    while units > 0xff && scale < 63 {
        units = units.div_ceil(2);
        scale += 1;
    }
    let multiplier = if units == 0 {
        1
    } else if units > 0xff {
        0xff
    } else {
        units as u16
    };
    (synchronized as u16) << 15 | scale << 8 | multiplier
}

/// Makes a session-sender's test packet the session-reflector's answer (RFC 8762 4.3.1), and returns what its checksum changes by.
/// `ttl` is the packet's own, `error` the reflector's error estimate (host order), `received` and `sent` timestamps of one
/// format.
#[inline(always)]
pub fn reflect(
    packet: &mut (impl Words + ?Sized),
    ttl: u8,
    error: u16,
    received: [u32; 2],
    sent: [u32; 2],
) -> Delta {
    let sequence = packet.word(SEQUENCE);
    let sender = [packet.word(TIMESTAMP), packet.word(TIMESTAMP + 1)];
    // Beside the error estimate stands RFC 8972's session identifier, or zero.
    let [e0, e1, i0, i1] = packet.word(ERROR).to_ne_bytes();
    let [o0, o1] = error.to_be_bytes();
    let mut delta = Delta::NONE;
    let mut put = |index: usize, new: u32| {
        delta = delta.word32(packet.word(index), new);
        packet.put(index, new);
    };
    put(TIMESTAMP, sent[0]);
    put(TIMESTAMP + 1, sent[1]);
    put(ERROR, u32::from_ne_bytes([o0, o1, i0, i1]));
    put(RECEIVED, received[0]);
    put(RECEIVED + 1, received[1]);
    put(SENDER_SEQUENCE, sequence);
    put(SENDER_TIMESTAMP, sender[0]);
    put(SENDER_TIMESTAMP + 1, sender[1]);
    put(SENDER_ERROR, u32::from_ne_bytes([e0, e1, 0, 0]));
    put(SENDER_TTL, u32::from_ne_bytes([ttl, 0, 0, 0]));
    delta
}

#[cfg(test)]
mod tests;
