//! Claimed addresses: ARP (RFC 826, RFC 5227), neighbour discovery (RFC 4861), and what nobody serves there.

use netfast_common::{
    Reason::{self, *},
    Verdict::{self, *},
    abi::{CLAIM_HELD, CLAIM_PROBING, ClaimKey, EventKind},
    addr,
    answer::pseudo6,
    checksum::full,
    claim::{ALL_NODES, group_mac, put_advertisement, put_arp, put_probe, solicited_node},
    wire::{ACK, SYN},
};

use crate::{
    bed::{Bed, CLIENT_SIDE, TARGET_SIDE, scenarios},
    frames::{Frame, Mac, tcp, udp},
};

scenarios! {
    arp_is_answered, what_is_no_question, malformed_arp_is_the_kernels, solicitations_are_answered,
    duplicate_address_detection, malformed_solicitations_are_the_kernels, other_stations_are_told_of,
    nobody_but_netfast_is_there, without_claims_nothing_changes,
}

const V4: [u8; 4] = [192, 0, 2, 50];
const V6: &str = "2001:db8::50";
const ASKER4: [u8; 4] = [198, 51, 100, 9];
const ASKER6: &str = "2001:db8:ff::9";
const ASKER: Mac = [2, 0, 0, 0, 9, 9];
const BROADCAST: Mac = [0xff; 6];

fn ip(text: &str) -> [u8; 16] {
    addr::from_ip(text.parse().unwrap())
}

fn words(address: [u8; 16]) -> [u32; 4] {
    core::array::from_fn(|i| u32::from_ne_bytes([0, 1, 2, 3].map(|byte| address[4 * i + byte])))
}

fn key(address: [u8; 16], vlan: u32) -> ClaimKey {
    ClaimKey { address, ifindex: CLIENT_SIDE.0, vlan }
}

/// Claims an IPv4 and an IPv6 address, untagged and in VLAN 5.
fn claim(bed: &mut Bed, state: u32) {
    for vlan in [0, 5] {
        for address in [addr::from_v4(V4), ip(V6)] {
            bed.sandbox.datapath().set_claim(&key(address, vlan), state).unwrap();
        }
    }
    bed.sandbox.datapath().set_addresses(&[], &[V4.into(), V6.parse().unwrap()]).unwrap();
    bed.sandbox.events();
}

fn link(to: Mac, from: Mac, tags: &[u16], kind: u16) -> Vec<u8> {
    let mut frame = [to, from].concat();
    for tag in tags {
        frame.extend([0x81, 0]);
        frame.extend(tag.to_be_bytes());
    }
    frame.extend(kind.to_be_bytes());
    frame
}

fn arp(
    (to, tags): (Mac, &[u16]),
    is_request: bool,
    sender: (Mac, [u8; 4]),
    target: (Mac, [u8; 4]),
) -> Vec<u8> {
    let mut packet = vec![0; 28];
    put_arp(packet.as_mut_slice(), is_request, sender, target);
    [link(to, sender.0, tags, 0x0806), packet].concat()
}

fn question(target: [u8; 4], tags: &[u16]) -> Vec<u8> {
    // As long as Ethernet asks for.
    let mut frame = arp((BROADCAST, tags), true, (ASKER, ASKER4), ([0; 6], target));
    frame.resize(60 + 4 * tags.len(), 0);
    frame
}

#[track_caller]
fn decides(bed: &mut Bed, what: &str, frame: &[u8], verdict: Verdict, reason: Reason) -> Vec<u8> {
    let ran = bed.run_raw(CLIENT_SIDE.0, frame);
    assert_eq!((Some(verdict), Some(reason)), (ran.verdict(), ran.reason()), "{what}");
    if verdict == Pass {
        assert_eq!(frame, ran.frame, "{what}: passed, but changed");
    }
    ran.frame
}

#[track_caller]
fn passes(bed: &mut Bed, what: &str, frame: &[u8], reason: Reason) {
    decides(bed, what, frame, Pass, reason);
}

