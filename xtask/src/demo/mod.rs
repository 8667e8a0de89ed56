//! `cargo xtask demo`: netfast doing its job on real traffic, told as a story.
//!
//! [`topology`] makes the namespaces, [`baseline`] measures the kernel's own ways first, [`chapters`] does everything
//! with the real agent and the real CLI, [`story`] prints. Every number and answer is checked; the exit code says so.

mod baseline;
mod chapters;
mod story;
mod topology;
mod traffic;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::getuid;

use self::{story::Story, topology::World};
use crate::{
    commands, interrupt,
    netns::{self, Testbed},
    setup, workspace,
};

/// Tag of the namespaces' names.
const TAG: &str = "demo";

/// What the story runs beside netfast.
const PROGRAMS: [&str; 9] = ["ip", "nsenter", "nft", "nginx", "dnsmasq", "curl", "dig", "sha256sum", "sh"];

/// Show netfast doing its job on real traffic, in namespaces, and check that it does
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave the topology up and print what to type next
    #[arg(long)]
    keep: bool,
    /// Remove what an earlier --keep has left, and nothing else
    #[arg(long, conflicts_with = "keep")]
    clean: bool,
    /// Install nothing: what is missing is an error
    #[arg(long)]
    no_install: bool,
    /// The netfast binary; then nothing is set up or built
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

/// Runs the demo.
pub fn run(args: Args) -> Result<()> {
    if !getuid().is_root() {
        let binary = match (&args.binary, args.clean) {
            (None, false) => Some(build(&args)?),
            (binary, _) => binary.clone(),
        };
        return by_sudo(&args, binary.as_deref());
    }
    if args.clean {
        let any = netns::clean(&netns::fixed_prefix(TAG));
        println!("{}", if any { "the demo's topology is gone" } else { "there is no topology of the demo" });
        return Ok(());
    }
    let binary = match &args.binary {
        Some(binary) => binary.canonicalize().with_context(|| format!("no {}", binary.display()))?,
        None => build(&args)?,
    };
    let missing: Vec<_> = PROGRAMS.into_iter().filter(|program| commands::find(program).is_none()).collect();
    ensure!(missing.is_empty(), "missing: {}; `cargo xtask setup` installs them", missing.join(", "));
    tell(&binary, args.keep)
}

/// The set-up and the release build; the binary.
fn build(args: &Args) -> Result<PathBuf> {
    if !args.no_install {
        setup::ensure(setup::Group::Demo)?;
    }
    eprintln!("demo: building netfast (release); the first time this takes a few minutes");
    let mut cargo = commands::cargo()
        .args(["build", "--release", "--package", "netfast", "--bin", "netfast"])
        .stdin(Stdio::null())
        .spawn()
        .context("cannot run cargo")?;
    let status = interrupt::wait(&mut cargo, || {})?;
    ensure!(status.success(), "the build failed");
    Ok(workspace::target_dir().join("release/netfast"))
}

/// The same again as root.
fn by_sudo(args: &Args, binary: Option<&Path>) -> Result<()> {
    let own = std::env::current_exe().context("cannot tell the path of xtask")?;
    let mut command = commands::as_root(&own.display().to_string())?;
    command.arg(TAG);
    for (flag, given) in [("--keep", args.keep), ("--clean", args.clean)] {
        command.args(given.then_some(flag));
    }
    if let Some(binary) = binary {
        command.arg("--binary").arg(binary);
    }
    let status = command.status().context("cannot run sudo")?;
    if !status.success() {
        bail!("the demo, run by sudo, ended with {status}");
    }
    Ok(())
}

fn tell(binary: &Path, keep: bool) -> Result<()> {
    let bed = if keep { Testbed::fixed(TAG)? } else { Testbed::new(TAG)? };
    let mut story = Story::new();
    story.say(&format!(
        "\nA client, netfast, two targets: network namespaces of their own, nothing else is touched.\n\n{}",
        topology::MAP
    ));
    let world = World::new(&bed)?;
    let mut baseline = None;
    story.chapter("The same job by the kernel, to compare with: nftables DNAT, an echo server", |story| {
        baseline = Some(baseline::measure(story, &world)?);
        Ok(())
    });
    let agent = chapters::tell(&mut story, &bed, &world, binary, baseline.as_ref(), keep)?;
    story.end()?;
    if keep {
        if let Some(agent) = agent {
            agent.detach();
        }
        world.servers.into_iter().for_each(netns::Process::detach);
        what_to_type(&bed, binary);
        bed.keep();
    }
    Ok(())
}

fn what_to_type(bed: &Testbed, binary: &Path) {
    let client = format!("nsenter --net=/run/netns/{}-client", bed.prefix());
    println!(
        "\nThe topology is up. What to type next, as root:\n\n  \
         export NETFAST_SOCKET={}\n  \
         alias netfast={}\n  \
         netfast status\n  \
         netfast stats --watch 1s\n  \
         {client} curl http://{}/\n  \
         {client} curl 'http://[2001:db8::10]/'\n  \
         netfast target delete web 10.0.2.12:8080\n  \
         netfast flows list\n\n\
         And to remove it:\n\n  \
         cargo xtask demo --clean",
        chapters::socket(bed).display(),
        binary.display(),
        topology::SERVICE,
    );
}

/// Runs a shell line, for what is written more clearly so.
fn shell(namespace: &netns::Namespace, line: &str) -> Command {
    let mut command = namespace.command("sh");
    command.arg("-c").arg(line);
    command
}
