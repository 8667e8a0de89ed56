//! What is understood, and what is refused and where.

use proptest::prelude::*;

use super::*;
use crate::rules::{diff::content, tests::any_rules};

fn read(format: Format, text: &str) -> Vec<String> {
    let rules =
        parse("file", text, Some(format), &Choice::default()).unwrap_or_else(|report| panic!("{report}"));
    rules.filters.iter().map(|rule| content(rule)).collect()
}

/// The first problem, with its place.
fn problem(format: Format, text: &str, chain: Option<&str>) -> String {
    let choice = Choice { chain: chain.map(str::to_owned), ..Choice::default() };
    parse("file", text, Some(format), &choice).expect_err(text).lines().next().unwrap_or_default()
}

const NFT: &str = r#"# as `nft -a list ruleset` writes it
table inet filter { # handle 1
	set bad4 {
		type ipv4_addr
		flags interval
		elements = { 192.0.2.1, 198.51.100.0/24,
			     203.0.113.4-203.0.113.7 }
	}
	set web {
		type inet_service
		elements = { 80, 443 }
	}
	chain input {
		type filter hook input priority filter; policy drop;
		iifname "lo" accept
		ip saddr @bad4 counter packets 5 bytes 300 drop comment "known"
		ip6 saddr { 2001:db8::/32, fd00::1 } drop
		tcp dport @web tcp flags syn / fin,syn,rst,ack accept # handle 7
		meta l4proto { tcp, udp } th dport 53 accept
		udp sport 67 udp dport 67-68 accept
		icmp type { echo-request, destination-unreachable } accept
		icmpv6 type nd-neighbor-solicit accept
		icmp type destination-unreachable icmp code 4 accept
		tcp dport 25 reject with tcp reset
		ip protocol udp reject with icmpx admin-prohibited
		iifname { "eth0", "eth1" } vlan id 7 counter
		tcp flags & (fin|syn|rst|ack) == syn limit rate over 100/second burst 20 packets drop
		limit rate over 10 mbytes/second drop
		tcp flags fin,rst drop
	}
}
"#;

#[test]
fn nftables() {
    assert_eq!(
        read(Format::Nft, NFT),
        [
            "allow interface=lo",
            "drop ip-version=4 src=@bad4",
            "drop src=2001:db8::/32,fd00::1/128",
            "allow proto=tcp dport=80,443 flags=syn/fin,syn,rst,ack",
            "allow proto=tcp,udp dport=53",
            "allow proto=udp sport=67 dport=67-68",
            "allow proto=icmp icmp=echo-request,destination-unreachable",
            "allow proto=icmpv6 icmp=135",
            "allow proto=icmp icmp=destination-unreachable/4",
            "reject with=tcp-reset proto=tcp dport=25",
            "reject with=admin-prohibited ip-version=4 proto=udp",
            "count interface=eth0 vlan=7",
            "count interface=eth1 vlan=7",
            "limit rate=100/s burst=20 proto=tcp flags=syn/fin,syn,rst,ack",
            "limit rate=83886080bit",
            "drop proto=tcp flags=fin",
            "drop proto=tcp flags=rst",
            "drop",
        ]
    );
    let rules = parse("file", NFT, None, &Choice::default()).unwrap();
    assert_eq!(rules.filters[1].comment.as_deref(), Some("known"));
    assert_eq!(rules.filters[17].comment.as_deref(), Some("policy of chain input"));
    let nets: Vec<String> = rules.sets[0].addresses.iter().map(ToString::to_string).collect();
    assert_eq!(
        (rules.sets[0].name.as_str(), nets.join(" ")),
        ("bad4", "192.0.2.1/32 198.51.100.0/24 203.0.113.4/30".into())
    );
    // A table each for IPv4 and IPv6, and one at the interface itself.
    let two = "table ip a {\n chain input {\n type filter hook input priority 0; policy drop\n }\n}\n\
               table ip6 b {\n chain input {\n type filter hook input priority 0\n tcp dport 22 accept\n }\n}";
    assert_eq!(read(Format::Nft, two), ["drop ip-version=4", "allow ip-version=6 proto=tcp dport=22"]);
    let netdev = "table netdev t { chain in { type filter hook ingress device \"eth0\" priority -500; policy accept; udp dport 9 drop; } }";
    assert_eq!(read(Format::Nft, netdev), ["drop interface=eth0 proto=udp dport=9"]);
}