fn arp_is_answered(bed: &mut Bed) {
    claim(bed, CLAIM_HELD);
    let own = CLIENT_SIDE.1;
    for tags in [&[][..], &[5], &[0x6005], &[0]] {
        let what = format!("tags {tags:x?}");
        let asked = question(V4, tags);
        let mut expected = arp((ASKER, tags), false, (own, V4), (ASKER, ASKER4));
        expected.resize(asked.len(), 0);
        assert_eq!(expected, decides(bed, &what, &asked, Transmit, ClaimAnswered), "{what}");
    }
    let unicast = arp((own, &[]), true, (ASKER, ASKER4), (own, V4));
    let expected = arp((ASKER, &[]), false, (own, V4), (ASKER, ASKER4));
    assert_eq!(expected, decides(bed, "asked alone", &unicast, Transmit, ClaimAnswered));
    let probe = arp((BROADCAST, &[]), true, (ASKER, [0; 4]), ([0; 6], V4));
    let expected = arp((ASKER, &[]), false, (own, V4), (ASKER, [0; 4]));
    assert_eq!(expected, decides(bed, "a probe", &probe, Transmit, ClaimAnswered));
    // After a change of the interface's MAC address the new one stands in the answer.
    bed.sandbox.set_mac(CLIENT_SIDE.0, [2, 1, 1, 1, 1, 1]);
    let mut expected = arp((ASKER, &[]), false, ([2, 1, 1, 1, 1, 1], V4), (ASKER, ASKER4));
    expected.resize(60, 0);
    assert_eq!(expected, decides(bed, "another MAC", &question(V4, &[]), Transmit, ClaimAnswered));
    bed.sandbox.set_mac(CLIENT_SIDE.0, own);
    bed.sandbox.datapath().remove_claim(&key(addr::from_v4(V4), 0)).unwrap();
    passes(bed, "given up", &question(V4, &[]), NotIp);
    decides(bed, "not in the VLAN", &question(V4, &[5]), Transmit, ClaimAnswered);
}

fn what_is_no_question(bed: &mut Bed) {
    claim(bed, CLAIM_HELD);
    let own = CLIENT_SIDE.1;
    let ask = |to: Mac, tags: &[u16]| arp((to, tags), true, (ASKER, ASKER4), ([0; 6], V4));
    passes(bed, "another address", &question([192, 0, 2, 51], &[]), NotIp);
    passes(bed, "another VLAN", &question(V4, &[6]), NotIp);
    passes(bed, "two tags", &question(V4, &[5, 5]), NotIp);
    passes(bed, "to another station", &ask([2, 0, 0, 0, 0, 77], &[]), NotIp);
    passes(bed, "an answer", &arp((own, &[]), false, (ASKER, ASKER4), (own, V4)), NotIp);
    let ran = bed.run_raw(TARGET_SIDE.0, &question(V4, &[]));
    assert_eq!(Some(NotIp), ran.reason(), "by another interface");
    let mut lldp = question(V4, &[]);
    lldp[12..14].copy_from_slice(&[0x88, 0xcc]);
    passes(bed, "LLDP", &lldp, NotIp);
    assert!(bed.sandbox.events().is_empty());
}

fn malformed_arp_is_the_kernels(bed: &mut Bed) {
    claim(bed, CLAIM_HELD);
    let good = question(V4, &[]);
    // Hardware type, protocol type, lengths, operation.
    for at in 14..22 {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        passes(bed, &format!("byte {at}"), &bad, NotIp);
    }
    for length in 14..42 {
        passes(bed, &format!("{length} bytes"), &good[..length], NotIp);
    }
    let mut group = good.clone();
    group[22] |= 1;
    passes(bed, "a group asks", &group, NotIp);
    let mut group = good;
    group[6] |= 1;
    passes(bed, "sent by a group", &group, NotIp);
}

/// An ICMPv6 message with its checksum.
fn icmp6(
    (to, tags): (Mac, &[u16]),
    hop_limit: u8,
    source: [u8; 16],
    destination: [u8; 16],
    message: &[u8],
) -> Vec<u8> {
    let length = message.len() as u16;
    let sum = full(&[&source, &destination, &u32::from(length).to_be_bytes(), &[0, 0, 0, 58], message]);
    let mut message = message.to_vec();
    message[2..4].copy_from_slice(&sum);
    let header = [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[58, hop_limit], &source, &destination];
    [link(to, ASKER, tags, 0x86dd), header.concat(), message].concat()
}

fn solicitation(target: [u8; 16], options: &[u8]) -> Vec<u8> {
    [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target, options].concat()
}

