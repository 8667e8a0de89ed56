//! Rules that change under traffic.

use std::fs;

use anyhow::{Context as _, Result};

use crate::{
    peers::need,
    stream::during,
    support::{PATIENCE, netns::wait_for},
    world::{CLIENT, SERVICE, SERVICE6, TARGETS, TARGETS6, World},
};

/// A forward in a rules file.
fn forward(name: &str, protocol: &str, listen: &str, targets: &[&str]) -> String {
    let targets: String =
        targets.iter().map(|target| format!("[[forward.target]]\naddress = \"{target}\"\n")).collect();
    format!("[[forward]]\nname = \"{name}\"\nprotocol = \"{protocol}\"\nlisten = \"{listen}\"\n{targets}")
}

#[test]
fn flows_survive_changes_of_all_kinds() -> Result<()> {
    need!("python3");
    let mut world = World::alone("changes")?;
    world.udp_echo(0, "::", 5000)?;
    world.udp_echo(1, "::", 5000)?;
    let service = format!("{SERVICE}:5000");
    let [a, b] = TARGETS.map(|target| format!("{target}:5000"));
    world.netfast(&format!("forward add udp udp {service} --to {a} --to {b}"))?;
    world.netfast(&format!("echo add {SERVICE}:7 --allow {CLIENT}/32 --rate 100000"))?;
    let file = world.bed.dir().join("rules.toml");
    let client = world.client.clone();
    let change = |number: usize| -> Result<()> {
        match number % 5 {
            // Other weights, and a target more.
            0 => world.netfast(&format!("forward set udp udp {service} --to {a},weight=3 --to {b}")),
            1 => world.netfast("filter add allow --name all --proto udp"),
            2 => world.netfast(&format!("forward add more{number} tcp {SERVICE}:{} --to {a}", 6000 + number)),
            3 => {
                let rules = forward("udp", "udp", &service, &[&b, &a])
                    + &forward(
                        "six",
                        "udp",
                        &format!("[{SERVICE6}]:5000"),
                        &[&format!("[{}]:5000", TARGETS6[0])],
                    );
                fs::write(&file, rules)?;
                world.netfast(&format!("apply -f {}", file.display()))
            }
            _ => world.netfast("filter flush"),
        }
        .map(drop)
    };
    // Two streams at once, one forwarded and one reflected, over thirty changes.
    let ((identity, forwarded), reflected) = during(&client, &format!("{SERVICE}:7"), 1000, || {
        during(&client, &service, 1000, || {
            let before = world.flows("--forward udp")?;
            (0..20).try_for_each(change)?;
            let after = world.flows("--forward udp")?;
            let identity = |flows: &[netfast::api::types::FlowRecord]| -> Vec<_> {
                flows
                    .iter()
                    .map(|flow| (flow.client.clone(), flow.source.clone(), flow.target.clone()))
                    .collect()
            };
            Ok((identity(&before), identity(&after)))
        })
    })?;
    assert_eq!(1, identity.0.len(), "{identity:?}");
    assert_eq!(identity.0, identity.1);
    assert_eq!((0, 0), (forwarded.lost(), reflected.lost()), "{forwarded:?} {reflected:?}");
    assert!(world.agent.status()?.revision >= 20);
    world.sound()
}

#[test]
fn the_flows_of_a_removed_target_go_on_and_new_ones_go_elsewhere() -> Result<()> {
    need!("nginx", "curl");
    let world = World::new("drain")?.web()?;
    world.bulk()?;
    let [a, b] = TARGETS;
    world.netfast(&format!("forward add web tcp {SERVICE}:80 --to {a}:8080 --to {b}:8080"))?;
    // One transfer by each target.
    let mut transfers = Vec::new();
    wait_for("a transfer by each target", PATIENCE, || {
        let label = format!("slow{}", transfers.len());
        let mut command = world.client.command("curl");
        command.args(["-sSf", "--limit-rate", "1M", "-o", "/dev/null", &format!("http://{SERVICE}/bulk")]);
        transfers.push(world.client.spawn(&label, &mut command)?);
        let mut targets: Vec<_> =
            world.flows("--state established")?.into_iter().map(|flow| flow.target).collect();
        targets.sort_unstable();
        targets.dedup();
        Ok((targets.len() == 2).then_some(()))
    })?;
    let flows = world.flows(&format!("--state established --target {b}"))?.len();
    assert!(flows > 0);
    world.netfast(&format!("target delete web {b}:8080"))?;
    let answers = world.requests(20, &format!("http://{SERVICE}/"))?;
    assert!(answers.iter().all(|answer| answer.starts_with("target1")), "{answers:?}");
    let packets = || -> Result<u64> {
        let stats = world.agent.stats()?;
        let row = stats.targets.iter().find(|row| row.target.starts_with(b)).context("its row has gone")?;
        Ok(row.to_client.packets)
    };
    let before = packets()?;
    wait_for("packets of the removed target", PATIENCE, || Ok((packets()? > before + 100).then_some(())))?;
    assert_eq!(flows, world.flows(&format!("--state established --target {b}"))?.len());
    for transfer in &mut transfers {
        assert!(transfer.exited()?.is_none(), "{}", transfer.log());
    }
    drop(transfers);
    world.sound()
}

