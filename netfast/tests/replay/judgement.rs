//! Whether what must never be is seen.

use netfast::datapath::sandbox::Ran;
use netfast_common::{Reason, Verdict};

use crate::{judge::judge, query};

fn ran(action: u32, counted: &[(Verdict, Reason)], frame: &[u8]) -> Ran {
    Ran { action, counted: counted.to_vec(), frame: frame.to_vec() }
}

fn kind(input: &[u8], ran: &Ran) -> Option<&'static str> {
    judge(input, ran).map(|(kind, _)| kind)
}

#[test]
fn violations_are_seen() {
    let frame = query(b"abcd");
    let mut changed = frame.clone();
    changed[30] ^= 1;
    let (pass, drop) = ((Verdict::Pass, Reason::NoService), (Verdict::Drop, Reason::FilterDrop));
    let (tx, out) = ((Verdict::Transmit, Reason::Echoed), (Verdict::Redirect, Reason::Forwarded));
    for (what, expected, action, counted, after) in [
        ("passed", None, 2, [pass].as_slice(), &frame),
        ("dropped", None, 1, &[drop], &changed),
        ("sent on with right checksums", None, 4, &[out], &frame),
        ("aborted", Some("aborted"), 0, &[], &frame),
        ("no verdict at all", Some("aborted"), 77, &[], &frame),
        ("a changed frame that was only to be passed", Some("passed_changed"), 2, &[pass], &changed),
        ("not counted", Some("miscounted"), 2, &[], &frame),
        ("counted twice", Some("miscounted"), 2, &[pass, pass], &frame),
        ("counted as something else", Some("miscounted"), 1, &[pass], &frame),
        ("a wrong checksum", Some("wrong_checksum"), 3, &[tx], &changed),
        ("a wrong checksum, redirected", Some("wrong_checksum"), 4, &[out], &changed),
        ("a map is missing", Some("internal"), 1, &[(Verdict::Drop, Reason::Internal)], &frame),
    ] {
        assert_eq!(expected, kind(&frame, &ran(action, counted, after)), "{what}");
    }
    let longer = [frame.as_slice(), &[0]].concat();
    assert_eq!(Some("passed_changed"), kind(&frame, &ran(2, &[pass], &longer)), "a length");
}

#[test]
fn each_checksum_is_looked_at() {
    let frame = query(b"abcd");
    let tx = [(Verdict::Transmit, Reason::Echoed)];
    // TTL, source address, source port, the data: bytes that only one or both checksums cover.
    for at in [22, 26, 34, 44] {
        let mut changed = frame.clone();
        changed[at] ^= 0x10;
        assert_eq!(Some("wrong_checksum"), kind(&frame, &ran(3, &tx, &changed)), "byte {at}");
        assert_eq!(None, kind(&changed, &ran(3, &tx, &changed)), "was wrong before: byte {at}");
    }
    let mut none = frame.clone();
    none[40..42].fill(0);
    assert_eq!(None, kind(&none, &ran(3, &tx, &none)), "no UDP checksum stays none");
    let mut made = none.clone();
    made[40] = 1;
    assert_eq!(Some("wrong_checksum"), kind(&none, &ran(3, &tx, &made)), "none has become a wrong one");
    let cut = &frame[..frame.len() - 1];
    assert_eq!(Some("wrong_checksum"), kind(&frame, &ran(3, &tx, cut)), "a byte is lost");
}