const SOURCE_LINK: [u8; 8] = [1, 1, 2, 0, 0, 0, 9, 9];

/// Asks the group for the address.
fn solicits(target: [u8; 16], tags: &[u16], options: &[u8]) -> Vec<u8> {
    let group = solicited_node(target);
    icmp6((group_mac(group), tags), 255, ip(ASKER6), group, &solicitation(target, options))
}

/// The advertisement as it must be.
fn advertised(to: Mac, tags: &[u16], destination: [u8; 16], flags: u8) -> Vec<u8> {
    let link_option = [&[2, 1][..], &CLIENT_SIDE.1].concat();
    let message = [&[136, 0, 0, 0, flags, 0, 0, 0][..], &ip(V6), &link_option].concat();
    let mut frame = icmp6((to, tags), 255, ip(V6), destination, &message);
    frame[6..12].copy_from_slice(&CLIENT_SIDE.1);
    frame
}

fn solicitations_are_answered(bed: &mut Bed) {
    claim(bed, CLAIM_HELD);
    let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
    let both = [SOURCE_LINK, nonce].concat();
    let long = [both.clone(), vec![200, 4], vec![0; 30]].concat();
    for tags in [&[][..], &[5]] {
        for options in [&[][..], &SOURCE_LINK, &both, &long] {
            let what = format!("tags {tags:?}, {} bytes of options", options.len());
            let asked = solicits(ip(V6), tags, options);
            let told = decides(bed, &what, &asked, Transmit, ClaimAnswered);
            assert_eq!(advertised(ASKER, tags, ip(ASKER6), 0x60), told, "{what}");
        }
    }
    // Neighbour unreachability detection asks the address itself (RFC 4861 7.3.3).
    let alone = icmp6((CLIENT_SIDE.1, &[]), 255, ip(ASKER6), ip(V6), &solicitation(ip(V6), &SOURCE_LINK));
    let told = decides(bed, "asked alone", &alone, Transmit, ClaimAnswered);
    assert_eq!(advertised(ASKER, &[], ip(ASKER6), 0x60), told);
    // A frame that is longer than its packet.
    let mut padded = solicits(ip(V6), &[], &[]);
    padded.resize(120, 0);
    let told = decides(bed, "padding", &padded, Transmit, ClaimAnswered);
    assert_eq!(advertised(ASKER, &[], ip(ASKER6), 0x60), told);
}

fn duplicate_address_detection(bed: &mut Bed) {
    claim(bed, CLAIM_HELD);
    let group = solicited_node(ip(V6));
    let mut message = vec![0; 24];
    put_probe(message.as_mut_slice(), words(group), words(ip(V6)));
    let asked = icmp6((group_mac(group), &[]), 255, [0; 16], group, &{
        let mut message = message.clone();
        message[2..4].fill(0);
        message
    });
    let told = decides(bed, "DAD", &asked, Transmit, ClaimAnswered);
    assert_eq!(advertised(group_mac(ALL_NODES), &[], ALL_NODES, 0x20), told, "to all, not solicited");
    // RFC 4861 7.1.1: two that a receiver has to discard.
    let with_link = icmp6((group_mac(group), &[]), 255, [0; 16], group, &solicitation(ip(V6), &SOURCE_LINK));
    passes(bed, "no address, but a link-layer address", &with_link, NotOurMac);
    let alone = icmp6((CLIENT_SIDE.1, &[]), 255, [0; 16], ip(V6), &solicitation(ip(V6), &[]));
    let ran = bed.run_raw(CLIENT_SIDE.0, &alone);
    assert_ne!(Some(ClaimAnswered), ran.reason(), "DAD by unicast");
}

