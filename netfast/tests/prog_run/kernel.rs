//! What is not netfast's goes to the kernel unchanged, with its reason.

use netfast::datapath::sandbox::{SMALL_TABLES, Sandbox};
use netfast_common::{
    Reason::{self, *},
    Verdict::*,
    abi::MAX_INTERFACES,
    wire::{ACK, SYN},
};

use crate::{
    bed::{Bed, CLIENT_SIDE, UNKNOWN_SIDE, scenarios},
    frames::{Extension, Frame, tcp, udp},
};

scenarios! { frames_of_others, frames_without_service, a_service_is_found_by_all_of_its_key, an_unannounced_interface }

fn frames_of_others(bed: &mut Bed) {
    let mine = udp("198.51.100.1:4000", "192.0.2.10:53");
    let to = |to: [u8; 6]| Frame { to, ..mine.clone() }.bytes();
    let kind = |kind: u16| {
        let mut frame = mine.bytes();
        frame[12..14].copy_from_slice(&kind.to_be_bytes());
        frame
    };
    let v6 = udp("[2001:db8::1]:4000", "[2001:db8::10]:53");
    bed.table(&[
        ("ARP", kind(0x0806), Pass, NotIp),
        ("LLDP", kind(0x88cc), Pass, NotIp),
        ("an 802.3 length", kind(0x0026), Pass, NotIp),
        ("nothing but an Ethernet header", kind(0x88cc)[..14].to_vec(), Pass, NotIp),
        ("another station", to([2, 0, 0, 0, 0, 99]), Pass, NotOurMac),
        ("to all", to([0xff; 6]), Pass, NotOurMac),
        ("an IPv4 group", to([0x01, 0, 0x5e, 0, 0, 1]), Pass, NotOurMac),
        ("an IPv6 group", Frame { to: [0x33, 0x33, 0, 0, 0, 1], ..v6 }.bytes(), Pass, NotOurMac),
    ]);
}

fn frames_without_service(bed: &mut Bed) {
    let v4 = udp("198.51.100.1:4000", "192.0.2.10:53");
    let v6 = udp("[2001:db8::1]:4000", "[2001:db8::10]:53");
    let ssh = tcp("198.51.100.1:4000", "192.0.2.10:22", SYN);
    let hop_by_hop = Extension::Raw(0, vec![1, 4, 0, 0, 0, 0]);
    let options = Extension::Raw(60, vec![1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let routed = Extension::Raw(43, vec![0, 0, 0, 0, 0, 0]);
    let pass = |what: &'static str, frame: Frame, reason: Reason| (what, frame.bytes(), Pass, reason);
    bed.table(&[
        pass("UDP", v4.clone(), NoService),
        pass("UDP over IPv6", v6.clone(), NoService),
        pass("ssh", ssh.clone(), NoService),
        pass("ssh, established", ssh.flags(ACK).payload(b"data"), NoService),
        pass("ICMP", v4.protocol(1), NotTcpUdp),
        pass("ICMPv6", v6.protocol(58), NotTcpUdp),
        pass("GRE", v4.protocol(47), NotTcpUdp),
        pass("one tag", v4.tagged(&[(0x8100, 5)]), NoService),
        pass("two tags", v4.tagged(&[(0x88a8, 5), (0x8100, 6)]), NoService),
        pass("two tags, IPv6", v6.tagged(&[(0x8100, 5), (0x8100, 6)]), NoService),
        pass("padding", Frame { padding: 9, ..v4.payload(b"") }, NoService),
        pass("router alert", Frame { options: vec![0x94, 4, 0, 0], ..v4.clone() }, NoService),
        pass("options end early", Frame { options: vec![1, 0, 7, 99], ..v4.clone() }, NoService),
        pass("no UDP checksum", v4.without_checksum(), NoService),
        pass("TTL 1", v4.ttl(1), NoService),
        pass("TTL 0", v4.ttl(0), NoService),
        pass("hop-by-hop options", v6.extended(std::slice::from_ref(&hop_by_hop)), NoService),
        pass("destination options", v6.extended(std::slice::from_ref(&options)), NoService),
        pass("both", v6.extended(&[hop_by_hop, options.clone()]), NoService),
        pass("a routing header that is used up", v6.extended(&[routed]), NoService),
        pass("an atomic fragment", v6.extended(&[Extension::Fragment(0, false)]), NoService),
        pass("eight extension headers", v6.extended(&vec![options; 8]), NoService),
        pass("first fragment", Frame { fragment: Some((0, true)), ..v4.clone() }, NoService),
        pass("first fragment, IPv6", v6.extended(&[Extension::Fragment(0, true)]), NoService),
        pass("DHCP's unspecified source", udp("0.0.0.0:68", "255.255.255.255:67"), NoService),
        pass("duplicate address detection", udp("[::]:1", "[ff02::1:ff00:1]:1").protocol(58), NotTcpUdp),
    ]);
}

fn a_service_is_found_by_all_of_its_key(bed: &mut Bed) {
    bed.rules(
        r#"
        [[forward]]
        name = "web"
        protocol = "tcp"
        listen = "192.0.2.10:8000-8009"
        [[forward.target]]
        address = "10.0.0.11:8000-8009"
        "#,
    );
    let syn = |to: &str| tcp("198.51.100.1:4000", to, SYN).bytes();
    bed.table(&[
        ("below the range", syn("192.0.2.10:7999"), Pass, NoService),
        ("first port", syn("192.0.2.10:8000"), Redirect, Forwarded),
        ("last port", syn("192.0.2.10:8009"), Redirect, Forwarded),
        ("above the range", syn("192.0.2.10:8010"), Pass, NoService),
        ("another address", syn("192.0.2.11:8000"), Pass, NoService),
        ("another protocol", udp("198.51.100.1:4000", "192.0.2.10:8000").bytes(), Pass, NoService),
        (
            "the IPv4 address in an IPv6 header",
            tcp("[2001:db8::1]:4000", "[::ffff:192.0.2.10]:8000", SYN).bytes(),
            Drop,
            Martian,
        ),
    ]);
}

fn an_unannounced_interface(bed: &mut Bed) {
    let frame = udp("198.51.100.1:4000", "192.0.2.10:53").bytes();
    bed.expect_on("an interface that the agent does not know", UNKNOWN_SIDE, &frame, Pass, Unattached);
}

#[test]
fn as_many_interfaces_as_are_promised() {
    let mut sandbox = Sandbox::enter(SMALL_TABLES).unwrap();
    let first = 100;
    for index in first..first + MAX_INTERFACES {
        sandbox.add_interface(&format!("nf{index}"), index, CLIENT_SIDE.1).unwrap();
    }
    for index in [first, first + MAX_INTERFACES - 1] {
        let ran = sandbox.run(index, &[0; 60]).unwrap();
        assert_eq!((Some(Pass), Some(NotIp)), (ran.verdict(), ran.reason()), "interface {index}");
    }
    let more = sandbox.add_interface("nf-more", first + MAX_INTERFACES, CLIENT_SIDE.1);
    assert!(more.unwrap_err().to_string().contains("64 interfaces are attached already"));
}
