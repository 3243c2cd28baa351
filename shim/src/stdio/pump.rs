//! Moves bytes between the host's ends and the guest's streams, one task per direction.

use std::{
    io,
    sync::{Mutex, MutexGuard},
};

use guest_protocol::{
    api,
    mux::{Mux, Reader, Writer},
    relay,
};
use log::{debug, warn};
use tokio::{
    net::unix::pipe,
    task::{AbortHandle, JoinHandle},
};

use super::{
    StdioPaths,
    endpoint::{Input, Output},
    logger::Logger,
    uri::Target,
};
use crate::{error::Result, id::ProcessId};

/// The host's ends, opened before the guest knows of the process.
pub struct Endpoints {
    stdin: Option<Input>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    logger: Option<Logger>,
}

impl Endpoints {
    /// Opens what `paths` names for a process of containerd's `namespace`, and starts its logger
    /// if it has one.
    ///
    /// # Errors
    /// When one cannot be opened; none stays open then.
    pub async fn open(paths: &StdioPaths, id: &ProcessId, namespace: &str) -> Result<Endpoints> {
        let target = |uri: &str, wanted: bool| match wanted && !uri.is_empty() {
            true => Target::parse(uri).map(Some),
            false => Ok(None),
        };
        let stdin = if paths.stdin.is_empty() { None } else { Some(Input::find(&paths.stdin)?) };
        let (stdout, stderr) = (target(&paths.stdout, true)?, target(&paths.stderr, !paths.terminal)?);
        if let Some(Target::Binary(binary)) = stdout {
            // Both outputs are the logger's, whatever standard error says, as with runc's shim.
            let named = if id.is_init() { &id.container } else { &id.exec };
            let (logger, pipes) = Logger::start(&binary, named, namespace).await?;
            let stderr = stderr.map(|_| pipes.stderr.into());
            return Ok(Endpoints { stdin, stdout: Some(pipes.stdout.into()), stderr, logger: Some(logger) });
        }
        let open = async |target: Option<Target>| match target {
            Some(target) => Output::open(&target).await.map(Some),
            None => Ok(None),
        };
        Ok(Endpoints { stdin, stdout: open(stdout).await?, stderr: open(stderr).await?, logger: None })
    }
}

/// The input of one process.
#[derive(Default)]
struct Stdin {
    /// What is to flow, until it does.
    waiting: Option<(Input, Writer)>,
    pump: Option<AbortHandle>,
    /// The shim's own write end of the FIFO.
    hold: Option<pipe::Sender>,
    /// No hold is wanted any more.
    closed: bool,
}

/// The pumps of one process.
pub struct Pumps {
    stdin: Mutex<Stdin>,
    outputs: Mutex<Vec<JoinHandle<()>>>,
    aborts: Vec<AbortHandle>,
    logger: Option<Logger>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Pumps {
    /// Connects `ends` to the streams that the guest is told of. Output flows from now on, input
    /// only from [`start_input`](Self::start_input): the guest must know the process first.
    ///
    /// # Errors
    /// When a stream cannot be opened.
    pub fn connect(ends: Endpoints, streams: &api::Stdio, mux: &Mux) -> io::Result<Pumps> {
        let mut outputs = Vec::new();
        for (id, output) in [(streams.stdout, ends.stdout), (streams.stderr, ends.stderr)] {
            if id != 0 {
                let (reader, _) = mux.open(id)?;
                outputs.push(tokio::spawn(pump_output(reader, output)));
            }
        }
        let mut stdin = Stdin::default();
        if let (1.., Some(input)) = (streams.stdin, ends.stdin) {
            let (_, writer) = mux.open(streams.stdin)?;
            stdin.waiting = Some((input, writer));
        }
        Ok(Pumps {
            stdin: Mutex::new(stdin),
            aborts: outputs.iter().map(JoinHandle::abort_handle).collect(),
            outputs: Mutex::new(outputs),
            logger: ends.logger,
        })
    }

    /// Lets input flow.
    pub fn start_input(&self) {
        let mut stdin = lock(&self.stdin);
        let Some((input, writer)) = stdin.waiting.take() else { return };
        match input.open() {
            Ok((fifo, hold)) => {
                stdin.pump = Some(tokio::spawn(pump_input(fifo, writer)).abort_handle());
                stdin.hold = (!stdin.closed).then_some(hold);
            }
            Err(error) => warn!("open the input: {error}"),
        }
    }

    /// Drops the shim's hold on the input: its end comes when its client has closed it as well.
    pub fn close_stdin(&self) {
        let mut stdin = lock(&self.stdin);
        stdin.closed = true;
        stdin.hold = None;
    }

    /// After the process's end: stops the input, and waits until the client or the logger has the
    /// output.
    pub async fn finish(&self) {
        self.end_input();
        let outputs = std::mem::take(&mut *lock(&self.outputs));
        for output in outputs {
            // Fails when it was given up.
            let _ = output.await;
        }
        if let Some(logger) = &self.logger {
            logger.finish().await;
        }
    }

    fn end_input(&self) {
        let stdin = std::mem::take(&mut *lock(&self.stdin));
        stdin.pump.iter().for_each(AbortHandle::abort);
    }

    /// Drops the output that the client has not read, and ends the logger.
    pub fn give_up(&self) {
        self.aborts.iter().for_each(AbortHandle::abort);
        self.logger.iter().for_each(Logger::terminate);
    }
}

impl Drop for Pumps {
    fn drop(&mut self) {
        self.end_input();
        self.give_up();
    }
}

async fn pump_output(mut reader: Reader, mut output: Option<Output>) {
    while let Some(chunk) = reader.recv().await {
        if let Some(sink) = &mut output
            && let Err(error) = sink.write(&chunk).await
        {
            debug!("output: {error}");
            // Dropping the reader breaks the process's pipe.
            return;
        }
    }
}

async fn pump_input(fifo: pipe::Receiver, writer: Writer) {
    if let Err(error) = relay::send(fifo, writer).await {
        warn!("input: {error}");
    }
}
