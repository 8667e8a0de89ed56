//! What must never be: the rules that every frame is held to.

use netfast::datapath::sandbox::Ran;
use netfast_common::{Reason, Verdict};

use crate::checksums::{self, Sum, Sums};

/// Holds what became of `input` to the rules.
pub fn judge(input: &[u8], ran: &Ran) -> Option<(&'static str, String)> {
    let Some(verdict) = ran.verdict() else {
        return Some(("aborted", format!("the program returned {} (XDP_ABORTED is 0)", ran.action)));
    };
    let Some(reason) = ran.reason() else {
        let counted = &ran.counted;
        return Some(("miscounted", format!("the verdict was {}, counted was {counted:?}", verdict.label())));
    };
    if reason == Reason::Internal {
        return Some(("internal", reason.help().to_owned()));
    }
    match verdict {
        Verdict::Drop => None,
        Verdict::Pass if ran.frame != input => {
            Some(("passed_changed", format!("{}, but {}", reason.label(), difference(input, &ran.frame))))
        }
        Verdict::Pass => None,
        Verdict::Transmit | Verdict::Redirect => {
            let after = checksums::of(&ran.frame);
            if is_answer(reason) {
                let wrong = wrong(after)?;
                return Some(("wrong_checksum", format!("{}: {wrong} of the answer", reason.label())));
            }
            let broken = broken(checksums::of(input), after)?;
            Some(("wrong_checksum", format!("{}: {broken} was right and left wrong", reason.label())))
        }
    }
}

/// Whether a frame that is sent with this reason is an answer of netfast's own, not the frame that came.
pub const fn is_answer(reason: Reason) -> bool {
    matches!(reason, Reason::TtlExpired | Reason::MtuExceeded | Reason::FilterReject | Reason::ClaimRefused)
}

/// What is not right in an answer, in words: it is an ICMP error or a TCP reset, and has all checksums.
pub fn wrong(answer: Sums) -> Option<&'static str> {
    if answer.network == Sum::Wrong {
        Some("IPv4 header checksum")
    } else if answer.transport != Sum::Right {
        Some("ICMP or TCP checksum")
    } else {
        None
    }
}

/// What was right and is wrong afterwards, in words.
pub fn broken(before: Sums, after: Sums) -> Option<&'static str> {
    let broken = |before: Sum, after: Sum| match before {
        Sum::Right => after != Sum::Right,
        // From IPv4 to IPv6 one is made.
        Sum::Unused => !matches!(after, Sum::Unused | Sum::Right),
        Sum::None | Sum::Wrong => false,
    };
    // None afterwards: the packet has become an IPv6 one; what is left of it is judged by the transport checksum.
    if before.network == Sum::Right && after.network == Sum::Wrong {
        Some("IPv4 header checksum")
    } else if broken(before.transport, after.transport) {
        Some("TCP, UDP or ICMP checksum")
    } else {
        None
    }
}

/// Where two frames differ first.
fn difference(before: &[u8], after: &[u8]) -> String {
    if before.len() != after.len() {
        return format!("its length went from {} to {}", before.len(), after.len());
    }
    match before.iter().zip(after).position(|(a, b)| a != b) {
        Some(at) => format!("byte {at} went from {:02x} to {:02x}", before[at], after[at]),
        None => "nothing differs".to_owned(),
    }
}
