//! Wire formats: from a frame to a [`Packet`], the description of what stands where.
//!
//! Parsing is strict about lengths: nothing is read that the header before it does not vouch for, and every frame
//! that cannot be read ends in a [`Reason`].

mod ethernet;
pub mod icmp;
mod ipv4;
mod ipv6;
mod transport;

pub use ipv4::option_byte;

use crate::{Reason, abi::FlowKey, addr::is_v4};

/// Most VLAN tags that are read.
pub const MAX_TAGS: u8 = 2;
/// Most IPv6 extension headers that are walked.
pub const MAX_EXTENSIONS: usize = 8;

/// IP protocol number of ICMP over IPv4.
pub const ICMP4: u8 = 1;
/// IP protocol number of ICMPv6.
pub const ICMP6: u8 = 58;
/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// TCP flag FIN.
pub const FIN: u8 = 0x01;
/// TCP flag SYN.
pub const SYN: u8 = 0x02;
/// TCP flag RST.
pub const RST: u8 = 0x04;
/// TCP flag ACK.
pub const ACK: u8 = 0x10;

/// A frame that is read from its beginning; each step checks the length once.
pub trait Cursor: Clone {
    /// The next `N` bytes, or `None` beyond the end.
    fn take<const N: usize>(&mut self) -> Option<[u8; N]>;
    /// Passes over `count` bytes (at most 2047).
    fn skip(&mut self, count: usize) -> Option<()>;
    /// Bytes from here to the end.
    fn remaining(&self) -> usize;

    /// A step of the walk over IPv4 options, as [`option_byte`] takes it.
    #[inline(always)]
    fn option_byte(walk: u32, at: u32, byte: u32) -> u32 {
        option_byte(walk, at, byte)
    }

    /// Says where the cursor stands: `offset` bytes (at most 31) from the beginning. Changes nothing; a cursor over
    /// packet memory uses it to make the kernel's verifier forget by which way it got here.
    #[inline(always)]
    fn settle(&mut self, _offset: &u16) {}
}

/// Whether and how a datagram is fragmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Fragment {
    /// It is whole.
    #[default]
    No,
    /// First fragment: has the transport header.
    First,
    /// A later one: has none.
    Later,
}

/// What stands in a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// Destination MAC address.
    pub destination_mac: [u8; 6],
    /// Source MAC address.
    pub source_mac: [u8; 6],
    /// Number of VLAN tags.
    pub tags: u8,
    /// VLAN identifier of the innermost tag, 0: none.
    pub vlan: u16,
    /// Offset of the IP header.
    pub l3: u16,
    /// Offset of the transport header (or what follows the IP headers).
    pub l4: u16,
    /// 4 or 6.
    pub version: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TCP flags, 0 for anything else.
    pub flags: u8,
    /// TCP sequence number (host order), 0 for anything else.
    pub sequence: u32,
    /// TCP acknowledgement number (host order), whether or not the flag ACK is set; 0 for anything else.
    pub acknowledgement: u32,
    /// Length of the IP packet in bytes, headers included; what follows it in the frame is padding.
    pub length: u32,
    /// Fragmentation.
    pub fragment: Fragment,
    /// Nobody on the way may fragment it: the IPv4 DF bit; always for IPv6.
    pub dont_fragment: bool,
    /// Offset from the IP header of what holds the identification of a fragment's datagram: IPv4 (two bytes) or the last word
    /// of the IPv6 fragment header. 0 for what is no fragment.
    pub identification: u16,
    /// IPv4 source-route option, or IPv6 routing header with segments left.
    pub source_route: bool,
    /// IPv4 header checksum is wrong.
    pub bad_checksum: bool,
    /// ICMP or ICMPv6 echo request or reply, whose identifier the key has as the asking side's port.
    pub is_query: bool,
    /// UDP checksum field is zero.
    pub no_udp_checksum: bool,
    /// Addresses and protocol; ports too if [`Packet::has_ports`].
    pub key: FlowKey,
}

impl Packet {
    /// Whether the key's ports were read: TCP or UDP, not a later fragment.
    #[inline(always)]
    pub const fn has_ports(&self) -> bool {
        matches!(self.key.protocol, TCP | UDP) && !matches!(self.fragment, Fragment::Later)
    }

