//! Serves the guest API on the control connection, until one of the two connections ends.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};

use anyhow::{Context, Result};
use futures::stream;
use guest_protocol::api::create_guest;
use guest_protocol::mux::{LOG_STREAM, Mux};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use ttrpc::asynchronous::Server;
use ttrpc::asynchronous::transport::Listener;

use crate::logs::{kmsg, logger};
use crate::process::{Supervisor, reaper::Reaper};
use crate::rpc::service::GuestService;
use crate::vm::configure;

/// Serves on two introduced connections; returns when one of them has ended.
pub async fn serve<C>(control: C, streams: C, debug: bool) -> Result<()>
where
    C: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static,
{
    let (mux, streams_ended) = Mux::start(streams);
    let (_, log) = mux.open(LOG_STREAM).context("open the log stream")?;
    logger::start(log, debug);
    if let Err(err) = kmsg::start(debug) {
        log::warn!("the kernel's log is not forwarded: {err:#}");
    }
    let reaper = Reaper::start()?;
    let (control, ended) = Control::new(control);
    let listener = Listener::new(stream::iter([Ok::<_, io::Error>(control)]));
    let service = GuestService::new(Supervisor { reaper, mux });
    let mut server = Server::new().add_listener(listener).register_service(create_guest(Arc::new(service)));
    server.start().await.context("start the ttrpc server")?;
    log::debug!("serving {:?} after the kernel began", configure::uptime());
    tokio::select! {
        _ = ended => Ok(()),
        broken = streams_ended => match broken {
            Ok(Err(err)) => Err(err).context("the stream connection"),
            // The host closes both.
            Ok(Ok(())) | Err(_) => Ok(()),
        },
    }
}

/// The control connection, with a signal of its end.
struct Control<C> {
    inner: C,
    /// Dropped at the connection's end.
    alive: Option<oneshot::Sender<()>>,
}

impl<C> Control<C> {
    fn new(inner: C) -> (Self, oneshot::Receiver<()>) {
        let (alive, ended) = oneshot::channel();
        (Control { inner, alive: Some(alive) }, ended)
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Control<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let done = ready!(Pin::new(&mut self.inner).poll_read(cx, buf));
        if done.is_err() || (buf.filled().len() == before && buf.remaining() > 0) {
            self.alive = None;
        }
        Poll::Ready(done)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Control<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
