//! IP addresses as the ABI holds them: 16 bytes, IPv4 mapped.

/// The 16-byte form of an IPv4 address.
#[inline(always)]
pub const fn from_v4(a: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a[0], a[1], a[2], a[3]]
}

/// The IPv4 address in a 16-byte form, if it is one.
#[inline(always)]
pub fn to_v4(a: &[u8; 16]) -> Option<[u8; 4]> {
    if is_v4(a) { Some([a[12], a[13], a[14], a[15]]) } else { None }
}

/// Whether a 16-byte form holds an IPv4 address.
#[inline(always)]
pub fn is_v4(a: &[u8; 16]) -> bool {
    words(a).0 == 0 && (words(a).1 >> 32) == 0xffff
}

/// The address as two big-endian words, for comparison and masking.
#[inline(always)]
pub const fn words(a: &[u8; 16]) -> (u64, u64) {
    (
        u64::from_be_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]),
        u64::from_be_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]),
    )
}

/// Whether `address` lies in the prefix of `length` bits (0..=128, 128-bit form) that starts at `first`.
#[inline(always)]
pub const fn in_prefix(address: &[u8; 16], first: &[u8; 16], length: u32) -> bool {
    let (ah, al) = words(address);
    let (fh, fl) = words(first);
    let (mh, ml) = mask(length);
    (ah ^ fh) & mh == 0 && (al ^ fl) & ml == 0
}

/// The mask of a prefix length (0..=128) as two words.
#[inline(always)]
pub const fn mask(length: u32) -> (u64, u64) {
    let high = if length == 0 { 0 } else { u64::MAX << (64 - if length > 64 { 64 } else { length }) };
    let low = if length <= 64 { 0 } else { u64::MAX << (128 - if length > 128 { 128 } else { length }) };
    (high, low)
}

/// The mask of a prefix length (0..=128) as bytes in network order.
pub const fn mask_bytes(length: u32) -> [u8; 16] {
    let (high, low) = mask(length);
    (((high as u128) << 64) | low as u128).to_be_bytes()
}

/// The 16-byte form of a standard address.
#[cfg(any(test, feature = "user"))]
pub fn from_ip(ip: std::net::IpAddr) -> [u8; 16] {
    match ip {
        std::net::IpAddr::V4(v4) => from_v4(v4.octets()),
        std::net::IpAddr::V6(v6) => v6.octets(),
    }
}

/// The standard address of a 16-byte form.
#[cfg(any(test, feature = "user"))]
pub fn to_ip(a: &[u8; 16]) -> std::net::IpAddr {
    match to_v4(a) {
        Some(v4) => std::net::IpAddr::from(v4),
        None => std::net::IpAddr::from(*a),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_at_the_word_borders() {
        assert_eq!(mask(0), (0, 0));
        assert_eq!(mask(1), (1 << 63, 0));
        assert_eq!(mask(64), (u64::MAX, 0));
        assert_eq!(mask(65), (u64::MAX, 1 << 63));
        assert_eq!(mask(128), (u64::MAX, u64::MAX));
    }

    #[test]
    fn prefixes_of_both_families() {
        let net = from_v4([10, 1, 0, 0]);
        assert!(in_prefix(&from_v4([10, 1, 255, 3]), &net, 96 + 16));
        assert!(!in_prefix(&from_v4([10, 2, 0, 3]), &net, 96 + 16));
        assert!(in_prefix(&[7; 16], &net, 0));
        assert!(!in_prefix(&[7; 16], &from_v4([0; 4]), 96), "an IPv4 default route holds no IPv6 address");
    }
}
