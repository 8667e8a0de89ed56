//! The agent as a process: what it attaches, what survives it, what it refuses (numbers as in the table of faults).

mod support;

use std::{fs, process::Output};

use anyhow::Result;
use netfast::api::types::AttachMode;
use nix::sys::signal::Signal;
use support::{Agent, NETFAST, PATIENCE, Topology, netns::wait_for};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Pinned links of the topology's agent.
fn links(topology: &Topology) -> usize {
    let folder = topology.bed.dir().join(format!("bpf/netfast/v{}/links", netfast_common::abi::ABI_VERSION));
    fs::read_dir(folder).map_or(0, Iterator::count)
}

fn xdp(topology: &Topology, device: &str) -> Result<bool> {
    Ok(topology.host.ip(&["link", "show", device])?.contains("prog/xdp"))
}

#[test]
fn attaches_serves_and_goes_on_without_itself() -> Result<()> {
    let topology = Topology::new("agent")?;
    let mut agent = topology.agent()?;
    let status = agent.wait_status("both interfaces", |status| status.ready)?;
    assert_eq!(2, status.interfaces.len());
    for interface in &status.interfaces {
        assert_eq!(Some(AttachMode::Native), interface.attached, "{interface:?}");
        assert_eq!("veth", interface.driver);
        assert!(interface.up);
    }
    agent.ok(&["forward", "add", "web", "tcp", "192.0.2.10:80", "--to", "10.0.1.11:8080"])?;
    let before = agent.status()?;
    assert_eq!((1, 1), (before.revision, before.applied_revision));

    // 1: killed. The programs stay, the next agent adopts.
    agent.kill()?;
    assert!(xdp(&topology, "wan0")? && xdp(&topology, "lan0")?);
    agent.restart()?;
    assert!(agent.log().contains("adopted=true"), "{}", agent.log());
    assert!(agent.log().contains("took over the attached program"), "{}", agent.log());
    let after = agent.wait_status("adoption", |status| status.ready)?;
    assert_eq!((1, 1), (after.revision, after.forwards));
    assert!(after.generation > before.generation, "{} {}", after.generation, before.generation);

    // 3: a clean stop keeps forwarding.
    agent.signal(Signal::SIGTERM)?;
    assert_eq!(Some(0), agent.wait()?);
    assert!(xdp(&topology, "wan0")?);
    assert_eq!(2, links(&topology));

    // 3: --detach takes everything away.
    agent.restart()?;
    agent.ok(&["stop", "--detach"])?;
    assert_eq!(Some(0), agent.wait()?, "{}", agent.log());
    assert!(!xdp(&topology, "wan0")? && !xdp(&topology, "lan0")?);
    assert!(!topology.bed.dir().join("bpf/netfast").exists());
    Ok(())
}

#[test]
fn a_second_agent_is_refused() -> Result<()> {
    let topology = Topology::new("agent2")?;
    let agent = topology.agent()?;
    let config = topology.bed.dir().join("agent.toml");
    let second = topology.host.command(NETFAST).args(["agent", "--config"]).arg(config).output()?;
    assert_eq!(Some(5), second.status.code());
    let text = stderr(&second);
    assert!(text.contains(&format!("already running (pid {})", agent.pid())), "{text}");
    assert!(agent.status()?.ready);
    Ok(())
}

#[test]
fn somebody_elses_program_is_left_alone() -> Result<()> {
    let topology = Topology::new("agentbusy")?;
    topology.host.xdp_pass("lan0")?;
    let agent = topology.agent()?;
    let status = agent.wait_status("the problem", |status| !status.problems.is_empty())?;
    assert!(!status.ready);
    let lan0 = status.interfaces.iter().find(|interface| interface.name == "lan0").unwrap();
    let problem = lan0.problem.clone().unwrap();
    assert!(problem.contains("lan0 has another XDP program attached: program "), "{problem}");
    assert!(problem.contains("ip link set dev lan0 xdp off"), "{problem}");
    assert!(xdp(&topology, "lan0")?);

    // It is attached as soon as the place is free.
    topology.host.ip(&["link", "set", "dev", "lan0", "xdp", "off"])?;
    agent.wait_status("lan0", |status| status.ready)?;
    Ok(())
}