#[test]
fn a_removed_forward_ends_its_flows() -> Result<()> {
    need!("python3", "nginx", "curl");
    let mut world = World::new("removed")?.web()?;
    world.bulk()?;
    world.udp_echo(0, "::", 5000)?;
    world.netfast(&format!("forward add udp udp {SERVICE}:5000 --to {}:5000", TARGETS[0]))?;
    world.netfast(&format!("forward add web tcp {SERVICE}:80 --to {}:8080", TARGETS[0]))?;
    let mut command = world.client.command("curl");
    command.args(["-sS", "--limit-rate", "1M", "-o", "/dev/null", &format!("http://{SERVICE}/bulk")]);
    let mut transfer = world.client.spawn("transfer", &mut command)?;
    let ((), echoes) = during(&world.client, &format!("{SERVICE}:5000"), 500, || {
        wait_for("both flows", PATIENCE, || Ok((world.flows("")?.len() == 2).then_some(())))?;
        world.netfast("forward delete udp web")?;
        wait_for("the end of the flows", PATIENCE, || Ok(world.flows("")?.is_empty().then_some(())))?;
        std::thread::sleep(std::time::Duration::from_millis(500));
        Ok(())
    })?;
    // What came after the removal went to the kernel, which has no such service.
    assert!(echoes.lost() > 100 && echoes.received > 50, "{echoes:?}");
    let gone = world.reason("forward_removed")? + world.reason("no_service")?;
    assert!(gone >= echoes.lost(), "{gone} packets handed on of {echoes:?}");
    // The kernel resets the client's connection.
    assert!(!transfer.wait(PATIENCE)?.success());
    // Counted by whoever came first: the program with the flow's next packet, or the agent's sweep.
    let log = world.agent.log();
    let swept = log.contains("flows ended, because their forward was removed");
    assert!(swept || world.reason("forward_removed")? > 0, "{log}");
    assert!(world.agent.stats()?.forwards.is_empty());
    // The same again is a new forward with new flows.
    world.netfast(&format!("forward add web tcp {SERVICE}:80 --to {}:8080", TARGETS[1]))?;
    assert!(world.curl(&format!("http://{SERVICE}/"))?.starts_with("target2"));
    assert_eq!(1, world.agent.stats()?.forwards[0].flows_total);
    world.sound()
}

