//! Everything that leaves, read by a program that no one here wrote: scapy.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use crate::{ALL, bed};

/// Reads frames as lines of hexadecimal digits; prints those whose checksums it would have written otherwise.
const SCRIPT: &str = r#"
import sys
from scapy.all import Ether, ICMP, IP, IPv6, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoReply, ICMPv6EchoRequest
from scapy.layers.inet6 import ICMPv6PacketTooBig, ICMPv6ParamProblem, ICMPv6TimeExceeded
errors = (ICMP, ICMPv6DestUnreach, ICMPv6PacketTooBig, ICMPv6ParamProblem, ICMPv6TimeExceeded)
errors += (ICMPv6EchoRequest, ICMPv6EchoReply)
checked = 0
for number, line in enumerate(sys.stdin):
    frame = bytes.fromhex(line)
    seen = Ether(frame)
    again = Ether(frame)
    # The packet inside an ICMP error is as its sender left it.
    icmp = next((layer for layer in errors if layer in seen), None)
    if icmp:
        again[icmp].remove_payload()
        again[icmp].add_payload(bytes(seen[icmp].payload))
        field = "chksum" if icmp is ICMP else "cksum"
        was = getattr(seen[icmp], field)
        delattr(again[icmp], field)
        if IP in again:
            del again[IP].chksum
        again = Ether(bytes(again))
        checked += 1
        if was != getattr(again[icmp], field) or (IP in seen and seen[IP].chksum != again[IP].chksum):
            print("wrong:", number, icmp.__name__, line)
        continue
    for layer in (IP, TCP, UDP):
        if layer in again and not (layer is UDP and again[layer].chksum == 0):
            del again[layer].chksum
    again = Ether(bytes(again))
    if not (IP in seen or IPv6 in seen) or not (TCP in seen or UDP in seen):
        print("not TCP or UDP over IP:", number, line)
    for layer in (IP, TCP, UDP):
        if layer in seen:
            checked += 1
            if seen[layer].chksum != again[layer].chksum:
                print("wrong:", number, layer.__name__, hex(seen[layer].chksum), hex(again[layer].chksum), line)
print("checked", checked)
"#;

#[test]
fn scapy_agrees_with_every_checksum() {
    // Debian's python3-scapy, not one of a virtual environment.
    let python = "/usr/bin/python3";
    let there = Command::new(python).args(["-c", "import scapy.all"]).output();
    if !there.is_ok_and(|output| output.status.success()) {
        let required = std::env::var_os("NETFAST_REQUIRE_PEERS").is_some_and(|value| value == "1");
        assert!(!required, "{python} has no scapy: apt-get install python3-scapy");
        println!("skipped: {python} has no scapy (Debian's package python3-scapy)");
        return;
    }
    let scenarios = ALL.iter().copied().flatten();
    let left: Vec<Vec<u8>> = scenarios.flat_map(|(_, scenario)| bed::run(*scenario)).collect();
    assert!(left.len() > 300, "only {} frames left", left.len());
    let mut child = Command::new(python)
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        for frame in left {
            let line: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(stdin, "{line}").unwrap();
        }
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    let (last, problems) =
        text.lines().collect::<Vec<_>>().split_last().map(|(l, p)| (*l, p.to_vec())).unwrap();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    let checked: u32 = last.strip_prefix("checked ").unwrap().parse().unwrap();
    assert!(checked > 500, "{checked}");
}