#[test]
fn an_interface_that_cannot_be_attached_is_explained() -> Result<()> {
    let topology = Topology::new("agentmtu")?;
    let agent = Agent::start(&topology.bed, &topology.host, "[[interface]]\nname = \"wan0\"\n")?;
    agent.wait_status("wan0", |status| status.ready)?;

    // 10: an MTU beyond a page: veth takes frames of several buffers.
    topology.bed.veth((&topology.target, "eth1"), (&topology.host, "lan1"))?;
    for (namespace, device) in [(&topology.host, "lan1"), (&topology.target, "eth1")] {
        namespace.ip(&["link", "set", "dev", device, "mtu", "9000"])?;
    }
    agent.ok(&["attach", "lan1", "--mode", "native"])?;
    assert_eq!(2, links(&topology));
    agent.ok(&["detach", "lan1"])?;
    assert_eq!(1, links(&topology));

    // An interface that is not there.
    let output = agent.cli(&["attach", "lan7"])?;
    assert_eq!(Some(4), output.status.code());
    let text = stderr(&output);
    assert!(text.contains("no interface lan7") && text.contains("wan0, lan0, lan1"), "{text}");

    // 9: a driver without native XDP.
    topology.host.ip(&["link", "add", "br0", "type", "bridge"])?;
    let output = agent.cli(&["attach", "br0"])?;
    let text = stderr(&output);
    assert_eq!(Some(3), output.status.code(), "{text}");
    assert!(text.contains("driver bridge") && text.contains("--mode generic"), "{text}");
    agent.ok(&["attach", "br0", "--mode", "auto"])?;
    let status = agent.status()?;
    let bridge = status.interfaces.iter().find(|interface| interface.name == "br0").unwrap();
    assert_eq!(Some(AttachMode::Generic), bridge.attached);

    // agent.toml has the last word on its own interfaces.
    assert_eq!(Some(3), agent.cli(&["detach", "wan0"])?.status.code());
    agent.ok(&["attach", "wan0"])?;
    Ok(())
}

#[test]
fn an_interface_comes_back() -> Result<()> {
    let topology = Topology::new("agentback")?;
    let mut agent = topology.agent()?;
    agent.wait_status("both", |status| status.ready)?;
    // 12: renamed, it stays attached.
    topology.host.ip(&["link", "set", "dev", "lan0", "down"])?;
    topology.host.ip(&["link", "set", "dev", "lan0", "name", "lan9"])?;
    topology.host.ip(&["link", "set", "dev", "lan9", "up"])?;
    agent.wait_status("the new name", |status| {
        status.interfaces.iter().any(|i| i.name == "lan9" && i.attached.is_some() && i.up)
    })?;
    // 13: deleted and made again.
    topology.host.ip(&["link", "del", "lan9"])?;
    let status = agent.wait_status("the loss", |status| !status.ready)?;
    assert!(
        status.problems.iter().any(|problem| problem.contains("no interface lan0")),
        "{:?}",
        status.problems
    );
    wait_for("its link to go", PATIENCE, || Ok((links(&topology) == 1).then_some(())))?;
    topology.bed.veth((&topology.target, "eth0"), (&topology.host, "lan0"))?;
    agent.wait_status("its return", |status| status.ready)?;
    assert_eq!(2, links(&topology));

    // 8: somebody removes the program.
    let pins = topology.bed.dir().join(format!("bpf/netfast/v{}/links", netfast_common::abi::ABI_VERSION));
    fs::remove_file(pins.join(topology.host.ifindex("wan0")?.to_string()))?;
    // The kernel takes the program off some time after its pin: that it is there is no sign of its return.
    wait_for("the loss to be seen", PATIENCE, || {
        Ok(agent.log().contains("somebody removed the program").then_some(()))
    })?;
    wait_for("the program's return", PATIENCE, || {
        Ok((links(&topology) == 2 && xdp(&topology, "wan0")?).then_some(()))
    })?;

    // An interface that is taken out of agent.toml is detached by the next agent.
    agent.kill()?;
    Agent::configure(&topology.bed, "[[interface]]\nname = \"wan0\"\n")?;
    agent.restart()?;
    agent.wait_status("one interface", |status| status.ready && status.interfaces.len() == 1)?;
    assert!(!xdp(&topology, "lan0")?);
    Ok(())
}

#[test]
fn foreign_pins_and_other_layouts_are_refused() -> Result<()> {
    let topology = Topology::new("agentpin")?;
    let mut agent = topology.agent()?;
    agent.ok(&["stop", "--detach"])?;
    agent.wait()?;
    let config = topology.bed.dir().join("agent.toml");
    let maps = topology.bed.dir().join(format!("bpf/netfast/v{}/maps", netfast_common::abi::ABI_VERSION));
    fs::create_dir_all(&maps)?;
    // A map of the same name that somebody else made.
    let path = maps.join("TARGETS");
    topology.host.run(&[
        "bpftool",
        "map",
        "create",
        path.to_str().unwrap(),
        "type",
        "hash",
        "key",
        "4",
        "value",
        "8",
        "entries",
        "16",
        "name",
        "foreign",
    ])?;
    let output = topology.host.command(NETFAST).args(["agent", "--config"]).arg(&config).output()?;
    let text = stderr(&output);
    assert_eq!(Some(5), output.status.code(), "{text}");
    assert!(text.contains("TARGETS has another layout") && text.contains("`rm -r "), "{text}");
    // The command that it names does what it says.
    let command = text.split('`').nth(1).unwrap();
    topology.host.run(&["sh", "-c", command])?;
    agent.restart()?;
    // A change of table sizes keeps the pinned size, and says so.
    agent.kill()?;
    Agent::configure(&topology.bed, "[[interface]]\nname = \"wan0\"\n[tables]\nflows = 4096\n")?;
    agent.restart()?;
    assert!(agent.log().contains("FLOWS is pinned with 524288 entries"), "{}", agent.log());
    Ok(())
}

