//! A guest without a fault, as far as the host sees: it makes no containers, but answers as if it did.

use std::{
    io::{self, Write},
    os::unix::net::UnixStream,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
};

use guest_protocol::{
    api,
    hello::Role,
    mux::{LOG_STREAM, WINDOW},
};
use protobuf::Message;

use crate::wire::{self, Call, EOF};

/// A guest past its hellos.
pub struct Guest {
    pub control: UnixStream,
    pub streams: UnixStream,
    /// The streams of the container, once the host has named them.
    pub stdio: api::Stdio,
    /// Calls that wait for the container's end.
    waits: Vec<u32>,
    log: Arc<Credit>,
}

/// What the host takes of the log now.
struct Credit {
    bytes: Mutex<usize>,
    grown: Condvar,
}

impl Guest {
    /// Dials twice.
    pub fn dial(nonce: &str) -> io::Result<Guest> {
        Ok(Guest::over(wire::introduced(Role::Control, nonce)?, wire::introduced(Role::Streams, nonce)?))
    }

    /// A guest over two connections. It reads what comes on `streams` if [told to](Guest::read_streams).
    pub fn over(control: UnixStream, streams: UnixStream) -> Guest {
        let log = Arc::new(Credit { bytes: Mutex::new(WINDOW), grown: Condvar::new() });
        Guest { control, streams, stdio: api::Stdio::new(), waits: Vec::new(), log }
    }

    /// Reads what comes on the stream connection, on a thread.
    pub fn read_streams(&self) -> io::Result<()> {
        let (streams, log) = (self.streams.try_clone()?, self.log.clone());
        thread::spawn(move || {
            wire::read_frames(&streams, |stream, bytes| {
                if stream == LOG_STREAM {
                    *log.bytes.lock().unwrap_or_else(PoisonError::into_inner) += bytes as usize;
                    log.grown.notify_all();
                }
            })
        });
        Ok(())
    }

    /// Sends this to the host's log for ever, as fast as the host takes it, on a thread.
    pub fn flood_log(&self, chunk: Vec<u8>) -> io::Result<()> {
        let (mut streams, log) = (self.streams.try_clone()?, self.log.clone());
        thread::spawn(move || -> io::Result<()> {
            loop {
                let mut bytes = log.bytes.lock().unwrap_or_else(PoisonError::into_inner);
                while *bytes < chunk.len() {
                    bytes = log.grown.wait(bytes).unwrap_or_else(PoisonError::into_inner);
                }
                *bytes -= chunk.len();
                drop(bytes);
                streams.write_all(&wire::data(LOG_STREAM, &chunk))?;
            }
        });
        Ok(())
    }

    /// Answers every call as it should be, but those of which `differs` says that it has dealt with them. Returns when the
    /// connection fails.
    pub fn serve(
        &mut self,
        mut differs: impl FnMut(&mut Guest, &Call) -> io::Result<bool>,
    ) -> io::Result<()> {
        loop {
            let call = wire::next_call(&self.control)?;
            if !differs(self, &call)? {
                self.do_as_told(&call)?;
            }
        }
    }

    /// Answers one call as it should be.
    pub fn do_as_told(&mut self, call: &Call) -> io::Result<()> {
        match call.method.as_str() {
            "Configure" => self
                .answer(call, &api::ConfigureResponse { kernel: "hostile".to_owned(), ..Default::default() }),
            "CreateContainer" => {
                self.note_stdio(call)?;
                self.answer(call, &api::Process { pid: 7, ..Default::default() })
            }
            "Exec" => self.answer(call, &api::Process { pid: 8, ..Default::default() }),
            "Stats" => self.answer(call, &api::StatsResponse { pids_current: 1, ..Default::default() }),
            "Wait" => {
                self.waits.push(call.id);
                Ok(())
            }
            "Signal" => {
                let request = api::SignalRequest::parse_from_bytes(&call.payload)?;
                self.answer(call, &api::Empty::new())?;
                self.end(128 + request.signal)
            }
            "Start" => {
                self.answer(call, &api::Empty::new())?;
                self.say_started()
            }
            _ => self.answer(call, &api::Empty::new()),
        }
    }

    /// Remembers the streams that a call to create a container names.
    pub fn note_stdio(&mut self, call: &Call) -> io::Result<()> {
        let request = api::CreateContainerRequest::parse_from_bytes(&call.payload)?;
        self.stdio = request.stdio.unwrap_or_default();
        Ok(())
    }

    /// Writes the line to standard output that the scenario waits for: the state "running" is shown while a start is under
    /// way.
    pub fn say_started(&self) -> io::Result<()> {
        self.stream(&wire::data(self.stdio.stdout, b"started\n"))
    }

    /// Answers a call.
    pub fn answer(&self, call: &Call, message: &impl Message) -> io::Result<()> {
        self.tell(&wire::answer(call.id, message))
    }

    /// Writes bytes to the control connection.
    pub fn tell(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.control).write_all(bytes)
    }

    /// Writes bytes to the stream connection.
    pub fn stream(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.streams).write_all(bytes)
    }

    /// The container's end: its output's, and the record.
    pub fn end(&mut self, status: u32) -> io::Result<()> {
        for stream in [self.stdio.stdout, self.stdio.stderr] {
            self.stream(&wire::stream_frame(EOF, stream, 0, &[]))?;
        }
        self.record(status)
    }

    /// The record of the container's end.
    pub fn record(&mut self, status: u32) -> io::Result<()> {
        let record = api::ExitRecord { status, ..Default::default() };
        std::mem::take(&mut self.waits).into_iter().try_for_each(|id| self.tell(&wire::answer(id, &record)))
    }
}
