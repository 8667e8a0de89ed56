//! The checksums of a frame, judged by etherparse: nothing here is netfast's own arithmetic.

use etherparse::{NetSlice, SlicedPacket, TransportSlice, checksum::Sum16BitWords};

/// What a checksum field says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    /// There is none, or it cannot be judged: no such header, a fragment, cut off.
    None,
    /// UDP over IPv4 without a checksum (RFC 768).
    Unused,
    /// Right.
    Right,
    /// Wrong.
    Wrong,
}

/// Both checksums of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sums {
    /// IPv4 header.
    pub network: Sum,
    /// TCP, UDP or ICMP.
    pub transport: Sum,
}

/// 0000 and FFFF are the same ones' complement number; a receiver accepts either.
fn same(field: u16, computed: u16) -> Sum {
    if field == computed || (field == 0 && computed == 0xffff) || (field == 0xffff && computed == 0) {
        Sum::Right
    } else {
        Sum::Wrong
    }
}

/// Judges the sum over all words, the checksum among them.
fn whole(sum: Sum16BitWords) -> Sum {
    if sum.ones_complement() == 0 { Sum::Right } else { Sum::Wrong }
}

/// Judges an Ethernet frame.
pub fn of(frame: &[u8]) -> Sums {
    SlicedPacket::from_ethernet(frame).map_or(NONE, |packet| of_packet(&packet))
}

const NONE: Sums = Sums { network: Sum::None, transport: Sum::None };

/// The IP packet in another one's payload (RFC 2003, RFC 2473, RFC 4213).
fn inside<'a>(net: &NetSlice<'a>) -> Option<&'a [u8]> {
    let payload = match net {
        NetSlice::Ipv4(ip) => ip.payload(),
        NetSlice::Ipv6(ip) => ip.payload(),
        NetSlice::Arp(_) => return None,
    };
    matches!(payload.ip_number.0, 4 | 41).then_some(payload.payload)
}

fn of_packet(packet: &SlicedPacket<'_>) -> Sums {
    let Some(net) = &packet.net else { return NONE };
    let network = match net {
        NetSlice::Ipv4(ip) => {
            same(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum())
        }
        _ => Sum::None,
    };
    if let Some(inner) = inside(net) {
        let inner = SlicedPacket::from_ip(inner).map_or(NONE, |packet| of_packet(&packet));
        // Either header may be wrong.
        let network = if network == Sum::Wrong { network } else { inner.network };
        return Sums { network, ..inner };
    }
    let fragment = match net {
        NetSlice::Ipv4(ip) => ip.is_payload_fragmented(),
        NetSlice::Ipv6(ip) => ip.is_payload_fragmented(),
        NetSlice::Arp(_) => true,
    };
    if fragment {
        return Sums { network, transport: Sum::None };
    }
    let transport = match (net, &packet.transport) {
        (NetSlice::Ipv4(ip), Some(TransportSlice::Udp(udp))) if udp.checksum() != 0 => {
            let (source, destination) = (ip.header().source(), ip.header().destination());
            udp.to_header()
                .calc_checksum_ipv4_raw(source, destination, udp.payload())
                .map_or(Sum::None, |sum| same(udp.checksum(), sum))
        }
        (NetSlice::Ipv4(_), Some(TransportSlice::Udp(_))) => Sum::Unused,
        (NetSlice::Ipv6(ip), Some(TransportSlice::Udp(udp))) => {
            let (source, destination) = (ip.header().source(), ip.header().destination());
            // Over IPv6 a UDP checksum is required: 0 is a wrong one (RFC 8200 8.1).
            udp.to_header().calc_checksum_ipv6_raw(source, destination, udp.payload()).map_or(
                Sum::None,
                |sum| if udp.checksum() == 0 { Sum::Wrong } else { same(udp.checksum(), sum) },
            )
        }
        (NetSlice::Ipv4(ip), Some(TransportSlice::Tcp(tcp))) => tcp
            .calc_checksum_ipv4(ip.header().source(), ip.header().destination())
            .map_or(Sum::None, |sum| same(tcp.checksum(), sum)),
        (NetSlice::Ipv6(ip), Some(TransportSlice::Tcp(tcp))) => tcp
            .calc_checksum_ipv6(ip.header().source(), ip.header().destination())
            .map_or(Sum::None, |sum| same(tcp.checksum(), sum)),
        (NetSlice::Ipv4(_), Some(TransportSlice::Icmpv4(icmp))) => {
            whole(Sum16BitWords::new().add_slice(icmp.slice()))
        }
        (NetSlice::Ipv6(ip), Some(TransportSlice::Icmpv6(icmp))) => {
            let length = icmp.slice().len() as u32;
            let pseudo = Sum16BitWords::new()
                .add_16bytes(ip.header().source())
                .add_16bytes(ip.header().destination())
                .add_4bytes(length.to_be_bytes())
                .add_2bytes([0, 58]);
            whole(pseudo.add_slice(icmp.slice()))
        }
        _ => Sum::None,
    };
    Sums { network, transport }
}
