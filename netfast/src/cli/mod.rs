//! The command line: a file per verb. All but `agent`, `check`, `completion` and `man` are clients of the agent's socket.

mod agent;
mod apply;
mod attach;
mod balance;
mod change;
mod check;
mod claim;
mod completion;
mod diff;
mod document;
mod drain;
mod echo;
mod explain;
mod export;
mod failure;
mod files;
mod filter;
mod flows;
mod forward;
mod man;
mod output;
mod set;
mod snat;
mod stats;
mod status;
mod stop;
mod target;
mod units;
mod values;
mod version;

use std::{env, ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};

pub use self::{
    document::markdown,
    failure::{EXIT_NEGATIVE, exit_code},
};
use self::{
    failure::{Failure, Outcome},
    output::{Format, Output},
};
use crate::api::{
    client::{Client, DEFAULT_SOCKET},
    types::{ErrorBody, ErrorCode},
};

/// XDP port forwarder, load balancer, packet filter and UDP echo reflector
///
/// `netfast agent` is the daemon: it loads the XDP program, owns its maps and keeps them in step with the rules. Every other
/// verb talks to it over a Unix socket. Data goes to stdout, everything else to stderr.
#[derive(Debug, Parser)]
#[command(
    name = "netfast",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100,
    after_long_help = "\
Exit codes:
  0  done
  1  a negative answer: files differ, the agent is not ready
  2  the command line is wrong
  3  the change or the file was rejected
  4  what was named does not exist
  5  conflict: it exists already, or the revision is another one
  6  the agent or its store cannot be reached
  7  no permission

Examples:
  netfast attach eth0
  netfast forward add web tcp 192.0.2.10:443 --to 10.0.0.11:8443 --to 10.0.0.12:8443,weight=2
  netfast status
  netfast stats --watch 1s"
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb takes.
#[derive(Debug, clap::Args)]
struct Global {
    /// Form of the data on stdout
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORM",
        help_heading = "Global options"
    )]
    output: Format,
    /// Print nothing but the data that was asked for, and errors
    #[arg(short, long, global = true, help_heading = "Global options")]
    quiet: bool,
    /// No colours (also: environment variable NO_COLOR)
    #[arg(long, global = true, help_heading = "Global options")]
    no_color: bool,
    /// The agent's socket [default: /run/netfast/netfast.sock]
    #[arg(
        long,
        global = true,
        env = "NETFAST_SOCKET",
        hide_env_values = true,
        value_name = "PATH",
        help_heading = "Global options"
    )]
    socket: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Agent(agent::Agent),
    #[command(flatten)]
    Client(Box<ClientVerb>),
    Check(check::Check),
    Completion(completion::Completion),
    Man(man::Man),
}

/// The verbs that ask the agent.
#[derive(Debug, Subcommand)]
enum ClientVerb {
    Stop(stop::Stop),
    Attach(attach::Attach),
    Detach(attach::Detach),
    #[command(subcommand)]
    Forward(forward::Forward),
    #[command(subcommand)]
    Target(target::Target),
    #[command(subcommand)]
    Snat(snat::Snat),
    #[command(subcommand)]
    Echo(echo::Echo),
    #[command(subcommand)]
    Filter(filter::Filter),
    #[command(subcommand)]
    Set(set::Set),
    Explain(explain::Explain),
    Apply(apply::Apply),
    Diff(diff::Diff),
    Export(export::Export),
    Status(status::Status),
    Stats(stats::Stats),
    #[command(subcommand)]
    Flows(flows::Flows),
    Version(version::Version),
}

/// What a verb works with: the agent, and where to print.
#[derive(Debug)]
struct Context {
    client: Client,
    output: Output,
}

