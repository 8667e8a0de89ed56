//! `agent.toml`.

use std::time::Duration;

use super::*;

fn told(text: &str) -> Vec<String> {
    AgentConfig::parse("agent.toml", text).expect_err(text).lines().collect()
}

#[test]
fn an_empty_file_is_the_defaults() {
    let config = AgentConfig::parse("agent.toml", "").unwrap();
    assert_eq!(config, AgentConfig::default());
    assert_eq!(config.agent.socket(), Path::new("/run/netfast/netfast.sock"));
    assert_eq!(config.agent.pin_dir(), Path::new("/sys/fs/bpf/netfast"));
    assert_eq!(config.problems().len(), 0, "the defaults are within their own bounds");
    assert_eq!(config.metrics.listen.to_string(), "127.0.0.1:9460");
    assert_eq!(config.timeouts.tcp_established, Duration::from_secs(2 * 3600 + 4 * 60));
}

#[test]
fn every_key() {
    let text = r#"
        rules_file = "/etc/netfast/rules.toml"
        [agent]
        state_dir = "/s"
        run_dir = "/r"
        socket = "/r/x.sock"
        socket_group = "ops"
        bpffs = "/b"
        pin_dir = "/b/n"
        [[interface]]
        name = "eth0"
        [[interface]]
        name = "eth1"
        mode = "generic"
        [metrics]
        listen = "[::1]:9999"
        enabled = false
        max_series = 5
        [tables]
        flows = 100_000
        half_open = 2048
        cache4_sets = 64
        cache6_sets = 128
        filter_rules = 2000
        [nat]
        ports = "40000-50000"
        [timeouts]
        udp = "5m"
        udp_one_way = "1m"
        tcp_opening = "10s"
        tcp_established = "2h4m"
        tcp_half_closed = "1m"
        tcp_closing = "30s"
        tcp_reset = "8s"
        [limits]
        errors_per_second = 50
        new_flows_per_source = 0
        new_flows_burst = 7
        [policy]
        ip_options = "pass"
        fragment = "drop"
        deep_vlan = "pass"
        [log]
        level = "debug"
        datapath_rate = 0
    "#;
    let config = AgentConfig::parse("agent.toml", text).unwrap();
    assert_eq!(config.interfaces[1].mode, AttachMode::Generic);
    assert_eq!(config.interfaces[0].mode, AttachMode::Native);
    assert_eq!(config.policy.get(PolicyClass::Fragment), Policy::Drop);
    assert_eq!(config.policy.get(PolicyClass::DeepVlan), Policy::Pass);
    assert_eq!(config.policy.get(PolicyClass::Malformed), Policy::Drop, "what is not given is as it was");
    assert_eq!(config.policy.words()[PolicyClass::Fragment as usize], 1);
    assert_eq!(config.limits.errors_per_second, 50);
    assert_eq!(config.policy.get(PolicyClass::IpOptions), Policy::Pass);
    assert_eq!((config.limits.new_flows_per_source, config.limits.new_flows_burst), (0, 7));
    assert_eq!((config.nat.ports.low, config.nat.ports.high), (40000, 50000));
    assert_eq!(config.timeouts.tcp_established, Duration::from_secs(7440));
    assert_eq!(config.agent.socket(), Path::new("/r/x.sock"));
    let moved = AgentConfig::parse("agent.toml", "agent = { run_dir = \"/r\", bpffs = \"/b\" }").unwrap();
    assert_eq!(moved.agent.socket(), Path::new("/r/netfast.sock"));
    assert_eq!(moved.agent.pin_dir(), Path::new("/b/netfast"));
}

