//! Frames by builder: etherparse writes the headers and computes the checksums.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6Header,
    Ipv6RawExtHeader, SingleVlanHeader, TcpHeader, UdpHeader, VlanId,
};
use netfast::datapath::sandbox::mac_of;
use netfast_common::wire::{ACK, FIN, RST, SYN, TCP, UDP};

/// TCP flag PSH.
pub const PSH: u8 = 0x08;

pub type Mac = [u8; 6];

/// What an IP packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    /// With a checksum of 0: none.
    UdpWithoutChecksum,
    /// With these flags.
    Tcp(u8),
    /// A protocol without ports.
    Other(u8),
}

/// An IPv6 extension header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Kind and contents (6 bytes, 14, 22, ...).
    Raw(u8, Vec<u8>),
    /// Offset in units of 8 bytes, more fragments follow.
    Fragment(u16, bool),
}

/// A frame, as its sender means it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub to: Mac,
    pub from: Mac,
    /// VLAN tags, the outer one first: ether type and identifier.
    pub tags: Vec<(u16, u16)>,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub ttl: u8,
    /// IPv4 options.
    pub options: Vec<u8>,
    /// The IPv4 DF bit.
    pub dont_fragment: bool,
    /// IPv4 fragment: offset in units of 8 bytes, more fragments follow.
    pub fragment: Option<(u16, bool)>,
    pub extensions: Vec<Extension>,
    pub transport: Transport,
    /// TCP sequence number, and the acknowledgement number of segments with ACK.
    pub numbers: (u32, u32),
    pub payload: Vec<u8>,
    /// Bytes after the IP packet.
    pub padding: usize,
}

pub fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// From a client to this host.
pub fn udp(source: &str, destination: &str) -> Frame {
    let source = socket(source);
    Frame {
        to: crate::bed::CLIENT_SIDE.1,
        from: mac_of(source.ip()),
        tags: Vec::new(),
        source,
        destination: socket(destination),
        ttl: 64,
        options: Vec::new(),
        dont_fragment: false,
        fragment: None,
        extensions: Vec::new(),
        transport: Transport::Udp,
        numbers: (1000, 1001),
        payload: b"the quick brown fox jumps over the lazy dog".to_vec(),
        padding: 0,
    }
}

pub fn tcp(source: &str, destination: &str, flags: u8) -> Frame {
    let payload =
        if flags & (SYN | FIN | RST) == 0 { b"GET / HTTP/1.1\r\n\r\n".to_vec() } else { Vec::new() };
    Frame { transport: Transport::Tcp(flags), payload, ..udp(source, destination) }
}

impl Frame {
    pub fn flags(&self, flags: u8) -> Self {
        Self { transport: Transport::Tcp(flags), ..self.clone() }
    }

    pub fn ttl(&self, ttl: u8) -> Self {
        Self { ttl, ..self.clone() }
    }

    pub fn protocol(&self, protocol: u8) -> Self {
        Self { transport: Transport::Other(protocol), ..self.clone() }
    }

    pub fn tagged(&self, tags: &[(u16, u16)]) -> Self {
        Self { tags: tags.to_vec(), ..self.clone() }
    }

    pub fn extended(&self, extensions: &[Extension]) -> Self {
        Self { extensions: extensions.to_vec(), ..self.clone() }
    }

    pub fn payload(&self, payload: &[u8]) -> Self {
        Self { payload: payload.to_vec(), ..self.clone() }
    }

    pub fn without_checksum(&self) -> Self {
        Self { transport: Transport::UdpWithoutChecksum, ..self.clone() }
    }

    /// The frame that forwards this one: other addresses, one hop further.
    pub fn forwarded(&self, from: Mac, to: Mac, source: SocketAddr, destination: SocketAddr) -> Self {
        Self { from, to, source, destination, ttl: self.ttl - 1, ..self.clone() }
    }

    /// What the one at the other end answers: everything swapped, a fresh TTL, another payload.
    pub fn answer(&self) -> Self {
        let payload = if self.payload.is_empty() { Vec::new() } else { b"an answer".to_vec() };
        Self {
            from: self.to,
            to: self.from,
            source: self.destination,
            destination: self.source,
            ttl: 64,
            payload,
            ..self.clone()
        }
    }

