//! The kernel's NAT as oracle: the same packets at random through netfast and through nftables, and the same comes out.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::Duration,
};

use anyhow::{Result, ensure};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    boxes::{CLIENT, LAN, TARGET, TestBox, WAN},
    checksums,
    peers::need,
    script::{Flow, MARK, Step},
    support::netns::{Testbed, wait_for},
    wire::{ACK, Checksum, FIN, Packet, RST, Random, SYN, Transport},
};

/// How many packets are compared at least.
const PACKETS: usize = 10_000;
/// Flows beside each other, and packets at once: fewer than a veth's ring holds.
const FLOWS: usize = 900;
const AT_ONCE: usize = 100;

/// A frame that came out, without what may differ.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Out {
    /// Forwarded: the packet, with the source port of mode `nat` and its checksum replaced.
    Forwarded { lan: bool, bytes: Vec<u8>, sums: String },
    /// A RST of the box's own: ports, sequence and acknowledgement number.
    Reset { lan: bool, ports: [u8; 4], numbers: [u8; 8] },
    /// An ICMP error of the box's own: type and code.
    Error { lan: bool, kind: [u8; 2] },
}

fn nonsense(packet: &Packet) -> bool {
    let Transport::Tcp { flags, .. } = packet.transport else { return false };
    flags & (ACK | SYN | RST) == 0 || flags & SYN != 0 && flags & (FIN | RST) != 0
}

impl std::fmt::Debug for Out {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Forwarded { lan, bytes, sums } => {
                let hex: String = bytes.iter().take(80).map(|byte| format!("{byte:02x}")).collect();
                write!(f, "forwarded lan={lan} {hex} {sums}")
            }
            Self::Reset { lan, ports, numbers } => write!(f, "reset lan={lan} {ports:?} {numbers:?}"),
            Self::Error { lan, kind } => write!(f, "error lan={lan} {kind:?}"),
        }
    }
}

/// What the two may do differently, and why. Nothing else may.
const EXPLAINED: [(&str, &str); 3] = [
    (
        "ttl",
        "a TTL or hop limit that is used up: both forward nothing; whether an ICMP error tells of it is another test's",
    ),
    (
        "target first",
        "the target's own datagram to the client, before the client's first: the kernel tracks it as a connection of its own, \
         and in mode dnat gives the client's flow another port to tell the two apart; netfast knows only what it translates",
    ),
    (
        "flags",
        "TCP flags that no connection has (RFC 9293 3.5: an ACK, a SYN or a RST is in each segment, a SYN neither with FIN nor RST): \
         the kernel's tracking refuses them, so its own TCP answers or not; netfast has a policy for them",
    ),
];

fn explain(flow: &Flow, packet: &Packet, kernel: &[Out], netfast: &[Out]) -> Option<&'static str> {
    let forwarded = |outs: &[Out]| outs.iter().any(|out| matches!(out, Out::Forwarded { .. }));
    if packet.ttl <= 1 && !forwarded(kernel) && !forwarded(netfast) {
        return Some(EXPLAINED[0].0);
    }
    if !flow.nat && !flow.steps[0].by_client && forwarded(kernel) && forwarded(netfast) {
        return Some(EXPLAINED[1].0);
    }
    if nonsense(packet) && !forwarded(kernel) {
        return Some(EXPLAINED[2].0);
    }
    None
}

/// A box, and the source ports that it has given.
struct Side {
    name: &'static str,
    inner: TestBox,
    /// By flow.
    ports: HashMap<usize, u16>,
    /// Flow by version, protocol and port.
    taken: HashMap<(bool, bool, u16), usize>,
    rounds: u32,
}

