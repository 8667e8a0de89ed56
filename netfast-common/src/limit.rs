//! Rates of filter rules: a token bucket for a rule, or for each source address that it meets.

use crate::{abi::FilterRate, addr, echo::Bucket, flow, hash};

/// Time in jiffies beyond which a bucket gets no more tokens: so that no product overflows. About a quarter of an hour at
/// 1000 jiffies a second.
const LONGEST: u32 = 1 << 20;

/// What marks a bucket as that of a rule and a source address, never 0.
#[inline(always)]
pub fn source_tag(source: &[u8; 16], number: u32, seed: u32) -> u32 {
    let (high, low) = addr::words(source);
    hash::finish(hash::mix(hash::mix(hash::mix(seed as u64, high), low), number as u64)) | 1
}

/// What marks a bucket as that of a rule, never 0.
#[inline(always)]
pub const fn rule_tag(number: u32) -> u32 {
    number << 1 | 1
}

/// A full bucket.
#[inline(always)]
pub const fn fresh(rate: &FilterRate, tag: u32, now: u32, hz: u32) -> Bucket {
    Bucket { tag, refilled: now, tokens: hz as u64 * rate.burst }
}

/// Refills the bucket and takes what a frame of `bytes` costs. Returns whether there was enough. Tokens are counted in
/// jiffies times rate, so that refilling needs no division.
#[inline(always)]
pub fn take(bucket: &mut Bucket, rate: &FilterRate, bytes: u32, now: u32, hz: u32) -> bool {
    let full = hz as u64 * rate.burst;
    let elapsed = flow::elapsed(now, bucket.refilled);
    if elapsed > 0 {
        let elapsed = if elapsed > LONGEST { LONGEST } else { elapsed };
        let tokens = bucket.tokens.wrapping_add(elapsed as u64 * rate.rate);
        bucket.tokens = if tokens > full { full } else { tokens };
        bucket.refilled = now;
    }
    let cost = hz as u64 * if rate.bytes != 0 { bytes as u64 } else { 1 };
    if bucket.tokens < cost {
        return false;
    }
    bucket.tokens -= cost;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const HZ: u32 = 250;

    fn rate(rate: u64, burst: u64, bytes: u8) -> FilterRate {
        FilterRate { rate, burst, number: 7, bytes, ..FilterRate::default() }
    }

    #[test]
    fn packets_and_bytes_keep_to_their_rate() {
        for (rate, frame, wanted) in [
            (rate(100, 10, 0), 60, 1000..=1011),
            (rate(1, 1, 0), 1500, 10..=11),
            // 1 Mbit/s in frames of 1250 bytes is 100 a second.
            (rate(125_000, 12_500, 1), 1250, 1000..=1011),
            // 400 Gbit/s: nothing overflows.
            (rate(50_000_000_000, 50_000_000_000, 1), 1500, 50_000..=50_000),
        ] {
            let mut bucket = fresh(&rate, rule_tag(7), 0, HZ);
            let passed = (0..10 * HZ)
                .map(|jiffy| (0..20).filter(|_| take(&mut bucket, &rate, frame, jiffy, HZ)).count())
                .sum::<usize>();
            assert!(wanted.contains(&passed), "{rate:?}: {passed} in 10 s");
        }
    }

    #[test]
    fn idle_time_fills_up_to_the_burst_however_long_it_was() {
        let rate = rate(50_000_000_000, 3000, 1);
        let mut bucket = fresh(&rate, rule_tag(7), 0, HZ);
        assert!(take(&mut bucket, &rate, 3000, 0, HZ) && !take(&mut bucket, &rate, 1, 0, HZ));
        let passed = (0..10).filter(|_| take(&mut bucket, &rate, 1000, 2_000_000_000, HZ)).count();
        assert_eq!(passed, 3);
    }

    #[test]
    fn tags_differ_by_rule_and_source() {
        let a = source_tag(&addr::from_v4([192, 0, 2, 1]), 1, 9);
        assert_ne!(a, source_tag(&addr::from_v4([192, 0, 2, 2]), 1, 9));
        assert_ne!(a, source_tag(&addr::from_v4([192, 0, 2, 1]), 2, 9));
        assert_ne!(a, source_tag(&addr::from_v4([192, 0, 2, 1]), 1, 8));
        assert!(a != 0 && rule_tag(0) != 0);
    }
}
