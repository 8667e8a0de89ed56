//! ICMP errors of one IP version as those of the other (RFC 7915 4.2, 5.2).

use super::{GROWTH, IPV6_MTU};

/// Type, code, and the four bytes behind the checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// What stands behind the checksum: MTU, pointer, or the length field of RFC 4884, which is not carried over.
    pub rest: [u8; 4],
}

impl Error {
    #[inline(always)]
    const fn new(kind: u8, code: u8) -> Option<Self> {
        Some(Self { kind, code, rest: [0; 4] })
    }

    #[inline(always)]
    const fn pointer6(pointer: u8) -> Option<Self> {
        Some(Self { kind: 4, code: 0, rest: [0, 0, 0, pointer] })
    }

    #[inline(always)]
    const fn pointer4(pointer: u8) -> Option<Self> {
        Some(Self { kind: 12, code: 0, rest: [pointer, 0, 0, 0] })
    }

    /// The ICMPv6 error of an ICMPv4 one about an IPv4 packet of `length` bytes; `None` if there is none. `mtu`: of the way
    /// that the error goes on (0: unknown), which limits the MTU in it.
    #[inline(always)]
    pub const fn to_icmp6(self, length: u16, mtu: u16) -> Option<Self> {
        match (self.kind, self.code) {
            // Host and network unreachable, source route failed, isolated, unreachable for the type of service.
            (3, 0 | 1 | 5..=8 | 11 | 12) => Self::new(1, 0),
            // Protocol unreachable: the next header is not known.
            (3, 2) => match Self::new(4, 1) {
                Some(error) => Some(Self { rest: [0, 0, 0, 6], ..error }),
                None => None,
            },
            (3, 3) => Self::new(1, 4),
            (3, 4) => {
                let reported = u16::from_be_bytes([self.rest[2], self.rest[3]]);
                let reported = if reported == 0 { plateau(length) } else { reported };
                let mut new = reported.saturating_add(GROWTH);
                if mtu != 0 && mtu < new {
                    new = mtu;
                }
                if new < IPV6_MTU {
                    new = IPV6_MTU;
                }
                let [a, b] = new.to_be_bytes();
                Some(Self { kind: 2, code: 0, rest: [0, 0, a, b] })
            }
            // Administratively prohibited, precedence cut-off.
            (3, 9 | 10 | 13 | 15) => Self::new(1, 1),
            (11, 0 | 1) => Self::new(3, self.code),
            (12, 0 | 2) => match self.rest[0] {
                0 => Self::pointer6(0),
                1 => Self::pointer6(1),
                2 | 3 => Self::pointer6(4),
                8 => Self::pointer6(7),
                9 => Self::pointer6(6),
                12..=15 => Self::pointer6(8),
                16..=19 => Self::pointer6(24),
                _ => None,
            },
            _ => None,
        }
    }

    /// The ICMPv4 error of an ICMPv6 one; `None` if there is none. `mtu`: as for [`Error::to_icmp6`].
    #[inline(always)]
    pub const fn to_icmp4(self, mtu: u16) -> Option<Self> {
        match (self.kind, self.code) {
            (1, 0 | 2 | 3) => Self::new(3, 1),
            (1, 1) => Self::new(3, 10),
            (1, 4) => Self::new(3, 3),
            (2, _) => {
                let reported = u32::from_be_bytes(self.rest);
                let reported = if reported > 0xffff { 0xffff } else { reported as u16 };
                // No IPv6 link has a smaller one (RFC 8201 4).
                let reported = if reported < IPV6_MTU { IPV6_MTU } else { reported };
                let mut new = reported - GROWTH;
                if mtu != 0 && mtu < new {
                    new = mtu;
                }
                let [a, b] = new.to_be_bytes();
                Some(Self { kind: 3, code: 4, rest: [0, 0, a, b] })
            }
            (3, 0 | 1) => Self::new(11, self.code),
            (4, 0) => match u32::from_be_bytes(self.rest) {
                0 => Self::pointer4(0),
                1 => Self::pointer4(1),
                4 | 5 => Self::pointer4(2),
                6 => Self::pointer4(9),
                7 => Self::pointer4(8),
                8..=23 => Self::pointer4(12),
                24..=39 => Self::pointer4(16),
                _ => None,
            },
            (4, 1) => Self::new(3, 2),
            _ => None,
        }
    }
}

/// A likely MTU, in bytes, where a router has not told it (RFC 1191 7.1): the next smaller of the usual ones.
#[inline(always)]
const fn plateau(length: u16) -> u16 {
    match length {
        0..=1492 => 1006,
        1493..=2002 => 1492,
        2003..=4352 => 2002,
        4353..=8166 => 4352,
        8167..=17914 => 8166,
        17915..=32000 => 17914,
        _ => 32000,
    }
}