#[test]
fn nftables_refused() {
    let rule = |text: &str| {
        format!(
            "table inet filter {{\n\tchain input {{\n\t\ttype filter hook input priority 0; policy accept;\n\t\t{text}\n\t}}\n}}\n"
        )
    };
    for (text, place, word) in [
        ("ct state established,related accept", "4:3", "ct is not understood"),
        ("tcp dport 22 jump ssh", "4:16", "\"jump\" is not understood"),
        ("tcp dport != 22 drop", "4:13", "negation"),
        ("ip saddr 10.0.0.300 drop", "4:12", "is not a prefix"),
        ("ip saddr ::1 drop", "4:12", "not of IPv4"),
        ("ip saddr @nosuch drop", "4:12", "no set @nosuch"),
        ("tcp dport ssh accept", "4:13", "write numbers"),
        ("tcp dport 22", "4:3", "no verdict"),
        ("drop accept", "4:8", "behind the verdict drop"),
        ("limit rate 10/second accept", "4:3", "without `over`"),
        ("limit rate over 90/minute drop", "4:19", "no whole number of packets"),
        ("log prefix \"x\" drop", "4:3", "\"log\" is not understood"),
        ("ip saddr 10.0.0.1 ip saddr 10.0.0.2 drop", "4:24", "said twice"),
        ("ip saddr 10.0.0.1 ip6 daddr ::1 drop", "4:25", "matches nothing"),
        ("iifname \"eth*\" drop", "4:11", "names with *"),
        ("th dport 53 drop", "4:3", "meta l4proto"),
        ("reject with icmpx no-route", "4:21", "not among netfast's answers"),
        ("icmp type packet-too-big drop", "4:13", "ICMP has no type"),
        ("tcp flags syn / ack drop", "4:7", "the mask leaves out"),
        ("ip saddr { 10.0.0.1, 10.0.0.2 : drop } drop", "4:33", "not understood in a list"),
        ("comment \"never closed", "4:11", "never closed"),
        ("tcp dport 22 accept }", "6:", "is not understood here"),
    ] {
        let told = problem(Format::Nft, &rule(text), None);
        assert!(told.starts_with(&format!("file:{place}")) && told.contains(word), "{text}: {told}");
    }
    // Valid words that make no sense together are told with their rule.
    let told = problem(Format::Nft, &rule("meta l4proto sctp th dport 5 drop"), None);
    assert!(told.starts_with("file:4:3: dport 5 cannot be matched"), "{told}");
    for (text, told) in [
        ("table bridge x {\n}", "file:1:7: tables of family \"bridge\""),
        ("table ip x {\n map y {\n", "file:2:2: \"map\" is not understood in a table"),
        ("table ip x {\n chain y {\n accept\n}\n}", "file:3:2: chain \"y\" has no hook"),
        (
            "table ip x {\n chain y {\n type nat hook input priority 0\n}\n}",
            "file:3:7: chains of type \"nat\"",
        ),
        ("table ip x {\n chain y {\n type filter hook output priority 0\n}\n}", "file:3:19: hook \"output\""),
        ("table ip x {\n set y {\n type ipv4_addr\n flags dynamic\n", "file:4:8: sets with flag \"dynamic\""),
        ("table ip x {\n chain y {\n", "file:3:1: "),
    ] {
        let got = problem(Format::Nft, text, None);
        assert!(got.starts_with(told), "{got}");
    }
    let two = rule("accept")
        .replace("}\n}\n", "}\n chain forward {\n type filter hook forward priority 0\n drop\n }\n}\n");
    assert!(problem(Format::Nft, &two, None).contains("chain \"forward\" is the second one"));
    let choice = Choice { chain: Some("forward".to_owned()), ..Choice::default() };
    let rules = parse("file", &two, None, &choice).unwrap();
    assert_eq!(rules.filters.iter().map(|rule| content(rule)).collect::<Vec<_>>(), ["drop"]);
    assert!(problem(Format::Nft, &two, Some("nosuch")).contains("there is no chain \"nosuch\""));
}