fn malformed_solicitations_are_the_kernels(bed: &mut Bed) {
    claim(bed, CLAIM_HELD);
    let good = solicits(ip(V6), &[], &SOURCE_LINK);
    // From the target on; what is before it is another header's.
    for at in 54..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        passes(bed, &format!("byte {at}"), &bad, NotOurMac);
    }
    let group = solicited_node(ip(V6));
    let to = (group_mac(group), &[][..]);
    let from = ip(ASKER6);
    let with = |options: &[u8]| icmp6(to, 255, from, group, &solicitation(ip(V6), options));
    passes(bed, "hop limit 254", &icmp6(to, 254, from, group, &solicitation(ip(V6), &[])), NotOurMac);
    passes(bed, "an option of length 0", &with(&[1, 0, 0, 0, 0, 0, 0, 0]), NotOurMac);
    passes(bed, "an option that is cut off", &with(&[1, 2, 0, 0, 0, 0, 0, 0]), NotOurMac);
    passes(bed, "another address", &solicits(ip("2001:db8::51"), &[], &[]), NotOurMac);
    passes(bed, "another VLAN", &solicits(ip(V6), &[6], &[]), NotOurMac);
    let router = icmp6(to, 255, from, group, &[133, 0, 0, 0, 0, 0, 0, 0]);
    passes(bed, "a router solicitation", &router, NotOurMac);
    let mut short = icmp6(to, 255, from, group, &solicitation(ip(V6), &[])[..20]);
    passes(bed, "20 bytes", &short, NotOurMac);
    short[6] |= 1;
    passes(bed, "sent by a group", &short, NotOurMac);
}

#[track_caller]
fn told(bed: &mut Bed, what: &str, frame: &[u8], expected: Option<[u8; 16]>) {
    let ran = bed.run_raw(CLIENT_SIDE.0, frame);
    let events = bed.sandbox.events();
    let seen: Vec<_> = events
        .iter()
        .filter(|event| event.kind == EventKind::ClaimSeen as u32)
        .map(|event| (event.key.address, event.key.ifindex, event.mac, event.vlan))
        .collect();
    let expected: Vec<_> = expected.map(|address| (address, CLIENT_SIDE.0, ASKER, 0)).into_iter().collect();
    assert_eq!(expected, seen, "{what}");
    if ran.verdict() == Some(Pass) {
        assert_eq!(frame, ran.frame, "{what}");
    }
}

fn other_stations_are_told_of(bed: &mut Bed) {
    let address4 = addr::from_v4(V4);
    let announcement = arp((BROADCAST, &[]), true, (ASKER, V4), ([0; 6], V4));
    let answer = arp((CLIENT_SIDE.1, &[]), false, (ASKER, V4), (CLIENT_SIDE.1, [0; 4]));
    let probe = arp((BROADCAST, &[]), true, (ASKER, [0; 4]), ([0; 6], V4));
    let mut message = vec![0; 32];
    put_advertisement(message.as_mut_slice(), words(ip(V6)), words(ALL_NODES), words(ip(V6)), ASKER, false);
    message[2..4].fill(0);
    let advertisement = icmp6((group_mac(ALL_NODES), &[]), 255, ip(V6), ALL_NODES, &message);
    let group = solicited_node(ip(V6));
    let detection = icmp6((group_mac(group), &[]), 255, [0; 16], group, &solicitation(ip(V6), &[]));
    assert_ne!([0, 0], pseudo6([0; 4], [0; 4], 58, 32).fresh());
    for state in [CLAIM_PROBING, CLAIM_HELD] {
        for (what, frame, address) in [
            ("announced", &announcement, address4),
            ("answered", &answer, address4),
            ("advertised", &advertisement, ip(V6)),
        ] {
            claim(bed, state);
            told(bed, what, frame, Some(address));
            told(bed, "the same at once", frame, None);
        }
    }
    // Two that ask at the same time.
    for (what, frame, address) in [("a probe", &probe, address4), ("DAD", &detection, ip(V6))] {
        claim(bed, CLAIM_PROBING);
        told(bed, what, frame, Some(address));
        claim(bed, CLAIM_HELD);
        told(bed, what, frame, None);
    }
    claim(bed, CLAIM_PROBING);
    passes(bed, "nobody is answered yet", &question(V4, &[]), NotIp);
    passes(bed, "IPv6", &solicits(ip(V6), &[], &SOURCE_LINK), NotOurMac);
    // What this host has sent and a loop brings back.
    let own = arp((BROADCAST, &[]), true, (CLIENT_SIDE.1, V4), ([0; 6], V4));
    told(bed, "its own", &own, None);
}

