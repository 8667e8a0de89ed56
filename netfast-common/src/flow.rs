//! The life of a flow: states, time-outs, keys. Time is an argument: jiffies, low 32 bits, wrapping.

use crate::{
    abi::{Flow, FlowKey, Timeouts},
    wire::{ACK, FIN, RST, SYN, TCP},
};

/// Flow entry of the original direction (client to service).
pub const ORIGINAL: u8 = 0;
/// Flow entry of the reply direction.
pub const REPLY: u8 = 1;

/// State of a flow, as stored in [`Flow::state`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// UDP: seen from the client only.
    OneWay = 0,
    /// UDP: seen both ways.
    TwoWay = 1,
    /// TCP: the client's SYN was seen.
    SynSent = 2,
    /// TCP: the target's SYN ACK was seen.
    SynReceived = 3,
    /// TCP: the handshake is done.
    Established = 4,
    /// TCP: the client has sent FIN.
    ClientClosed = 5,
    /// TCP: the target has sent FIN.
    TargetClosed = 6,
    /// TCP: both have sent FIN.
    BothClosed = 7,
    /// TCP: either side has sent RST.
    Reset = 8,
}

impl State {
    /// The state of a stored number; unknown numbers are `Reset`, the shortest-lived one.
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
            _ => Self::Reset,
        }
    }

    /// Word for the operator.
    pub const fn label(self) -> &'static str {
        match self {
            Self::OneWay => "one-way",
            Self::TwoWay => "two-way",
            Self::SynSent | Self::SynReceived => "opening",
            Self::Established => "established",
            Self::ClientClosed | Self::TargetClosed | Self::BothClosed => "closing",
            Self::Reset => "reset",
        }
    }

    /// Whether the flow belongs in the table of confirmed flows: a flood of openings never gets this far.
    #[inline(always)]
    pub const fn is_confirmed(self) -> bool {
        !matches!(self, Self::OneWay | Self::SynSent | Self::SynReceived)
    }

    /// Whether a SYN may open the five-tuple anew (RFC 9293 3.6.1, RFC 7857 3).
    #[inline(always)]
    pub const fn may_reopen(self) -> bool {
        matches!(self, Self::BothClosed | Self::Reset)
    }

    /// State of a flow's first packet, if that packet may open a flow: any UDP datagram, a TCP SYN alone.
    #[inline(always)]
    pub const fn first(protocol: u8, flags: u8) -> Option<State> {
        if protocol != TCP {
            Some(Self::OneWay)
        } else if flags & (SYN | ACK | RST | FIN) == SYN {
            Some(Self::SynSent)
        } else {
            None
        }
    }

    /// State after a packet of `direction` with TCP `flags`.
    #[inline(always)]
    #[must_use]
    pub const fn next(self, direction: u8, protocol: u8, flags: u8) -> State {
        if protocol != TCP {
            return if direction == REPLY { Self::TwoWay } else { self };
        }
        if flags & RST != 0 {
            return Self::Reset;
        }
        let client = direction == ORIGINAL;
        match self {
            Self::SynSent if !client && flags & (SYN | ACK) == SYN | ACK => Self::SynReceived,
            // Simultaneous open (RFC 9293 figure 8): the target's own SYN, without ACK.
            Self::SynSent if !client && flags & SYN != 0 => Self::SynReceived,
            Self::SynReceived if client && flags & ACK != 0 => {
                if flags & FIN != 0 {
                    Self::ClientClosed
                } else {
                    Self::Established
                }
            }
            Self::Established if flags & FIN != 0 => {
                if client {
                    Self::ClientClosed
                } else {
                    Self::TargetClosed
                }
            }
            Self::ClientClosed if !client && flags & FIN != 0 => Self::BothClosed,
            Self::TargetClosed if client && flags & FIN != 0 => Self::BothClosed,
            state => state,
        }
    }

    /// Idle time in jiffies after which a flow in this state is dead.
    #[inline(always)]
    pub const fn timeout(self, timeouts: &Timeouts) -> u32 {
        match self {
            Self::OneWay => timeouts.udp_one_way,
            Self::TwoWay => timeouts.udp,
            Self::SynSent | Self::SynReceived => timeouts.tcp.opening,
            Self::Established => timeouts.tcp.established,
            Self::ClientClosed | Self::TargetClosed | Self::BothClosed => timeouts.tcp.closing,
            Self::Reset => timeouts.tcp.reset,
        }
    }
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

/// How often a free source port is looked for before `ports_exhausted` is the answer.
pub const PORT_TRIES: u32 = 32;

/// The `attempt`-th source port (host order) to try in `low..=high`: starts at a place that depends on the flow and
/// goes on in steps that visit the whole range.
#[inline(always)]
pub const fn port_candidate(hash: u32, attempt: u32, low: u32, high: u32) -> u16 {
    let range = high.wrapping_sub(low).wrapping_add(1) & 0x1_ffff;
    if range == 0 {
        return low as u16;
    }
    // 7919 is prime and does not divide any range below 65536 but its own multiples: then the step is 1.
    let step = if range.is_multiple_of(7919) { 1 } else { 7919 };
    (low + (hash as u64 + attempt as u64 * step as u64) as u32 % range) as u16
}

#[cfg(test)]
mod tests;
