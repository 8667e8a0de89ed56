//! Guards of the UDP echo reflector: no single packet, however forged, may start two responders talking to each other
//! for ever (CVE-2024-2169).

/// Most prefixes on the allow-list of one reflector: the program walks them.
pub const MAX_ALLOW_PER_ECHO: u32 = 64;

/// Source ports of services that may answer an answer: echo, systat, daytime, quotd, chargen, time, domain, TFTP, NTP.
#[inline(always)]
pub const fn may_answer_an_answer(source_port: u16) -> bool {
    matches!(source_port, 0 | 7 | 11 | 13 | 17 | 19 | 37 | 53 | 69 | 123)
}

/// A token bucket of one source. Tokens are counted in jiffies times rate, so that refilling needs no division.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Hash of reflector and source; 0: free.
    pub tag: u32,
    /// Jiffies (low 32 bits) of the last refill.
    pub refilled: u32,
    /// Tokens; a packet costs `hz`.
    pub tokens: u64,
}

/// Buckets of one element of the map `ECHO_LIMIT`: a cache line.
pub const BUCKETS_PER_SET: usize = 4;

impl Bucket {
    /// Full bucket of a source that is new here.
    #[inline(always)]
    pub const fn fresh(tag: u32, now: u32, hz: u32, burst: u32) -> Bucket {
        Bucket { tag, refilled: now, tokens: hz as u64 * burst as u64 }
    }

    /// Whether it is as full as one of a new source: then it can be given away.
    #[inline(always)]
    pub const fn is_full(&self, now: u32, hz: u32, rate: u32, burst: u32) -> bool {
        self.tokens + crate::flow::elapsed(now, self.refilled) as u64 * rate as u64
            >= hz as u64 * burst as u64
    }

    /// Refills the bucket and takes a packet's tokens. Returns whether there were enough.
    #[inline(always)]
    pub fn take(&mut self, now: u32, hz: u32, rate: u32, burst: u32) -> bool {
        let full = hz as u64 * burst as u64;
        // Held to what is full also where no time has passed: the burst may have been made smaller.
        let tokens = self.tokens + crate::flow::elapsed(now, self.refilled) as u64 * rate as u64;
        self.tokens = if tokens > full { full } else { tokens };
        self.refilled = now;
        self.take_of_these(hz)
    }

    /// Takes a packet's tokens of those that are there: all that [`Bucket::take`] does where no time has passed since it did it.
    #[inline(always)]
    pub fn take_of_these(&mut self, hz: u32) -> bool {
        if self.tokens < hz as u64 {
            return false;
        }
        self.tokens -= hz as u64;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_the_rate_through_and_no_more() {
        const HZ: u32 = 250;
        let mut bucket = Bucket::fresh(1, 0, HZ, 10);
        let passed = (0..10 * HZ)
            .map(|jiffy| (0..5).filter(|_| bucket.take(jiffy, HZ, 100, 10)).count())
            .sum::<usize>();
        assert!((1000..=1011).contains(&passed), "10 s at 100 a second and a burst of 10: {passed}");
    }

    #[test]
    fn idle_time_fills_up_to_the_burst() {
        let mut bucket = Bucket::fresh(1, 0, 1000, 3);
        for _ in 0..3 {
            assert!(bucket.take(0, 1000, 1, 3));
        }
        assert!(!bucket.take(0, 1000, 1, 3));
        let passed = (0..10).filter(|_| bucket.take(3_000_000, 1000, 1, 3)).count();
        assert_eq!(passed, 3);
    }
}
