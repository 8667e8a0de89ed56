//! The frames by which a claim is probed and announced.

use std::net::IpAddr;

use netfast_common::{
    answer,
    claim::{
        ADVERTISEMENT_LENGTH, ALL_NODES, ARP, ARP_LENGTH, HOP_LIMIT, NEIGHBOUR_LENGTH, group_mac,
        put_advertisement, put_arp, put_probe, solicited_node,
    },
    wire::ICMP6,
};

use crate::netlink::Mac;

const BROADCAST: Mac = [0xff; 6];
const IPV6: u16 = 0x86dd;
const TAG: u16 = 0x8100;

/// The link header, with an 802.1Q tag for a VLAN other than 0, and room for `length` bytes.
fn frame(to: Mac, from: Mac, vlan: u16, kind: u16, length: usize) -> (Vec<u8>, usize) {
    let mut frame = [to, from].concat();
    if vlan != 0 {
        frame.extend(TAG.to_be_bytes());
        frame.extend(vlan.to_be_bytes());
    }
    frame.extend(kind.to_be_bytes());
    let start = frame.len();
    frame.resize(start + length, 0);
    (frame, start)
}

fn words(address: [u8; 16]) -> [u32; 4] {
    core::array::from_fn(|i| u32::from_ne_bytes([0, 1, 2, 3].map(|byte| address[4 * i + byte])))
}

/// The IPv6 packet of a message to a group, and the offset of the message.
fn to_group(group: [u8; 16], source: [u8; 16], mac: Mac, vlan: u16, length: usize) -> (Vec<u8>, usize) {
    let (mut frame, start) = frame(group_mac(group), mac, vlan, IPV6, 40 + length);
    let header = &mut frame[start..start + 40];
    let mut sized: Vec<u32> = vec![0; 10];
    answer::put_ipv6(&mut Block(&mut sized), words(source), words(group), ICMP6, length as u16);
    for (to, word) in header.chunks_exact_mut(4).zip(&sized) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    header[7] = HOP_LIMIT;
    (frame, start + 40)
}

/// Words on the host, for functions that take sized ones.
struct Block<'a>(&'a mut [u32]);

impl netfast_common::rewrite::Words for Block<'_> {
    fn word(&self, index: usize) -> u32 {
        self.0[index]
    }

    fn put(&mut self, index: usize, word: u32) {
        self.0[index] = word;
    }
}

/// Asks whether anybody has `address`: an ARP probe (RFC 5227 2.1.1), or the question of duplicate address detection
/// (RFC 4862 5.4.2).
pub(super) fn probe(address: IpAddr, mac: Mac, vlan: u16) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => {
            let (mut frame, start) = frame(BROADCAST, mac, vlan, ARP, ARP_LENGTH);
            put_arp(&mut frame[start..], true, (mac, [0; 4]), ([0; 6], v4.octets()));
            frame
        }
        IpAddr::V6(v6) => {
            let group = solicited_node(v6.octets());
            let (mut frame, start) = to_group(group, [0; 16], mac, vlan, NEIGHBOUR_LENGTH);
            put_probe(&mut frame[start..], words(group), words(v6.octets()));
            frame
        }
    }
}

/// Tells everybody that `address` is at `mac`: an ARP announcement (RFC 5227 3), or an unsolicited neighbour advertisement
/// (RFC 4861 7.2.6).
pub(super) fn announcement(address: IpAddr, mac: Mac, vlan: u16) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => {
            let (mut frame, start) = frame(BROADCAST, mac, vlan, ARP, ARP_LENGTH);
            put_arp(&mut frame[start..], true, (mac, v4.octets()), ([0; 6], v4.octets()));
            frame
        }
        IpAddr::V6(v6) => {
            let own = words(v6.octets());
            let (mut frame, start) = to_group(ALL_NODES, v6.octets(), mac, vlan, ADVERTISEMENT_LENGTH);
            put_advertisement(&mut frame[start..], own, words(ALL_NODES), own, mac, false);
            frame
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0x6e, 0x66, 0, 0, 7];

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn arp() {
        let address = "192.0.2.50".parse().unwrap();
        assert_eq!(
            "ffffffffffff026e6600000708060001080006040001026e6600000700000000000000000000c0000232",
            hex(&probe(address, MAC, 0))
        );
        assert_eq!(
            "ffffffffffff026e6600000781000005080600010800060400010\
             26e66000007c0000232000000000000c0000232",
            hex(&announcement(address, MAC, 5))
        );
    }

    /// The checksums are those that scapy writes.
    #[test]
    fn neighbour_discovery() {
        let address = "2001:db8::50".parse().unwrap();
        let question = probe(address, MAC, 0);
        assert_eq!("3333ff000050026e6600000786dd600000000018", hex(&question[..20]));
        assert_eq!(78, question.len());
        assert_eq!([58, 255], question[20..22]);
        let told = announcement(address, MAC, 7);
        assert_eq!("333300000001026e660000078100000786dd", hex(&told[..18]));
        assert_eq!(18 + 40 + 32, told.len());
        assert_eq!("20000000", hex(&told[18 + 44..18 + 48]), "override, not solicited");
        assert_eq!("0201026e66000007", hex(&told[18 + 64..]));
    }
}
