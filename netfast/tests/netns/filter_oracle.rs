//! nftables as oracle of the filter: the same file loaded by both, the same packets at random, the same rule for each.

use anyhow::{Context, Result};

use crate::{
    peers::need,
    support::{PATIENCE, netns::wait_for},
    world::World,
};

/// Every rule counts, and the last one takes what is left: so all packets are accounted for.
const RULES: &str = "table ip oracle {
	set some {
		type ipv4_addr
		flags interval
		elements = { 198.51.100.16/28, 198.51.100.40-198.51.100.45 }
	}
	chain input {
		type filter hook input priority filter; policy accept;
		ip saddr @some udp dport { 53, 500-600 } counter drop
		ip saddr 198.51.100.0/26 tcp flags syn / fin,syn,rst,ack counter drop
		ip saddr 198.51.100.0/24 tcp flags & (fin|rst) != 0 counter drop
		ip saddr 198.51.100.0/24 icmp type { echo-request, timestamp-request } counter drop
		ip saddr 198.51.100.0/24 meta l4proto { tcp, udp } th dport 1-1000 counter drop
		ip saddr 198.51.100.32/27 udp sport 2000-65535 counter drop
		ip saddr { 198.51.100.3, 198.51.100.64/26 } ip protocol tcp counter accept
		ip saddr 198.51.100.128/25 counter drop
		ip saddr 198.51.100.0/24 counter drop
	}
}
";
/// `fin|rst` is a rule for each of the flags here, and one of nftables.
const TWO: usize = 2;

/// Packets from any source of the clients' network, in an order that the seed tells; no TCP flags that a policy of netfast
/// drops before the filter is asked.
const SENDER: &str = "
import random, socket, struct, time
random.seed(7)
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
def checksum(data):
    data += b'\\0' * (len(data) % 2)
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
for number in range(3000):
    source = socket.inet_aton('198.51.100.%d' % random.randrange(3, 250))
    target = socket.inet_aton('192.0.2.10')
    protocol = random.choice([6, 6, 17, 17, 1])
    ports = struct.pack('!HH', random.randrange(1, 4000), random.choice([53, 22, 80, 443, 550, random.randrange(1, 3000)]))
    if protocol == 6:
        flags = random.choice([2, 18, 16, 4, 17, 25, 24, 20])
        body = ports + struct.pack('!IIBBHHH', 1, 1, 0x50, flags, 1024, 0, 0)
    elif protocol == 17:
        body = ports + struct.pack('!HH', 8, 0)
    else:
        body = struct.pack('!BBHHH', random.choice([8, 0, 13, 3]), 0, 0, 1, 1) + b'\\0' * 28
        body = body[:2] + struct.pack('!H', checksum(body)) + body[4:]
    if protocol == 6:
        pseudo = source + target + struct.pack('!BBH', 0, 6, len(body))
        body = body[:16] + struct.pack('!H', checksum(pseudo + body)) + body[18:]
    header = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(body), number, 0, 64, protocol, 0, source, target)
    raw.sendto(header + body, ('192.0.2.10', 0))
    if number % 20 == 0: time.sleep(0.002)
";
const PACKETS: u64 = 3000;

#[test]
fn nftables_and_netfast_choose_the_same_rules() -> Result<()> {
    need!("nft", "python3");
    let world = World::new("oracle")?;
    let file = world.bed.dir().join("rules.nft");
    std::fs::write(&file, RULES)?;
    let file = file.to_str().context("a path")?;

    world.host.run(&["nft", "-f", file])?;
    world.client.run(&["python3", "-c", SENDER])?;
    let by_nft = wait_for("nftables to count all packets", PATIENCE, || {
        let listed = world.host.run(&["nft", "list", "table", "ip", "oracle"])?;
        let counts: Vec<u64> = listed
            .lines()
            .filter_map(|line| line.split("counter packets ").nth(1)?.split(' ').next()?.parse().ok())
            .collect();
        Ok((counts.iter().sum::<u64>() >= PACKETS).then_some(counts))
    })?;
    world.host.run(&["nft", "delete", "table", "ip", "oracle"])?;

    world.netfast(&format!("filter load {file}"))?;
    world.client.run(&["python3", "-c", SENDER])?;
    let mut by_netfast = wait_for("netfast to count all packets", PATIENCE, || {
        let listed: serde_json::Value = serde_json::from_str(&world.netfast("filter list -o json")?)?;
        let rules = listed["filters"].as_array().context("rules")?;
        let counts: Vec<u64> = rules.iter().filter_map(|rule| rule["packets"].as_u64()).collect();
        Ok((counts.iter().sum::<u64>() >= PACKETS).then_some(counts))
    })?;
    let second = by_netfast.remove(TWO + 1);
    by_netfast[TWO] += second;
    assert_eq!(by_nft, by_netfast);
    assert!(by_nft.iter().all(|count| *count > 0), "every rule was tried: {by_nft:?}");
    world.sound()
}
