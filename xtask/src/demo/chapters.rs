//! The chapters that netfast is in.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::{
    baseline::{self, Numbers},
    shell,
    story::Story,
    topology::{self, CLIENT, NAME, World, service},
    traffic::{self, Server},
};
use crate::netns::{Process, Testbed};

/// Requests by curl to each of the web forwards.
const REQUESTS: usize = 40;
/// Where the agent's metrics are, in the host's namespace.
const METRICS: &str = "http://127.0.0.1:9460";

/// The agent's socket.
pub fn socket(bed: &Testbed) -> PathBuf {
    bed.dir().join("run/netfast.sock")
}

/// What every chapter uses.
struct Cast<'a> {
    bed: &'a Testbed,
    world: &'a World,
    binary: &'a Path,
}

/// Everything with netfast. The agent, if it is to go on.
pub fn tell(
    story: &mut Story,
    bed: &Testbed,
    world: &World,
    binary: &Path,
    kernel: Option<&Numbers>,
    keep: bool,
) -> Result<Option<Process>> {
    let cast = Cast { bed, world, binary };
    let mut agent = None;
    story.chapter("The agent, attached to the host's interfaces in native mode", |story| {
        agent = Some(cast.start(story)?);
        Ok(())
    });
    if agent.is_none() {
        return Ok(None);
    }
    story.chapter("A TCP forward to two web servers", |story| cast.web(story));
    story.chapter("A bulk transfer through it", |story| cast.bulk(story));
    story.chapter("A UDP forward that keeps the client's address", |story| cast.dns(story));
    story.chapter("The same over IPv6", |story| cast.web6(story));
    story.chapter("UDP echo, answered by the XDP program itself", |story| cast.echo(story));
    story.chapter("What is not netfast's goes to the kernel; a filter rule", |story| cast.filter(story));
    story.chapter("The agent killed with -9, and started again", |story| cast.kill(story, &mut agent));
    story.chapter("Statistics and metrics", |story| cast.metrics(story));
    story.chapter("netfast and the kernel side by side", |story| cast.compare(story, kernel));
    if keep && story.holds() {
        return Ok(agent);
    }
    story.chapter("The end", |story| cast.end(story, agent.take()));
    Ok(None)
}

