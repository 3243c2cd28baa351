//! The bytes of an archive on their way to the tar crate: counted, and those of headers limited and kept.
//!
//! The tar crate keeps a long name or extended header in memory whatever its size. So while it reads headers it gets only so
//! many bytes.

use std::{
    cell::RefCell,
    io::{self, Read},
    rc::Rc,
};

use crate::{
    error::EntryError,
    limits::{Budget, MAX_HEADERS},
};

const BLOCK: u64 = 512;

/// A reader that counts what is read.
pub(crate) struct Guarded<'a, R> {
    inner: R,
    budget: Option<&'a Budget>,
    state: Rc<RefCell<State>>,
}

/// What the tar crate reads between two entries.
pub(crate) struct Headers(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    position: u64,
    reading: bool,
    /// Bytes of the last entry before the first header.
    padding: usize,
    headers: Vec<u8>,
}

impl<'a, R: Read> Guarded<'a, R> {
    pub fn new(inner: R, budget: Option<&'a Budget>) -> (Self, Headers) {
        let state = Rc::<RefCell<State>>::default();
        (Guarded { inner, budget, state: state.clone() }, Headers(state))
    }

    /// Reads what is left, which counts as the rest does.
    pub fn drain(mut self) -> io::Result<R> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.inner)
    }
}

impl Headers {
    /// What is read from here on are headers, after the end of a block.
    pub fn begin(&self) {
        let mut state = self.0.borrow_mut();
        state.reading = true;
        state.padding = (state.position.next_multiple_of(BLOCK) - state.position) as usize;
        state.headers.clear();
    }

    /// The headers end here: hands them to `read`.
    pub fn end<T>(&self, read: impl FnOnce(&[u8]) -> Result<T, EntryError>) -> Result<T, EntryError> {
        self.cancel();
        let state = self.0.borrow();
        read(state.headers.get(state.padding..).unwrap_or_default())
    }

    /// What follows are no headers.
    pub fn cancel(&self) {
        self.0.borrow_mut().reading = false;
    }
}

impl<R: Read> Read for Guarded<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        if let Some(budget) = self.budget {
            budget.bytes(read as u64).map_err(io::Error::other)?;
        }
        let mut state = self.state.borrow_mut();
        state.position += read as u64;
        if state.reading {
            if (state.headers.len() + read) as u64 > MAX_HEADERS {
                let text =
                    format!("an entry with more than {MAX_HEADERS} bytes of headers; no more are allowed");
                return Err(io::Error::other(text));
            }
            state.headers.extend(&into[..read]);
        }
        Ok(read)
    }
}
