//! `cargo xtask kernels`: the real agent on other kernels, in virtual machines without KVM.
//!
//! For each kernel the archive's package is fetched and unpacked, never installed; a small machine is booted with it, and in
//! the machine this very executable (`--guest`) puts up a client, netfast on two virtio cards and a target, and checks that
//! the programs load, attach natively, and carry forwards, VLANs and echoes. The machine's cards are taps on two bridges in
//! a network namespace of their own: nothing of the host's network is touched.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    thread::ScopedJoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::getuid;

use crate::{
    commands,
    netns::Testbed,
    setup::{self, Group},
    workspace,
};

mod guest;
mod initramfs;
mod machine;
mod packages;
mod traffic;
mod verified;

use machine::Row;

/// Run the agent on Debian's 6.1 and 6.12 kernels in virtual machines: load, attach, forward, echo
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these versions
    #[arg(value_name = "VERSION")]
    versions: Vec<String>,
    /// A netfast that is built already, instead of building it
    #[arg(long, env = "NETFAST_BIN")]
    binary: Option<PathBuf>,
    /// A test executable `prog_run` that is built already, instead of building it
    #[arg(long, value_name = "FILE")]
    scenarios: Option<PathBuf>,
    /// Leave netfast's own scenarios (the tests of prog_run) out
    #[arg(long)]
    short: bool,
    /// We are inside such a machine; a flag for our own use.
    #[arg(long, hide = true)]
    guest: bool,
}

/// What came of a kernel.
#[derive(Debug)]
pub enum Outcome {
    /// It ran: its release, its results, how long it took.
    Ran(String, Vec<Row>, Duration),
    /// The archive does not have it.
    Absent,
}