const IPTABLES: &str = r#"# Generated by iptables-save v1.8.9
*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [12:3456]
-A INPUT -i lo -j ACCEPT
-A INPUT -s 203.0.113.0/24 -d 192.0.2.10/32 -p tcp -m tcp --dport 22 -m comment --comment "the \"scanner\"" -j DROP
-A INPUT -p tcp -m multiport --dports 80,443,8000:8010 -j ACCEPT
-A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m hashlimit --hashlimit-above 10/sec --hashlimit-burst 5 --hashlimit-mode srcip --hashlimit-name x -j DROP
-A INPUT -p icmp -m icmp --icmp-type 3/4 -j ACCEPT
-A INPUT -p icmp -m icmp --icmp-type echo-request
-A INPUT -s 10.0.0.0/255.0.0.0 -p udp -m udp --sport 1024: -j REJECT --reject-with icmp-admin-prohibited
-A INPUT -p tcp --syn -j REJECT --reject-with tcp-reset
COMMIT
"#;

#[test]
fn iptables() {
    assert_eq!(
        read(Format::Iptables, IPTABLES),
        [
            "allow interface=lo ip-version=4",
            "drop src=203.0.113.0/24 dst=192.0.2.10/32 proto=tcp dport=22",
            "allow ip-version=4 proto=tcp dport=80,443,8000-8010",
            "limit rate=10/s burst=5 per=source ip-version=4 proto=tcp flags=syn/fin,syn,rst,ack",
            "allow proto=icmp icmp=3/4",
            "count proto=icmp icmp=echo-request",
            "reject with=admin-prohibited src=10.0.0.0/8 proto=udp sport=1024-65535",
            "reject with=tcp-reset ip-version=4 proto=tcp flags=syn/fin,syn,rst,ack",
            "drop ip-version=4",
        ]
    );
    let rules = parse("file", IPTABLES, None, &Choice::default()).unwrap();
    assert_eq!(rules.filters[1].comment.as_deref(), Some("the \"scanner\""));
    let six = "# Generated by ip6tables-save v1.8.9\n*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -s 2001:db8::/32 -p ipv6-icmp -m icmp6 --icmpv6-type 128 -j DROP\nCOMMIT\n";
    let rules = parse("file", six, None, &Choice::default()).unwrap();
    assert_eq!(content(&rules.filters[0]), "drop src=2001:db8::/32 proto=icmpv6 icmp=128");
}

