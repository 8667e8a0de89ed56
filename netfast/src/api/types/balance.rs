//! How a forward chooses among its targets, and what becomes of the flows of those that leave.

use super::*;

words! {
    /// What the target of a new flow depends on.
    #[derive(Default)]
    Affinity {
        /// Its addresses and ports: the flows of a client are spread over the targets.
        #[default]
        Connection = "connection",
        /// Its source address: all flows of a client go to one target, as long as the targets stay the same.
        Source = "source",
    }
}

words! {
    /// What becomes of new flows while there is no target to send them to.
    #[derive(Default)]
    OnNoTarget {
        /// They are dropped.
        #[default]
        Drop = "drop",
        /// They are answered: TCP by a reset, UDP by ICMP port unreachable.
        Reject = "reject",
    }
}

words! {
    /// What becomes of the flows of a target that drains.
    #[derive(Default)]
    OnDrain {
        /// They go on until they end.
        #[default]
        Keep = "keep",
        /// Each chooses a target anew at its client's next datagram (UDP only).
        Move = "move",
    }
}

words! {
    /// What becomes of the flows of a target that is down.
    OnDown {
        /// They stay: TCP that the target comes back to in time goes on.
        Keep = "keep",
        /// TCP is reset at its next packet, so that the client connects anew; UDP chooses another target.
        End = "end",
    }
}

impl Forward {
    /// What becomes of the flows of a target that is down: by default TCP stays, since a check that fails may mean a busy
    /// target and a connection that is cut is lost; a UDP flow has nothing to lose by going elsewhere.
    pub fn on_down(&self) -> OnDown {
        self.on_down.unwrap_or(match self.protocol {
            Transport::Tcp => OnDown::Keep,
            Transport::Udp => OnDown::End,
        })
    }
}

/// The server ID of a target in QUIC connection IDs: 1 to 15 bytes, written in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerId(Vec<u8>);

impl ServerId {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for ServerId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let most = usize::from(netfast_common::quic::MAX_SERVER_ID);
        let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
        match digits {
            Some(digits) if digits.len().is_multiple_of(2) && (2..=2 * most).contains(&digits.len()) => {
                Ok(Self(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()))
            }
            _ => Err(ParseError(format!(
                "{text:?} is not a QUIC server ID: 1 to {most} bytes as two hexadecimal digits each, such as 0a01"
            ))),
        }
    }
}

text_serde!(ServerId);
