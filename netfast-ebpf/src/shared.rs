//! Words that several CPUs change.

use core::arch::asm;

/// Puts `to` in the place of `from`; tells whether that stood there. A full barrier, as all of BPF's atomic operations are that return a
/// value (kernel 5.12).
///
/// # Safety
///
/// `place` is a word of a map's element, aligned.
#[inline(always)]
pub unsafe fn exchange(place: *mut u32, from: u32, to: u32) -> bool {
    let found: u64;
    // SAFETY: as the caller says. `cmpxchg32_32` compares w0 with the word at r2, puts w3 there if they are equal, and leaves in w0
    // what was there. The compiler has no such operation for this target.
    unsafe {
        asm!(
            "w0 = cmpxchg32_32(r2 + 0, w0, w3)",
            inlateout("r0") u64::from(from) => found,
            in("r2") place,
            in("r3") u64::from(to),
        );
    }
    found as u32 == from
}
