//! The terminal of this process: its size, and its raw mode, which ends on drop.

use std::{
    io::{self, IsTerminal},
    mem::MaybeUninit,
};

use anyhow::{Context, Result, ensure};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// Fails unless stdin is a terminal.
pub fn require() -> Result<()> {
    ensure!(io::stdin().is_terminal(), "-t: stdin is not a terminal");
    Ok(())
}

/// Its (columns, rows).
pub fn size() -> Result<(u16, u16)> {
    let mut size = MaybeUninit::<libc::winsize>::zeroed();
    // SAFETY: this request writes a winsize, whose fields may be zero.
    let size = unsafe {
        if libc::ioctl(libc::STDIN_FILENO, libc::TIOCGWINSZ, size.as_mut_ptr()) < 0 {
            return Err(io::Error::last_os_error()).context("asking for the terminal's size");
        }
        size.assume_init()
    };
    Ok((size.ws_col, size.ws_row))
}

/// Raw mode: all input goes to the guest's terminal unchanged.
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// Enters raw mode.
    pub fn enter() -> Result<Self> {
        let before = tcgetattr(io::stdin()).context("reading the terminal's mode")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin(), SetArg::TCSANOW, &raw).context("setting the terminal's mode")?;
        Ok(Raw { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.before);
    }
}