#[test]
fn the_kernels_nat_does_the_same() -> Result<()> {
    need!("nft", "ip");
    // One CPU for everything that is sent, so that packets stay in order.
    let mut cpus = CpuSet::new();
    cpus.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)?;

    let bed = Testbed::new("oracle")?;
    let (kernel, netfast) = (TestBox::new(&bed, "kernel")?, TestBox::new(&bed, "netfast")?);
    kernel.by_kernel()?;
    let agent = netfast.by_netfast(&bed)?;
    let mut sides = [Side::new("kernel", kernel), Side::new("netfast", netfast)];
    for side in &mut sides {
        side.settle()?;
    }

    let mut random = Random(0x6e65_7466_6173_7407);
    let mut flows: Vec<_> = (0..FLOWS).map(|number| Flow::new(number, &mut random)).collect();
    let (mut packets, mut both, mut explained) = (0, 0, BTreeMap::<&str, usize>::new());
    let mut differences = Vec::new();
    let mut at = 0;
    while flows.iter().any(|flow| flow.steps.len() > at) {
        let going: Vec<usize> =
            flows.iter().filter(|flow| flow.steps.len() > at).map(|flow| flow.number).collect();
        for some in going.chunks(AT_ONCE) {
            let sent: Vec<(usize, Step, Packet)> = some
                .iter()
                .map(|number| {
                    let step = flows[*number].steps[at];
                    (*number, step, flows[*number].packet(step, &mut random))
                })
                .collect();
            let [kernel, netfast] = &mut sides;
            let (mut k, mut n) = (kernel.round(&flows, &sent)?, netfast.round(&flows, &sent)?);
            for (number, step, packet) in &sent {
                packets += 1;
                let (k, n) = (k.remove(number).unwrap_or_default(), n.remove(number).unwrap_or_default());
                if k == n {
                    both += usize::from(!k.is_empty());
                } else if let Some(name) = explain(&flows[*number], packet, &k, &n) {
                    *explained.entry(name).or_default() += 1;
                } else {
                    let flow = &flows[*number];
                    let before: Vec<_> =
                        flow.steps[..=at].iter().map(|step| (step.by_client, step.flags)).collect();
                    differences.push(format!(
                        "flow {number} (nat {}), {step:?} after {before:?}\n  {packet:?}\n  kernel  {k:?}\n  netfast {n:?}",
                        flow.nat
                    ));
                }
            }
        }
        at += 1;
    }
    println!(
        "{packets} packets of {FLOWS} flows; {both} came through both alike; differences with a reason: {explained:?}"
    );
    ensure!(
        differences.is_empty(),
        "{} differences, the first of them:\n{}",
        differences.len(),
        differences.iter().take(12).cloned().collect::<Vec<_>>().join("\n")
    );
    ensure!(packets >= PACKETS && both * 10 >= packets * 8, "{both} of {packets}");
    ensure!(!agent.log().contains("panicked"), "{}", agent.log());
    Ok(())
}

impl Side {
    fn new(name: &'static str, inner: TestBox) -> Self {
        Self { name, inner, ports: HashMap::new(), taken: HashMap::new(), rounds: 0 }
    }

    /// A packet that passes both ways tells that the box is ready.
    fn settle(&mut self) -> Result<()> {
        wait_for(&format!("the box with {}", self.name), Duration::from_secs(60), || {
            Ok(self.sentinels().ok())
        })?;
        Ok(())
    }

    /// Sends a packet of a flow of its own and everything that comes out before it; see `round` for the order.
    fn sentinel(&self, lan: bool, number: u32) -> Result<Vec<Vec<u8>>> {
        let mut random = Random(u64::from(number) + 1);
        let address: IpAddr = "198.51.100.10".parse()?;
        let payload = [&b"sentinel"[..], &number.to_be_bytes()].concat();
        let (client, target) = ((address, 999), ("10.0.1.11".parse()?, crate::boxes::PORT));
        let service = ("192.0.2.10".parse()?, crate::boxes::DNAT);
        let packet = Packet {
            source: if lan { client } else { target },
            destination: if lan { service } else { client },
            ttl: 64,
            class: 0,
            label: random.next() as u32,
            transport: Transport::Udp,
            payload: payload.clone(),
            checksum: Checksum::Right,
            padding: 0,
        };
        if lan {
            self.inner.wan.send(&packet.frame(CLIENT, WAN))?;
        } else {
            self.inner.lan.send(&packet.frame(TARGET, LAN))?;
        }
        self.inner.collect(lan, |frame| frame.ends_with(&payload))
    }

    /// Everything that came out on either side: `(lan, frame)`. What goes in on one side comes out on the other in order;
    /// the third one follows the box's own answers to the lan's side.
    fn sentinels(&mut self) -> Result<Vec<(bool, Vec<u8>)>> {
        let mut frames = Vec::new();
        for lan in [true, false, true] {
            self.rounds += 1;
            frames.extend(self.sentinel(lan, self.rounds)?.into_iter().map(|frame| (lan, frame)));
        }
        Ok(frames)
    }

