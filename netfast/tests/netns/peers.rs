//! Programs at the ends: whether they are there, and how they are started.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::support::netns::{Namespace, Process, output};

/// How long a server may take until it answers.
const START: Duration = Duration::from_secs(20);

/// Whether a test that needs these programs can run. Says what is missing; where everything is required
/// (`NETFAST_REQUIRE_PEERS=1`), that is a failure.
pub fn can_run(programs: &[&str]) -> bool {
    let there = |program: &&&str| {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&folders).any(|folder| folder.join(program).is_file())
    };
    let missing: Vec<_> = programs.iter().filter(|program| !there(program)).copied().collect();
    let why = if !nix::unistd::getuid().is_root() {
        "namespaces need root".to_owned()
    } else if missing.is_empty() {
        return true;
    } else {
        format!("not installed: {} (`cargo xtask setup` does it)", missing.join(", "))
    };
    let required = std::env::var_os("NETFAST_REQUIRE_PEERS").is_some_and(|value| value == "1");
    assert!(!required, "{why}");
    eprintln!("skipped: {why}");
    false
}

/// Ends the test early where it cannot run.
macro_rules! need {
    ($($program:literal),* $(,)?) => {
        if !$crate::peers::can_run(&[$($program),*]) {
            return Ok(());
        }
    };
}
pub(crate) use need;

/// The Python of the virtual environment with aioquic (`NETFAST_QUIC_PYTHON`, which `cargo xtask test` sets); as with
/// [`can_run`], without it the test ends early or fails.
pub fn quic_python() -> Option<PathBuf> {
    let python = std::env::var_os("NETFAST_QUIC_PYTHON").map(PathBuf::from);
    let there = python.filter(|python| {
        Command::new(python).args(["-c", "import aioquic"]).output().is_ok_and(|done| done.status.success())
    });
    if there.is_none() {
        let why = "no aioquic by NETFAST_QUIC_PYTHON (`cargo xtask test` installs and sets it)";
        let required = std::env::var_os("NETFAST_REQUIRE_PEERS").is_some_and(|value| value == "1");
        assert!(!required, "{why}");
        eprintln!("skipped: {why}");
    }
    there
}

/// First of the consecutive ports on which [`nginx`] listens beside 8080, and how many.
pub const RANGE: (u16, u16) = (9000, 10);

/// nginx in `namespace`, on 8080 and the ports of [`RANGE`] of all addresses. `/` answers with `name`, the client's
/// address and the port; `/bulk` is the file of that name in `dir`; what is PUT goes to `dir/name/put/`.
pub fn nginx(namespace: &Namespace, dir: &Path, name: &str) -> Result<Process> {
    let own = dir.join(name);
    fs::create_dir_all(own.join("put"))?;
    let file = own.join("nginx.conf");
    let listen: String = (RANGE.0..RANGE.0 + RANGE.1)
        .chain([8080])
        .map(|port| format!("listen [::]:{port} ipv6only=off backlog=1024; "))
        .collect();
    let (dir, own) = (dir.display(), own.display());
    // `user root`: the tests run as root, and their folder need not be open to others.
    let text = format!(
        "daemon off; user root; worker_processes 1; pid {own}/pid; error_log stderr;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n  access_log off; client_max_body_size 0;\n  client_body_temp_path {own}/body; proxy_temp_path {own}/p;\n  \
         fastcgi_temp_path {own}/f; uwsgi_temp_path {own}/u; scgi_temp_path {own}/s;\n  server {{ {listen}\n    \
         location = / {{ return 200 \"{name} $remote_addr $server_port\\n\"; }}\n    \
         location = /bulk {{ alias {dir}/bulk; }}\n    \
         location /put/ {{ root {own}; dav_methods PUT; }}\n  }}\n}}\n"
    );
    fs::write(&file, text)?;
    let mut command = namespace.command("nginx");
    let mut nginx =
        namespace.spawn(&format!("nginx-{name}"), command.arg("-c").arg(&file).args(["-e", "stderr"]))?;
    nginx.wait_ready(START, || {
        Ok(namespace.run(&["curl", "-s", "-f", "http://127.0.0.1:8080/"]).ok().map(drop))
    })?;
    Ok(nginx)
}

/// A name that [`dnsmasq`] knows, with its IPv4 and IPv6 address.
pub const KNOWN: (&str, &str, &str) = ("host.netfast.example", "203.0.113.53", "2001:db8:53::53");

/// dnsmasq on port 53 of all addresses.
pub fn dnsmasq(namespace: &Namespace) -> Result<Process> {
    let (name, v4, v6) = KNOWN;
    let mut command = namespace.command("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--user=root",
    ]);
    command.args(["--pid-file", "--log-queries", "--log-facility=-"]);
    command.arg(format!("--address=/{name}/{v4}")).arg(format!("--address=/{name}/{v6}"));
    // More than fits into one datagram without EDNS, which makes dig turn to TCP.
    for number in 0..40 {
        command.arg(format!("--txt-record=large.netfast.example,\"{number:030}\""));
    }
    let mut dnsmasq = namespace.spawn("dnsmasq", &mut command)?;
    dnsmasq.wait_ready(START, || {
        Ok(namespace.run(&["dig", "+short", "+tries=1", "+time=1", "@127.0.0.1", name]).ok().map(drop))
    })?;
    Ok(dnsmasq)
}

/// An iperf3 server on its port 5201.
pub fn iperf3(namespace: &Namespace) -> Result<Process> {
    let mut command = namespace.command("iperf3");
    let mut server = namespace.spawn("iperf3", command.args(["--server", "--forceflush"]))?;
    let log = |process: &Process| process.log().contains("Server listening");
    crate::support::netns::wait_for("iperf3", START, || {
        ensure!(server.exited()?.is_none(), "iperf3 ended: {}", server.log());
        Ok(log(&server).then_some(()))
    })?;
    Ok(server)
}

/// coturn's server in `namespace`, on ports 3478 and 3479 of two addresses, as RFC 5780 asks for.
pub fn stun_server(namespace: &Namespace, dir: &Path, addresses: [&str; 2]) -> Result<Process> {
    let mut command = namespace.command("turnserver");
    // No configuration file, no TURN, nobody has to give a name, and all files in the test's own folder.
    command.args([
        "-n",
        "--stun-only",
        "--no-auth",
        "--no-cli",
        "--no-tls",
        "--no-dtls",
        "--log-file=stdout",
    ]);
    command.arg(format!("--userdb={}", dir.join("turndb").display()));
    command.arg(format!("--pidfile={}", dir.join("turnserver.pid").display()));
    command.args(addresses.map(|address| format!("--listening-ip={address}")));
    let mut server = namespace.spawn("turnserver", &mut command)?;
    server.wait_ready(START, || {
        let answer = namespace.run(&["turnutils_natdiscovery", "-m", addresses[0]]);
        Ok(answer.is_ok_and(|text| text.contains("UDP reflexive addr")).then_some(()))
    })?;
    Ok(server)
}

/// The SHA-256 of a file.
pub fn hash(path: &Path) -> Result<String> {
    let text = output(Command::new("sha256sum").arg(path), "sha256sum")?;
    Ok(text.split_whitespace().next().context("no hash")?.to_owned())
}
