//! The frames of the stream connection: their layout stands in the module above.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{MAX_PAYLOAD, MuxError, ProtocolError};

/// Bytes before a frame's payload.
pub const HEADER_LEN: usize = 12;

const DATA: u8 = 1;
const CREDIT: u8 = 2;
const EOF: u8 = 3;
const STOP: u8 = 4;

#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// Never without a payload.
    Data {
        stream: u32,
        payload: Vec<u8>,
    },
    /// Never of zero bytes.
    Credit {
        stream: u32,
        bytes: usize,
    },
    Eof {
        stream: u32,
    },
    Stop {
        stream: u32,
    },
}

impl Frame {
    pub fn stream(&self) -> u32 {
        match self {
            Frame::Data { stream, .. }
            | Frame::Credit { stream, .. }
            | Frame::Eof { stream }
            | Frame::Stop { stream } => *stream,
        }
    }
}

/// Reads the next frame; `None` when the peer ended the connection between two frames.
pub async fn read(conn: &mut (impl AsyncRead + Unpin)) -> Result<Option<Frame>, MuxError> {
    let mut header = [0u8; HEADER_LEN];
    let first = conn.read(&mut header).await?;
    if first == 0 {
        return Ok(None);
    }
    conn.read_exact(&mut header[first..]).await?;
    let [kind, _, _, _, s0, s1, s2, s3, n0, n1, n2, n3] = header;
    let stream = u32::from_le_bytes([s0, s1, s2, s3]);
    let number = u32::from_le_bytes([n0, n1, n2, n3]);
    match (kind, number) {
        (DATA, 0) => Err(ProtocolError::NoData(stream).into()),
        (DATA, length) if length as usize > MAX_PAYLOAD => {
            Err(ProtocolError::Length { stream, length }.into())
        }
        (DATA, length) => {
            let mut payload = vec![0; length as usize];
            conn.read_exact(&mut payload).await?;
            Ok(Some(Frame::Data { stream, payload }))
        }
        (CREDIT, 0) => Err(ProtocolError::NoCredit(stream).into()),
        (CREDIT, bytes) => Ok(Some(Frame::Credit { stream, bytes: bytes as usize })),
        (EOF, _) => Ok(Some(Frame::Eof { stream })),
        (STOP, _) => Ok(Some(Frame::Stop { stream })),
        (other, _) => Err(ProtocolError::Kind(other).into()),
    }
}

/// Writes one frame.
pub async fn write(conn: &mut (impl AsyncWrite + Unpin), frame: &Frame) -> std::io::Result<()> {
    let (kind, number, payload): (u8, usize, &[u8]) = match frame {
        Frame::Data { payload, .. } => (DATA, payload.len(), payload),
        Frame::Credit { bytes, .. } => (CREDIT, *bytes, &[]),
        Frame::Eof { .. } => (EOF, 0, &[]),
        Frame::Stop { .. } => (STOP, 0, &[]),
    };
    let mut header = [0u8; HEADER_LEN];
    header[0] = kind;
    header[4..8].copy_from_slice(&frame.stream().to_le_bytes());
    header[8..].copy_from_slice(&(number as u32).to_le_bytes());
    conn.write_all(&header).await?;
    conn.write_all(payload).await
}