#[test]
fn a_change_that_fails_changes_nothing() -> Result<()> {
    need!("python3");
    let mut world = World::new("refused")?;
    world.udp_echo(0, "::", 5000)?;
    let service = format!("{SERVICE}:5000");
    world.netfast(&format!("forward add udp udp {service} --to {}:5000", TARGETS[0]))?;
    let before = (world.netfast("export")?, world.agent.status()?.revision, world.agent.status()?.generation);
    let file = world.bed.dir().join("bad.toml");
    let good = forward("udp", "udp", &service, &[&format!("{}:5000", TARGETS[1])]);
    // Each pair of prefixes is a match of its own, and no two are neighbours that could be one.
    let prefixes = |first: u8| -> Vec<String> {
        (0..500).map(|n: u32| format!("\"{first}.{}.{}.0/24\"", n / 100, n % 100 * 2)).collect()
    };
    let many = format!(
        "[[filter]]\naction = \"drop\"\nsrc = [{}]\ndst = [{}]\n",
        prefixes(10).join(","),
        prefixes(11).join(",")
    );
    let cases = [
        // Two forwards at one address, the first of which alone would be fine.
        (good.clone() + &forward("twin", "udp", &service, &["10.0.1.11:1"]), 3, "twin"),
        // Another IP version behind than in front, with the client's address.
        (
            good.clone()
                + &forward("mixed", "tcp", "192.0.2.10:99", &["[2001:db8:1::11]:99"]).replacen(
                    "[[forward]]\n",
                    "[[forward]]\nmode = \"dnat\"\n",
                    1,
                ),
            3,
            "mixed",
        ),
        // An interface that is not there.
        (good.clone() + "[[filter]]\naction = \"drop\"\ninterface = \"eth77\"\n", 3, "eth77"),
        // 22: more than fits.
        (good.clone() + &many, 3, "limit"),
        // 27: a mistake, with its place.
        (good.clone() + "[[filter]]\naction = \"refuse\"\n", 3, "bad.toml:8:10"),
    ];
    let ((), echoes) = during(&world.client, &service, 200, || {
        for (text, code, word) in &cases {
            fs::write(&file, text)?;
            let output = world.agent.cli(&["apply", "--prune", "-f", &file.display().to_string()])?;
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(Some(*code), output.status.code(), "{word}: {error}");
            assert!(error.contains(word), "{word}: {error}");
        }
        Ok(())
    })?;
    assert_eq!(0, echoes.lost(), "{echoes:?}");
    let after = (world.netfast("export")?, world.agent.status()?.revision, world.agent.status()?.generation);
    assert_eq!(before, after);
    assert_eq!(1, world.flows("")?.len());
    // The CLI sees to what it can see; an interface only the agent knows.
    assert!(world.metric("netfast_config_applies_total{result=\"rejected\"}")? >= 1.0);
    world.sound()
}

#[test]
fn promtool_finds_nothing_wrong_with_live_metrics() -> Result<()> {
    need!("promtool", "curl", "nginx");
    let world = World::new("promtool")?.web()?;
    world.netfast(&format!("forward add web tcp {SERVICE}:80 --to {}:8080", TARGETS[0]))?;
    world.netfast(&format!("echo add {SERVICE}:7 --allow {CLIENT}/32"))?;
    world.netfast("filter add drop --name scan --proto tcp --dport 22")?;
    world.requests(5, &format!("http://{SERVICE}/"))?;
    let scrape = world.bed.dir().join("metrics");
    let line = format!(
        "curl -sSf -o {0} http://127.0.0.1:9460/metrics && promtool check metrics < {0}",
        scrape.display()
    );
    let said = world.host.run(&["sh", "-c", &line])?;
    assert_eq!("", said.trim());
    let text = fs::read_to_string(&scrape)?;
    assert!(!text.contains(CLIENT), "no client's address in a label");
    world.sound()
}

#[test]
fn stop_with_detach_leaves_nothing() -> Result<()> {
    need!("nginx", "curl");
    let mut world = World::new("leave")?.web()?;
    world.netfast(&format!("forward add web tcp {SERVICE}:80 --to {}:8080", TARGETS[0]))?;
    let hops_kept =
        |world: &World| -> Result<bool> { Ok(world.host.ip(&["neighbour", "show"])?.contains("managed")) };
    assert!(hops_kept(&world)?);
    world.curl(&format!("http://{SERVICE}/"))?;
    world.netfast("stop --detach")?;
    assert_eq!(Some(0), world.agent.wait()?);
    for device in ["wan0", "lan1", "lan2"] {
        assert!(!world.host.ip(&["link", "show", device])?.contains("xdp"), "{device}");
    }
    assert!(!world.bed.dir().join("bpf/netfast").exists());
    assert!(!world.bed.dir().join("run/netfast.sock").exists());
    assert!(!hops_kept(&world)?, "the kernel keeps no neighbour for netfast any more");
    assert!(world.curl(&format!("http://{SERVICE}/")).is_err());
    // The rules are still known: the next agent does all of it again.
    world.agent.restart()?;
    world.agent.wait_status("the agent", |status| status.ready)?;
    assert!(world.curl(&format!("http://{SERVICE}/"))?.starts_with("target1"));
    world.sound()
}
