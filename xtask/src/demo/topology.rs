//! The demo's small world: a client, the netfast host, two targets with a web server each and one with a DNS server.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::netns::{Namespace, Process, Testbed, output, wait_for};

/// Drawn for the reader.
pub const MAP: &str = concat!(
    "                         ┌────────── netfast host ──────────┐\n",
    " client                  │  192.0.2.10    2001:db8::10      │ lan1 ─── target-1  10.0.1.11  2001:db8:1::11\n",
    " 198.51.100.2 ───── wan0 │                                  │          nginx on 8080, dnsmasq on 53\n",
    " 2001:db8:ff::2          │  XDP on wan0, lan1 and lan2      │ lan2 ─── target-2  10.0.2.12  2001:db8:2::12\n",
    "                         └──────────────────────────────────┘          nginx on 8080\n",
);

/// Address of the services.
pub const SERVICE: &str = "192.0.2.10";
/// The client's address.
pub const CLIENT: &str = "198.51.100.2";
/// The name that the DNS server knows, and what it answers.
pub const NAME: (&str, &str) = ("demo.netfast.example", "203.0.113.53");
/// Size of the file for the bulk transfer.
pub const BULK: usize = 64 << 20;

/// The namespaces and the targets' servers.
#[derive(Debug)]
pub struct World {
    /// Where the client is.
    pub client: Namespace,
    /// Where netfast is.
    pub host: Namespace,
    /// The targets' servers; they end with this value.
    pub servers: Vec<Process>,
    dir: PathBuf,
}

impl World {
    /// Makes it in a bed.
    pub fn new(bed: &Testbed) -> Result<Self> {
        let client = bed.namespace("client")?;
        let host = bed.namespace("host")?;
        host.forwarding()?;
        // A router answers for its addresses only where they are: one address, one interface.
        bed.veth((&client, "eth0"), (&host, "wan0"))?;
        for (namespace, device, address) in [
            (&client, "eth0", "198.51.100.2/24"),
            (&client, "eth0", "2001:db8:ff::2/64"),
            (&host, "wan0", "198.51.100.1/24"),
            (&host, "wan0", "2001:db8:ff::1/64"),
            (&host, "wan0", "192.0.2.10/32"),
            (&host, "wan0", "2001:db8::10/128"),
        ] {
            namespace.address(device, address)?;
        }
        client.route("default via 198.51.100.1")?;
        client.route("default via 2001:db8:ff::1")?;
        client.xdp_pass("eth0")?;

        let dir = bed.dir().to_owned();
        write_bulk(&dir.join("bulk"))?;
        let mut servers = Vec::new();
        for (number, v4) in [(1, "10.0.1.11"), (2, "10.0.2.12")] {
            let target = bed.namespace(&format!("target{number}"))?;
            let lan = format!("lan{number}");
            let v6 = format!("2001:db8:{number}::1{number}");
            bed.veth((&target, "eth0"), (&host, &lan))?;
            host.address(&lan, &format!("10.0.{number}.1/24"))?;
            host.address(&lan, &format!("2001:db8:{number}::1/64"))?;
            target.address("eth0", &format!("{v4}/24"))?;
            target.address("eth0", &format!("{v6}/64"))?;
            target.route(&format!("default via 10.0.{number}.1"))?;
            target.route(&format!("default via 2001:db8:{number}::1"))?;
            target.xdp_pass("eth0")?;
            servers.push(nginx(&target, &dir, number, v4, &v6)?);
            if number == 1 {
                servers.push(dnsmasq(&target, v4)?);
            }
        }
        Ok(Self { client, host, servers, dir })
    }

    /// The SHA-256 of the bulk file, as `sha256sum` says.
    pub fn bulk_hash(&self) -> Result<String> {
        hash(&self.dir.join("bulk"))
    }

    /// What the DNS server has logged.
    pub fn dns_log(&self) -> String {
        fs::read_to_string(self.dir.join("dnsmasq.log")).unwrap_or_default()
    }
}

/// The service's socket address.
pub fn service(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 10], port))
}

/// The SHA-256 of a file.
pub fn hash(path: &Path) -> Result<String> {
    let text = output(std::process::Command::new("sha256sum").arg(path), "sha256sum")?;
    Ok(text.split_whitespace().next().context("no hash")?.to_owned())
}

fn write_bulk(path: &Path) -> Result<()> {
    let mut random = std::io::Read::take(fs::File::open("/dev/urandom")?, BULK as u64);
    std::io::copy(&mut random, &mut fs::File::create(path)?)?;
    Ok(())
}

fn nginx(target: &Namespace, dir: &Path, number: u32, v4: &str, v6: &str) -> Result<Process> {
    let file = dir.join(format!("nginx-{number}.conf"));
    let temporary = dir.join(format!("nginx-{number}"));
    fs::create_dir_all(&temporary)?;
    let (dir, temporary) = (dir.display(), temporary.display());
    // `user root`: the demo runs as root in namespaces of its own, and its folder need not be open to others.
    let text = format!(
        "daemon off; user root; worker_processes 1; pid {temporary}/pid; error_log stderr;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n\
           access_log off; sendfile on; tcp_nodelay on;\n\
           client_body_temp_path {temporary}/body; proxy_temp_path {temporary}/proxy;\n\
           fastcgi_temp_path {temporary}/fastcgi; uwsgi_temp_path {temporary}/uwsgi; scgi_temp_path {temporary}/scgi;\n\
           server {{\n\
             listen {v4}:8080 backlog=1024; listen [{v6}]:8080 backlog=1024;\n\
             location / {{ return 200 \"target-{number} saw $remote_addr\\n\"; }}\n\
             location = /bulk {{ alias {dir}/bulk; }}\n\
           }}\n\
         }}\n"
    );
    fs::write(&file, text)?;
    let mut command = target.command("nginx");
    command.arg("-c").arg(&file).arg("-e").arg("stderr");
    let mut nginx = target.spawn(&format!("nginx-{number}"), &mut command)?;
    let address: SocketAddr = format!("{v4}:8080").parse()?;
    nginx.wait_ready(Duration::from_secs(10), || {
        Ok(super::traffic::connects(target, address, Duration::from_millis(200))?.then_some(()))
    })?;
    Ok(nginx)
}

fn dnsmasq(target: &Namespace, address: &str) -> Result<Process> {
    let (name, answer) = NAME;
    let mut command = target.command("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--user=root",
    ]);
    command.args(["--bind-interfaces", "--pid-file", "--log-queries", "--log-facility=-"]);
    command.arg(format!("--listen-address={address}")).arg(format!("--address=/{name}/{answer}"));
    let mut dnsmasq = target.spawn("dnsmasq", &mut command)?;
    let server = format!("@{address}");
    wait_for("dnsmasq", Duration::from_secs(10), || {
        anyhow::ensure!(dnsmasq.exited()?.is_none(), "dnsmasq ended: {}", dnsmasq.log());
        Ok(target
            .run(&["dig", "+short", "+tries=1", "+time=1", &server, name])
            .ok()
            .filter(|text| text.contains(answer)))
    })?;
    Ok(dnsmasq)
}
