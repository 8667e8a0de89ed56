//! Traffic in a virtual machine: busybox' web server and curl, datagrams that a server sends back.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::netns::{Namespace, Process, output, wait_for};

/// Port of the target's web server.
pub const WEB: u16 = 8080;
/// Port of the target's server that sends datagrams back.
pub const UDP: u16 = 8081;
/// The page that tells which client the target saw.
const SEEN: &str = "cgi-bin/seen";

/// Starts both servers.
pub fn servers(target: &Namespace, dir: &Path) -> Result<Vec<Process>> {
    let root = dir.join("www");
    fs::create_dir_all(root.join("cgi-bin"))?;
    fs::write(root.join("name"), "target\n")?;
    let script = root.join(SEEN);
    fs::write(&script, "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n%s\\n' \"$REMOTE_ADDR\"\n")?;
    output(std::process::Command::new("chmod").arg("755").arg(&script), "chmod")?;
    let mut random = std::io::Read::take(fs::File::open("/dev/urandom")?, 4 << 20);
    std::io::copy(&mut random, &mut fs::File::create(root.join("bulk"))?)?;
    let mut command = target.command("httpd");
    let web = target.spawn("httpd", command.args(["-f", "-p", &format!("[::]:{WEB}"), "-h"]).arg(&root))?;

    let socket =
        target.enter(|| UdpSocket::bind(("::", UDP)))?.context("cannot open the UDP server's port")?;
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(buffer.get(..length).unwrap_or_default(), from);
        }
    });
    let mut last = String::new();
    let up = wait_for("the web server", Duration::from_secs(30), || {
        let page = page(target, &format!("http://127.0.0.1:{WEB}/name"));
        last = page.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
        Ok(page.ok())
    });
    up.with_context(|| format!("{last}; it wrote {:?}", web.log()))?;
    Ok(vec![web])
}

/// A page.
pub fn page(client: &Namespace, url: &str) -> Result<String> {
    client.run(&["curl", "--silent", "--show-error", "--fail", "--globoff", "--max-time", "10", url])
}

/// The client's address as the target sees it, after 20 pages by connections of their own and a file by its hash.
pub fn web(client: &Namespace, dir: &Path, url: &str) -> Result<String> {
    for number in 0..20 {
        let text = page(client, &format!("{url}/name")).with_context(|| format!("page {number}"))?;
        ensure!(text == "target\n", "page {number}: {text:?}");
    }
    let file = dir.join("got");
    let line =
        format!("curl --silent --show-error --fail --globoff --max-time 60 -o {} {url}/bulk", file.display());
    client.run(&line.split(' ').collect::<Vec<_>>())?;
    let same = fs::read(&file)? == fs::read(dir.join("www/bulk"))?;
    ensure!(same, "the file did not arrive as it was sent");
    let seen = page(client, &format!("{url}/{SEEN}"))?;
    // busybox writes brackets around IPv6 addresses.
    let seen = seen.trim().trim_start_matches('[').trim_end_matches(']');
    Ok(seen.trim_start_matches("::ffff:").to_owned())
}

/// Sends datagrams of many lengths, each of which has to come back before the next is sent.
pub fn datagrams(client: &Namespace, service: &str, count: usize) -> Result<usize> {
    let service: SocketAddr = service.parse()?;
    let any = if service.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = client.enter(|| UdpSocket::bind(any))??;
    socket.connect(service)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    for number in 0..count {
        let sent: Vec<u8> = (0..(number * 7) % 1400).map(|at| (at + number) as u8).collect();
        socket.send(&sent)?;
        let mut buffer = [0; 2048];
        let length = socket.recv(&mut buffer).with_context(|| format!("datagram {number} of {count}"))?;
        ensure!(buffer.get(..length) == Some(sent.as_slice()), "datagram {number} came back changed");
    }
    Ok(count)
}