#[test]
fn iptables_refused() {
    for (line, column, word) in [
        ("-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT", 13, "match \"conntrack\""),
        ("-A INPUT ! -s 10.0.0.0/8 -j DROP", 10, "negation"),
        ("-A INPUT -s ! 10.0.0.0/8 -j DROP", 13, "negation"),
        ("-A INPUT -j LOG", 13, "target \"LOG\""),
        ("-A INPUT -s 10.0.0.0/255.0.255.0 -j DROP", 13, "masks with holes"),
        ("-A INPUT -s ::1 -j DROP", 13, "not of IPv4"),
        ("-A INPUT -p tcp --dport http -j DROP", 25, "write numbers"),
        ("-A INPUT -i eth+ -j DROP", 13, "names with +"),
        ("-A INPUT -p tcp --tcp-flags SYN ACK -j DROP", 33, "the mask leaves out"),
        ("-A INPUT --dport", 10, "has no value"),
        ("-A INPUT --dport 22 -j DROP", 1, "needs proto"),
        ("-A OUTPUT -j DROP", 4, "does not see what comes in"),
        ("-A INPUT -m hashlimit --hashlimit-above 1/min -j DROP", 41, "no whole number"),
        ("-A INPUT -m comment --comment \"x", 31, "never closed"),
        ("-P INPUT DROP", 1, "is not understood here"),
    ] {
        let told =
            problem(Format::Iptables, &format!("*filter\n:INPUT ACCEPT [0:0]\n{line}\nCOMMIT\n"), None);
        assert!(told.starts_with(&format!("file:3:{column}:")) && told.contains(word), "{line}: {told}");
    }
    let nat = "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j DROP\nCOMMIT\n";
    assert!(problem(Format::Iptables, nat, None).contains("rules of table \"nat\""));
    let two = "*filter\n-A INPUT -j DROP\n-A FORWARD -j DROP\nCOMMIT\n";
    assert!(problem(Format::Iptables, two, None).starts_with("file:3:4: rules of chain \"FORWARD\""));
    let chosen =
        parse("file", two, None, &Choice { chain: Some("FORWARD".to_owned()), ..Choice::default() }).unwrap();
    assert_eq!(chosen.filters.len(), 1);
    assert!(problem(Format::Iptables, two, Some("X")).contains("no chain \"X\""));
}

#[test]
fn json_lines() {
    let text = "{\"set\":{\"name\":\"bad\",\"addresses\":[\"192.0.2.1\"]}}\n\n\
                {\"schema_version\":1,\"position\":4,\"packets\":7,\"bytes\":9,\"action\":\"drop\",\"src\":\"@bad\"}\n\
                {\"action\":\"allow\"}\n{\"policy\":{\"interface\":\"eth0\",\"filter\":\"drop\"}}\n";
    assert_eq!(read(Format::Jsonl, text), ["drop src=@bad", "allow"]);
    let rules = parse("file", text, None, &Choice::default()).unwrap();
    assert_eq!((rules.sets.len(), rules.policies.len()), (1, 1));
    for (line, told) in [
        ("{\"action\":\"dorp\"}", "file:2:17: unknown word \"dorp\" (did you mean \"drop\"?)"),
        ("  {\"acton\":\"drop\"}", "file:2:4: unknown key \"acton\" (did you mean \"action\"?)"),
        ("{\"action\":\"drop\",", "file:2:"),
        ("{\"action\":\"drop\",\"dport\":22}", "file:2:1: dport 22 needs proto"),
    ] {
        let got = problem(Format::Jsonl, &format!("{{\"action\":\"allow\"}}\n{line}\n"), None);
        assert!(got.starts_with(told), "{got}");
    }
}

#[test]
fn formats_are_told_apart() {
    for (text, format) in [
        ("\n# x\n[[filter]]\naction = \"drop\"", Format::Toml),
        ("{\"action\":\"drop\"}", Format::Jsonl),
        ("# x\ntable inet filter {", Format::Nft),
        ("flush ruleset\ntable ip x {", Format::Nft),
        (IPTABLES, Format::Iptables),
        ("# Generated by ip6tables-save\n*filter", Format::Ip6tables),
        ("", Format::Toml),
    ] {
        assert_eq!(detect(text), format, "{text}");
    }
}

proptest! {
    /// Rules written as JSON lines are read as they were.
    #[test]
    fn rules_survive_json_lines(rules in any_rules()) {
        let mut lines: Vec<String> = Vec::new();
        for set in &rules.sets {
            lines.push(serde_json::json!({ "set": set }).to_string());
        }
        for rule in &rules.filters {
            lines.push(serde_json::to_string(rule).unwrap());
        }
        for policy in &rules.policies {
            lines.push(serde_json::json!({ "policy": policy }).to_string());
        }
        let read = parse("file", &lines.join("\n"), Some(Format::Jsonl), &Choice::default()).unwrap();
        prop_assert_eq!(&read.filters, &rules.filters);
        prop_assert_eq!(&read.sets, &rules.sets);
        prop_assert_eq!(&read.policies, &rules.policies);
    }

    /// No text makes a parser fall over.
    #[test]
    fn any_text_is_an_answer(text in "(table|chain|set|input|ip|saddr|tcp|[{};,\"#\n @=!-]|-A|INPUT|[a-z0-9./:]{1,5}| ){0,60}") {
        for format in [Format::Jsonl, Format::Nft, Format::Iptables, Format::Ip6tables, Format::Toml] {
            let _ = parse("file", &text, Some(format), &Choice::default());
        }
    }
}

