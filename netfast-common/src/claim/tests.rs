use proptest::prelude::*;

use super::*;
use crate::{checksum::full, wire::SliceCursor};

const MAC: [u8; 6] = [2, 0x6e, 0x66, 0, 0, 9];
const TARGET: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34, 0x56];
const ASKER: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

fn words(address: [u8; 16]) -> [u32; 4] {
    core::array::from_fn(|i| u32::from_ne_bytes([0, 1, 2, 3].map(|byte| address[4 * i + byte])))
}

/// A message with its checksum.
fn message(kind: u8, target: [u8; 16], options: &[u8], source: [u8; 16], destination: [u8; 16]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0, 0, 0, 0, 0], &target[..], options].concat();
    let length = (message.len() as u32).to_be_bytes();
    let sum = full(&[&source, &destination, &length, &[0, 0, 0, ICMP6], &message]);
    message[2..4].copy_from_slice(&sum);
    message
}

fn read(message: &[u8], source: [u8; 16], destination: [u8; 16]) -> Option<(Neighbour, [u8; 16])> {
    let mut target = [0; 16];
    let pseudo = answer::pseudo6(words(source), words(destination), ICMP6, message.len() as u16);
    let found = neighbour(&mut SliceCursor(message), message.len(), pseudo, &mut target)?;
    Some((found, target))
}

fn solicited(message: &[u8]) -> Option<(Neighbour, [u8; 16])> {
    read(message, ASKER, solicited_node(TARGET))
}

#[test]
fn arp_there_and_back() {
    let mut packet = vec![0; ARP_LENGTH];
    put_arp(&mut packet, true, (MAC, [192, 0, 2, 1]), ([0; 6], [192, 0, 2, 7]));
    let question = Arp { is_request: true, sender_mac: MAC, sender: [192, 0, 2, 1], target: [192, 0, 2, 7] };
    assert_eq!(Some(question), arp(&packet));
    assert_eq!([0, 1, 8, 0, 6, 4, 0, 1], packet[..8]);
    put_arp(&mut packet, false, ([4; 6], question.target), (question.sender_mac, question.sender));
    let expected = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &[4; 6], &[192, 0, 2, 7], &MAC, &[192, 0, 2, 1]].concat();
    assert_eq!(expected, packet);
    for at in 0..7 {
        let mut odd = packet.clone();
        odd[at] ^= 0x10;
        assert_eq!(None, arp(&odd), "byte {at}");
    }
    packet[7] = 3;
    assert_eq!(None, arp(&packet), "RARP");
    packet[7] = 1;
    packet[8] |= 1;
    assert_eq!(None, arp(&packet), "a group has sent it");
}

#[test]
fn solicitations() {
    let link = [1, 1, 2, 0, 0, 0, 0, 1];
    let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
    let both = [link, nonce].concat();
    let long = [&[99u8, 3][..], &[1; 22]].concat();
    for (options, has_source_link) in
        [(&[][..], false), (&link, true), (&nonce, false), (&both, true), (&long, false)]
    {
        let good = message(SOLICITATION, TARGET, options, ASKER, solicited_node(TARGET));
        let expected = Neighbour { kind: SOLICITATION, has_source_link };
        assert_eq!(Some((expected, TARGET)), solicited(&good), "{options:?}");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(None, solicited(&bad), "byte {at} of {options:?}: the checksum");
        }
        assert_eq!(None, solicited(&good[..good.len() - 1]));
    }
    let make = |target, options: &[u8]| message(SOLICITATION, target, options, ASKER, solicited_node(TARGET));
    assert_eq!(None, solicited(&make(ALL_NODES, &[])), "a group");
    assert_eq!(None, solicited(&make(TARGET, &[1, 0, 0, 0, 0, 0, 0, 0])), "an option of length 0");
    assert_eq!(None, solicited(&make(TARGET, &[1, 2, 0, 0, 0, 0, 0, 0])), "an option that is cut off");
    assert_eq!(None, solicited(&make(TARGET, &[1, 1, 0, 0])), "not a multiple of 8");
    let many = [14, 1, 0, 0, 0, 0, 0, 0].repeat(MOST_OPTIONS);
    assert!(solicited(&make(TARGET, &many)).is_some());
    assert_eq!(None, solicited(&make(TARGET, &[many, link.to_vec()].concat())), "more than are read");
    let other = message(133, TARGET, &[], ASKER, solicited_node(TARGET));
    assert_eq!(None, solicited(&other), "a router solicitation");
}

#[test]
fn what_is_made_can_be_read() {
    let group = solicited_node(TARGET);
    let mut probe = vec![0xff; NEIGHBOUR_LENGTH];
    put_probe(&mut probe, words(group), words(TARGET));
    assert_eq!(message(SOLICITATION, TARGET, &[], [0; 16], group), probe);
    let expected = Neighbour { kind: SOLICITATION, has_source_link: false };
    assert_eq!(Some((expected, TARGET)), read(&probe, [0; 16], group));
    for (to, is_answer, flags) in [(ASKER, true, 0x60), (ALL_NODES, false, 0x20)] {
        let mut advertisement = vec![0xff; ADVERTISEMENT_LENGTH];
        put_advertisement(&mut advertisement, words(TARGET), words(to), words(TARGET), MAC, is_answer);
        assert_eq!([flags, 0, 0, 0], advertisement[4..8]);
        assert_eq!([&[2, 1], &MAC[..]].concat(), advertisement[24..]);
        let expected = Neighbour { kind: ADVERTISEMENT, has_source_link: false };
        assert_eq!(Some((expected, TARGET)), read(&advertisement, TARGET, to));
    }
}

#[test]
fn groups() {
    let group = solicited_node(TARGET);
    assert_eq!("ff02::1:ff12:3456", std::net::Ipv6Addr::from(group).to_string());
    assert!(is_solicited_node(&group) && !is_solicited_node(&ALL_NODES) && !is_solicited_node(&TARGET));
    assert_eq!([0x33, 0x33, 0xff, 0x12, 0x34, 0x56], group_mac(group));
    assert_eq!([0x33, 0x33, 0, 0, 0, 1], group_mac(ALL_NODES));
}

proptest! {
    #[test]
    fn an_echo_reply_has_a_right_checksum(rest in prop::collection::vec(any::<u8>(), 4..40), version in prop::sample::select(vec![4u8, 6])) {
        let (request, reply) = if version == 4 { (8, 0) } else { (128, 129) };
        let mut packet = [&[request, 0, 0, 0][..], &rest].concat();
        packet.truncate(packet.len() & !1);
        let sum = full(&[&packet]);
        packet[2..4].copy_from_slice(&sum);
        let before = packet.clone();
        prop_assert!(echo_reply(&mut packet, version));
        prop_assert_eq!(reply, packet[0]);
        prop_assert_eq!(&before[4..], &packet[4..]);
        prop_assert_eq!([0, 0], full(&[&packet]));
        prop_assert!(!echo_reply(&mut packet, version), "a reply is not answered");
    }

    #[test]
    fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..160)) {
        let _ = solicited(&bytes);
        if bytes.len() >= ARP_LENGTH {
            let _ = arp(&bytes);
        }
    }
}
