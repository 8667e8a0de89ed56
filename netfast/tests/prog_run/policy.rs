//! Frames that cannot be classified: each class by the operator's choice, both ways.

use netfast_common::{
    Reason::*,
    Verdict::*,
    abi::{Policy, PolicyClass},
    wire::{ACK, FIN, RST, SYN},
};

use crate::{
    bed::{Bed, CLIENT_SIDE, Case, scenarios},
    frames::{Extension, Frame, tcp, udp},
};

scenarios! {
    every_class_both_ways, defaults, nothing_gets_past_the_filter_by_being_unusual, no_cached_flow_hides_odd_flags,
    options_are_accepted_where_they_may,
}

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
        PolicyClass::TcpFlags => TcpFlags,
        PolicyClass::IpOptions => IpOptions,
        PolicyClass::BadChecksum => BadChecksum,
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
            ],
        ),
        of(
            PolicyClass::TcpFlags,
            vec![
                ("no flag at all", syn.flags(0).bytes()),
                ("FIN alone", syn.flags(FIN).bytes()),
                ("SYN FIN", syn.flags(SYN | FIN).bytes()),
                ("SYN RST", syn.flags(SYN | RST).bytes()),
                ("SYN FIN ACK", syn.flags(SYN | FIN | ACK).bytes()),
                ("FIN RST ACK", syn.flags(FIN | RST | ACK).bytes()),
                ("IPv6, no flag at all", tcp("[2001:db8::1]:4000", "[2001:db8::10]:443", 0).bytes()),
            ],
        ),
        of(
            PolicyClass::IpOptions,
            vec![
                ("record route", Frame { options: vec![7, 7, 4, 0, 0, 0, 0, 0], ..v4.clone() }.bytes()),
                ("padding", Frame { options: vec![1, 1, 1, 0], ..syn.flags(ACK) }.bytes()),
            ],
        ),
        of(
            PolicyClass::BadChecksum,
            vec![
                ("one bit", patched(&v4, 25, v4.bytes()[25] ^ 1)),
                ("none", {
                    let mut bytes = syn.bytes();
                    bytes[24..26].fill(0);
                    bytes
                }),
                ("of a header with options", {
                    let mut bytes = Frame { options: vec![7, 7, 4, 0, 0, 0, 0, 0], ..v4.clone() }.bytes();
                    bytes[38] ^= 4;
                    bytes
                }),
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
        if default == Policy::Accept {
            continue;
        }
        if default == Policy::Pass {
            cases.iter_mut().for_each(|case| case.2 = Pass);
        }
        bed.table(&cases);
    }
}

/// Each class with each policy that it has, against rules that drop the ports that its packets are for: by address, by
/// port, by protocol. Only packets whose ports cannot be read may get to the kernel, and only if the operator passes them.
fn nothing_gets_past_the_filter_by_being_unusual(bed: &mut Bed) {
    let drop = |what: &str| format!("[[filter]]\naction = \"drop\"\n{what}\n");
    let by_port =
        ["udp", "tcp"].map(|protocol| drop(&format!("proto = \"{protocol}\"\ndport = \"1-65535\""))).concat();
    let by_protocol = ["udp", "tcp"].map(|protocol| drop(&format!("proto = \"{protocol}\""))).concat();
    for (what, filter) in [("by port", by_port), ("by protocol", by_protocol), ("all", drop(""))] {
        bed.rules(&format!("{RULES}{filter}"));
        for (class, cases) in cases() {
            for (word, policy) in class.choices() {
                bed.sandbox.configure(|settings| settings.policies[class as usize] = *policy);
                for (case, frame, ..) in &cases {
                    let ran = bed.run(case, CLIENT_SIDE.0, frame);
                    let (verdict, reason) = (ran.verdict().unwrap(), ran.reason().unwrap());
                    let context =
                        format!("{class:?} = {word}, {case}, filtered {what}: {verdict:?} {reason:?}");
                    if *policy == Policy::Drop {
                        assert_eq!(Drop, verdict, "{context}");
                    } else if class.is_unread() || (class == PolicyClass::Fragment && what == "by port") {
                        // A later fragment is nothing without its first one, which the filter has dropped.
                        assert!(verdict == Pass || reason == FilterDrop, "{context}");
                    } else {
                        assert_eq!((Drop, FilterDrop), (verdict, reason), "{context}");
                    }
                }
            }
            let (.., default, _) = PolicyClass::TABLE[class as usize];
            bed.sandbox.configure(|settings| settings.policies[class as usize] = default);
        }
    }
}

/// Flags that a flow has no use for do not go by the cache, either.
fn no_cached_flow_hides_odd_flags(bed: &mut Bed) {
    bed.rules(RULES);
    let (data, sent) = bed.connect("198.51.100.1:4100", "192.0.2.10:443", "10.0.0.11:8443");
    bed.replied("data back", &data, &sent.answer());
    bed.nat("cached", &data, "10.0.0.11:8443");
    for flags in [0, FIN, SYN | FIN, SYN | RST, FIN | RST | ACK] {
        bed.expect("odd flags, of a cached flow", &data.flags(flags), Drop, TcpFlags);
    }
    assert_eq!(sent.source, bed.nat("which goes on", &data, "10.0.0.11:8443").source);
}

fn options_are_accepted_where_they_may(bed: &mut Bed) {
    bed.rules(RULES);
    let (data, _) = bed.connect("198.51.100.1:4101", "192.0.2.10:443", "10.0.0.11:8443");
    let options = Frame { options: vec![7, 7, 4, 0, 0, 0, 0, 0], ..data };
    bed.nat("accepted: of a flow", &options, "10.0.0.11:8443");
    let other = Frame { to: [2; 6], ..options.clone() };
    for (policy, verdict) in [(Policy::Drop, Drop), (Policy::Pass, Pass)] {
        bed.sandbox.configure(|settings| settings.policies[PolicyClass::IpOptions as usize] = policy);
        bed.expect("not accepted", &options, verdict, IpOptions);
        bed.expect("another station's options are not looked at", &other, Pass, NotOurMac);
    }
}
