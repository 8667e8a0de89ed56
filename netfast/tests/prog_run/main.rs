//! One frame at a time through the real programs.

use netfast::datapath::sandbox::{SMALL_TABLES, Sandbox};
use netfast_common::{Reason, Verdict};

#[test]
fn a_frame_that_is_not_ip_goes_to_the_kernel() {
    let mut sandbox = Sandbox::enter(SMALL_TABLES).unwrap();
    sandbox.add_interface("nf-in", 10, [2, 0, 0, 0, 0, 10]).unwrap();
    let ran = sandbox.run(10, &[0; 60]).unwrap();
    assert_eq!((Some(Verdict::Pass), Some(Reason::NotIp)), (ran.verdict(), ran.reason()));
    assert_eq!(vec![0; 60], ran.frame);
}
