//! The life of a flow: states, time-outs, keys. Time is an argument: jiffies, low 32 bits, wrapping.

use crate::{
    abi::{Flow, FlowKey, TARGET_ENDS, TARGET_LEAVES, Timeouts},
    wire::{ACK, FIN, RST, SYN, TCP, UDP},
};

/// Flow entry of the original direction (client to service).
pub const ORIGINAL: u8 = 0;
/// Flow entry of the reply direction.
pub const REPLY: u8 = 1;

/// State of a flow, as stored in [`Flow::state`].
///
/// The program does not see sequence numbers of cached packets, so it cannot tell a segment inside the window from one
/// outside of it. Therefore no single segment ends a flow: a FIN or RST only shortens its idle time, a RST is taken back
/// by the next segment of either side (RFC 6146 3.5.2.2, RFC 7857 2.2), and a flow whose handshake is not done is
/// confirmed only by the one who knows the target's sequence number ([`acknowledges`]).
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// UDP: seen from the client only.
    OneWay = 0,
    /// UDP: seen both ways.
    TwoWay = 1,
    /// TCP: the client's SYN was seen.
    SynSent = 2,
    /// TCP: the target's SYN was seen, too (with ACK, or without in a simultaneous open).
    SynReceived = 3,
    /// TCP: the handshake is done.
    Established = 4,
    /// TCP: the client has sent FIN.
    ClientClosed = 5,
    /// TCP: the target has sent FIN.
    TargetClosed = 6,
    /// TCP: both have sent FIN; or one has, and a RST came.
    BothClosed = 7,
    /// TCP: either side has sent RST after the handshake.
    Reset = 8,
    /// TCP: the client's SYN was answered by RST.
    Refused = 9,
    /// TCP: a SYN came on a flow that was over. Its cached lines may still act.
    Reopened = 10,
    /// TCP: the target has sent SYN and FIN before the handshake was done (RFC 7413: data on the SYN can be answered so).
    TargetClosedEarly = 11,
    /// ICMP query: not answered.
    QueryOneWay = 12,
    /// ICMP query: answered.
    QueryTwoWay = 13,
    /// UDP that goes to its target one way only (modes `dsr` and `ipip`): the client has sent more than once.
    Lasting = 14,
}

impl State {
    /// The state of a stored number; unknown numbers are `Reset`.
    #[inline(always)]
    pub const fn from_number(number: u8) -> State {
        match number {
            0 => Self::OneWay,
            1 => Self::TwoWay,
            2 => Self::SynSent,
            3 => Self::SynReceived,
            4 => Self::Established,
            5 => Self::ClientClosed,
            6 => Self::TargetClosed,
            7 => Self::BothClosed,
            9 => Self::Refused,
            10 => Self::Reopened,
            11 => Self::TargetClosedEarly,
            12 => Self::QueryOneWay,
            13 => Self::QueryTwoWay,
            14 => Self::Lasting,
            _ => Self::Reset,
        }
    }

