//! A virtual machine without KVM, its four cards on two bridges in a network namespace, and what it says on its console.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::packages::{Kernel, Machine};
use crate::{
    interrupt,
    netns::{Namespace, Testbed},
    workspace,
};

/// The cards: name in the machine, last byte of the MAC address, bridge. Card 1 faces card 2, card 3 card 4.
pub const CARDS: [(&str, u8, &str); 4] =
    [("wan0", 1, "wan"), ("client", 2, "wan"), ("lan0", 3, "lan"), ("target", 4, "lan")];

/// Begins a result's line on the console.
pub const MARK: &str = "@netfast ";

/// How long a machine may take for everything.
const PATIENCE: Duration = Duration::from_secs(1200);
/// How long it may say nothing.
const SILENCE: Duration = Duration::from_secs(450);

/// What a machine tells about one check.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// The check's name; `verified NAME` for an instruction count.
    pub check: String,
    /// Whether it held.
    pub ok: bool,
    /// What was seen; an error in full.
    pub detail: String,
}

/// MAC address of a card.
pub fn mac(last: u8) -> String {
    format!("52:54:00:6e:66:{last:02x}")
}

/// Queue pairs of a card: XDP wants one more for each CPU beside the two in use.
const QUEUES: u8 = 4;

/// Boots a kernel with an initramfs and returns what it reported; the console is in `kernel-RELEASE.log`.
pub fn run(bed: &Testbed, kernel: &Kernel, machine: &Machine, initramfs: &Path) -> Result<Vec<Row>> {
    let network = network(bed)?;
    let mut command = network.command(&machine.qemu);
    if let Some(prefix) = &machine.prefix {
        let libraries = prefix.join("usr/lib/x86_64-linux-gnu");
        command.env("LD_LIBRARY_PATH", &libraries).env("QEMU_MODULE_DIR", libraries.join("qemu"));
    }
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"]);
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initramfs);
    command.args(["-append", "console=ttyS0 mitigations=off panic=-1 quiet"]);
    for (name, last, _) in CARDS {
        let backend =
            format!("tap,id={name},ifname={name},queues={QUEUES},script=no,downscript=no,vhost=off");
        let vectors = 2 * QUEUES + 2;
        let card = format!("virtio-net-pci,netdev={name},mac={},mq=on,vectors={vectors},romfile=", mac(last));
        command.args(["-netdev", &backend, "-device", &card]);
    }
    let log = workspace::log_dir().join(format!("kernel-{}.log", kernel.release));
    let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file.try_clone()?);
    let child = command.spawn().context("cannot run QEMU")?;
    let rows = listen(Guard(child), file).with_context(|| format!("its console: {}", log.display()))?;
    Ok(rows)
}

/// Two bridges with two taps each, nothing else.
fn network(bed: &Testbed) -> Result<Namespace> {
    let network = bed.namespace("qemu")?;
    for bridge in ["wan", "lan"] {
        network.ip(&["link", "add", bridge, "type", "bridge", "mcast_snooping", "0"])?;
        network.sysctl(&format!("net.ipv6.conf.{bridge}.disable_ipv6"), "1")?;
        network.ip(&["link", "set", bridge, "up"])?;
    }
    for (name, _, bridge) in CARDS {
        network.ip(&["tuntap", "add", "dev", name, "mode", "tap", "multi_queue"])?;
        network.sysctl(&format!("net.ipv6.conf.{name}.disable_ipv6"), "1")?;
        network.ip(&["link", "set", name, "master", bridge, "up"])?;
    }
    Ok(network)
}

/// Ends the machine with the value.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn listen(mut guest: Guard, mut log: File) -> Result<Vec<Row>> {
    let console = guest.0.stdout.take().context("no console")?;
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        let mut console = BufReader::new(console);
        let mut line = Vec::new();
        while console.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let _ = log.write_all(&line);
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                return;
            }
            line.clear();
        }
    });
    let (began, mut last) = (Instant::now(), Instant::now());
    let mut rows = Vec::new();
    loop {
        interrupt::check()?;
        match lines.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => {
                last = Instant::now();
                if let Some(at) = line.find(MARK) {
                    let text = line.get(at + MARK.len()..).unwrap_or_default();
                    if text == "end" {
                        return Ok(rows);
                    }
                    rows.push(serde_json::from_str(text).with_context(|| format!("not a result: {text}"))?);
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                if began.elapsed() > PATIENCE || last.elapsed() > SILENCE {
                    bail!("the machine did not come to its end; {} results so far", rows.len());
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                bail!("the machine ended before its checks; {} results so far", rows.len())
            }
        }
    }
}
