//! Memory that the agent gives back.
//!
//! A scrape, a large change and the start make many short-lived objects. The C library's allocator keeps what was theirs, for each
//! thread apart; with ten thousand targets that came to more than all that the agent really holds.

/// Has the threads share what they allocate from. To be called before there are any.
pub(super) fn share() {
    #[cfg(target_env = "gnu")]
    {
        const ARENAS: libc::c_int = 2;
        // SAFETY: a plain call, before other threads allocate.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) };
    }
}

/// Gives back to the kernel what nothing uses.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: a plain call; the allocator takes its own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
