//! Connections as they may go, and as they must not: who sends what.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    boxes::{CLIENTS, DNAT, NAT, PORT},
    wire::{ACK, Checksum, FIN, PSH, Packet, RST, Random, SYN, Transport},
};

/// Stands in every payload, followed by the flow's number.
pub const MARK: &[u8; 6] = b"oracle";

/// What is sent next.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub by_client: bool,
    pub flags: u8,
    /// The sequence number of the step before: it is sent once more.
    pub again: bool,
    /// Its TTL may be used up.
    pub may_expire: bool,
}

const fn client(flags: u8) -> Step {
    Step { by_client: true, flags, again: false, may_expire: false }
}

const fn target(flags: u8) -> Step {
    Step { by_client: false, flags, again: false, may_expire: false }
}

const fn again(step: Step) -> Step {
    Step { again: true, ..step }
}

/// A flow: its endpoints, and what is to come.
pub struct Flow {
    pub number: usize,
    pub v6: bool,
    pub tcp: bool,
    pub nat: bool,
    pub client: (IpAddr, u16),
    pub steps: Vec<Step>,
    /// Next sequence numbers of client and target, and those before the last step.
    sequence: [u32; 2],
    before: [u32; 2],
}

impl Flow {
    /// One at random. Client ports are below every range of NAT ports, and no two flows have the same.
    pub fn new(number: usize, random: &mut Random) -> Self {
        let (v6, tcp) = (random.one_in(2), !random.one_in(3));
        let host = 10 + random.below(usize::from(CLIENTS)) as u8;
        let address = if v6 {
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, host.into()))
        } else {
            IpAddr::V4(Ipv4Addr::new(198, 51, 100, host))
        };
        let start = [random.next() as u32, random.next() as u32];
        let mut steps = if tcp { tcp_steps(random) } else { udp_steps(random) };
        for step in steps.iter_mut().skip(3) {
            step.may_expire = step.flags & SYN == 0;
        }
        Self {
            number,
            v6,
            tcp,
            nat: random.one_in(2),
            client: (address, 2000 + number as u16),
            steps,
            sequence: start,
            before: start,
        }
    }

    pub fn service(&self) -> (IpAddr, u16) {
        let address = if self.v6 {
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10))
        } else {
            IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10))
        };
        (address, if self.nat { NAT } else { DNAT })
    }

    pub fn target(&self) -> (IpAddr, u16) {
        let address = if self.v6 {
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x11))
        } else {
            IpAddr::V4(Ipv4Addr::new(10, 0, 1, 11))
        };
        (address, PORT)
    }

    /// The box's own address towards the target.
    pub fn own(&self) -> IpAddr {
        if self.v6 {
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1))
        } else {
            IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1))
        }
    }

    /// The packet of a step; a target's goes to the client itself, which holds in mode dnat.
    pub fn packet(&mut self, step: Step, random: &mut Random) -> Packet {
        let me = usize::from(!step.by_client);
        let mut payload = MARK.to_vec();
        payload.extend((self.number as u32).to_be_bytes());
        payload.extend((0..1 + random.below(120)).map(|_| 0));
        for byte in payload.iter_mut().skip(10) {
            *byte = random.next() as u8;
        }
        let sequence = if step.again { self.before } else { self.sequence };
        let transport = if self.tcp {
            let advance = payload.len() as u32 + u32::from(step.flags & (SYN | FIN) != 0);
            self.before = sequence;
            self.sequence = sequence;
            self.sequence[me] = sequence[me].wrapping_add(advance);
            Transport::Tcp {
                flags: step.flags,
                sequence: sequence[me],
                acknowledged: if step.flags & ACK == 0 { 0 } else { sequence[1 - me] },
                window: random.next() as u16 | 0x4000,
                urgent: 0,
                options: options(random),
            }
        } else {
            Transport::Udp
        };
        let checksum = match random.below(16) {
            0 => Checksum::Wrong,
            1 | 2 if !self.tcp && !self.v6 => Checksum::Zero,
            _ => Checksum::Right,
        };
        let (source, destination) =
            if step.by_client { (self.client, self.service()) } else { (self.target(), self.client) };
        Packet {
            source,
            destination,
            // Not a flow's beginning: what never arrived was no beginning for the kernel.
            ttl: if step.may_expire && random.one_in(20) {
                1
            } else {
                random.of(&[2, 3, 63, 64, 127, 128, 255])
            },
            class: random.next() as u8,
            label: random.next() as u32,
            transport,
            payload,
            checksum,
            padding: if random.one_in(8) { random.below(20) } else { 0 },
        }
    }
}

