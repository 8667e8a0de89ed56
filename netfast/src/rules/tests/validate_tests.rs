//! What is refused, and with which words.

use std::sync::Arc;

use netfast_common::abi;

use super::{echo, filter, filters, forward, rules, target};
use crate::{
    api::types::{ErrorCode, ForwardMode, Rules, Transport},
    rules::validate::{problems, validate},
};

/// Asserts that rules are refused, at this field and with these words.
fn refused(rules: &Rules, field: &str, words: &[&str]) {
    let error = validate(rules).expect_err(field);
    assert_eq!(error.code, ErrorCode::Rejected, "{}", error.message);
    assert_eq!(error.field.as_deref(), Some(field), "{}", error.message);
    for word in words {
        assert!(error.message.contains(word), "{word:?} is not in: {}", error.message);
    }
}

#[test]
fn rules_that_make_sense() {
    let mut dns = forward("dns", "192.0.2.10:443", &["10.0.0.53:53"]);
    dns.protocol = Transport::Udp;
    let mut all = rules(&[
        forward("web", "192.0.2.10:443", &["10.0.0.11:8443", "10.0.0.12:8443"]),
        forward("web-2", "192.0.2.11:443", &["10.0.0.11:8443"]),
        forward("six", "[2001:db8::1]:443", &["[fd00::2]:443"]),
        forward("games", "192.0.2.10:27000-27099", &["10.0.0.7:27000-27099", "10.0.0.8:30000"]),
        forward("later", "192.0.2.10:80", &[]),
        dns,
    ]);
    all.echoes =
        vec![echo("192.0.2.10:7", &["198.51.100.0/24"]), echo("[2001:db8::1]:7", &["2001:db8::/32"])];
    all.filters = [
        filter("drop name=scanner src=203.0.113.0/24 proto=tcp dport=22"),
        filter("allow proto=icmpv6 version=6 src=::/0"),
        filter("drop proto=47 interface=eth0.100"),
        filter("reject proto=tcp,udp dport=25,400-500 src=10.0.0.0/8,2001:db8::/32"),
        filter("reject proto=tcp with=tcp-reset"),
        filter("limit proto=tcp flags=syn/syn,ack rate=100/s burst=7 per=source"),
        filter("count proto=icmp icmp=echo-request,3/4 vlan=0"),
        filter("drop"),
    ]
    .map(Arc::new)
    .to_vec()
    .into();
    assert_eq!(problems(&all), []);
}

#[test]
fn names() {
    for bad in ["", "-a", "a b", "ä", "a/b", &"x".repeat(64)] {
        let error = validate(&rules(&[forward(bad, "192.0.2.1:1", &[])])).expect_err(bad);
        assert!(error.message.contains("cannot be the name of a forward"), "{}", error.message);
    }
    assert!(validate(&rules(&[forward(&"x".repeat(63), "192.0.2.1:1", &[])])).is_ok());
    let twice = rules(&[forward("web", "192.0.2.1:1", &[]), forward("web", "192.0.2.1:2", &[])]);
    refused(&twice, "forward.web.name", &["192.0.2.1:1", "192.0.2.1:2"]);
    refused(&filters(&["drop name=12"]), "filter[1].name", &["position"]);
    refused(&filters(&["drop name=a", "allow name=a"]), "filter[2].name", &["1 and 2"]);
}

#[test]
fn listening_addresses() {
    for (listen, word) in [
        ("0.0.0.0:80", "any address"),
        ("[::]:80", "any address"),
        ("127.0.0.1:80", "loopback"),
        ("[::1]:80", "loopback"),
        ("239.1.2.3:80", "multicast"),
        ("[ff02::1]:80", "multicast"),
        ("255.255.255.255:80", "broadcast"),
        ("[::ffff:192.0.2.1]:80", "write it as IPv4"),
    ] {
        refused(&rules(&[forward("web", listen, &[])]), "forward.web.listen", &[word]);
    }
}