#[test]
fn a_host_that_lacks_something_is_told() -> Result<()> {
    let topology = Topology::new("agentlack")?;
    let config = Agent::configure(&topology.bed, "")?;
    let mut text = fs::read_to_string(&config)?;
    // 26: no bpffs.
    let elsewhere = topology.bed.dir().join("plain");
    text = text.replace(&format!("{:?}", topology.bed.bpffs()?), &format!("{elsewhere:?}"));
    fs::write(&config, &text)?;
    let output = topology.host.command(NETFAST).args(["agent", "--config"]).arg(&config).output()?;
    assert_eq!(Some(6), output.status.code());
    assert!(
        stderr(&output).contains(&format!("mount -t bpf bpf {}", elsewhere.display())),
        "{}",
        stderr(&output)
    );
    // 25: no capability. A user of its own keeps the run directory out of the way.
    let mut command = topology.host.command("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all", NETFAST, "agent", "--config"]).arg(&config);
    let output = command.output()?;
    assert_eq!(Some(7), output.status.code(), "{}", stderr(&output));
    assert!(stderr(&output).contains("missing CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON"), "{}", stderr(&output));
    Ok(())
}

#[test]
fn a_failed_save_changes_nothing() -> Result<()> {
    let topology = Topology::new("agentdisk")?;
    let agent = topology.agent()?;
    agent.ok(&["forward", "add", "web", "tcp", "192.0.2.10:80", "--to", "10.0.1.11:8080"])?;
    let before = agent.status()?;
    let store = topology.bed.dir().join("state");
    let moved = topology.bed.dir().join("state.away");
    fs::rename(&store, &moved)?;
    // A file in the place of the directory: nothing can be stored, not even by root.
    fs::write(&store, "")?;
    let output = agent.cli(&["forward", "add", "dns", "udp", "192.0.2.10:53", "--to", "10.0.1.11:53"])?;
    assert_eq!(Some(6), output.status.code(), "{}", stderr(&output));
    let after = agent.status()?;
    assert_eq!((before.revision, 1), (after.revision, after.forwards));
    fs::remove_file(&store)?;
    fs::rename(&moved, &store)?;
    agent.ok(&["forward", "add", "dns", "udp", "192.0.2.10:53", "--to", "10.0.1.11:53"])?;
    assert_eq!(2, agent.status()?.forwards);
    Ok(())
}

#[test]
fn a_rules_file_is_the_truth() -> Result<()> {
    let topology = Topology::new("agentfile")?;
    let file = topology.bed.dir().join("rules.toml");
    let rules = |name: &str| {
        format!(
            "[[forward]]\nname = \"{name}\"\nprotocol = \"tcp\"\nlisten = \"192.0.2.10:80\"\n\
             [[forward.target]]\naddress = \"10.0.1.11:8080\"\n"
        )
    };
    fs::write(&file, rules("one"))?;
    let config = format!("rules_file = {file:?}\n[[interface]]\nname = \"wan0\"\n");
    let agent = Agent::start(&topology.bed, &topology.host, &config)?;
    assert!(agent.ok(&["forward", "list"])?.contains("one"));
    let output = agent.cli(&["forward", "delete", "one"])?;
    assert_eq!(Some(3), output.status.code());
    assert!(stderr(&output).contains("rules.toml"), "{}", stderr(&output));

    fs::write(&file, rules("two"))?;
    agent.signal(Signal::SIGHUP)?;
    agent.wait_status("the new rules", |status| status.revision == 2)?;
    assert!(agent.ok(&["forward", "list"])?.contains("two"));

    // 27: a file that is wrong leaves the old rules live.
    fs::write(&file, rules("two").replace("tcp", "tpc"))?;
    agent.signal(Signal::SIGHUP)?;
    let status = agent.wait_status("the problem", |status| !status.ready)?;
    assert!(status.problems.iter().any(|problem| problem.contains("rules.toml:3:")), "{:?}", status.problems);
    assert_eq!(1, status.forwards);
    Ok(())
}