/// An ICMP message of kind `kind` to a claimed address.
fn echo(kind: u8, source: &str, destination: &str) -> Frame {
    let frame = udp(&format!("{source}:0"), &format!("{destination}:0"));
    let (protocol, mut message) = if frame.source.is_ipv4() {
        (1, vec![kind, 0, 0, 0, 0x12, 0x34, 0, 1])
    } else {
        (58, vec![kind, 0, 0, 0, 0x12, 0x34, 0, 1])
    };
    message.extend(b"abcdefghijklmnopq!");
    let pseudo = match (frame.source.ip(), frame.destination.ip()) {
        (std::net::IpAddr::V6(a), std::net::IpAddr::V6(b)) => {
            let length = (message.len() as u32).to_be_bytes();
            [&a.octets()[..], &b.octets(), &length, &[0, 0, 0, 58]].concat()
        }
        _ => Vec::new(),
    };
    let sum = full(&[&pseudo, &message]);
    message[2..4].copy_from_slice(&sum);
    Frame { payload: message, ..frame.protocol(protocol) }
}

fn nobody_but_netfast_is_there(bed: &mut Bed) {
    bed.rules(
        "[[forward]]\nname = \"web\"\nprotocol = \"tcp\"\nlisten = \"192.0.2.50:80\"\nclaim = true\n\
         [[forward.target]]\naddress = \"10.0.0.11:8080\"\n",
    );
    claim(bed, CLAIM_HELD);
    bed.connect("198.51.100.1:1000", "192.0.2.50:80", "10.0.0.11:8080");
    for (source, destination, request, reply) in
        [("198.51.100.9", "192.0.2.50", 8, 0), ("[2001:db8:ff::9]", "[2001:db8::50]", 128, 129)]
    {
        let asked = echo(request, source, destination);
        let out = Frame { ttl: 64, ..echo(reply, destination, source) };
        let out = Frame { from: asked.to, to: asked.from, ..out };
        bed.leaves("a ping", CLIENT_SIDE.0, &asked, Transmit, ClaimEchoed, &out);
        let tagged = asked.tagged(&[(0x8100, 9)]);
        bed.leaves(
            "a ping with a tag",
            CLIENT_SIDE.0,
            &tagged,
            Transmit,
            ClaimEchoed,
            &out.tagged(&[(0x8100, 9)]),
        );
        bed.expect("an answer to a ping", &echo(reply, source, destination), Drop, ClaimRefused);
        let closed = tcp(&format!("{source}:999"), &format!("{destination}:81"), SYN);
        bed.expect("a closed TCP port", &closed, Transmit, ClaimRefused);
        let closed = udp(&format!("{source}:999"), &format!("{destination}:81"));
        bed.expect("a closed UDP port", &closed, Transmit, ClaimRefused);
        bed.expect("another protocol", &closed.protocol(47), Drop, ClaimRefused);
        let routed = udp(&format!("{source}:999"), &format!("{destination}:81"));
        let routed = Frame { to: TARGET_SIDE.1, ..routed };
        bed.expect_on("by another interface", TARGET_SIDE.0, &routed.bytes(), Transmit, ClaimRefused);
    }
    bed.expect("no flow", &tcp("198.51.100.1:1001", "192.0.2.50:80", ACK), Transmit, ClaimRefused);
    bed.expect("an address beside it", &udp("198.51.100.9:999", "192.0.2.51:81"), Pass, NoService);
    let other = Frame { to: ASKER, ..udp("198.51.100.9:999", "192.0.2.50:81") };
    bed.expect("another station's", &other, Pass, NotOurMac);
    bed.sandbox.configure(|settings| settings.error_rate = 0);
    bed.expect("over the rate", &echo(8, "198.51.100.9", "192.0.2.50"), Drop, ClaimEchoed);
    bed.expect("over the rate", &udp("198.51.100.9:999", "192.0.2.50:81"), Drop, ClaimRefused);
}

fn without_claims_nothing_changes(bed: &mut Bed) {
    assert!(bed.sandbox.datapath().claims().is_empty());
    passes(bed, "ARP", &question(V4, &[]), NotIp);
    passes(bed, "a solicitation", &solicits(ip(V6), &[], &SOURCE_LINK), NotOurMac);
    bed.expect("a ping", &echo(8, "198.51.100.9", "192.0.2.50"), Pass, NotTcpUdp);
    bed.expect("a port", &udp("198.51.100.9:999", "192.0.2.50:81"), Pass, NoService);
}
