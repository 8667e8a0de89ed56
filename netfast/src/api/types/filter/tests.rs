//! The texts of filter rules.

use super::*;

fn error<T: FromStr<Err = ParseError> + fmt::Debug>(text: &str) -> String {
    text.parse::<T>().expect_err(text).0
}

#[test]
fn rates() {
    for (text, rate) in [
        ("1000/s", Rate::Packets(1000)),
        ("64kbit", Rate::Bits(64_000)),
        ("10mbit/s", Rate::Bits(10_000_000)),
        ("1gbit", Rate::Bits(1_000_000_000)),
        ("1500bit", Rate::Bits(1500)),
    ] {
        let parsed: Rate = text.parse().unwrap();
        assert_eq!(parsed, rate, "{text}");
        assert_eq!(parsed.to_string().parse(), Ok(rate), "{text}");
    }
    for bad in ["", "10", "/s", "10mbyte", "-1/s", "99999999999999999999/s", "99999999999gbit"] {
        assert!(error::<Rate>(bad).contains("is not a rate; examples: 1000/s"), "{bad}");
    }
}

#[test]
fn tcp_flags() {
    let flags = |text: &str| text.parse::<TcpFlags>().map(|flags| (flags.value, flags.mask));
    assert_eq!(flags("syn/syn,ack,fin,rst"), Ok((0x02, 0x17)));
    assert_eq!(flags("syn"), Ok((0x02, 0x02)));
    assert_eq!(flags("none/all"), Ok((0, 0xff)));
    assert_eq!(flags("fin,psh,urg/all").map(|(value, _)| value), Ok(0x29));
    for text in ["fin,syn/fin,syn,rst", "syn", "none/all", "none/syn", "cwr"] {
        assert_eq!(text.parse::<TcpFlags>().unwrap().to_string(), text);
    }
    assert!(error::<TcpFlags>("sny").contains("did you mean \"syn\""));
    assert!(error::<TcpFlags>("syn/ack").contains("do not count"));
    assert!(error::<TcpFlags>("none").contains("matches any flags"));
}

#[test]
fn icmp_types() {
    let kind = |text: &str| text.parse::<IcmpKind>().unwrap();
    assert_eq!(
        (kind("echo-request").type_in(false), kind("echo-request").type_in(true)),
        (Some(8), Some(128))
    );
    assert_eq!((kind("packet-too-big").type_in(false), kind("3/4").code), (None, Some(4)));
    assert_eq!(kind("neighbor-solicitation"), kind("neighbour-solicitation"));
    for text in ["echo-reply", "3/4", "255", "destination-unreachable/1"] {
        assert_eq!(kind(text).to_string(), text);
    }
    assert!(error::<IcmpKind>("echo-reqest").contains("did you mean \"echo-request\""));
    assert!(error::<IcmpKind>("256").contains("or a number from 0 to 255"));
    assert!(error::<IcmpKind>("3/256").contains("code"));
}

#[test]
fn ports_and_lists() {
    let ports: Many<Ports> = "80,443,0,0-10,8000-8010".parse().unwrap();
    assert_eq!(ports.to_string(), "80,443,0,0-10,8000-8010");
    assert_eq!(serde_json::to_string(&ports).unwrap(), "[80,443,0,\"0-10\",\"8000-8010\"]");
    let one: Many<Ports> = serde_json::from_str("[443]").unwrap();
    assert_eq!(
        (one.clone(), serde_json::to_string(&one).unwrap()),
        (Many::One("443".parse().unwrap()), "443".into())
    );
    assert!(error::<Many<Ports>>("80,99999").contains("not a port"));
    assert!(error::<Ports>("10-5").contains("ends before it begins"));
    let nets: Many<Addresses> = "10.0.0.1,@bad,2001:db8::/32".parse().unwrap();
    assert_eq!(nets.to_string(), "10.0.0.1/32,@bad,2001:db8::/32");
    assert!(error::<Addresses>("10.0.0").contains("is not a prefix"));
}

#[test]
fn a_rule_as_toml_and_json() {
    let text = "action = \"limit\"\nrate = \"100/s\"\nper = \"source\"\nsrc = [\"@bad\", \"192.0.2.1\"]\n\
                proto = \"tcp\"\ndport = [22, \"8000-8010\"]\nflags = \"syn/syn,ack\"\nvlan = 7\n";
    let rule: FilterRule = toml::from_str(text).unwrap();
    assert_eq!(rule.rate, Some(Rate::Packets(100)));
    let json = serde_json::to_string(&rule).unwrap();
    assert_eq!(
        json,
        "{\"action\":\"limit\",\"rate\":\"100/s\",\"per\":\"source\",\"src\":[\"@bad\",\"192.0.2.1/32\"],\
         \"proto\":\"tcp\",\"dport\":[22,\"8000-8010\"],\"flags\":\"syn/syn,ack\",\"vlan\":7}"
    );
    assert_eq!(serde_json::from_str::<FilterRule>(&json).unwrap(), rule);
    let icmp: FilterRule =
        toml::from_str("action = \"drop\"\nproto = \"icmp\"\nicmp = [8, \"3/4\"]").unwrap();
    assert_eq!(icmp.icmp.unwrap().to_string(), "8,3/4");
}
