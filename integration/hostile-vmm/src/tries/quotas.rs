//! How much it can have of what the host has only so much of.

use std::thread;

use syscalls::Sysno;

use super::{Try, one};
use crate::{attempt::call, limits};

pub const TRIES: &[Try] = &[
    one("threads", || {
        let (count, errno) = limits::threads(|| {
            loop {
                thread::park();
            }
        });
        Ok(format!("{count} {errno:?}"))
    }),
    one("descriptors", || {
        let mut last = 0;
        let (_, errno) = limits::until_error(usize::MAX, || {
            last = call(Sysno::eventfd2, &[0, 0])?;
            Ok(())
        });
        Ok(format!("to number {last} {errno:?}"))
    }),
    one("pending signals", || {
        let (count, errno) = limits::signals();
        Ok(format!("{count} {errno:?}"))
    }),
];
