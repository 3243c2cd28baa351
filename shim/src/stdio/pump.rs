//! Moves bytes between the host's ends and the guest's streams, one task per direction.

use std::{io, sync::Mutex, time::Duration};

use guest_protocol::{
    api,
    mux::{Mux, Reader, Writer},
    relay,
};
use log::{debug, warn};
use tokio::{
    net::unix::pipe,
    sync::watch,
    task::{AbortHandle, JoinHandle},
    time::{Instant, sleep},
};

use super::{
    StdioPaths,
    endpoint::{Input, Output},
    logger::Logger,
    uri::Target,
};
use crate::{error::Result, id::ProcessId, lock::lock};

/// How long a guest may be silent in all about more output, or its end, of a container that has ended.
const WITHHELD: Duration = Duration::from_secs(10);

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
        let stdin = if paths.stdin.is_empty() { None } else { Some(Input::find(&paths.stdin).await?) };
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
    /// The input and its stream, until the pump starts.
    waiting: Option<(Input, Writer)>,
    pump: Option<AbortHandle>,
    /// The shim's own write end of the FIFO.
    hold: Option<pipe::Sender>,
    /// Whether the client has closed the input: no hold is kept then.
    closed: bool,
}

/// The pumps of one process.
pub struct Pumps {
    stdin: Mutex<Stdin>,
    outputs: Mutex<Vec<JoinHandle<()>>>,
    aborts: Vec<AbortHandle>,
    /// No process is left that could write.
    ended: watch::Sender<bool>,
    logger: Option<Logger>,
}

impl Pumps {
    /// Connects `ends` to the guest's streams. Output flows from now on, input only after
    /// [`start_input`](Self::start_input): the guest must know the process first.
    ///
    /// # Errors
    /// When a stream cannot be opened.
    pub fn connect(ends: Endpoints, streams: &api::Stdio, mux: &Mux) -> io::Result<Pumps> {
        let mut outputs = Vec::new();
        let ended = watch::Sender::new(false);
        for (id, output) in [(streams.stdout, ends.stdout), (streams.stderr, ends.stderr)] {
            if id != 0 {
                let (reader, _) = mux.open(id)?;
                outputs.push(tokio::spawn(pump_output(reader, output, ended.subscribe())));
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
            ended,
            logger: ends.logger,
        })
    }

    /// Starts the input.
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

    /// Drops the shim's hold on the input, which ends when its client has closed it too.
    pub fn close_stdin(&self) {
        let mut stdin = lock(&self.stdin);
        stdin.closed = true;
        stdin.hold = None;
    }

    /// After the process has ended: stops the input, and waits until the client or the logger has the output.
    pub async fn finish(&self) {
        self.end_input();
        let outputs = std::mem::take(&mut *lock(&self.outputs));
        for output in outputs {
            // Fails when it was aborted.
            let _ = output.await;
        }
        if let Some(logger) = &self.logger {
            logger.finish().await;
        }
    }

    /// Gives the output up once the guest is silent about it for a while, as no process is left that could write more. A
    /// client that does not read has all the time that it wants.
    pub fn expect_end(&self) {
        self.ended.send_replace(true);
    }

    fn end_input(&self) {
        let stdin = std::mem::take(&mut *lock(&self.stdin));
        stdin.pump.iter().for_each(AbortHandle::abort);
    }

    /// Drops the output that the client has not read, and terminates the logger.
    pub fn abort(&self) {
        self.aborts.iter().for_each(AbortHandle::abort);
        self.logger.iter().for_each(Logger::terminate);
    }
}

impl Drop for Pumps {
    fn drop(&mut self) {
        self.end_input();
        self.abort();
    }
}

async fn pump_output(mut reader: Reader, mut output: Option<Output>, mut ended: watch::Receiver<bool>) {
    let mut left = WITHHELD;
    loop {
        let (began, has_ended) = (Instant::now(), *ended.borrow());
        let chunk = tokio::select! {
            chunk = reader.recv() => chunk,
            () = withheld(&mut ended, left) => {
                warn!("the guest keeps open the output of what has ended: it is given up");
                return;
            }
        };
        let Some(chunk) = chunk else { return };
        if has_ended {
            left = left.saturating_sub(began.elapsed());
        }
        if let Some(sink) = &mut output
            && let Err(error) = sink.write(&chunk).await
        {
            debug!("output: {error}");
            // Dropping the reader breaks the process's pipe.
            return;
        }
    }
}

/// Waits until this time has passed after the end.
async fn withheld(ended: &mut watch::Receiver<bool>, left: Duration) {
    if ended.wait_for(|ended| *ended).await.is_err() {
        // Nobody will say that it has ended.
        std::future::pending().await
    }
    sleep(left).await;
}

async fn pump_input(fifo: pipe::Receiver, writer: Writer) {
    if let Err(error) = relay::send(fifo, writer).await {
        warn!("input: {error}");
    }
}

#[cfg(test)]
mod tests {
    use guest_protocol::mux::{FIRST_STREAM, WINDOW};
    use tokio::time::timeout;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// A pump of a stream whose other end is also given.
    fn pump(output: Option<Output>) -> (watch::Sender<bool>, JoinHandle<()>, Writer, (Mux, Mux)) {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (ours, theirs) = (Mux::start(ours).0, Mux::start(theirs).0);
        let (reader, _) = ours.open(FIRST_STREAM).unwrap();
        let (_, writer) = theirs.open(FIRST_STREAM).unwrap();
        let ended = watch::Sender::new(false);
        let pump = tokio::spawn(pump_output(reader, output, ended.subscribe()));
        (ended, pump, writer, (ours, theirs))
    }

    #[tokio::test(start_paused = true)]
    async fn output_may_be_silent_as_long_as_its_process_lives() {
        let (_ended, pump, _writer, _muxes) = pump(None);
        assert!(timeout(HOUR, pump).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn output_that_is_withheld_after_the_end_is_given_up() {
        let (ended, mut pump, mut writer, _muxes) = pump(None);
        ended.send_replace(true);
        let began = Instant::now();
        // A guest that has a little more each time does not hold it up for ever.
        for _ in 0..3 {
            assert!(timeout(WITHHELD / 4, &mut pump).await.is_err());
            writer.send(b"more").await.unwrap();
        }
        timeout(HOUR, pump).await.expect("given up").unwrap();
        assert!(began.elapsed() >= WITHHELD && began.elapsed() < WITHHELD * 3 / 2, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_waited_for() {
        let (sender, _unread) = pipe::pipe().unwrap();
        let (ended, pump, mut writer, _muxes) = pump(Some(sender.into()));
        // More than a pipe holds, and no more than may be on the way.
        writer.send(&[0; WINDOW]).await.unwrap();
        ended.send_replace(true);
        assert!(timeout(HOUR, pump).await.is_err());
    }
}
