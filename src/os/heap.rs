//! Memory that was freed goes back to the system.

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