    /// Word for the operator.
    pub const fn label(self) -> &'static str {
        match self {
            Self::OneWay | Self::QueryOneWay | Self::Lasting => "one-way",
            Self::TwoWay | Self::QueryTwoWay => "two-way",
            Self::SynSent | Self::SynReceived | Self::Reopened | Self::TargetClosedEarly => "opening",
            Self::Established => "established",
            Self::ClientClosed | Self::TargetClosed | Self::BothClosed => "closing",
            Self::Reset | Self::Refused => "reset",
        }
    }

    /// Whether the flow belongs in the table of confirmed flows: a flood of openings never gets this far. Only flows
    /// in such a state are cached.
    #[inline(always)]
    pub const fn is_confirmed(self) -> bool {
        !matches!(
            self,
            Self::OneWay
                | Self::QueryOneWay
                | Self::SynSent
                | Self::SynReceived
                | Self::Refused
                | Self::Reopened
                | Self::TargetClosedEarly
        )
    }

    /// Whether a SYN opens the five-tuple anew (RFC 9293 3.6.1, RFC 6191, RFC 7857 3).
    #[inline(always)]
    pub const fn may_reopen(self) -> bool {
        matches!(self, Self::BothClosed | Self::Reset | Self::Refused)
    }

    /// Whether its target may have something to do with the flow yet: not one that is over, and not one that the target has
    /// not answered.
    pub const fn is_open(self) -> bool {
        !matches!(self, Self::BothClosed | Self::Reset | Self::Refused | Self::SynSent | Self::Reopened)
    }

    /// State of a flow's first packet, if that packet may open a flow: any UDP datagram or ICMP query, a TCP SYN alone (with
    /// data, too: RFC 7413).
    #[inline(always)]
    pub const fn first(protocol: u8, flags: u8) -> Option<State> {
        if protocol == UDP {
            Some(Self::OneWay)
        } else if protocol != TCP {
            Some(Self::QueryOneWay)
        } else if flags & (SYN | ACK | RST | FIN) == SYN {
            Some(Self::SynSent)
        } else {
            None
        }
    }

    /// State after a packet of `direction` with TCP `flags`. `acknowledges`: a client's segment acknowledges the target's
    /// SYN (see [`acknowledges`]); asked for while the handshake is not done.
    #[inline(always)]
    #[must_use]
    pub const fn next(self, direction: u8, protocol: u8, flags: u8, acknowledges: bool) -> State {
        if protocol != TCP {
            return match self {
                _ if direction != REPLY => self,
                Self::QueryOneWay | Self::QueryTwoWay => Self::QueryTwoWay,
                _ => Self::TwoWay,
            };
        }
        let client = direction == ORIGINAL;
        if flags & RST != 0 {
            match self {
                Self::SynSent => Self::Refused,
                Self::Established | Self::Reopened => Self::Reset,
                Self::ClientClosed | Self::TargetClosed => Self::BothClosed,
                state => state,
            }
        } else if flags & SYN != 0 {
            match self {
                // Simultaneous open (RFC 9293 figure 8): the target's SYN may come without ACK.
                Self::SynSent | Self::Refused | Self::Reopened if !client => Self::SynReceived,
                Self::SynReceived if client && flags & ACK != 0 && acknowledges => Self::Established,
                Self::TargetClosedEarly if client && flags & ACK != 0 && acknowledges => Self::TargetClosed,
                Self::Refused if flags & ACK == 0 => Self::SynSent,
                Self::BothClosed | Self::Reset if client && flags & ACK == 0 => Self::Reopened,
                state => state,
            }
        } else if flags & FIN != 0 {
            match self {
                Self::SynReceived if client && acknowledges => Self::ClientClosed,
                Self::SynReceived if !client => Self::TargetClosedEarly,
                Self::TargetClosedEarly if client && acknowledges => Self::BothClosed,
                Self::Established | Self::Reset if client => Self::ClientClosed,
                Self::Established | Self::Reset => Self::TargetClosed,
                Self::ClientClosed if !client => Self::BothClosed,
                Self::TargetClosed if client => Self::BothClosed,
                state => state,
            }
        } else {
            match self {
                Self::SynReceived if client && acknowledges => Self::Established,
                Self::TargetClosedEarly if client && acknowledges => Self::TargetClosed,
                // The RST was not taken by the one it was sent to (RFC 5961 3: it answers by an ACK), or it was forged.
                Self::Reset => Self::Established,
                // A client that had sent the SYN itself would not send this before the target's SYN.
                Self::Reopened if client => Self::Established,
                state => state,
            }
        }
    }

    /// State of a flow whose answers go another way (modes `dsr` and `ipip`), after its first packet. Any packet may be
    /// the first one that is seen here: another node may have had the flow until now, or its entry was pushed out.
    #[inline(always)]
    pub const fn first_direct(protocol: u8, flags: u8) -> State {
        if protocol != TCP {
            Self::OneWay
        } else if flags & RST != 0 {
            Self::Reset
        } else if flags & FIN != 0 {
            Self::BothClosed
        } else if flags & SYN != 0 {
            Self::SynSent
        } else {
            Self::Established
        }
    }

    /// State of such a flow after another packet of the client. Nobody sees when the target's side is done: a FIN of the client
    /// is taken for the end of both, which its later packets keep from being forgotten.
    #[inline(always)]
    #[must_use]
    pub const fn next_direct(self, protocol: u8, flags: u8) -> State {
        if protocol != TCP {
            return Self::Lasting;
        }
        if flags & RST != 0 {
            match self {
                Self::SynSent | Self::Refused => Self::Refused,
                _ => Self::Reset,
            }
        } else if flags & FIN != 0 {
            Self::BothClosed
        } else if flags & SYN != 0 {
            self
        } else {
            match self {
                Self::BothClosed => Self::BothClosed,
                _ => Self::Established,
            }
        }
    }

    /// Idle time in jiffies after which a flow in this state is dead.
    #[inline(always)]
    pub const fn timeout(self, timeouts: &Timeouts) -> u32 {
        match self {
            Self::OneWay => timeouts.udp_one_way,
            Self::TwoWay | Self::Lasting => timeouts.udp,
            Self::QueryOneWay | Self::QueryTwoWay => timeouts.icmp,
            Self::SynSent | Self::SynReceived | Self::Reopened | Self::TargetClosedEarly => {
                timeouts.tcp.opening
            }
            Self::Established => timeouts.tcp.established,
            Self::ClientClosed | Self::TargetClosed => timeouts.tcp.half_closed,
            Self::BothClosed => timeouts.tcp.closing,
            Self::Reset | Self::Refused => timeouts.tcp.reset,
        }
    }
}

