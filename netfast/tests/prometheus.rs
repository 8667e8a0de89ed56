//! A real Prometheus scrapes a real agent, by the configuration in deploy/, and returns what the datapath has counted.

#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "../../xtask/src/netns.rs"]
mod netns;

use std::{fs, net::UdpSocket, path::Path, process::Command, time::Duration};

use netns::{Namespace, Testbed, wait_for};

const NETFAST: &str = env!("CARGO_BIN_EXE_netfast");
const PACKETS: u64 = 10;

/// Why this cannot run here; an error where everything is required.
fn missing() -> Option<String> {
    let there = |program: &str| Command::new(program).arg("--version").output().is_ok();
    let missing: Vec<_> = ["prometheus", "curl"].into_iter().filter(|program| !there(program)).collect();
    let mut why = (!missing.is_empty()).then(|| format!("missing: {}", missing.join(", ")));
    if !nix::unistd::getuid().is_root() {
        why = Some("namespaces need root".to_owned());
    }
    let required = std::env::var_os("NETFAST_REQUIRE_PEERS").is_some_and(|value| value == "1");
    assert!(why.is_none() || !required, "{why:?}");
    why
}

/// The values of a query, by Prometheus' HTTP API.
fn query(host: &Namespace, promql: &str) -> Vec<f64> {
    let argument = format!("query={promql}");
    let url = "http://127.0.0.1:9090/api/v1/query";
    let line = ["curl", "--silent", "--max-time", "5", "--get", url, "--data-urlencode", &argument];
    let Ok(text) = host.run(&line) else { return Vec::new() };
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!("success", answer["status"], "{text}");
    let results = answer["data"]["result"].as_array().unwrap();
    results.iter().map(|result| result["value"][1].as_str().unwrap().parse().unwrap()).collect()
}

#[test]
fn prometheus_returns_what_the_datapath_counted() {
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return;
    }
    let bed = Testbed::new("prom").unwrap();
    let (client, host) = (bed.namespace("client").unwrap(), bed.namespace("host").unwrap());
    bed.veth((&client, "eth0"), (&host, "eth0")).unwrap();
    client.address("eth0", "192.0.2.2/24").unwrap();
    host.address("eth0", "192.0.2.1/24").unwrap();
    client.xdp_pass("eth0").unwrap();

    let (dir, bpffs) = (bed.dir(), bed.bpffs().unwrap());
    let config = format!(
        "[agent]\nstate_dir = \"{dir}/state\"\nrun_dir = \"{dir}/run\"\nsocket_group = \"root\"\nbpffs = \"{bpffs}\"\n\
         [[interface]]\nname = \"eth0\"\nmode = \"native\"\n",
        dir = dir.display(),
        bpffs = bpffs.display()
    );
    for folder in ["state", "run", "tsdb"] {
        fs::create_dir(dir.join(folder)).unwrap();
    }
    fs::write(dir.join("agent.toml"), config).unwrap();
    let cli = |arguments: &[&str]| {
        let mut command = host.command(NETFAST);
        command.env("NETFAST_SOCKET", dir.join("run/netfast.sock")).args(arguments).output().unwrap()
    };
    let mut command = host.command(NETFAST);
    let mut agent =
        host.spawn("agent", command.args(["agent", "--config"]).arg(dir.join("agent.toml"))).unwrap();
    agent
        .wait_ready(Duration::from_secs(30), || {
            Ok(cli(&["status", "--quiet"]).status.success().then_some(()))
        })
        .unwrap();
    let added = cli(&["echo", "add", "192.0.2.1:7", "--allow", "192.0.2.0/24"]);
    assert!(added.status.success(), "{added:?}");

    let socket = client.enter(|| UdpSocket::bind("192.0.2.2:0")).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    for number in 0..PACKETS {
        socket.send_to(&number.to_be_bytes(), "192.0.2.1:7").unwrap();
        let mut answer = [0; 8];
        socket.recv(&mut answer).unwrap();
        assert_eq!(number.to_be_bytes(), answer);
    }

    // The files of deploy/, in a hurry.
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus");
    let text = fs::read_to_string(deploy.join("prometheus.yml")).unwrap().replace("15s", "500ms");
    fs::write(dir.join("prometheus.yml"), text).unwrap();
    fs::copy(deploy.join("netfast.rules.yml"), dir.join("netfast.rules.yml")).unwrap();
    let mut command = host.command("prometheus");
    command.arg(format!("--config.file={}", dir.join("prometheus.yml").display()));
    command.arg(format!("--storage.tsdb.path={}", dir.join("tsdb").display()));
    let mut prometheus =
        host.spawn("prometheus", command.arg("--web.listen-address=127.0.0.1:9090")).unwrap();
    let echoes = r#"netfast_echo_packets_total{echo="192.0.2.1:7"}"#;
    let count =
        prometheus.wait_ready(Duration::from_secs(60), || Ok(query(&host, echoes).first().copied())).unwrap();
    assert_eq!(PACKETS as f64, count);

    assert_eq!(vec![1.0], query(&host, r#"up{job="netfast"}"#));
    assert_eq!(vec![1.0], query(&host, "netfast_ready"));
    assert_eq!(vec![1.0], query(&host, r#"netfast_interface_info{interface="eth0",mode="native"}"#));
    assert_eq!(vec![PACKETS as f64], query(&host, r#"netfast_packets_total{interface="eth0",verdict="tx"}"#));
    // The alerts are evaluated, and nothing is wrong.
    wait_for("the alerts", Duration::from_secs(30), || {
        let text = host.run(&["curl", "--silent", "http://127.0.0.1:9090/api/v1/rules"])?;
        let answer: serde_json::Value = serde_json::from_str(&text)?;
        let rules = answer["data"]["groups"][0]["rules"].as_array().unwrap();
        assert!(rules.len() > 8, "{text}");
        Ok(rules.iter().all(|rule| rule["health"] == "ok").then_some(()))
    })
    .unwrap();
    assert_eq!(Vec::<f64>::new(), query(&host, r#"ALERTS{alertname=~"Netfast.*"}"#));

    // One source: the CLI says the same.
    let stats: serde_json::Value = serde_json::from_slice(&cli(&["stats", "-o", "json"]).stdout).unwrap();
    assert_eq!(PACKETS, stats["echoes"][0]["packets"].as_u64().unwrap(), "{stats}");
}
