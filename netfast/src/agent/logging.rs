//! The agent's log: to the journal where systemd started it, else to stderr.

use std::{
    env,
    io::{self, IsTerminal as _},
    os::unix::fs::MetadataExt,
};

use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// Starts logging. `level` is a level or a filter; a wrong one is told and `info` used. Does nothing the second time.
pub(super) fn start(level: &str) {
    // aya tells each relocation at `debug`: only to those who ask for it by name.
    let quiet = if level.contains(['=', ',']) { "" } else { ",aya=warn,aya_obj=warn" };
    let (filter, problem) = match EnvFilter::try_new(format!("{level}{quiet}")) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let journal = stderr_is_journal().then(tracing_journald::layer).and_then(Result::ok);
    let layer = match journal {
        Some(journal) => journal.with_syslog_identifier("netfast".to_owned()).boxed(),
        None => tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal())
            .boxed(),
    };
    // Fails if something logs already, as in a test; then that goes on.
    let _ = tracing_subscriber::registry().with(filter).with(layer).try_init();
    if let Some(error) = problem {
        tracing::warn!("[log] level = {level:?} in agent.toml is not a level ({error}): using \"info\"");
    }
}

/// systemd tells device and inode of the stream in JOURNAL_STREAM; a redirected stderr is another one.
fn stderr_is_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else { return false };
    let Ok(metadata) = std::fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", metadata.dev(), metadata.ino())
}