fn options(random: &mut Random) -> Vec<u8> {
    match random.below(4) {
        0 => vec![],
        1 => vec![2, 4, 5, 0xb4],
        2 => [&[1, 1, 8, 10][..], &random.next().to_be_bytes()].concat(),
        _ => vec![2, 4, 5, 0xb4, 4, 2, 1, 1, 1, 3, 3, 7],
    }
}

fn udp_steps(random: &mut Random) -> Vec<Step> {
    // Most begin as they should; some targets send first.
    let first = if random.one_in(10) { target(0) } else { client(0) };
    let count = 2 + random.below(30);
    std::iter::once(first)
        .chain((0..count).map(|_| if random.one_in(2) { client(0) } else { target(0) }))
        .collect()
}

fn tcp_steps(random: &mut Random) -> Vec<Step> {
    const OPEN: [Step; 3] = [client(SYN), target(SYN | ACK), client(ACK)];
    let mut steps = Vec::new();
    for _ in 0..1 + random.below(2) {
        match random.below(14) {
            // Never opened: strays of every kind, from both sides.
            0 => {
                for _ in 0..1 + random.below(4) {
                    let flags = random.of(&[ACK, PSH | ACK, FIN | ACK, RST, RST | ACK, SYN | ACK]);
                    steps.push(if random.one_in(3) { target(flags) } else { client(flags) });
                }
                return steps;
            }
            // Openings that come to nothing.
            1 => {
                steps.push(client(SYN));
                steps.extend((0..random.below(3)).map(|_| again(client(SYN))));
                steps.push(target(RST | ACK));
                return steps;
            }
            2 => {
                steps.extend([client(SYN), again(client(SYN)), target(SYN | ACK), client(RST)]);
                return steps;
            }
            // With retransmissions.
            3 => steps.extend([
                client(SYN),
                again(client(SYN)),
                target(SYN | ACK),
                again(target(SYN | ACK)),
                client(ACK),
            ]),
            // Nonsense.
            4 => {
                steps.push(client(random.of(&[0, FIN, SYN | FIN, SYN | RST, FIN | PSH | 32, 63])));
                return steps;
            }
            _ => steps.extend(OPEN),
        }
        for _ in 0..random.below(30) {
            let flags = random.of(&[ACK, PSH | ACK]);
            steps.push(if random.one_in(2) { client(flags) } else { target(flags) });
        }
        match random.below(6) {
            // An end by the client, by the target, by both at once, by half; none.
            0 => steps.extend([client(FIN | ACK), target(ACK), target(FIN | ACK), client(ACK)]),
            1 => steps.extend([target(FIN | ACK), client(ACK), client(FIN | ACK), target(ACK)]),
            2 => steps.extend([client(FIN | ACK), target(FIN | ACK), client(ACK), target(ACK)]),
            3 => {
                steps.extend([client(FIN | ACK), target(ACK)]);
                steps.extend((0..random.below(8)).map(|_| target(PSH | ACK)));
                steps.extend([client(ACK), target(FIN | ACK), client(ACK)]);
            }
            4 => {
                steps.push(if random.one_in(2) { client(RST | ACK) } else { target(RST | ACK) });
                return steps;
            }
            _ => return steps,
        }
    }
    steps
}