    /// Whether the key tells flows apart: it has ports, or an identifier in their place, and the packet is whole.
    #[inline(always)]
    pub const fn has_flow(&self) -> bool {
        (self.has_ports() || self.is_query) && matches!(self.fragment, Fragment::No)
    }

    /// Source port in host order.
    #[inline(always)]
    pub const fn source_port(&self) -> u16 {
        u16::from_be_bytes(self.key.source_port)
    }

    /// Destination port in host order.
    #[inline(always)]
    pub const fn destination_port(&self) -> u16 {
        u16::from_be_bytes(self.key.destination_port)
    }

    /// Whether the source address can never be one of a packet from the link: multicast, loopback, 240.0.0.0/4
    /// (RFC 1122 3.2.1.3, RFC 4291 2.5.3, 2.7), or the destination itself ("land"). Or whether either address of an IPv6 packet
    /// is an IPv4-mapped one (RFC 4942 2.2): its key would be that of an IPv4 packet. The unspecified address is not among them: DHCP and duplicate address detection use it.
    #[inline(always)]
    pub fn is_martian(&self) -> bool {
        let source = &self.key.source;
        if *source == self.key.destination {
            return true;
        }
        if self.version == 4 {
            source[12] == 127 || source[12] >= 224
        } else {
            let (high, low) = crate::addr::words(source);
            source[0] == 0xff || (high == 0 && low == 1) || is_v4(source) || is_v4(&self.key.destination)
        }
    }

    /// Whether it has IPv4 options, of whatever kind.
    #[inline(always)]
    pub const fn has_options(&self) -> bool {
        self.version == 4 && self.l4 > self.l3 + 20
    }

    /// Whether it is a TCP segment whose flags no connection has: neither ACK nor RST nor SYN (null, FIN alone, "xmas"),
    /// or SYN with FIN, SYN with RST, FIN with RST (RFC 9293 3.10.7: all of them are dropped by an end, or answered so
    /// that they tell about it).
    #[inline(always)]
    pub const fn has_odd_flags(&self) -> bool {
        self.key.protocol == TCP
            && self.has_ports()
            && (self.flags & (SYN | RST | ACK) == 0 || (self.flags & (SYN | FIN | RST)).count_ones() > 1)
    }

    /// The class of unusual packets that it belongs to, if any; the first of several. All of these have been read to the
    /// ports, so that the filter can be asked before one of them is handed to the kernel.
    #[inline(always)]
    pub fn unusual(&self) -> Option<Reason> {
        if self.bad_checksum {
            Some(Reason::BadChecksum)
        } else if self.source_route {
            Some(Reason::SourceRoute)
        } else if self.is_martian() {
            Some(Reason::Martian)
        } else if self.has_odd_flags() {
            Some(Reason::TcpFlags)
        } else if self.has_options() {
            Some(Reason::IpOptions)
        } else {
            None
        }
    }

    /// Whether the source is the unspecified address or in 0.0.0.0/8: nothing that can be answered.
    #[inline(always)]
    pub fn is_unspecified(&self) -> bool {
        let (high, low) = crate::addr::words(&self.key.source);
        if self.version == 4 { self.key.source[12] == 0 } else { high == 0 && low == 0 }
    }
}

/// Reads a frame into `packet`. `Err` names why there is no five-tuple; the fields read so far are valid.
#[inline(always)]
pub fn parse<C: Cursor>(cursor: &mut C, packet: &mut Packet) -> Result<(), Reason> {
    let kind = ethernet::parse(cursor, packet)?;
    cursor.settle(&packet.l3);
    match kind {
        ethernet::Kind::Ipv4 => ipv4::parse(cursor, packet)?,
        ethernet::Kind::Ipv6 => ipv6::parse(cursor, packet)?,
    }
    Ok(())
}

/// A cursor over bytes, for the host.
#[derive(Clone)]
#[cfg(any(test, feature = "user"))]
pub struct SliceCursor<'a>(pub &'a [u8]);

#[cfg(any(test, feature = "user"))]
impl Cursor for SliceCursor<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.0 = self.0.get(count..)?;
        Some(())
    }

    fn remaining(&self) -> usize {
        self.0.len()
    }
}

/// Reads a frame on the host.
#[cfg(any(test, feature = "user"))]
pub fn parse_slice(frame: &[u8]) -> Result<Packet, Reason> {
    let mut packet = Packet::default();
    parse(&mut SliceCursor(frame), &mut packet).map(|()| packet)
}

#[cfg(test)]
mod tests;