    /// Sends the packets, at most one of each flow, and tells what came out for each.
    fn round(&mut self, flows: &[Flow], sent: &[(usize, Step, Packet)]) -> Result<HashMap<usize, Vec<Out>>> {
        for (number, step, packet) in sent {
            let flow = &flows[*number];
            if step.by_client {
                self.inner.wan.send(&packet.frame(CLIENT, WAN))?;
            } else {
                let mut packet = packet.clone();
                if flow.nat {
                    packet.destination =
                        (flow.own(), self.ports.get(number).copied().unwrap_or(flow.client.1));
                }
                self.inner.lan.send(&packet.frame(TARGET, LAN))?;
            }
        }
        let mut outs: HashMap<usize, Vec<Out>> = HashMap::new();
        for (lan, frame) in self.sentinels()? {
            if let Some((number, out)) = self.read(flows, sent, lan, &frame)? {
                outs.entry(number).or_default().push(out);
            }
        }
        outs.values_mut().for_each(|outs| outs.sort());
        Ok(outs)
    }

    /// Whose frame it is, and what is compared of it; `None` if it belongs to no flow (neighbour discovery and the like).
    fn read(
        &mut self,
        flows: &[Flow],
        sent: &[(usize, Step, Packet)],
        lan: bool,
        frame: &[u8],
    ) -> Result<Option<(usize, Out)>> {
        let Some(packet) = frame.get(14..).filter(|packet| packet.len() >= 28) else { return Ok(None) };
        let v6 = packet[0] >> 4 == 6;
        if !v6 && packet[0] >> 4 != 4 || v6 && packet.len() < 48 {
            return Ok(None);
        }
        let (header, protocol, length) = if v6 {
            (40, packet[6], 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]])))
        } else {
            (20, packet[9], usize::from(u16::from_be_bytes([packet[2], packet[3]])))
        };
        // What stands after the packet is no part of it.
        let Some(packet) = packet.get(..length) else { return Ok(None) };
        let transport = &packet[header..];
        let marked = packet.windows(MARK.len()).position(|window| window == MARK).and_then(|at| {
            let number: [u8; 4] = packet.get(at + 6..at + 10)?.try_into().ok()?;
            Some(u32::from_be_bytes(number) as usize)
        });
        match (protocol, marked) {
            (1 | 58, Some(number)) => {
                Ok(Some((number, Out::Error { lan, kind: [transport[0], transport[1]] })))
            }
            (6 | 17, Some(number)) => {
                Ok(Some((number, self.forwarded(&flows[number], lan, frame, packet, header)?)))
            }
            (6, None) if transport.len() >= 20 && transport[13] & RST != 0 => {
                let ports = [transport[0], transport[1], transport[2], transport[3]];
                let (from, to) =
                    (u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]]));
                let whose = sent.iter().map(|(number, ..)| *number).find(|number| {
                    let flow = &flows[*number];
                    let port = self.ports.get(number).copied().unwrap_or(flow.client.1);
                    flow.tcp && flow.v6 == v6 && (if lan { from == port } else { to == flow.client.1 })
                });
                let Some(number) = whose else { return Ok(None) };
                // The box's own port differs from box to box.
                let ports = if lan { [0, 0, ports[2], ports[3]] } else { ports };
                let mut numbers = [0; 8];
                numbers.copy_from_slice(&transport[4..12]);
                Ok(Some((number, Out::Reset { lan, ports, numbers })))
            }
            _ => Ok(None),
        }
    }

    /// A frame that was forwarded: its source port is noted and replaced in mode `nat`.
    fn forwarded(
        &mut self,
        flow: &Flow,
        lan: bool,
        frame: &[u8],
        packet: &[u8],
        header: usize,
    ) -> Result<Out> {
        let sums = format!("{:?}", checksums::of(frame));
        let mut bytes = packet.to_vec();
        if lan && flow.nat {
            let port = u16::from_be_bytes([packet[header], packet[header + 1]]);
            self.ports.insert(flow.number, port);
            let owner = self.taken.insert((flow.v6, flow.tcp, port), flow.number);
            ensure!(
                owner.is_none_or(|owner| owner == flow.number),
                "{}: flows {owner:?} and {} share the source port {port}",
                self.name,
                flow.number
            );
            let field = header + if flow.tcp { 16 } else { 6 };
            bytes[header..header + 2].copy_from_slice(&flow.client.1.to_be_bytes());
            if sums.contains("transport: Right") || sums.contains("transport: Wrong") {
                bytes[field..field + 2].fill(0);
            }
        }
        Ok(Out::Forwarded { lan, bytes, sums })
    }
}
