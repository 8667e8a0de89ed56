//! What deploy/ gives to an operator, with a real agent: Prometheus scrapes it, and the unit's privileges are enough.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::{fs, net::UdpSocket, path::Path, process::Command, time::Duration};

use support::{
    Agent, PATIENCE, Topology,
    netns::{Namespace, wait_for},
};

/// Why a test cannot run here; an error where everything is required.
fn cannot(programs: &[&str]) -> bool {
    let missing: Vec<_> =
        programs.iter().filter(|program| Command::new(program).arg("--version").output().is_err()).collect();
    if missing.is_empty() {
        return false;
    }
    let required = std::env::var_os("NETFAST_REQUIRE_PEERS").is_some_and(|value| value == "1");
    assert!(!required, "missing: {missing:?}");
    println!("skipped: missing: {missing:?}");
    true
}

/// So many UDP packets go to the service and come back.
fn echo(client: &Namespace, packets: u64) {
    let socket = client.enter(|| UdpSocket::bind("198.51.100.2:0")).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    for number in 0..packets {
        socket.send_to(&number.to_be_bytes(), "192.0.2.10:7").unwrap();
        let mut answer = [0; 8];
        socket.recv(&mut answer).unwrap();
        assert_eq!(number.to_be_bytes(), answer);
    }
}

fn get(host: &Namespace, arguments: &[&str]) -> anyhow::Result<serde_json::Value> {
    let line = [["curl", "--silent", "--max-time", "5"].as_slice(), arguments].concat();
    Ok(serde_json::from_str(&host.run(&line)?)?)
}

/// The values of a query, by Prometheus' HTTP API.
fn query(host: &Namespace, promql: &str) -> Vec<f64> {
    let query = format!("query={promql}");
    let arguments = ["--get", "http://127.0.0.1:9090/api/v1/query", "--data-urlencode", &query];
    let Ok(answer) = get(host, &arguments) else { return Vec::new() };
    assert_eq!("success", answer["status"], "{answer}");
    let results = answer["data"]["result"].as_array().unwrap();
    results.iter().map(|result| result["value"][1].as_str().unwrap().parse().unwrap()).collect()
}

#[test]
fn prometheus_returns_what_the_datapath_counted() {
    const PACKETS: u64 = 10;
    if cannot(&["prometheus", "curl"]) {
        return;
    }
    let topology = Topology::new("prom").unwrap();
    let agent = topology.agent().unwrap();
    agent.ok(&["echo", "add", "192.0.2.10:7", "--allow", "198.51.100.0/24"]).unwrap();
    echo(&topology.client, PACKETS);

    // The files of deploy/, in a hurry.
    let (dir, host) = (topology.bed.dir(), &topology.host);
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus");
    let text = fs::read_to_string(deploy.join("prometheus.yml")).unwrap().replace("15s", "500ms");
    fs::write(dir.join("prometheus.yml"), text).unwrap();
    fs::copy(deploy.join("netfast.rules.yml"), dir.join("netfast.rules.yml")).unwrap();
    let mut command = host.command("prometheus");
    command.arg(format!("--config.file={}", dir.join("prometheus.yml").display()));
    command.arg(format!("--storage.tsdb.path={}", dir.join("tsdb").display()));
    let mut prometheus =
        host.spawn("prometheus", command.arg("--web.listen-address=127.0.0.1:9090")).unwrap();
    let echoes = r#"netfast_echo_packets_total{echo="192.0.2.10:7"}"#;
    let count = prometheus.wait_ready(PATIENCE, || Ok(query(host, echoes).first().copied())).unwrap();
    assert_eq!(PACKETS as f64, count);

    assert_eq!(vec![1.0], query(host, r#"up{job="netfast"}"#));
    assert_eq!(vec![1.0], query(host, "netfast_ready"));
    assert_eq!(vec![1.0], query(host, r#"netfast_interface_info{interface="wan0",mode="native"}"#));
    assert_eq!(vec![PACKETS as f64], query(host, r#"netfast_packets_total{interface="wan0",verdict="tx"}"#));
    // The alerts are evaluated, and nothing is wrong.
    wait_for("the alerts", PATIENCE, || {
        let answer = get(host, &["http://127.0.0.1:9090/api/v1/rules"])?;
        let rules = answer["data"]["groups"][0]["rules"].as_array().unwrap();
        assert!(rules.len() > 8, "{answer}");
        Ok(rules.iter().all(|rule| rule["health"] == "ok").then_some(()))
    })
    .unwrap();
    assert_eq!(Vec::<f64>::new(), query(host, r#"ALERTS{alertname=~"Netfast.*"}"#));

    // One source: the CLI says the same.
    assert_eq!(PACKETS, agent.stats().unwrap().echoes[0].count.packets);
}

/// The words of a setting of the unit.
fn setting(unit: &str, key: &str) -> Vec<String> {
    let lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

#[test]
fn the_privileges_of_the_unit_are_enough() {
    /// `linux/capability.h`.
    const NUMBERS: [(&str, u32); 4] =
        [("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];
    if cannot(&["setpriv"]) {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd/netfast.service");
    let unit = fs::read_to_string(path).unwrap();
    let names = setting(&unit, "CapabilityBoundingSet");
    let number = |name: &String| NUMBERS.iter().find(|(known, _)| known == name).unwrap().1;
    let wanted = names.iter().map(number).fold(0_u64, |set, number| set | 1 << number);
    let bounding: String =
        names.iter().map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase())).collect();
    assert_eq!(["yes"], setting(&unit, "NoNewPrivileges").as_slice());

    let topology = Topology::new("unit").unwrap();
    let bounding = format!("--bounding-set=-all{bounding}");
    let wrapper = ["setpriv", &bounding, "--inh-caps=-all", "--clear-groups", "--no-new-privs"];
    let interfaces = "[[interface]]\nname = \"wan0\"\n[[interface]]\nname = \"lan0\"\n";
    let agent = Agent::start_by(&wrapper, &topology.bed, &topology.host, interfaces).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim();
    assert_eq!(wanted, u64::from_str_radix(effective, 16).unwrap(), "{effective}");

    let server = topology.udp_echo(9000).unwrap();
    agent.ok(&["echo", "add", "192.0.2.10:7", "--allow", "198.51.100.0/24"]).unwrap();
    agent.ok(&["forward", "add", "nine", "udp", "192.0.2.10:9", "--to", "10.0.1.11:9000"]).unwrap();
    echo(&topology.client, 3);
    let socket = topology.client.enter(|| UdpSocket::bind("198.51.100.2:0")).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.send_to(b"through", "192.0.2.10:9").unwrap();
    assert_eq!(7, socket.recv(&mut [0; 16]).unwrap());
    assert!(agent.ok(&["flows", "list"]).unwrap().contains("192.0.2.10:9"));
    let claim = ["echo", "add", "198.51.100.50:7", "--allow", "198.51.100.0/24", "--claim"];
    agent.ok(&claim).unwrap();
    assert!(agent.status().unwrap().ready);
    agent.ok(&["stop", "--detach"]).unwrap();
    assert!(!topology.host.ip(&["link", "show", "wan0"]).unwrap().contains("xdp"));
    drop(server);
}