#[test]
fn errors_point_at_their_place() {
    for (text, message) in [
        (
            "[agent]\nstate_dri = \"/x\"",
            "agent.toml:2:1: unknown key \"state_dri\" (did you mean \"state_dir\"?)",
        ),
        ("[metric]\n", "agent.toml:1:2: unknown key \"metric\" (did you mean \"metrics\"?)"),
        (
            "[policy]\nfragments = \"drop\"",
            "agent.toml:2:1: unknown key \"fragments\" (did you mean \"fragment\"?)",
        ),
        ("[policy]\nfragment = \"dorp\"", "agent.toml:2:12: unknown word \"dorp\" (did you mean \"drop\"?)"),
        (
            "[policy]\nfragment = \"accept\"",
            "agent.toml:2:12: unknown word \"accept\", expected one of: pass, drop",
        ),
        ("[limits]\nnew_flows_burst = 0", "agent.toml:2:19: new_flows_burst = 0 is not in 1 to 100000000"),
        (
            "[timeouts]\nudp = \"5 minutes\"",
            "agent.toml:2:7: \"5 minutes\" is not a duration; examples: 300s",
        ),
        (
            "[timeouts]\nudp = 300",
            "agent.toml:2:7: invalid type: integer \"300\", expected a duration such as",
        ),
        ("[timeouts]\n\n  udp = \"1s\"", "agent.toml:3:9: udp = \"1s\" is not in 8s to 7d"),
        (
            "[tables]\ncache4_sets = 1000",
            "agent.toml:2:15: cache4_sets = 1000 is not a power of two; the nearest are 512 and 1024",
        ),
        ("[tables]\nflows = 7", "agent.toml:2:9: flows = 7 is not in 1024 to 16777216"),
        (
            "[limits]\nerrors_per_second = 10_000_001",
            "agent.toml:2:21: errors_per_second = 10000001 is not in 0 to 10000000",
        ),
        ("[nat]\nports = \"80-99\"", "agent.toml:2:9: ports 80-99 include system ports"),
        ("[[interface]]\nname = \"a b\"", "agent.toml:2:8: \"a b\" is not the name of an interface"),
        (
            "[[interface]]\nname = \"a\"\n[[interface]]\nname = \"a\"",
            "agent.toml:4:8: interface \"a\" is there twice",
        ),
        (
            "[[interface]]\nname = \"a\"\nmode = \"drv\"",
            "agent.toml:3:8: unknown word \"drv\", expected one of: native",
        ),
        ("[[interface]]\nmode = \"native\"", "agent.toml:1:1: key \"name\" is missing"),
        ("[agent]\nrun_dir = \"run\"", "agent.toml:2:11: \"run\" is not an absolute path"),
        ("rules_file = \"rules.toml\"", "agent.toml:1:14: \"rules.toml\" is not an absolute path"),
        (
            "[metrics]\nlisten = \"localhost:9460\"",
            "agent.toml:2:10: not an address with a port; examples: 127.0.0.1:9460",
        ),
        ("[log]\nlevel = 3", "agent.toml:2:9: invalid type: integer \"3\", expected a string"),
    ] {
        let lines = told(text);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with(message), "\n  told: {}\n  want: {message}", lines[0]);
    }
    assert_eq!(told("[tables]\nflows = 7\nhalf_open = 7").len(), 2);
}

#[test]
fn times_shorter_than_the_rfcs_allow_are_told() {
    let warnings = |text: &str| AgentConfig::parse("agent.toml", text).unwrap().warnings();
    assert_eq!(warnings(""), Vec::<String>::new(), "the defaults are those of the RFCs");
    let exact = "[timeouts]\nudp = \"2m\"\nudp_one_way = \"2m\"\ntcp_half_closed = \"4m\"";
    assert_eq!(warnings(exact), Vec::<String>::new(), "the least that is allowed");
    let told = warnings("[timeouts]\nudp = \"119s\"\ntcp_established = \"1h\"\ntcp_reset = \"10s\"");
    assert_eq!(3, told.len(), "{told:?}");
    for (sentence, parts) in told.iter().zip([
        ["udp = \"1m59s\"", "2m", "RFC 4787"],
        ["tcp_established = \"1h\"", "2h4m", "RFC 5382"],
        ["tcp_reset = \"10s\"", "4m", "RFC 7857"],
    ]) {
        assert!(parts.iter().all(|part| sentence.contains(part)), "{sentence}");
    }
}

#[test]
fn passing_what_cannot_be_read_is_told() {
    let warnings = |text: &str| AgentConfig::parse("agent.toml", text).unwrap().warnings();
    let told = warnings("[policy]\ntiny_fragment = \"pass\"\nmartian = \"pass\"\nfragment = \"pass\"");
    assert_eq!(1, told.len(), "the others are read, or have no ports of their own: {told:?}");
    assert!(told[0].starts_with("[policy] tiny_fragment = \"pass\""), "{told:?}");
}