const CLASSBENCH: &str = "@176.19.181.52/32\t88.122.155.96/32\t0 : 65535\t1521 : 1521\t0x06/0xFF\t0x1000/0x1000\t\n\
    @37.184.89.216/29\t0.0.0.0/0\t7648 : 7648\t24032 : 24040\t0x11/0xFF\t0x0000/0x0000\t\n\
    @0.0.0.0/0 10.0.0.0/8 0 : 65535 25 : 25 0x06/0xFF 0x0200/0x1200\n\
    @0.0.0.0/0 0.0.0.0/0 0 : 65535 0 : 65535 0x01/0xFF 0x0303/0xffff\n\
    @0.0.0.0/0 0.0.0.0/0 0 : 65535 0 : 65535 0x01/0xFF 0x0800/0xff00\n\
    @143.185.224.75/32 247.16.23.204/32 25 : 25 0 : 65535 0x02/0xFF 0x0000/0x0000\n\
    @129.87.106.21/32 0.0.0.0/0 123 : 123 0 : 65535 0x00/0x00\n\
    @2001:db8::/32 ::/0 0 : 65535 0 : 65535 0x2f/0xFF 0x0000/0x0000\n\
    @::/0 ::/0 0 : 65535 0 : 65535 0x00/0x00 0x0000/0x0000\n";

#[test]
fn classbench() {
    let expected = [
        "drop src=176.19.181.52/32 dst=88.122.155.96/32 proto=tcp dport=1521 flags=ack",
        "drop src=37.184.89.216/29 proto=udp sport=7648 dport=24032-24040",
        "drop dst=10.0.0.0/8 proto=tcp dport=25 flags=syn/syn,ack",
        "drop proto=icmp icmp=3/3",
        "drop proto=icmp icmp=8",
        "drop src=129.87.106.21/32 proto=tcp,udp sport=123",
        "drop src=2001:db8::/32 proto=47",
        "drop ip-version=6",
    ];
    assert_eq!(read(Format::Classbench, CLASSBENCH), expected);
    // Found by what it looks like, and with another action.
    let choice = Choice { action: FilterAction::Allow, ..Choice::default() };
    let (rules, notes) = parse_with_notes("file", CLASSBENCH, None, &choice).unwrap();
    assert!(rules.filters.iter().all(|rule| rule.action == FilterAction::Allow));
    assert_eq!(1, notes.len());
    assert!(notes[0].starts_with("left out, since no packet matches: 1 that ask"), "{}", notes[0]);

    for (line, place, expected) in [
        ("@10.0.0.0/8 0.0.0.0/0 0 : 1 0 : 1 0x06/0xFF 0x0002/0x0002", "file:2:1", "is not understood here"),
        ("@10.0.0.0/8 0.0.0.0/0 0 : 1 0 : 1 0x11/0xFF 0x0200/0x0200", "file:2:1", "is not understood here"),
        ("  @10.0.0.0/8 0.0.0.0/0 0 : 1 0 : 1 0x06/0x0F", "file:2:3", "only 0x00 and 0xFF"),
        ("@10.0.0.0/8 ::/0 0 : 1 0 : 1 0x06/0xFF", "file:2:1", "different IP versions"),
        ("drop src=10.0.0.0/8", "file:2:1", "a rule begins with @"),
    ] {
        let problem = problem(Format::Classbench, &format!("# a set\n{line}\n"), None);
        assert!(problem.starts_with(place) && problem.contains(expected), "{problem}");
    }
}
