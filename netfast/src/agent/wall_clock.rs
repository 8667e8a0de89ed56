//! What the host's clock is worth: for the timestamps of the STAMP reflector.

use netfast_common::stamp;
use nix::time::{ClockId, clock_gettime};

/// Error that is told where the kernel does not say: it keeps one of 16 s for a clock that nobody disciplines.
const UNKNOWN_ERROR: u64 = 16_000_000;

/// Seconds that CLOCK_TAI is before CLOCK_REALTIME: what the host's time daemon has told the kernel of leap seconds, 0 if nothing.
fn tai_offset() -> u32 {
    let seconds = |clock| clock_gettime(clock).map(|time| time.tv_sec()).unwrap_or_default();
    // A second may begin between the two; asked the other way round, the second answer is never the smaller one by that.
    let (real, tai) = (seconds(ClockId::CLOCK_REALTIME), seconds(ClockId::CLOCK_TAI));
    let (again, first) = (seconds(ClockId::CLOCK_REALTIME), tai - real);
    let second = tai - again;
    u32::try_from(first.min(second).max(0)).unwrap_or_default()
}

/// Microseconds that the clock may be off, and whether it is disciplined by a source outside this host.
fn error() -> (u64, bool) {
    // SAFETY: all-zero bytes are a value of timex; with `modes` 0 the call changes nothing and writes into it.
    let (state, timex) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut timex), timex)
    };
    let known = state >= 0 && state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0;
    match u64::try_from(timex.maxerror) {
        Ok(error) if known => (error, true),
        _ => (UNKNOWN_ERROR, false),
    }
}

/// The offset in seconds, and the error estimate as a STAMP packet has it.
pub(super) fn read() -> (u32, u16) {
    let (microseconds, synchronized) = error();
    (tai_offset(), stamp::error_estimate(microseconds, synchronized))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leap_seconds_are_few() {
        let (offset, estimate) = read();
        assert!(offset <= 100, "{offset}");
        assert!(estimate & 0xff != 0, "RFC 4656 4.1.2: the multiplier is not 0");
    }
}
