//! The control connection as the host has it: each call is answered at most once, and in short.
//!
//! ttrpc's client takes frames of 4 MiB, and as many as come: those that answer no call it logs and forgets. A hostile guest
//! could have the host decode, and log, without end. Here such a frame is the end of the connection.

use std::{
    collections::HashSet,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use ttrpc::proto::{MESSAGE_HEADER_LENGTH, MESSAGE_TYPE_RESPONSE, MessageHeader};

use crate::lost::{Announcer, Lost};

/// The longest answer, in bytes. The longest of a good guest are statistics of a container with many disks, and a failure's
/// text, which have some KiB.
pub const MAX_ANSWER: u32 = 256 * 1024;

/// How the guest broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Violation {
    #[error("a frame of type {0} on the control connection")]
    Type(u8),
    #[error("an answer of {0} bytes; {MAX_ANSWER} are allowed")]
    Length(u32),
    #[error("an answer to call {0}, which is not open")]
    NotOpen(u32),
}

/// A control connection.
pub struct Control<C> {
    inner: C,
    sent: Frames,
    received: Frames,
    /// The calls that are not answered.
    open: HashSet<u32>,
    /// Hears why the guest is lost, once it is.
    lost: Announcer,
}

impl<C> Control<C> {
    /// Watches over a connection that is past its hello. Its end is announced.
    pub fn new(inner: C, lost: Announcer) -> Self {
        Control { inner, sent: Frames::default(), received: Frames::default(), open: HashSet::new(), lost }
    }

    fn answered(open: &mut HashSet<u32>, header: MessageHeader) -> Result<(), Violation> {
        if header.type_ != MESSAGE_TYPE_RESPONSE {
            return Err(Violation::Type(header.type_));
        }
        if header.length > MAX_ANSWER {
            return Err(Violation::Length(header.length));
        }
        if !open.remove(&header.stream_id) {
            return Err(Violation::NotOpen(header.stream_id));
        }
        Ok(())
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Control<C> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if let Err(error) = ready!(Pin::new(&mut this.inner).poll_read(cx, buf)) {
            this.lost.announce(Lost::Ended(format!("the control connection failed: {error}")));
            return Poll::Ready(Err(error));
        }
        let bytes = &buf.filled()[before..];
        if bytes.is_empty() && buf.remaining() > 0 {
            this.lost.announce(Lost::Ended("the guest closed the control connection".to_owned()));
        }
        let open = &mut this.open;
        if let Err(violation) = this.received.pass(bytes, |header| Self::answered(open, header)) {
            buf.set_filled(before);
            this.lost.announce(Lost::Broken(format!("the guest broke the protocol: {violation}")));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Control<C> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.inner).poll_write(cx, bytes))?;
        let open = &mut this.open;
        // A guest cannot answer a call before all of it was written.
        let passed: Result<(), Violation> = this.sent.pass(&bytes[..written], |header| {
            open.insert(header.stream_id);
            Ok(())
        });
        Poll::Ready(passed.map(|()| written).map_err(io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

/// Finds the headers in the bytes of one direction.
#[derive(Default)]
struct Frames {
    header: Vec<u8>,
    /// Bytes of the current frame's body that have not passed.
    body: usize,
}

impl Frames {
    fn pass(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(MessageHeader) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        while !bytes.is_empty() {
            let skipped = self.body.min(bytes.len());
            self.body -= skipped;
            bytes = &bytes[skipped..];
            let taken = (MESSAGE_HEADER_LENGTH - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.header.len() == MESSAGE_HEADER_LENGTH {
                let header = MessageHeader::from(&self.header);
                self.header.clear();
                self.body = header.length as usize;
                each(header)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use ttrpc::proto::{MESSAGE_TYPE_DATA, MESSAGE_TYPE_REQUEST};

    use super::*;

    struct Bed {
        control: Control<DuplexStream>,
        guest: DuplexStream,
        lost: tokio::sync::watch::Receiver<Option<Lost>>,
    }

    impl Bed {
        /// A connection on which the host has made these calls.
        async fn with_calls(calls: &[u32]) -> Bed {
            let (inner, guest) = duplex(1 << 20);
            let (announcer, lost) = Announcer::new();
            let mut control = Control::new(inner, announcer);
            for call in calls {
                control.write_all(&frame(4, *call, MESSAGE_TYPE_REQUEST, b"call")).await.unwrap();
            }
            Bed { control, guest, lost }
        }

        /// What the host makes of this.
        async fn says(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.guest.write_all(bytes).await.unwrap();
            let mut read = 0;
            while read < bytes.len() {
                read += self.control.read(&mut [0; 7]).await?;
            }
            Ok(read)
        }

        fn lost(&self) -> String {
            self.lost.borrow().as_ref().map(Lost::to_string).unwrap_or_default()
        }
    }

    fn frame(length: u32, call: u32, kind: u8, body: &[u8]) -> Vec<u8> {
        let header = MessageHeader { length, stream_id: call, type_: kind, flags: 0 };
        [&Vec::from(header), body].concat()
    }

    fn answer(call: u32) -> Vec<u8> {
        frame(6, call, MESSAGE_TYPE_RESPONSE, b"answer")
    }

    #[tokio::test]
    async fn answers_pass_in_any_order_and_pieces() {
        let mut bed = Bed::with_calls(&[1, 3, 5]).await;
        let bytes = [answer(5), answer(1), answer(3)].concat();
        assert_eq!(bed.says(&bytes).await.unwrap(), bytes.len());
        assert_eq!(bed.lost(), "");
    }

    #[tokio::test]
    async fn an_answer_to_no_call_or_a_second_one_ends_it() {
        for bytes in [answer(2), answer(7), [answer(1), answer(1)].concat()] {
            let mut bed = Bed::with_calls(&[1, 3]).await;
            assert_eq!(bed.says(&bytes).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
            assert!(bed.lost().contains("not open"), "{}", bed.lost());
        }
    }

    #[tokio::test]
    async fn a_long_answer_ends_it_before_it_has_come() {
        for length in [MAX_ANSWER + 1, u32::MAX] {
            let mut bed = Bed::with_calls(&[1]).await;
            assert!(bed.says(&frame(length, 1, MESSAGE_TYPE_RESPONSE, &[])).await.is_err());
            assert!(bed.lost().contains(&length.to_string()), "{}", bed.lost());
        }
    }

    #[tokio::test]
    async fn a_frame_that_is_no_answer_ends_it() {
        for kind in [MESSAGE_TYPE_REQUEST, MESSAGE_TYPE_DATA, 0x77] {
            let mut bed = Bed::with_calls(&[1]).await;
            assert!(bed.says(&frame(0, 1, kind, &[])).await.is_err());
            assert!(bed.lost().contains("type"), "{}", bed.lost());
        }
    }

    #[tokio::test]
    async fn its_end_is_told() {
        let mut bed = Bed::with_calls(&[1]).await;
        drop(bed.guest);
        assert_eq!(bed.control.read(&mut [0; 7]).await.unwrap(), 0);
        let told = Lost::Ended("the guest closed the control connection".to_owned());
        assert_eq!(bed.lost.borrow().clone(), Some(told));
    }
}
