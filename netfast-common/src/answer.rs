//! Answers that netfast makes in place of a packet that it does not forward: ICMP errors and TCP resets.

/// What an answer says. The ICMP type and code follow from it and from the packet's IP version.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// TTL or hop limit used up (RFC 792, RFC 4443 3.3).
    TimeExceeded = 1,
    /// Fragmentation Needed or Packet Too Big; goes with the MTU in bytes (RFC 1191 4, RFC 4443 3.2).
    TooBig = 2,
    /// Nobody listens at the port (RFC 1122 3.2.2.1, RFC 4443 3.1).
    PortUnreachable = 3,
    /// Refused by a filter (RFC 1812 5.2.7.1, RFC 4443 3.1).
    Prohibited = 4,
    /// The host cannot be reached (RFC 1812 5.2.7.1, RFC 4443 3.1).
    HostUnreachable = 5,
    /// TCP RST (RFC 9293 3.10.7.1).
    Reset = 6,
}

impl Answer {
    /// The answer of a number.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Option<Answer> {
        match number {
            1 => Some(Self::TimeExceeded),
            2 => Some(Self::TooBig),
            3 => Some(Self::PortUnreachable),
            4 => Some(Self::Prohibited),
            5 => Some(Self::HostUnreachable),
            6 => Some(Self::Reset),
            _ => None,
        }
    }

    /// ICMPv4 type and code; none for a reset.
    #[inline(always)]
    pub const fn icmp4(self) -> [u8; 2] {
        match self {
            Self::TimeExceeded => [11, 0],
            Self::TooBig => [3, 4],
            Self::PortUnreachable => [3, 3],
            Self::Prohibited => [3, 13],
            Self::HostUnreachable => [3, 1],
            Self::Reset => [0, 0],
        }
    }

    /// ICMPv6 type and code; none for a reset.
    #[inline(always)]
    pub const fn icmp6(self) -> [u8; 2] {
        match self {
            Self::TimeExceeded => [3, 0],
            Self::TooBig => [2, 0],
            Self::PortUnreachable => [1, 4],
            Self::Prohibited => [1, 1],
            Self::HostUnreachable => [1, 3],
            Self::Reset => [0, 0],
        }
    }
}
