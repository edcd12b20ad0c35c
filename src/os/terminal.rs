//! The terminal that is written to.

/// Rows and columns of the terminal behind the standard output; `None` when it is none, or will not say.
#[must_use]
pub fn size() -> Option<(usize, usize)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    #[allow(unsafe_code, reason = "nix offers no call for it")]
    // SAFETY: the kernel writes one `winsize`, which is ours, or nothing.
    let asked = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    let (rows, columns) = (usize::from(size.ws_row), usize::from(size.ws_col));
    (asked == 0 && rows > 0 && columns > 0).then_some((rows, columns))
}
