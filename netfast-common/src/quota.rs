//! Quota of new flows per source: one that floods uses up its own tokens, and nobody else's.

use crate::{
    echo::{BUCKETS_PER_SET, Bucket},
    hash,
};

/// What a source is called among the buckets. IPv6 hosts have a whole /64 to choose addresses from (RFC 4291 2.5.4):
/// it is one source.
#[inline(always)]
pub fn tag(source: &[u8; 16], is_ipv6: bool, seed: u32) -> u32 {
    let (high, low) = crate::addr::words(source);
    let low = if is_ipv6 { 0 } else { low };
    hash::finish(hash::mix(hash::mix(seed as u64 ^ 0x71, high), low)) | 1
}

/// Takes a token for a new flow of the source `tag` out of its bucket in `set`. Returns whether it may open one: `rate` a
/// second (not 0), `burst` at once.
///
/// A source without a bucket gets one that is free or whose source could be forgotten, since it would be full by now.
/// With none the flow may be opened: this is a guard against single sources, and must not turn against others where
/// there are many; flows that nobody answers push out each other only.
#[inline(always)]
pub fn admits(
    set: &mut [Bucket; BUCKETS_PER_SET],
    tag: u32,
    now: u32,
    hz: u32,
    rate: u32,
    burst: u32,
) -> bool {
    let mut way = 0;
    while way < BUCKETS_PER_SET {
        if set[way].tag == tag {
            return set[way].take(now, hz, rate, burst);
        }
        way += 1;
    }
    way = 0;
    while way < BUCKETS_PER_SET {
        if set[way].tag == 0 || set[way].is_full(now, hz, rate, burst) {
            set[way] = Bucket::fresh(tag, now, hz, burst);
            return set[way].take(now, hz, rate, burst);
        }
        way += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr;

    const HZ: u32 = 250;

    #[test]
    fn a_source_is_an_address_or_a_prefix() {
        let of = |text: &str| {
            let ip: core::net::IpAddr = text.parse().unwrap();
            tag(&addr::from_ip(ip), ip.is_ipv6(), 7)
        };
        assert_ne!(of("198.51.100.1"), of("198.51.100.2"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(0, of("::"), "0 is a free bucket");
    }

    #[test]
    fn a_flood_leaves_others_their_tokens() {
        let mut set = [Bucket::default(); BUCKETS_PER_SET];
        let (mut flood, mut other) = (0, 0);
        for jiffy in 0..10 * HZ {
            for _ in 0..100 {
                flood += u32::from(admits(&mut set, 3, jiffy, HZ, 1000, 2000));
            }
            // One below its rate.
            other += u32::from(admits(&mut set, 5, jiffy, HZ, 1000, 2000));
        }
        assert!((11_900..=12_010).contains(&flood), "10 s at 1000 a second and 2000 at once: {flood}");
        assert_eq!(10 * HZ, other, "not one refused");
    }

    #[test]
    fn a_full_set_refuses_nobody_new_and_forgets_no_flood() {
        let mut set = [Bucket::default(); BUCKETS_PER_SET];
        for tag in [1, 3, 5, 7] {
            while admits(&mut set, tag, 0, HZ, 10, 20) {}
        }
        assert!(admits(&mut set, 9, 1, HZ, 10, 20), "no bucket for it: it may");
        assert!([1, 3, 5, 7].iter().all(|tag| !admits(&mut set, *tag, 1, HZ, 10, 20)), "they stay refused");
        assert!(admits(&mut set, 9, 2 * HZ, HZ, 10, 20), "after 2 s the buckets are full again: it gets one");
        assert_eq!(1, set.iter().filter(|bucket| bucket.tag == 9).count());
    }
}