    fn protocol_number(&self) -> u8 {
        match self.transport {
            Transport::Udp | Transport::UdpWithoutChecksum => UDP,
            Transport::Tcp(_) => TCP,
            Transport::Other(protocol) => protocol,
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut kinds: Vec<u16> = self.tags.iter().map(|(kind, _)| *kind).collect();
        kinds.push(if self.source.is_ipv4() { 0x0800 } else { 0x86dd });
        let ethernet =
            Ethernet2Header { source: self.from, destination: self.to, ether_type: EtherType(kinds[0]) };
        let mut frame = ethernet.to_bytes().to_vec();
        for ((_, id), next) in self.tags.iter().zip(&kinds[1..]) {
            let tag = SingleVlanHeader {
                vlan_id: VlanId::try_new(*id).unwrap(),
                ether_type: EtherType(*next),
                ..SingleVlanHeader::default()
            };
            frame.extend(tag.to_bytes());
        }
        frame.extend(self.packet());
        frame.extend(vec![0; self.padding]);
        frame
    }

    fn packet(&self) -> Vec<u8> {
        let transport = self.transport_bytes();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = Ipv4Header {
                    time_to_live: self.ttl,
                    protocol: IpNumber(self.protocol_number()),
                    source: source.octets(),
                    destination: destination.octets(),
                    options: Ipv4Options::try_from(self.options.as_slice()).unwrap(),
                    dont_fragment: self.dont_fragment,
                    ..Ipv4Header::default()
                };
                if let Some((offset, more)) = self.fragment {
                    header.fragment_offset = IpFragOffset::try_new(offset).unwrap();
                    header.more_fragments = more;
                }
                header.set_payload_len(transport.len()).unwrap();
                header.header_checksum = header.calc_header_checksum();
                [header.to_bytes().to_vec(), transport].concat()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let (first, extensions) = self.extension_bytes();
                let header = Ipv6Header {
                    payload_length: (extensions.len() + transport.len()) as u16,
                    next_header: IpNumber(first),
                    hop_limit: self.ttl,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                [header.to_bytes().to_vec(), extensions, transport].concat()
            }
            _ => panic!("addresses of two versions"),
        }
    }

    /// The number of the first header after the IPv6 header, and the extension headers.
    fn extension_bytes(&self) -> (u8, Vec<u8>) {
        let (mut next, mut bytes) = (self.protocol_number(), Vec::new());
        for extension in self.extensions.iter().rev() {
            let (kind, header) = match extension {
                Extension::Raw(kind, contents) => {
                    let header = Ipv6RawExtHeader::new_raw(IpNumber(next), contents).unwrap();
                    (*kind, header.to_bytes().to_vec())
                }
                Extension::Fragment(offset, more) => {
                    // RFC 8200 4.5. etherparse 0.19 puts the offset's low bits and the flag in each other's place.
                    let [high, low] = (offset << 3 | u16::from(*more)).to_be_bytes();
                    (44, vec![next, 0, high, low, 0, 0, 0, 7])
                }
            };
            bytes = [header, bytes].concat();
            next = kind;
        }
        (next, bytes)
    }

    fn transport_bytes(&self) -> Vec<u8> {
        let (source, destination) = (self.source.port(), self.destination.port());
        let header = match self.transport {
            Transport::Udp | Transport::UdpWithoutChecksum => {
                let mut header =
                    UdpHeader::without_ipv4_checksum(source, destination, self.payload.len()).unwrap();
                if self.transport == Transport::Udp {
                    header.checksum = match (self.source.ip(), self.destination.ip()) {
                        (IpAddr::V4(a), IpAddr::V4(b)) => {
                            header.calc_checksum_ipv4_raw(a.octets(), b.octets(), &self.payload).unwrap()
                        }
                        (IpAddr::V6(a), IpAddr::V6(b)) => {
                            header.calc_checksum_ipv6_raw(a.octets(), b.octets(), &self.payload).unwrap()
                        }
                        _ => 0,
                    };
                }
                header.to_bytes().to_vec()
            }
            Transport::Tcp(flags) => {
                let mut header = TcpHeader::new(source, destination, self.numbers.0, 65_000);
                header.syn = flags & SYN != 0;
                header.ack = flags & ACK != 0;
                header.acknowledgment_number = if header.ack { self.numbers.1 } else { 0 };
                header.fin = flags & FIN != 0;
                header.rst = flags & RST != 0;
                header.psh = flags & PSH != 0;
                header.checksum = match (self.source.ip(), self.destination.ip()) {
                    (IpAddr::V4(a), IpAddr::V4(b)) => {
                        header.calc_checksum_ipv4_raw(a.octets(), b.octets(), &self.payload).unwrap()
                    }
                    (IpAddr::V6(a), IpAddr::V6(b)) => {
                        header.calc_checksum_ipv6_raw(a.octets(), b.octets(), &self.payload).unwrap()
                    }
                    _ => 0,
                };
                header.to_bytes().to_vec()
            }
            Transport::Other(_) => Vec::new(),
        };
        [header, self.payload.clone()].concat()
    }
}