/// The verb.
pub fn run(args: Args) -> Result<()> {
    if args.guest {
        return guest::run();
    }
    for version in &args.versions {
        let known = packages::WANTED.iter().any(|wanted| wanted.name == version);
        ensure!(known, "there are {}", packages::WANTED.map(|wanted| wanted.name).join(" and "));
    }
    if !getuid().is_root() {
        return by_sudo(args);
    }
    let binary = match &args.binary {
        Some(binary) => binary.canonicalize().with_context(|| format!("no {}", binary.display()))?,
        None => build()?,
    };
    let scenarios = match args.scenarios {
        _ if args.short => None,
        Some(path) => Some(path),
        None => Some(build_scenarios()?),
    };
    let machine = packages::machine()?;
    let mut kernels = Vec::new();
    for wanted in packages::WANTED {
        if args.versions.is_empty() || args.versions.iter().any(|version| version == wanted.name) {
            kernels.push((wanted.name, packages::kernel(wanted)?));
        }
    }
    // A machine has most of its work on one CPU: they run beside each other.
    let outcomes = std::thread::scope(|scope| {
        let mut running = Vec::new();
        for (name, kernel) in &kernels {
            let (machine, binary, scenarios) = (&machine, &binary, scenarios.as_deref());
            let run = move || match kernel {
                Some(kernel) => one(kernel, machine, binary, scenarios),
                None => Ok(Outcome::Absent),
            };
            eprintln!("kernels: {name} ...");
            running.push((*name, scope.spawn(run)));
        }
        let join = |(name, running): (_, ScopedJoinHandle<'_, Result<Outcome>>)| {
            let outcome = running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok((name, outcome.with_context(|| format!("kernel {name}"))?))
        };
        running.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    let host = host(&binary)?;
    println!("{}", table(&outcomes));
    println!("{}", counts(&host, &outcomes));
    let mut failed = Vec::new();
    let mut numbers = [0_usize; 3];
    for (name, outcome) in &outcomes {
        let Outcome::Ran(_, rows, _) = outcome else {
            println!("{name}: SKIPPED, the archive has no such kernel");
            numbers[2] += 1;
            continue;
        };
        for row in rows.iter().filter(|row| !row.ok) {
            println!("{name}: {} FAILED: {}", row.check, row.detail);
            failed.push(format!("{name} {}", row.check));
        }
        let checks = rows.iter().filter(|row| !row.check.starts_with("verified"));
        for row in checks {
            numbers[usize::from(!row.ok)] += 1;
        }
    }
    // As cargo's test executables say it: `cargo xtask test` counts this line.
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    println!("test result: {word}. {} passed; {} failed; {} ignored;", numbers[0], numbers[1], numbers[2]);
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

fn by_sudo(args: Args) -> Result<()> {
    let binary = args.binary.map_or_else(build, Ok)?;
    let own = std::env::current_exe().context("cannot tell the path of xtask")?;
    let mut command = commands::as_root(&own.display().to_string())?;
    command.arg("kernels").arg("--binary").arg(binary);
    if args.short {
        command.arg("--short");
    } else {
        command.arg("--scenarios").arg(args.scenarios.map_or_else(build_scenarios, Ok)?);
    }
    let status = command.args(args.versions).status().context("cannot run sudo")?;
    ensure!(status.success(), "kernels, run by sudo, ended with {status}");
    Ok(())
}

fn build() -> Result<PathBuf> {
    setup::ensure(Group::Demo)?;
    let args = ["build", "--release", "--package", "netfast", "--bin", "netfast"];
    commands::quiet("build-release", commands::cargo().args(args))?;
    Ok(workspace::target_dir().join("release/netfast"))
}

/// The test executable with the scenarios, as cargo names it.
fn build_scenarios() -> Result<PathBuf> {
    let mut command = commands::cargo();
    command.args(["test", "--no-run", "--package", "netfast", "--test", "prog_run", "--message-format=json"]);
    let output = command.output().context("cannot run cargo")?;
    ensure!(output.status.success(), "the tests do not build: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let found = messages
        .filter(|message| message["target"]["name"] == "prog_run")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    found.context("cargo built no prog_run")
}

fn one(
    kernel: &packages::Kernel,
    machine: &packages::Machine,
    binary: &Path,
    scenarios: Option<&Path>,
) -> Result<Outcome> {
    let began = Instant::now();
    let bed = Testbed::new("kernels")?;
    let file = bed.dir().join("initramfs");
    let mut archive = initramfs::Archive::default();
    archive.file("init", 0o755, include_bytes!("init.sh"));
    archive.program(&machine.busybox, "/busybox")?;
    archive.program(binary, "/usr/bin/netfast")?;
    archive.program(&std::env::current_exe()?, "/usr/bin/xtask")?;
    for name in ["ip", "nsenter", "curl"] {
        let path = commands::find(name).with_context(|| format!("no {name} here: install it"))?;
        archive.program(&path, &format!("/usr/sbin/{name}"))?;
    }
    if let Some(path) = scenarios {
        archive.program(path, guest::SCENARIOS)?;
    }
    archive.modules(kernel, &["virtio_pci", "virtio_net", "8021q", "veth", "ipip", "sit", "ip6_tunnel"])?;
    archive.write(&file)?;
    let rows = machine::run(&bed, kernel, machine, &file)?;
    if rows.is_empty() {
        bail!("{} told nothing", kernel.release);
    }
    Ok(Outcome::Ran(kernel.release.clone(), rows, began.elapsed()))
}

/// agent.toml in a bed, with small tables; its path.
fn configure(bed: &Testbed, interfaces: &[&str]) -> Result<PathBuf> {
    let (dir, bpffs) = (bed.dir().display(), bed.bpffs()?);
    let mut text = format!(
        "[agent]\nstate_dir = \"{dir}/state\"\nrun_dir = \"{dir}/run\"\nbpffs = {bpffs:?}\n\
         socket_group = \"root\"\n[tables]\nflows = 65536\nhalf_open = 8192\n"
    );
    for name in interfaces {
        text += &format!("[[interface]]\nname = \"{name}\"\n");
    }
    let path = bed.dir().join("agent.toml");
    std::fs::write(&path, text)?;
    Ok(path)
}

/// The folder `programs` that an agent has made below a bpffs.
fn programs_dir(bpffs: &Path) -> Result<PathBuf> {
    let mut dirs = vec![bpffs.to_owned()];
    while let Some(dir) = dirs.pop() {
        let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()).filter(|path| path.is_dir()) {
            if path.ends_with("programs") {
                return Ok(path);
            }
            dirs.push(path);
        }
    }
    bail!("nothing is pinned below {}", bpffs.display())
}

/// The instruction counts of this machine's own kernel.
fn host(binary: &Path) -> Result<Vec<(String, u32)>> {
    let bed = Testbed::new("kernels")?;
    let namespace = bed.namespace("host")?;
    let config = configure(&bed, &[])?;
    let mut command = namespace.command(binary);
    let mut agent = namespace.spawn("agent", command.args(["agent", "--config"]).arg(config))?;
    let socket = bed.dir().join("run/netfast.sock");
    agent.wait_ready(Duration::from_secs(120), || Ok(socket.exists().then_some(())))?;
    verified::of(&programs_dir(&bed.bpffs()?)?)
}

fn release() -> String {
    let output = Command::new("uname").arg("-r").output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// A line a check, a column a kernel.
fn table(outcomes: &[(&str, Outcome)]) -> String {
    let ran: Vec<_> = outcomes
        .iter()
        .filter_map(|(_, outcome)| match outcome {
            Outcome::Ran(release, rows, took) => Some((release, rows, took)),
            Outcome::Absent => None,
        })
        .collect();
    let mut text = String::new();
    for (release, rows, took) in ran {
        text += &format!("\nLinux {release} ({:.0} s)\n", took.as_secs_f64());
        for row in rows.iter().filter(|row| !row.check.starts_with("verified")) {
            let (mark, first) =
                (if row.ok { "ok" } else { "FAILED" }, row.detail.lines().next().unwrap_or_default());
            text += &format!("  {:16} {mark:6}  {first}\n", row.check);
        }
    }
    text
}

/// Instructions that the verifier walked: a line a program, a column a kernel.
fn counts(host: &[(String, u32)], outcomes: &[(&str, Outcome)]) -> String {
    let mut columns = vec![format!("{} (here)", release())];
    let mut lines: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, count) in host {
        lines.entry(name).or_default().push(count.to_string());
    }
    for (_, outcome) in outcomes {
        let Outcome::Ran(release, rows, _) = outcome else { continue };
        columns.push(release.clone());
        for (name, counts) in &mut lines {
            // A kernel that refused one has none to tell.
            let told = rows.iter().find(|row| row.check.strip_prefix("verified ") == Some(name));
            counts.push(told.map_or_else(|| "-".to_owned(), |row| row.detail.clone()));
        }
    }
    let mut text = format!("{:18}", "instructions");
    for column in &columns {
        text += &format!("  {column:>28}");
    }
    for (name, counts) in lines {
        text += &format!("\n  {name:16}");
        for count in counts {
            text += &format!("  {count:>28}");
        }
    }
    text + "\n"
}
