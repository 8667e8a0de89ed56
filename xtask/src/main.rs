//! netfast's development verbs: `cargo xtask VERB`.
//!
//! A verb is a module with `Args` (clap; its doc comment is the verb's help) and `run(Args) -> anyhow::Result<()>`, and a
//! line in `verbs!`. xtask does not depend on the netfast crate: it has to build before the eBPF toolchain is there.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod abi;
mod bench;
mod build_ebpf;
mod commands;
mod demo;
mod examples;
mod fuzz;
mod interrupt;
mod kernels;
mod lint;
mod netns;
mod replay;
mod sandbox;
mod setup;
mod steps;
mod test;
mod toolchain;
mod workspace;

/// Declares the verbs: `Variant => module`; the verb is the variant's name in kebab-case.
macro_rules! verbs {
    ($($verb:ident => $module:ident),+ $(,)?) => {
        #[derive(Subcommand)]
        enum Verb {
            $($verb($module::Args),)+
        }

        fn run(verb: Verb) -> anyhow::Result<()> {
            match verb {
                $(Verb::$verb(args) => $module::run(args),)+
            }
        }
    };
}

verbs! {
    Setup => setup,
    BuildEbpf => build_ebpf,
    Demo => demo,
    Test => test,
    Lint => lint,
    Replay => replay,
    Fuzz => fuzz,
    Bench => bench,
    Kernels => kernels,
    Sandbox => sandbox,
}

/// netfast's development verbs.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

fn main() -> ExitCode {
    match run(Cli::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(interrupt::exit_code().unwrap_or(1))
        }
    }
}