#[test]
fn targets() {
    for (listen, address, words) in [
        ("192.0.2.1:80", "192.0.2.1:8080", ["same address", "for ever"]),
        ("192.0.2.1:80", "0.0.0.0:80", ["target", "any address"]),
        ("192.0.2.1:80", "127.0.0.1:80", ["target", "loopback"]),
        ("192.0.2.1:80", "224.0.0.1:80", ["target", "multicast"]),
        ("[2001:db8::1]:80", "[fe80::1]:80", ["target", "link-local"]),
        ("192.0.2.1:80", "10.0.0.1:80-81", ["1 port,", "has 2"]),
        ("192.0.2.1:80-89", "10.0.0.1:80-81", ["10 ports", "has 2"]),
        ("192.0.2.1:80-89", "10.0.0.1:65530", ["10 ports", "from port 65530"]),
    ] {
        let ok = if listen.starts_with('[') { "[fd00::9]:9" } else { "10.0.0.9:9" };
        refused(&rules(&[forward("web", listen, &[ok, address])]), "forward.web.target[2].address", &words);
    }
    for (listen, address, words) in [
        ("192.0.2.1:80", "[fd00::1]:80", ["IPv6", "mode nat"]),
        ("[2001:db8::1]:80", "10.0.0.1:80", ["IPv4", "mode nat"]),
    ] {
        // Another IP version only where the client's address does not stay.
        let mut web = forward("web", listen, &[address]);
        assert!(validate(&rules(std::slice::from_ref(&web))).is_ok(), "{listen} {address}");
        web.mode = ForwardMode::Dnat;
        refused(&rules(&[web]), "forward.web.target[1].address", &words);
    }
    let twice = rules(&[forward("web", "192.0.2.1:80", &["10.0.0.1:80", "10.0.0.1:81", "10.0.0.1:80"])]);
    refused(&twice, "forward.web.target[3].address", &["twice", "weight"]);
    for weight in [0, 257] {
        let mut web = forward("web", "192.0.2.1:80", &["10.0.0.1:80"]);
        web.targets[0].weight = weight;
        refused(&rules(&[web]), "forward.web.target[1].weight", &["1 to 256"]);
    }
}

#[test]
fn overlapping_services_name_both_sides() {
    let both = rules(&[
        forward("wide", "192.0.2.1:1000-2000", &[]),
        forward("ok", "192.0.2.1:999", &[]),
        forward("narrow", "192.0.2.1:2000", &[]),
    ]);
    refused(&both, "forward.narrow.listen", &["\"narrow\"", "\"wide\"", "1000-2000"]);
    let mut udp = forward("dns", "192.0.2.1:1-100", &[]);
    udp.protocol = Transport::Udp;
    let mut with_echo = rules(&[udp]);
    with_echo.echoes = vec![echo("192.0.2.1:7", &["10.0.0.0/8"])];
    refused(&with_echo, "echo[1].listen", &["echo 192.0.2.1:7", "forward \"dns\" (udp 192.0.2.1:1-100)"]);
    with_echo.forwards[0].protocol = Transport::Tcp;
    assert_eq!(validate(&with_echo), Ok(()), "an echo reflector is UDP only");
    // The wide one is met again behind a narrow one that lies within it.
    let nested = rules(&[
        forward("wide", "192.0.2.1:1-100", &[]),
        forward("in", "192.0.2.1:5", &[]),
        forward("also-in", "192.0.2.1:50", &[]),
    ]);
    assert_eq!(problems(&nested).len(), 2);
}

#[test]
fn echo_reflectors() {
    let one = |e| Rules { echoes: vec![e], ..Rules::default() };
    refused(&one(echo("192.0.2.1:7", &[])), "echo[1].allow", &["CVE-2024-2169", "198.51.100.0/24"]);
    refused(&one(echo("192.0.2.1:7-8", &["10.0.0.0/8"])), "echo[1].listen", &["one port"]);
    refused(&one(echo("192.0.2.1:7", &["10.0.0.0/8", "fd00::/8"])), "echo[1].allow", &["fd00::/8", "IPv6"]);
    for rate in [0, 1_000_001] {
        let mut e = echo("192.0.2.1:7", &["10.0.0.0/8"]);
        e.rate = rate;
        refused(&one(e), "echo[1].rate", &["1 to 1000000"]);
    }
}

#[test]
fn source_nat_has_an_outside() {
    let snat = |from: &str, to: &str| {
        let text = format!("[[snat]]\nname = \"lan\"\nfrom = [\"{from}\"]\nto = [\"{to}\"]\n");
        toml::from_str::<Rules>(&text).unwrap()
    };
    assert_eq!(validate(&snat("10.0.0.0/8", "192.0.2.1")), Ok(()));
    for (from, to) in [("0.0.0.0/0", "192.0.2.1"), ("::/0", "2001:db8::1")] {
        refused(&snat(from, to), "snat.lan.from", &["holds every address", from]);
    }
}

