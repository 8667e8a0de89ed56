//! Frames that cannot be classified: each class by the operator's choice, both ways.

use netfast_common::{
    Reason::*,
    Verdict::*,
    abi::{Policy, PolicyClass},
    wire::{ACK, SYN},
};

use crate::{
    bed::{Bed, Case, scenarios},
    frames::{Extension, Frame, tcp, udp},
};

scenarios! { every_class_both_ways, defaults }

/// Frames of each class.
fn cases() -> Vec<(PolicyClass, Vec<Case>)> {
    let v4 = udp("198.51.100.1:4000", "192.0.2.10:53");
    let v6 = udp("[2001:db8::1]:4000", "[2001:db8::10]:53");
    let syn = tcp("198.51.100.1:4000", "192.0.2.10:443", SYN);
    let options = Extension::Raw(60, vec![1, 4, 0, 0, 0, 0]);
    let patched = |frame: &Frame, at: usize, value: u8| {
        let mut bytes = frame.bytes();
        bytes[at] = value;
        bytes
    };
    let cut = |frame: &Frame, length: usize| frame.bytes()[..length].to_vec();
    let reason = |class| match class {
        PolicyClass::Malformed => Malformed,
        PolicyClass::DeepVlan => DeepVlan,
        PolicyClass::SourceRoute => SourceRoute,
        PolicyClass::Ipv6Extensions => Ipv6Extensions,
        PolicyClass::Fragment => Fragment,
        PolicyClass::TinyFragment => TinyFragment,
        PolicyClass::Martian => Martian,
        PolicyClass::TcpNoFlow => TcpNoFlow,
    };
    let of = |class, frames: Vec<(&'static str, Vec<u8>)>| {
        (class, frames.into_iter().map(|(what, frame)| (what, frame, Drop, reason(class))).collect())
    };
    let from = |source: &str| udp(source, "192.0.2.10:53").bytes();
    let from6 = |source: &str| udp(source, "[2001:db8::10]:53").bytes();
    vec![
        of(
            PolicyClass::Malformed,
            vec![
                ("IPv4 header of 16 bytes", patched(&v4, 14, 0x44)),
                ("version 5 as IPv4", patched(&v4, 14, 0x55)),
                ("version 4 as IPv6", patched(&v6, 14, 0x40)),
                ("cut in the IPv4 header", cut(&v4, 33)),
                ("cut in the IPv6 header", cut(&v6, 53)),
                ("cut in the data", cut(&v4, 60)),
                ("cut in a tag", cut(&v4.tagged(&[(0x8100, 1)]), 17)),
                ("an option that is too long", Frame { options: vec![7, 9, 0, 0], ..v4.clone() }.bytes()),
                ("an option of length 1", Frame { options: vec![7, 1, 0, 0], ..v4.clone() }.bytes()),
                ("an option without its length", Frame { options: vec![1, 1, 1, 7], ..v4.clone() }.bytes()),
                ("UDP length of 7", patched(&v4, 39, 7)),
                ("UDP longer than IP", patched(&v4, 38, 1)),
                ("TCP header of 16 bytes", patched(&syn, 46, 0x40)),
                ("TCP header longer than IP", patched(&syn, 46, 0x60)),
                ("UDP cut by IP", v4.protocol(17).payload(&[0; 7]).bytes()),
                ("TCP cut by IP", v4.protocol(6).payload(&[0; 19]).bytes()),
                (
                    "hop-by-hop options that do not stand first",
                    v6.extended(&[options.clone(), Extension::Raw(0, vec![1, 4, 0, 0, 0, 0])]).bytes(),
                ),
                (
                    "an extension header beyond the payload",
                    patched(&v6.extended(std::slice::from_ref(&options)), 55, 99),
                ),
            ],
        ),
        of(
            PolicyClass::DeepVlan,
            vec![
                ("three tags", v4.tagged(&[(0x88a8, 1), (0x8100, 2), (0x8100, 3)]).bytes()),
                ("four tags", v6.tagged(&[(0x8100, 1); 4]).bytes()),
            ],
        ),
        of(
            PolicyClass::SourceRoute,
            vec![
                ("loose", Frame { options: vec![131, 7, 4, 10, 0, 0, 1, 0], ..v4.clone() }.bytes()),
                (
                    "strict, after padding",
                    Frame { options: vec![1, 137, 7, 4, 10, 0, 0, 1], ..v4.clone() }.bytes(),
                ),
                (
                    "an IPv6 routing header with segments left",
                    v6.extended(&[Extension::Raw(43, vec![0, 1, 0, 0, 0, 0])]).bytes(),
                ),
            ],
        ),
        of(
            PolicyClass::Ipv6Extensions,
            vec![
                ("nine", v6.extended(&vec![options.clone(); 9]).bytes()),
                (
                    "too long in all",
                    v6.extended(&[Extension::Raw(60, vec![0; 1030]), Extension::Raw(60, vec![0; 1030])])
                        .bytes(),
                ),
            ],
        ),
        of(
            PolicyClass::Fragment,
            vec![
                ("a later fragment", Frame { fragment: Some((3, true)), ..v4.clone() }.bytes()),
                ("the last fragment", Frame { fragment: Some((1000, false)), ..syn.clone() }.bytes()),
                ("a later fragment, IPv6", v6.extended(&[Extension::Fragment(9, true)]).bytes()),
            ],
        ),
        of(
            PolicyClass::TinyFragment,
            vec![
                (
                    "without the whole TCP header",
                    Frame { fragment: Some((0, true)), ..v4.protocol(6).payload(&[0; 16]) }.bytes(),
                ),
                (
                    "without the whole UDP header",
                    Frame { fragment: Some((0, true)), ..v4.protocol(17).payload(&[0; 4]) }.bytes(),
                ),
                (
                    "one that overwrites TCP flags",
                    Frame { fragment: Some((1, false)), ..v4.protocol(6).payload(&[0; 16]) }.bytes(),
                ),
                (
                    "IPv6 without the whole TCP header",
                    v6.protocol(6).payload(&[0; 16]).extended(&[Extension::Fragment(0, true)]).bytes(),
                ),
                (
                    "IPv6, one that overwrites TCP flags",
                    v6.protocol(6).payload(&[0; 16]).extended(&[Extension::Fragment(1, false)]).bytes(),
                ),
            ],
        ),
        of(
            PolicyClass::Martian,
            vec![
                ("loopback", from("127.0.0.1:9")),
                ("multicast", from("224.0.0.1:9")),
                ("reserved", from("240.0.0.1:9")),
                ("to all", from("255.255.255.255:9")),
                ("land", from("192.0.2.10:53")),
                ("IPv6 loopback", from6("[::1]:9")),
                ("IPv6 multicast", from6("[ff02::1]:9")),
                ("IPv6 with an IPv4 address in it", from6("[::ffff:198.51.100.1]:9")),
                ("IPv6 land", from6("[2001:db8::10]:9")),
                ("unspecified, to a service", tcp("0.0.0.0:9", "192.0.2.10:443", SYN).bytes()),
            ],
        ),
        of(
            PolicyClass::TcpNoFlow,
            vec![
                ("ACK out of the blue", syn.flags(ACK).bytes()),
                ("SYN ACK out of the blue", syn.flags(SYN | ACK).bytes()),
                ("no flag at all", syn.flags(0).bytes()),
            ],
        ),
    ]
}

const RULES: &str = r#"
    [[forward]]
    name = "web"
    protocol = "tcp"
    listen = "192.0.2.10:443"
    [[forward.target]]
    address = "10.0.0.11:8443"
"#;

fn every_class_both_ways(bed: &mut Bed) {
    bed.rules(RULES);
    for policy in [Policy::Drop, Policy::Pass] {
        bed.sandbox.configure(|settings| settings.policies = [policy; PolicyClass::COUNT]);
        for (_, mut cases) in cases() {
            if policy == Policy::Pass {
                cases.iter_mut().for_each(|case| case.2 = Pass);
            }
            bed.table(&cases);
        }
    }
}

fn defaults(bed: &mut Bed) {
    bed.rules(RULES);
    for (class, mut cases) in cases() {
        let (.., default, _) = PolicyClass::TABLE[class as usize];
        if default == Policy::Pass {
            cases.iter_mut().for_each(|case| case.2 = Pass);
        }
        bed.table(&cases);
    }
}