impl Cast<'_> {
    /// The real CLI.
    fn cli(&self) -> Command {
        let mut command = self.world.host.command(self.binary);
        command.env("NETFAST_SOCKET", socket(self.bed)).env("NO_COLOR", "1");
        command
    }

    /// Runs a netfast command with the story watching.
    fn netfast(&self, story: &Story, arguments: &[&str]) -> Result<String> {
        story.run("host", &typed("netfast", arguments), self.cli().args(arguments))
    }

    fn start(&self, story: &mut Story) -> Result<Process> {
        let dir = self.bed.dir();
        let bpffs = self.bed.bpffs()?;
        let interfaces: String = ["wan0", "lan1", "lan2"]
            .map(|name| format!("[[interface]]\nname = \"{name}\"\nmode = \"native\"\n"))
            .concat();
        let text = format!(
            "[agent]\nstate_dir = \"{dir}/state\"\nrun_dir = \"{dir}/run\"\nsocket_group = \"root\"\nbpffs = \"{bpffs}\"\n\n{interfaces}",
            dir = dir.display(),
            bpffs = bpffs.display()
        );
        for folder in ["state", "run"] {
            fs::create_dir_all(dir.join(folder))?;
        }
        fs::write(dir.join("agent.toml"), text)?;
        story.typed("host", "netfast agent --config agent.toml &");
        let agent = self.start_agent()?;
        let status = self.netfast(story, &["status"])?;
        for name in ["wan0", "lan1", "lan2"] {
            let line = status.lines().find(|line| line.contains(name)).unwrap_or_default();
            ensure!(line.contains("native"), "{name} is not attached in native mode");
        }
        story.check(true, "ready, and attached in native mode to wan0, lan1 and lan2")?;
        Ok(agent)
    }

    /// Starts the agent and waits until everything that was asked for is in place.
    fn start_agent(&self) -> Result<Process> {
        let mut command = self.world.host.command(self.binary);
        command.args(["agent", "--config"]).arg(self.bed.dir().join("agent.toml"));
        let mut agent = self.world.host.spawn("agent", &mut command)?;
        agent.wait_ready(Duration::from_secs(30), || {
            Ok(self.cli().args(["status", "--quiet"]).output()?.status.success().then_some(()))
        })?;
        Ok(agent)
    }

    fn web(&self, story: &mut Story) -> Result<()> {
        self.netfast(
            story,
            &[
                "forward",
                "add",
                "web",
                "tcp",
                "192.0.2.10:80",
                "--to",
                "10.0.1.11:8080",
                "--to",
                "10.0.2.12:8080",
            ],
        )?;
        self.requests(story, "http://192.0.2.10/", "10.0.")
    }

    fn web6(&self, story: &mut Story) -> Result<()> {
        self.netfast(
            story,
            &[
                "forward",
                "add",
                "web6",
                "tcp",
                "[2001:db8::10]:80",
                "--to",
                "[2001:db8:1::11]:8080",
                "--to",
                "[2001:db8:2::12]:8080",
            ],
        )?;
        self.requests(story, "http://[2001:db8::10]/", "2001:db8:")
    }

    /// curl, so many times: every request is answered, each target answers some, and sees the host and not the client.
    fn requests(&self, story: &mut Story, url: &str, seen: &str) -> Result<()> {
        story.typed("client", &format!("curl '{url}'        # {REQUESTS} times"));
        let line = format!(
            "for i in $(seq {REQUESTS}); do curl --silent --show-error --fail --globoff --max-time 5 '{url}' || exit 1; done"
        );
        let output = story.during("curl", || shell(&self.world.client, &line).output())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr).trim());
        let mut answers = BTreeMap::<&str, usize>::new();
        for answer in text.lines() {
            *answers.entry(answer).or_default() += 1;
        }
        for (answer, count) in &answers {
            story.answer(&format!("{answer}   ({count} times)"));
        }
        let targets: Vec<_> = answers.keys().filter_map(|answer| answer.split(' ').next()).collect();
        story.check(
            text.lines().count() == REQUESTS && targets == ["target-1", "target-2"],
            format_args!("{REQUESTS} of {REQUESTS} requests answered, by both targets"),
        )?;
        story.check(
            answers.keys().all(|answer| answer.contains(&format!("saw {seen}"))),
            "the targets see the host as their client (mode nat): they need no route back",
        )
    }

    fn bulk(&self, story: &mut Story) -> Result<()> {
        let to = self.bed.dir().join("received");
        story.typed("client", "curl --output received http://192.0.2.10/bulk && sha256sum received");
        let seconds = story
            .during("bulk transfer", || baseline::download(&self.world.client, &to.display().to_string()))?;
        let (sent, received) = (self.world.bulk_hash()?, topology::hash(&to)?);
        fs::remove_file(&to)?;
        story.answer(&format!("{received}  received"));
        story.check(
            sent == received,
            format_args!(
                "{} MiB in {seconds:.2} s ({:.0} Mbit/s), the same hash as at the targets",
                topology::BULK >> 20,
                topology::BULK as f64 * 8.0 / 1e6 / seconds
            ),
        )
    }

    fn dns(&self, story: &mut Story) -> Result<()> {
        self.netfast(
            story,
            &["forward", "add", "dns", "udp", "192.0.2.10:53", "--to", "10.0.1.11:53", "--mode", "dnat"],
        )?;
        let (name, answer) = NAME;
        let text = story.run(
            "client",
            &format!("dig @192.0.2.10 +short {name}"),
            self.world.client.command("dig").args(["@192.0.2.10", "+short", "+tries=2", "+time=2", name]),
        )?;
        story.check(text.trim() == answer, format_args!("the DNS server of target-1 answered {answer}"))?;
        let line = format!("query[A] {name} from {CLIENT}");
        story.check(
            self.world.dns_log().contains(&line),
            format_args!("its log has the client's own address: {line}"),
        )
    }

    fn echo(&self, story: &mut Story) -> Result<()> {
        self.netfast(
            story,
            &["echo", "add", "192.0.2.10:7", "--allow", "198.51.100.0/24", "--rate", "1000000"],
        )?;
        story.say(
            "One second of UDP packets of 512 bytes from the client, each after the echo of the one before:",
        );
        let echoes = traffic::echo(&self.world.client, service(7), Duration::from_secs(1), 512)?;
        story.check(
            echoes.lost == 0,
            format_args!(
                "{} of {} came back as they were, half of them within {:.1} µs",
                echoes.timings.count(),
                echoes.timings.count() + echoes.lost,
                echoes.timings.micros(0.5)
            ),
        )
    }

    fn filter(&self, story: &mut Story) -> Result<()> {
        let _server = Server::tcp(&self.world.host, service(2222))?;
        let connects =
            |time| traffic::connects(&self.world.client, service(2222), Duration::from_millis(time));
        story.typed("client", "nc -z 192.0.2.10 2222        # something else on the host listens there");
        story.check(connects(2000)?, "connected: what is not netfast's is the kernel's as ever")?;
        let ping = self.world.client.run(&["ping", "-c", "1", "-W", "2", "192.0.2.10"]);
        if crate::commands::find("ping").is_some() {
            story.check(ping.is_ok(), "and so is ping")?;
        }
        self.netfast(
            story,
            &[
                "filter",
                "add",
                "drop",
                "--name",
                "no-2222",
                "--proto",
                "tcp",
                "--dport",
                "2222",
                "--src",
                "198.51.100.0/24",
            ],
        )?;
        story.typed("client", "nc -z 192.0.2.10 2222");
        story
            .check(!connects(700)?, "no answer any more: dropped in the driver, before the kernel saw it")?;
        let text = self.netfast(story, &["filter", "list", "-o", "wide"])?;
        ensure!(text.contains("no-2222"), "the rule is not in the list");
        self.requests_go_on(story)
    }

    fn requests_go_on(&self, story: &mut Story) -> Result<()> {
        let text = self.world.client.run(&[
            "curl",
            "--silent",
            "--fail",
            "--max-time",
            "5",
            "http://192.0.2.10/",
        ])?;
        story.check(text.starts_with("target-"), "and the web goes on being served")
    }

    fn kill(&self, story: &mut Story, agent: &mut Option<Process>) -> Result<()> {
        let Some(mut old) = agent.take() else { bail!("there is no agent") };
        let client = &self.world.client;
        story.typed("host", "kill -9 $(pidof netfast); sleep 1; netfast agent --config agent.toml &");
        let (echoes, restarted) = std::thread::scope(|scope| {
            let echoes = scope.spawn(|| traffic::echo(client, service(7), Duration::from_secs(4), 64));
            let restarted = (|| {
                std::thread::sleep(Duration::from_millis(500));
                old.signal(Signal::SIGKILL)?;
                old.wait(Duration::from_secs(5))?;
                std::thread::sleep(Duration::from_secs(1));
                self.start_agent()
            })();
            (echoes.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), restarted)
        });
        *agent = Some(restarted?);
        let echoes = echoes?;
        story.check(
            echoes.lost == 0,
            format_args!(
                "{} echoes meanwhile, {} lost: the kernel goes on without the agent",
                echoes.timings.count(),
                echoes.lost
            ),
        )?;
        let status = self.netfast(story, &["status", "--brief"])?;
        story.check(status.starts_with("ready"), "the new agent has taken over what it found")?;
        self.requests_go_on(story)
    }

    fn metrics(&self, story: &mut Story) -> Result<()> {
        self.netfast(story, &["forward", "list"])?;
        self.netfast(story, &["stats"])?;
        story.typed("host", &format!("curl {METRICS}/metrics | grep -v '^#'"));
        let text = self.world.host.run(&[
            "curl",
            "--silent",
            "--fail",
            "--max-time",
            "5",
            &format!("{METRICS}/metrics"),
        ])?;
        let value = |series: &str| -> Result<f64> {
            let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
            line.with_context(|| format!("no {series} in /metrics"))?.parse().context("not a number")
        };
        let shown = [
            "netfast_interface_info{interface=\"wan0\",driver=\"veth\",mode=\"native\"}",
            "netfast_forward_packets_total{forward=\"web\",direction=\"to_target\"}",
            "netfast_forward_packets_total{forward=\"web\",direction=\"to_client\"}",
            "netfast_forward_flows_total{forward=\"web\"}",
            "netfast_forward_packets_total{forward=\"web6\",direction=\"to_client\"}",
            "netfast_forward_packets_total{forward=\"dns\",direction=\"to_target\"}",
            "netfast_target_packets_total{forward=\"web\",target=\"10.0.2.12:8080\",direction=\"to_target\"}",
            "netfast_echo_packets_total{echo=\"192.0.2.10:7\"}",
            "netfast_filter_packets_total{rule=\"no-2222\"}",
            "netfast_drops_total{interface=\"wan0\",reason=\"filter_drop\"}",
            "netfast_ready",
        ];
        for series in shown {
            let value = value(series)?;
            story.answer(&format!("{series} {value}"));
            ensure!(value > 0.0, "{series} is {value} after all that traffic");
        }
        story.check(true, "every counter has counted")?;
        let health = self.world.host.run(&[
            "curl",
            "--silent",
            "--fail",
            "--max-time",
            "5",
            &format!("{METRICS}/healthz"),
        ])?;
        story.check(health.trim() == "ready", "/healthz answers 200")
    }

    fn compare(&self, story: &mut Story, kernel: Option<&Numbers>) -> Result<()> {
        let netfast = baseline::run(story, self.world)?;
        let kernel = kernel.context("there are no numbers of the kernel to compare with")?;
        story.say("The same clients and servers over the same veth pairs; kernel: nftables DNAT, echo server in user space.\n ");
        story.table(&baseline::table(kernel, &netfast));
        story.say(" \nveth pairs on few CPUs, which client and servers share: a sanity check, not netfast's speed (docs/benchmarks.md).");
        story.check(
            netfast.http.count() == kernel.http.count() && netfast.echo_lost == 0,
            "nothing was lost while measuring",
        )
    }

    fn end(&self, story: &mut Story, agent: Option<Process>) -> Result<()> {
        self.netfast(story, &["stop", "--detach"])?;
        if let Some(mut agent) = agent {
            let status = agent.wait(Duration::from_secs(10))?;
            story.check(status.success(), "the agent has ended")?;
        }
        for device in ["wan0", "lan1", "lan2"] {
            let link = self.world.host.ip(&["link", "show", device])?;
            ensure!(!link.contains("xdp"), "{device} still has an XDP program:\n{link}");
        }
        story.check(true, "no XDP program is left on wan0, lan1 and lan2")
    }
}

/// A command line as one would type it: what a shell would take for its own is quoted.
fn typed(program: &str, arguments: &[&str]) -> String {
    let quote = |argument: &&str| match argument.contains(['[', ' ', '*', '$']) {
        true => format!("'{argument}'"),
        false => (*argument).to_owned(),
    };
    std::iter::once(program.to_owned()).chain(arguments.iter().map(quote)).collect::<Vec<_>>().join(" ")
}
