//! Memory that is not needed any more goes back to the system.

/// Freed memory is kept back only up to 32 kB, and large blocks go back one by one: the allocator's
/// own measures are made for programs that will need it again soon.
pub fn be_frugal() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code, reason = "the allocator's own call")]
    // SAFETY: numbers for the allocator; nothing else runs yet, and nothing would mind.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, 32 << 10);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 16 << 10);
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

/// Gives the pages back that the deepest call so far touched below the one that is running: the start
/// goes deep, a daemon that waits does not. Only on the process's first thread, whose stack has a
/// megabyte of nothing below it.
pub fn give_back_stack() {
    #[cfg(target_env = "gnu")]
    {
        /// The calls that give it back need some themselves.
        const OURS: usize = 4 << 10;
        /// Deeper than anything here goes.
        const DEEPEST: usize = 512 << 10;
        let mark = 0_u8;
        let here = std::hint::black_box(&raw const mark) as usize;
        #[allow(unsafe_code, reason = "calls of the system")]
        // SAFETY: who runs here is asked by number. What lies 4 kB below the call that runs belongs to no call, and
        // on the first thread nothing else is mapped there: the kernel keeps a gap.
        unsafe {
            let Some(page) = page_size().filter(|_| libc::gettid() == libc::getpid()) else {
                return;
            };
            let end = (here - OURS) / page * page;
            let begin = end - DEEPEST / page * page;
            libc::madvise(begin as *mut _, end - begin, libc::MADV_DONTNEED);
        }
    }
}

/// Bytes of a page of memory.
#[cfg(target_env = "gnu")]
fn page_size() -> Option<usize> {
    #[allow(unsafe_code, reason = "nix offers no call for it")]
    // SAFETY: asks for a number.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).ok().filter(|size| *size > 0)
}

/// Lets go of the program's code as far as it is mapped: what is needed comes back from the page
/// cache at its next use, and what only the start needed stays away.
pub fn let_go_of_code() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code, reason = "the loader's list of segments, and a hint to the kernel")]
    // SAFETY: the callback only lives during the call and is given nothing of ours.
    unsafe {
        libc::dl_iterate_phdr(Some(unmap_code), std::ptr::null_mut());
    }
}

#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "called by the loader with its own record")]
unsafe extern "C" fn unmap_code(
    object: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _nothing: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the loader's record is valid during the call and names as many headers as it has.
    let (base, headers) = unsafe {
        let object = &*object;
        (object.dlpi_addr, std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()))
    };
    let Some(page) = page_size().map(|page| page as u64) else { return 1 };
    for header in headers {
        let never_written = header.p_flags & (libc::PF_X | libc::PF_W) == libc::PF_X;
        if header.p_type != libc::PT_LOAD || !never_written {
            continue;
        }
        let begin = (base + header.p_vaddr).next_multiple_of(page);
        let end = (base + header.p_vaddr + header.p_memsz) / page * page;
        if begin < end {
            // SAFETY: whole pages within one segment that is mapped from a file, executable and
            // never written: they are the file's bytes, now and when they are read again.
            unsafe { libc::madvise(begin as *mut _, (end - begin) as usize, libc::MADV_DONTNEED) };
        }
    }
    0
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    /// Resident memory of the process, pages.
    fn resident() -> u64 {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn code_that_is_let_go_of_leaves_memory_and_still_runs() {
        let sorted = |mut v: Vec<u32>| {
            v.sort_unstable();
            v
        };
        assert_eq!(sorted(vec![3, 1, 2]), [1, 2, 3]);
        let before = resident();
        super::let_go_of_code();
        let after = resident();
        assert!(after < before, "{before} pages before, {after} after");
        assert_eq!(sorted(vec![3, 1, 2]), [1, 2, 3]);
    }
}
