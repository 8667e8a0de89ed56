//! The same job without netfast, on the same veth pairs: nftables DNAT with masquerade, and a UDP echo server in user
//! space. Measured before the agent starts, so that no XDP program is in its way.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{
    shell,
    story::Story,
    topology::{World, service},
    traffic::{self, Server, Timings},
};
use crate::netns::Namespace;

/// Requests, each over a connection of its own.
const REQUESTS: usize = 2_000;
/// How long echoes are measured, one at a time and many at a time.
const ECHO: Duration = Duration::from_secs(2);
/// Echoes on the way at a time.
const WINDOW: usize = 64;

/// What one way of doing the job reached.
#[derive(Debug)]
pub struct Numbers {
    /// HTTP requests.
    pub http: Timings,
    /// Seconds for the bulk file.
    pub bulk: f64,
    /// Echoes one at a time.
    pub echo: Timings,
    /// Echoes lost meanwhile.
    pub echo_lost: usize,
    /// Echoes a second, many at a time.
    pub echo_rate: f64,
}

/// Sets nftables up, measures, takes it away.
pub fn measure(story: &mut Story, world: &World) -> Result<Numbers> {
    let rules = "add table ip demo\n\
        add chain ip demo pre { type nat hook prerouting priority dstnat; }\n\
        add chain ip demo post { type nat hook postrouting priority srcnat; }\n\
        add rule ip demo pre ip daddr 192.0.2.10 tcp dport 80 dnat ip to numgen inc mod 2 map { 0 : 10.0.1.11 . 8080, 1 : 10.0.2.12 . 8080 }\n\
        add rule ip demo post ip daddr { 10.0.1.11, 10.0.2.12 } masquerade\n";
    story.typed(
        "host",
        "nft 'add rule ip demo pre ip daddr 192.0.2.10 tcp dport 80 dnat ip to numgen inc mod 2 map { … }'",
    );
    let nft = |text: &str| {
        let status = shell(&world.host, &format!("nft -f - <<'END'\n{text}\nEND"))
            .status()
            .context("cannot run nft")?;
        anyhow::ensure!(status.success(), "nft: {status}");
        Ok(())
    };
    nft(rules)?;
    let server = Server::echo(&world.host, service(7))?;
    let numbers = run(story, world)?;
    story.check(
        numbers.http.count() == REQUESTS && numbers.echo.count() > 0,
        format_args!(
            "{} HTTP requests answered through nftables, {} echoes by a server in user space",
            numbers.http.count(),
            numbers.echo.count()
        ),
    )?;
    drop(server);
    nft("delete table ip demo")?;
    Ok(numbers)
}

/// Measures whatever does the job at present.
pub fn run(story: &Story, world: &World) -> Result<Numbers> {
    let client = &world.client;
    let http = story.during("HTTP requests", || traffic::http(client, service(80), REQUESTS))?;
    let bulk = story.during("bulk transfer", || download(client, "/dev/null"))?;
    let echo = story.during("echoes, one at a time", || traffic::echo(client, service(7), ECHO, 64))?;
    let echo_rate =
        story.during("echoes, many at a time", || traffic::echo_rate(client, service(7), ECHO, WINDOW))?;
    Ok(Numbers { http, bulk, echo: echo.timings, echo_lost: echo.lost, echo_rate })
}

/// Downloads the bulk file; seconds.
pub fn download(client: &Namespace, to: &str) -> Result<f64> {
    let text = client.run(&[
        "curl",
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        "60",
        "--output",
        to,
        "--write-out",
        "%{time_total}",
        "http://192.0.2.10/bulk",
    ])?;
    text.trim().parse().with_context(|| format!("curl said {text:?}"))
}

/// The comparison.
pub fn table(kernel: &Numbers, netfast: &Numbers) -> Vec<Vec<String>> {
    let row = |what: &str,
               of: &dyn Fn(&Numbers) -> String,
               value: &dyn Fn(&Numbers) -> f64,
               more_is_better: bool| {
        let (a, b) = (value(kernel), value(netfast));
        let factor = if more_is_better { b / a } else { a / b };
        vec![what.to_owned(), of(kernel), of(netfast), format!("{factor:.2} x")]
    };
    let mega = super::topology::BULK as f64 * 8.0 / 1e6;
    vec![
        ["", "kernel", "netfast", "netfast is better by"].map(str::to_owned).to_vec(),
        row("HTTP requests/s, 2 clients", &|n| format!("{:.0}", n.http.rate()), &|n| n.http.rate(), true),
        row("  median, µs", &|n| format!("{:.0}", n.http.micros(0.5)), &|n| n.http.micros(0.5), false),
        row(
            "  99 of 100 within, µs",
            &|n| format!("{:.0}", n.http.micros(0.99)),
            &|n| n.http.micros(0.99),
            false,
        ),
        row("bulk TCP, Mbit/s", &|n| format!("{:.0}", mega / n.bulk), &|n| mega / n.bulk, true),
        row("UDP echo, median µs", &|n| format!("{:.1}", n.echo.micros(0.5)), &|n| n.echo.micros(0.5), false),
        row(
            "  99 of 100 within, µs",
            &|n| format!("{:.1}", n.echo.micros(0.99)),
            &|n| n.echo.micros(0.99),
            false,
        ),
        row("UDP echoes/s, 64 on the way", &|n| format!("{:.0}", n.echo_rate), &|n| n.echo_rate, true),
    ]
}