#[test]
fn filter_rules() {
    for (text, key, word) in [
        ("drop dport=22", "dport", "needs proto \"tcp\" or \"udp\""),
        ("drop proto=icmp sport=22", "sport", "no ports"),
        ("drop proto=47 dport=1-2", "dport", "no ports"),
        ("drop src=10.0.0.0/8 dst=fd00::/8", "version", "src 10.0.0.0/8 is IPv4 and dst fd00::/8 is IPv6"),
        ("drop version=6 src=10.0.0.0/8", "version", "version 6 is IPv6 and src"),
        ("drop version=5", "version", "no IP version 5"),
        ("drop proto=icmp dst=fd00::/8", "version", "proto icmp"),
        ("drop proto=icmpv6 src=10.0.0.0/8", "version", "proto icmpv6"),
        ("drop src=::ffff:10.0.0.0/104", "src", "write it as IPv4"),
        ("drop src=@bad", "src", "there is no set @bad"),
        ("drop proto=tcp,icmp dport=22", "dport", "packets of icmp have no ports"),
        ("drop proto=udp flags=syn", "flags", "need proto \"tcp\""),
        ("drop flags=syn", "flags", "need proto \"tcp\""),
        ("drop icmp=3", "icmp", "needs proto \"icmp\""),
        ("drop proto=icmp icmp=packet-too-big", "icmp", "icmp has no type packet-too-big"),
        ("drop proto=icmpv6 icmp=timestamp-request", "icmp", "icmpv6 has no type"),
        ("drop vlan=4095", "vlan", "no VLAN 4095"),
        ("drop with=tcp-reset", "with", "goes with action \"reject\", not with \"drop\""),
        ("reject with=tcp-reset", "with", "tcp-reset answers TCP only"),
        ("limit", "rate", "a limit needs a rate"),
        ("limit rate=0/s", "rate", "rate 0/s is not in 1/s"),
        ("limit rate=7bit", "rate", "8bit to 400gbit"),
        ("limit rate=1/s burst=0", "burst", "lets nothing through"),
        ("drop rate=1/s", "rate", "goes with action \"limit\""),
        ("count per=source", "per", "goes with action \"limit\", not with \"count\""),
        ("drop interface=a/b", "interface", "not the name of an interface"),
        ("drop interface=sixteen-letters-", "interface", "1 to 15"),
    ] {
        refused(&filters(&["allow", text]), &format!("filter[2].{key}"), &[word]);
    }
}

#[test]
fn comments() {
    let mut web = forward("web", "192.0.2.1:80", &[]);
    web.comment = Some("two\nlines".to_owned());
    refused(&rules(&[web.clone()]), "forward.web.comment", &["one line"]);
    web.comment = Some("ä".repeat(257));
    refused(&rules(&[web]), "forward.web.comment", &["256"]);
}

#[test]
fn limits_name_the_limit_and_the_rule() {
    let forwards: Vec<_> = (0..=abi::MAX_FORWARDS)
        .map(|n| forward(&format!("f{n}"), &format!("192.0.2.1:{}", n + 1), &[]))
        .collect();
    refused(&rules(&forwards), "forward.f4096", &["do not fit", "limit of 4096", "\"f4096\""]);
    assert_eq!(validate(&rules(&forwards[..4096])), Ok(()));

    let ports: Vec<String> = (0..500).map(|port| (port * 2).to_string()).collect();
    let list = ports.join(",");
    let many = filters(&["allow", &format!("drop proto=tcp sport={list} dport={list}")]);
    refused(&many, "filter[2]", &["do not fit", "filter rule 2", "from 2 to 500002", "limit is 200000"]);

    let mut big = forward("big", "192.0.2.1:80", &[]);
    big.targets = (0..40_000).map(|n| target(&format!("10.{}.{}.1:80", n / 256, n % 256))).collect();
    let mut second = big.clone();
    second.name = "second".to_owned();
    second.listen = "192.0.2.2:80".parse().unwrap();
    refused(&rules(&[big, second]), "forward.second.target[25537]", &["limit of 65536", "\"second\""]);

    let echoes: Vec<_> = (0..1025).map(|n| echo(&format!("192.0.2.1:{}", n + 1), &["10.0.0.0/8"])).collect();
    refused(&Rules { echoes, ..Rules::default() }, "echo[1025]", &["limit of 1024"]);

    let mut wide = echo("192.0.2.1:7", &[]);
    wide.allow = (0..65).map(|n| format!("10.0.{n}.0/24").parse().unwrap()).collect();
    refused(
        &Rules { echoes: vec![wide], ..Rules::default() },
        "echo[1].allow",
        &["limit of 64", "10.0.64.0/24"],
    );
}
