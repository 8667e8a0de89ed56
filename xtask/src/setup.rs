//! `cargo xtask setup`: installs what the other verbs need, says so before, and does nothing on a second run.
//!
//! Packages come from the system's archives by apt-get and nothing is ever removed; the rest is built or put into the tools
//! folder (`~/.cache/netfast/tools`) by cargo and pip.

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{
    steps::Steps,
    toolchain::{self, Origin},
};

pub mod apt;
mod ebpf;
mod packages;
pub mod tools;

use packages::Package;

/// Install what the other verbs need (eBPF toolchain, test peers, lint tools)
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only report what is missing; exit 1 if something is
    #[arg(long)]
    no_install: bool,
    /// What to set up for
    #[arg(long = "for", value_enum, default_value_t = Group::Test)]
    group: Group,
}

/// What is set up for; each includes the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Group {
    /// `cargo build` and what runs without other programs
    Build,
    /// `cargo xtask demo`
    Demo,
    /// `cargo xtask test` and `lint`
    Test,
}

/// Something that this machine lacks.
enum Lack {
    /// The eBPF toolchain or a part of it.
    Ebpf,
    /// A package of the system's archives.
    Package(Package),
    /// Something in the tools folder.
    Tool(tools::Tool),
}

/// The verb.
pub fn run(args: Args) -> Result<()> {
    let lacks = lacks(args.group);
    if !lacks.is_empty() {
        report(&lacks);
        if args.no_install {
            bail!("{} missing: `cargo xtask setup` installs what can be had", lacks.len());
        }
        install(args.group, lacks)?;
    }
    let toolchain = toolchain::find()?;
    println!("setup: complete; eBPF by {}, {}", toolchain.rustc, toolchain.linker.display());
    Ok(())
}

/// Sets up for a verb; silent if there is nothing to do.
pub fn ensure(group: Group) -> Result<()> {
    let lacks = lacks(group);
    if lacks.is_empty() {
        return Ok(());
    }
    report(&lacks);
    install(group, lacks)
}

/// What a group lacks here. Looks at files only, but for asking the compilers their version.
fn lacks(group: Group) -> Vec<Lack> {
    let toolchain = toolchain::find();
    let distribution = matches!(&toolchain, Ok(found) if found.rustc.origin != Origin::Rustup);
    let mut lacks: Vec<_> = toolchain.err().into_iter().map(|_| Lack::Ebpf).collect();
    lacks.extend(packages::of(group, distribution).filter(|package| !package.is_there()).map(Lack::Package));
    if group >= Group::Test {
        lacks.extend(tools::ALL.iter().filter(|tool| !tool.is_there()).copied().map(Lack::Tool));
    }
    lacks
}

fn report(lacks: &[Lack]) {
    eprintln!("setup: missing on this machine:");
    for lack in lacks {
        match lack {
            Lack::Ebpf => eprintln!("  {:24} {}", "eBPF toolchain", ebpf::plan()),
            Lack::Package(package) => eprintln!("  {:24} package, {}", package.name, package.why),
            Lack::Tool(tool) => eprintln!("  {:24} {}", tool.name, tool.why),
        }
    }
}

fn install(group: Group, lacks: Vec<Lack>) -> Result<()> {
    let mut steps = Steps::new("setup");
    let mut packages = Vec::new();
    let mut tools = Vec::new();
    for lack in lacks {
        match lack {
            Lack::Ebpf => {
                steps.run("eBPF toolchain", ebpf::install)?;
            }
            Lack::Package(package) => packages.push(package),
            Lack::Tool(tool) => tools.push(tool),
        }
    }
    // Which compiler it is decides what else is wanted, and that was not known before.
    let distribution = matches!(toolchain::find(), Ok(found) if found.rustc.origin != Origin::Rustup);
    let late = packages::of(group, distribution).filter(|package| !package.is_there());
    let late: Vec<_> =
        late.filter(|package| packages.iter().all(|known| known.name != package.name)).collect();
    packages.extend(late);

    if !packages.is_empty() {
        let names: Vec<_> = packages.iter().map(|package| package.name).collect();
        steps.run(&format!("packages: {}", names.join(" ")), || apt::install_packages(&packages))?;
    }
    for tool in tools {
        steps.run(tool.name, || tool.install())?;
    }
    steps.finish()
}
