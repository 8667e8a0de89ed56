//! Frames at random, the same ones in every run: good ones by etherparse, then mistakes in them.

use etherparse::{IpNumber, Ipv6RawExtHeader, PacketBuilder, SingleVlanHeader, VlanId};

/// A generator (xorshift64*).
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit` (above 0).
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 16) as usize % limit
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }
}

/// MAC address of the station that good frames are sent to.
pub const STATION: [u8; 6] = [0x02, 0x6e, 0x66, 0, 0, 10];

/// A good frame with tags, addresses, ports and a payload at random. Addresses and ports are few, so that frames of one
/// flow come again.
pub fn good(random: &mut Random) -> Vec<u8> {
    let v6 = random.one_in(2);
    let payload: Vec<u8> = (0..random.below(80)).map(|_| random.next() as u8).collect();
    let (client, service) = (random.below(6) as u8 + 1, random.below(3) as u8 + 10);
    let ttl = [0, 1, 2, 64, 255][random.below(5)].max(random.below(2) as u8 * 64);
    let mut options = Vec::new();
    if random.one_in(6) {
        options = [[1, 1, 1, 0], [0x94, 4, 0, 0], [131, 3, 4, 0]][random.below(3)].to_vec();
    }
    let (source_port, destination_port) =
        ([7, 53, 40_000, 40_001][random.below(4)], [7, 53, 80, 443, 27_005][random.below(5)]);
    let builder = PacketBuilder::ethernet2([2, 4, 198, 51, 100, client], STATION);
    let v4_header = || {
        let mut header = etherparse::Ipv4Header {
            time_to_live: ttl,
            source: [198, 51, 100, client],
            destination: [192, 0, 2, service],
            ..etherparse::Ipv4Header::default()
        };
        if let Ok(options) = options.as_slice().try_into() {
            header.options = options;
        }
        etherparse::IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
    };
    let mut source = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, client];
    let destination = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, service];
    if random.one_in(50) {
        source = random.bytes();
    }
    let mut extensions = etherparse::Ipv6Extensions::default();
    if random.one_in(4) {
        extensions.hop_by_hop_options = Ipv6RawExtHeader::new_raw(IpNumber(0), &[1, 4, 0, 0, 0, 0]).ok();
    }
    if random.one_in(4) {
        extensions.destination_options =
            Ipv6RawExtHeader::new_raw(IpNumber(0), &[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).ok();
    }
    let v6_header = || {
        let header = etherparse::Ipv6Header { hop_limit: ttl, source, destination, ..Default::default() };
        etherparse::IpHeaders::Ipv6(header, extensions.clone())
    };
    let ip = builder.ip(if v6 { v6_header() } else { v4_header() });
    let mut frame = Vec::new();
    // Writing to memory does not fail; what is not written is an empty frame, which is one to try, too.
    let _ = if random.one_in(2) {
        ip.udp(source_port, destination_port).write(&mut frame, &payload)
    } else {
        // Sequence numbers that the acknowledgements below are right for, or any.
        let sequence = if random.one_in(4) { random.next() as u32 } else { 0 };
        let tcp = ip.tcp(source_port, destination_port, sequence, 1000);
        match random.below(5) {
            0 => tcp.syn().write(&mut frame, &payload),
            1 => tcp.syn().ack(1).write(&mut frame, &payload),
            2 => tcp.fin().ack(2).write(&mut frame, &payload),
            3 => tcp.rst().write(&mut frame, &payload),
            _ => tcp.ack(3).write(&mut frame, &payload),
        }
    };
    if v6 && random.one_in(8) {
        extend(&mut frame, random.below(11));
    }
    for _ in 0..[0, 0, 0, 1, 1, 2, 3][random.below(7)] {
        tag(random, &mut frame);
    }
    frame
}

/// Puts destination options before what follows the IPv6 header: more of them than etherparse would write.
fn extend(frame: &mut Vec<u8>, count: usize) {
    for _ in 0..count {
        let (Some(&next), Some(&[high, low])) = (frame.get(20), frame.get(18..20)) else { return };
        let length = u16::from_be_bytes([high, low]).wrapping_add(8);
        frame[18..20].copy_from_slice(&length.to_be_bytes());
        frame[20] = 60;
        frame.splice(54..54, [next, 0, 1, 4, 0, 0, 0, 0]);
    }
}

/// Puts a VLAN tag before what is there.
fn tag(random: &mut Random, frame: &mut Vec<u8>) {
    let Some(kind) = frame.get(12..14) else { return };
    let ether_type = etherparse::EtherType(u16::from_be_bytes([kind[0], kind[1]]));
    let vlan_id = VlanId::try_new(random.below(4096) as u16).unwrap_or_default();
    let tag = SingleVlanHeader { vlan_id, ether_type, ..SingleVlanHeader::default() }.to_bytes();
    let outer: [u8; 2] = [[0x81, 0], [0x88, 0xa8]][random.below(2)];
    frame.splice(12..14, outer.into_iter().chain(tag));
}

/// Makes up to four mistakes in a frame; none in one of four. The IPv4 header's checksum is right all the same in most of
/// them, so that they get further than to that.
pub fn spoil(random: &mut Random, frame: &mut Vec<u8>) {
    mistakes(random, frame);
    if !random.one_in(8) {
        mend(frame);
    }
}

/// Puts the checksum right of an IPv4 header that stands behind any number of tags.
fn mend(frame: &mut [u8]) {
    let mut at = 12;
    while matches!(frame.get(at..at + 2), Some([0x81, 0] | [0x88, 0xa8] | [0x91, 0])) {
        at += 4;
    }
    if frame.get(at..at + 2) != Some(&[8, 0]) {
        return;
    }
    let length = frame.get(at + 2).map_or(0, |first| usize::from(first & 15) * 4);
    let Some(header) = frame.get_mut(at + 2..at + 2 + length).filter(|header| header.len() >= 20) else {
        return;
    };
    header[10..12].fill(0);
    let mut sum: u32 =
        header.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    header[10..12].copy_from_slice(&(!sum as u16).to_be_bytes());
}

fn mistakes(random: &mut Random, frame: &mut Vec<u8>) {
    for _ in 0..random.below(5) {
        if frame.is_empty() {
            frame.push(random.next() as u8);
        }
        // Most of what decides stands in the first bytes.
        let reach = if random.one_in(4) { frame.len() } else { frame.len().min(70) };
        let at = random.below(reach);
        match random.below(9) {
            0 | 1 => frame[at] ^= 1 << random.below(8),
            2 | 3 => frame[at] = random.next() as u8,
            4 => {
                frame[at] = [0, 1, 4, 5, 6, 8, 17, 40, 43, 44, 51, 58, 60, 0x45, 0x4f, 0x60, 0x81, 255]
                    [random.below(18)]
            }
            5 => frame.truncate(at),
            6 => frame.extend((0..random.below(40)).map(|i| i as u8)),
            7 => {
                let end = (at + random.below(12)).min(frame.len());
                let copy: Vec<u8> = frame[at..end].to_vec();
                frame.splice(at..at, copy);
            }
            _ => {
                // The flags and the offset of an IPv4 fragment, behind no tag.
                if let Some(field) = frame.get_mut(20..22) {
                    field.copy_from_slice(
                        &[[0x20, 0], [0, 1], [0x20, 9], [0x40, 0], [0x1f, 0xff]][random.below(5)],
                    );
                }
            }
        }
    }
}
