//! The bytes on the two connections, right or wrong.

use std::{
    io::{self, ErrorKind, Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
};

use guest_protocol::{boot::VSOCK_PORT, hello::Role};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protobuf::Message;
use ttrpc::proto::{MESSAGE_HEADER_LENGTH, MESSAGE_TYPE_RESPONSE, MessageHeader, Request, Response, Status};

/// Kinds of a frame of the stream connection. Source: guest-init/protocol, `mux/mod.rs`.
pub const DATA: u8 = 1;
pub const CREDIT: u8 = 2;
pub const EOF: u8 = 3;

/// Bytes before the payload of a frame of the stream connection. Source: as above.
pub const MUX_HEADER: usize = 12;

/// A connection to the host, past nothing yet.
pub fn dial() -> io::Result<UnixStream> {
    let socket = UnixStream::from(linux::vsock::dial(VSOCK_PORT)?);
    poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
    match socket.take_error()? {
        Some(error) => Err(error),
        // What it reads, writes and polls with is the same for every address family.
        None => socket.set_nonblocking(false).map(|()| socket),
    }
}

/// What introduces a connection.
pub fn hello(role: Role, nonce: &str) -> Vec<u8> {
    [&[role as u8], nonce.as_bytes()].concat()
}

/// A connection that is introduced as it should be.
pub fn introduced(role: Role, nonce: &str) -> io::Result<UnixStream> {
    let mut connection = dial()?;
    connection.write_all(&hello(role, nonce))?;
    Ok(connection)
}

/// A call of the host's.
pub struct Call {
    pub id: u32,
    pub method: String,
    pub payload: Vec<u8>,
}

/// Reads the next call.
pub fn next_call(mut control: &UnixStream) -> io::Result<Call> {
    let mut header = [0; MESSAGE_HEADER_LENGTH];
    control.read_exact(&mut header)?;
    let header = MessageHeader::from(header);
    let mut body = vec![0; header.length as usize];
    control.read_exact(&mut body)?;
    let request = Request::parse_from_bytes(&body)?;
    Ok(Call { id: header.stream_id, method: request.method, payload: request.payload })
}

/// A frame of the control connection, whose length need not be its body's.
pub fn call_frame(length: u32, id: u32, kind: u8, body: &[u8]) -> Vec<u8> {
    let header = MessageHeader { length, stream_id: id, type_: kind, flags: 0 };
    [&Vec::from(header), body].concat()
}

/// An answer.
pub fn answer(id: u32, message: &impl Message) -> Vec<u8> {
    // Messages of the protocol can all be encoded.
    raw_answer(id, message.write_to_bytes().unwrap_or_default())
}

/// An answer whose message is any bytes.
pub fn raw_answer(id: u32, payload: Vec<u8>) -> Vec<u8> {
    response(id, &Response { payload, ..Default::default() })
}

/// An answer that says that the call failed, whatever the code is.
pub fn failure(id: u32, code: i32, text: String) -> Vec<u8> {
    let mut status = Status { message: text, ..Default::default() };
    status.code = protobuf::EnumOrUnknown::from_i32(code);
    response(id, &Response { status: Some(status).into(), ..Default::default() })
}

fn response(id: u32, response: &Response) -> Vec<u8> {
    let body = response.write_to_bytes().unwrap_or_default();
    call_frame(body.len() as u32, id, MESSAGE_TYPE_RESPONSE, &body)
}

/// A frame of the stream connection, whose number need not be its payload's length.
pub fn stream_frame(kind: u8, stream: u32, number: u32, payload: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0][..], &stream.to_le_bytes(), &number.to_le_bytes(), payload].concat()
}

/// A frame of data.
pub fn data(stream: u32, payload: &[u8]) -> Vec<u8> {
    stream_frame(DATA, stream, payload.len() as u32, payload)
}

/// Reads frames of the stream connection until it ends, and tells of each credit: the stream, and how much.
pub fn read_frames(mut streams: &UnixStream, mut credit: impl FnMut(u32, u32)) -> io::Result<()> {
    loop {
        let mut header = [0; MUX_HEADER];
        match streams.read_exact(&mut header) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        let [kind, _, _, _, s0, s1, s2, s3, n0, n1, n2, n3] = header;
        let (stream, number) = (u32::from_le_bytes([s0, s1, s2, s3]), u32::from_le_bytes([n0, n1, n2, n3]));
        match kind {
            DATA => drop(io::copy(&mut streams.take(number.into()), &mut io::sink())?),
            CREDIT => credit(stream, number),
            _ => {}
        }
    }
}
