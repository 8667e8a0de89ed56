use proptest::prelude::*;

use super::*;
use crate::checksum::full;

#[test]
fn timestamps_count_from_1900() {
    // 2036-02-07 06:28:16 UTC is the first second of NTP's era 1 (RFC 5905 6).
    let tai = |seconds: u64, nanoseconds: u64| (seconds + 37) * NANOSECONDS + nanoseconds;
    let of = |tai: u64| ntp(tai, 37).map(u32::from_be);
    assert_eq!([0x83aa_7e80, 0], of(tai(0, 0)), "1970");
    assert_eq!([0x83aa_7e80, 1 << 31], of(tai(0, 500_000_000)));
    assert_eq!([u32::MAX, 0xffff_fffb], of(tai(2_085_978_495, 999_999_999)));
    assert_eq!([0, 0], of(tai(2_085_978_496, 0)), "an era later");
    assert_eq!([0x83aa_7e80 + 37, 0], ntp(tai(0, 0), 0).map(u32::from_be), "the host knows no leap seconds");
}

#[test]
fn error_estimates_are_never_too_small() {
    // RFC 4656 4.1.2: the error is multiplier * 2^-32 * 2^scale seconds.
    let seconds = |estimate: u16| {
        f64::from(estimate & 0xff) * 2f64.powi(-32) * 2f64.powi(i32::from(estimate >> 8 & 0x3f))
    };
    for microseconds in [0, 1, 2, 100, 16_000, 500_000, 1_000_000, 16_000_000, 86_400_000_000] {
        let estimate = error_estimate(microseconds, false);
        let real = microseconds as f64 / 1e6;
        assert!(estimate & 0xff != 0, "{microseconds}");
        assert!(
            seconds(estimate) >= real && seconds(estimate) <= real * 1.02 + 1e-9,
            "{microseconds} {estimate:x}"
        );
        assert_eq!(estimate | 0x8000, error_estimate(microseconds, true));
        assert_eq!(0, estimate & 0x4000, "NTP's format");
    }
    assert_eq!(0xff, error_estimate(u64::MAX, true) & 0xff);
}

proptest! {
    /// RFC 8762 4.3.1, figure 5.
    #[test]
    fn an_answer_has_everything_in_its_place(
        mut packet in prop::collection::vec(any::<u8>(), 8 + LENGTH..120),
        ttl in any::<u8>(),
        error in any::<u16>(),
        received in any::<[u8; 8]>(),
        sent in any::<[u8; 8]>(),
    ) {
        packet.truncate(packet.len() & !1);
        packet[6..8].copy_from_slice(&[0, 0]);
        let sum = full(&[&packet]);
        prop_assume!(sum != [0, 0]);
        packet[6..8].copy_from_slice(&sum);
        let before = packet.clone();
        let two = |bytes: [u8; 8]| {
            let [a, b, c, d, e, f, g, h] = bytes;
            [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
        };
        let delta = reflect(&mut packet[8..], ttl, error, two(received), two(sent));
        let new = delta.apply_udp([packet[6], packet[7]]);
        packet[6..8].copy_from_slice(&new);
        prop_assert_eq!([0, 0], full(&[&packet]));
        let (asked, told) = (&before[8..], &packet[8..]);
        prop_assert_eq!(&asked[..4], &told[..4], "sequence number");
        prop_assert_eq!(&sent, &told[4..12]);
        prop_assert_eq!(&error.to_be_bytes(), &told[12..14]);
        prop_assert_eq!(&asked[14..16], &told[14..16], "session identifier of RFC 8972");
        prop_assert_eq!(&received, &told[16..24]);
        prop_assert_eq!(&asked[..4], &told[24..28], "the sender's sequence number");
        prop_assert_eq!(&asked[4..12], &told[28..36], "its timestamp");
        prop_assert_eq!(&asked[12..14], &told[36..38], "its error estimate");
        prop_assert_eq!(&[0, 0, ttl, 0, 0, 0][..], &told[38..44]);
        prop_assert_eq!(&asked[44..], &told[44..], "TLVs and padding");
    }
}