/// What becomes of a flow by the state of its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Stays,
    /// It goes on, but only for packets of this direction that are under way: they take no part in its life.
    Fades,
    /// The packet chooses a target anew.
    Moves,
    /// The sender is told by a TCP reset.
    Ends,
}

/// Whether a segment with these flags is a client's first one.
#[inline(always)]
pub const fn opens(protocol: u8, flags: u8) -> bool {
    protocol == TCP && flags & (SYN | ACK | RST | FIN) == SYN
}

/// What becomes of a flow in `state` at a packet of `direction`. `target`: [`crate::abi::Target::state`] of its target;
/// `older`: whether the rules are others than those that the flow was decided by. Asked for if they are, or if the packet
/// [`opens`] a connection.
///
/// A client's SYN opens a new flow on one that is over (under new rules, or if the target gets no new flows), that is still
/// opening towards a target that gets no new flows, or whose target has ended. Of a target that has ended, TCP is
/// reset on both sides, since neither can go on; answers of UDP that are under way pass, and the client's next datagram
/// goes elsewhere.
#[inline(always)]
pub const fn fate(target: u8, direction: u8, protocol: u8, flags: u8, state: State, older: bool) -> Fate {
    let ends = target & TARGET_ENDS != 0;
    if protocol != TCP {
        return match (ends, direction == ORIGINAL) {
            (false, _) => Fate::Stays,
            (true, true) => Fate::Moves,
            (true, false) => Fate::Fades,
        };
    }
    if direction == ORIGINAL && opens(protocol, flags) {
        let leaves = target & TARGET_LEAVES != 0;
        if ends || (leaves && !state.is_confirmed()) || ((leaves || older) && state.may_reopen()) {
            return Fate::Moves;
        }
    }
    if ends { Fate::Ends } else { Fate::Stays }
}

/// Bytes beyond its SYN that a target may have sent, and a client acknowledged, before the client's first
/// acknowledgement is seen: answers to data on the SYN (RFC 7413), and packets that overtake others.
pub const EARLY_BYTES: u32 = 1 << 17;

/// Whether an acknowledgement number can be the one of a client that has seen the target's SYN with number
/// `target_syn` (RFC 9293 3.10.7.4). Of those who guess, one in 32,768 is right.
#[inline(always)]
pub const fn acknowledges(acknowledgement: u32, target_syn: u32) -> bool {
    acknowledgement.wrapping_sub(target_syn).wrapping_sub(1) < EARLY_BYTES
}