/// The command line as clap sees it, for completion, man pages and docs/cli.md.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().collect();
    let asked = Asked::scan(&arguments);
    let color = if asked.no_color { ColorChoice::Never } else { ColorChoice::Auto };
    let parsed = command()
        .color(color)
        .try_get_matches_from(arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return not_parsed(&error, asked),
    };
    let Global { output, quiet, no_color, socket } = cli.global;
    let output = Output::new(output, quiet, !no_color && !no_color_in_environment());
    match run(cli.verb, socket, output) {
        Ok(()) | Err(Failure::ReaderGone) => ExitCode::SUCCESS,
        Err(Failure::Negative) => ExitCode::from(EXIT_NEGATIVE),
        Err(Failure::File(report)) => {
            output.report(&report);
            ExitCode::from(exit_code(ErrorCode::Rejected))
        }
        Err(Failure::Error(error)) => {
            output.error(&error);
            ExitCode::from(exit_code(error.code))
        }
    }
}

fn run(verb: Verb, socket: Option<PathBuf>, output: Output) -> Outcome {
    match verb {
        // The daemon has a runtime of its own.
        Verb::Agent(verb) => verb.run(socket),
        Verb::Check(verb) => verb.run(output),
        Verb::Completion(verb) => verb.run(output),
        Verb::Man(verb) => verb.run(output),
        Verb::Client(verb) => {
            let client = Client::new(socket.unwrap_or_else(|| DEFAULT_SOCKET.into()));
            let context = Context { client, output };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime
                .map_err(|error| Failure::new(ErrorCode::Internal, format_args!("cannot start: {error}")))?
                .block_on(ask(*verb, &context))
        }
    }
}

async fn ask(verb: ClientVerb, context: &Context) -> Outcome {
    match verb {
        ClientVerb::Stop(verb) => verb.run(context).await,
        ClientVerb::Attach(verb) => verb.run(context).await,
        ClientVerb::Detach(verb) => verb.run(context).await,
        ClientVerb::Forward(verb) => verb.run(context).await,
        ClientVerb::Target(verb) => verb.run(context).await,
        ClientVerb::Snat(verb) => verb.run(context).await,
        ClientVerb::Echo(verb) => verb.run(context).await,
        ClientVerb::Filter(verb) => verb.run(context).await,
        ClientVerb::Set(verb) => verb.run(context).await,
        ClientVerb::Explain(verb) => verb.run(context).await,
        ClientVerb::Apply(verb) => verb.run(context).await,
        ClientVerb::Diff(verb) => verb.run(context).await,
        ClientVerb::Export(verb) => verb.run(context).await,
        ClientVerb::Status(verb) => verb.run(context).await,
        ClientVerb::Stats(verb) => verb.run(context).await,
        ClientVerb::Flows(verb) => verb.run(context).await,
        ClientVerb::Version(verb) => verb.run(context).await,
    }
}

fn no_color_in_environment() -> bool {
    env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// What is needed to know of the arguments even where clap could not read them.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    json: bool,
    no_color: bool,
}

impl Asked {
    fn scan(arguments: &[OsString]) -> Self {
        let words: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
        let mut asked = Self::default();
        for (index, word) in words.iter().enumerate() {
            let value = match word.as_ref() {
                "--" => break,
                "--no-color" => {
                    asked.no_color = true;
                    None
                }
                "-o" | "--output" => words.get(index + 1).map(AsRef::as_ref),
                _ => word.strip_prefix("--output=").or_else(|| word.strip_prefix("-o")),
            };
            asked.json |=
                value.is_some_and(|value| matches!(value.trim_start_matches('='), "json" | "jsonl"));
        }
        asked
    }
}

/// Prints help, version or what is wrong with the command line.
fn not_parsed(error: &clap::Error, asked: Asked) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A reader that has gone (`netfast help | head`) wants no more.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if asked.json {
        let text = error.render().to_string();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let lines: Vec<_> =
            lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more")).collect();
        let message = lines.join(" ").replacen("error: ", "", 1).replace(" tip: ", "; ");
        let field = error.get(clap::error::ContextKind::InvalidArg).map(ToString::to_string);
        Output::new(Format::Json, false, false).error(&ErrorBody { code: ErrorCode::Usage, message, field });
    } else {
        let _ = error.print();
    }
    ExitCode::from(exit_code(ErrorCode::Usage))
}
