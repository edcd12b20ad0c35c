//! Memory that was freed goes back to the system.

/// Freed memory is kept back only up to 32 kB, and large blocks go back one by one: the allocator's
/// own measures are made for programs that will need it again soon.
pub fn be_frugal() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code, reason = "the allocator's own call")]
    // SAFETY: numbers for the allocator; nothing else runs yet, and nothing would mind.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, 32 << 10);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 48 << 10);
        libc::mallopt(libc::M_TOP_PAD, 16 << 10);
    }
}

/// Gives the heap's free pages back. The allocator keeps what start, reload or a crowd of clients
/// took for a moment; a daemon that runs for weeks has no use for it. Some 50 µs.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code, reason = "the allocator's own call")]
    // SAFETY: no argument but a number; it moves nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