/// Jiffies since `then`, 0 if `then` lies up to 2^31 jiffies ahead (another CPU's clock, a race).
#[inline(always)]
pub const fn elapsed(now: u32, then: u32) -> u32 {
    let difference = now.wrapping_sub(then);
    if difference > u32::MAX / 2 { 0 } else { difference }
}

/// Whether an original entry has been idle for longer than its state allows. From that moment on it is dead for the
/// program and for the agent alike.
#[inline(always)]
pub const fn is_expired(flow: &Flow, now: u32, timeouts: &Timeouts) -> bool {
    elapsed(now, flow.last_seen) > State::from_number(flow.state).timeout(timeouts)
}

/// The tuple seen from the other side.
#[inline(always)]
#[must_use]
pub fn reverse(key: &FlowKey) -> FlowKey {
    FlowKey {
        source: key.destination,
        destination: key.source,
        source_port: key.destination_port,
        destination_port: key.source_port,
        protocol: key.protocol,
        pad: [0; 3],
    }
}

/// Seconds that a TCP handshake is given to go on before its flow has to give way (a SYN is sent again after 1 s: RFC 6298 2.1).
pub const OPENING_GRACE: u32 = 2;

/// Whether a flow gives its source port to a new one where no port is free. `lines`: jiffies after which no cached line acts that was
/// made before ([`crate::abi::line_end`]); `hz`: jiffies in a second.
///
/// It does if it is dead, if both ends have closed it and no line can act, or if it is opening and has waited for
/// [`OPENING_GRACE`]: openings that nobody goes on with (a flood of forged SYNs) are not to keep everybody else out for the 4 min
/// of RFC 5382 REQ-5. Not after a mere RST, which may be forged; nor does UDP give way (RFC 4787 REQ-5).
#[inline(always)]
pub const fn gives_way(flow: &Flow, now: u32, lines: u32, hz: u32, timeouts: &Timeouts) -> bool {
    let idle = elapsed(now, flow.last_seen);
    match State::from_number(flow.state) {
        State::BothClosed | State::Reopened if idle > lines => true,
        State::SynSent | State::SynReceived | State::TargetClosedEarly | State::Refused
            if idle > OPENING_GRACE * hz =>
        {
            true
        }
        _ => is_expired(flow, now, timeouts),
    }
}

/// How often a free source port is looked for, and as often again one of a flow that gives way ([`gives_way`]), before
/// `ports_exhausted` is the answer.
pub const PORT_TRIES: u32 = 32;

/// Distances between the ports that are tried: primes above 65,536, which divide no range of ports, so that each of them visits all
/// ports of a range. One distance for all flows would let ports in use lie in rows, as in linear probing: while ports fill up to five
/// of six, one flow of a hundred found none in 32 tries.
const STEPS: [u32; 64] = {
    let mut steps = [0; 64];
    let (mut found, mut number) = (0, 65_537);
    while found < steps.len() {
        let mut divisor = 3;
        while divisor * divisor <= number && number % divisor != 0 {
            divisor += 2;
        }
        if divisor * divisor > number {
            steps[found] = number;
            found += 1;
        }
        // Not the very next one: distances that are almost the same make rows that are almost the same.
        number += if divisor * divisor > number { 1_000 } else { 2 };
    }
    steps
};

/// The `attempt`-th source port (host order) to try in `low..=high`: starts at a place that depends on the flow and
/// goes on in steps that depend on it, too, and visit the whole range. `attempt` is below [`PORT_TRIES`].
#[inline(always)]
pub const fn port_candidate(hash: u32, attempt: u32, low: u32, high: u32) -> u16 {
    let range = high.wrapping_sub(low).wrapping_add(1) & 0x1_ffff;
    if range == 0 {
        return low as u16;
    }
    // The places of both of them come from other bits of the hash.
    let step = STEPS[(hash >> 26) as usize] % range;
    // The hash is brought into the range first: its sum with the steps could pass 2^32, which no range but a power of
    // two divides, and the steps would then start anew at a place that was tried before.
    (low + (hash % range + attempt * step) % range) as u16
}

#[cfg(test)]
mod tests;
