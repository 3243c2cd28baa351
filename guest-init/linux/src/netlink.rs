//! A small rtnetlink client. It sends a request and waits for the answer; the kernel answers at once, so a call never
//! blocks for long.

use std::io;

pub use netlink_packet_core::{self, Emitable, Parseable};
pub use netlink_packet_route;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

/// A connection to the kernel's network configuration.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens the network namespace of this thread; the connection stays there.
    ///
    /// # Errors
    /// The socket's.
    pub fn open() -> io::Result<Netlink> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        Ok(Netlink { socket, sequence: 0 })
    }

    /// Changes something. `flags` are those beside REQUEST and ACK: CREATE, EXCL, REPLACE.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.answers(|_| {})
    }

    /// Lists all objects of a kind.
    ///
    /// # Errors
    /// The kernel's answer, or one that does not decode.
    pub fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.send(message, NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut found = Vec::new();
        self.answers(|message| found.push(message))?;
        Ok(found)
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// Reads to the end of the answer to the last request.
    fn answers(&mut self, mut each: impl FnMut(RouteNetlinkMessage)) -> io::Result<()> {
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
                // Messages are aligned to four bytes (linux/netlink.h, NLMSG_ALIGN).
                let length = (answer.header.length as usize).next_multiple_of(4).max(4);
                rest = rest.get(length..).unwrap_or_default();
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => each(message),
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::{LinkAttribute, LinkMessage};

    use super::*;

    #[test]
    fn the_loopback_interface_is_listed() {
        let links =
            Netlink::open().unwrap().dump(RouteNetlinkMessage::GetLink(LinkMessage::default())).unwrap();
        let lo = LinkAttribute::IfName("lo".to_owned());
        let is_lo = |m: &RouteNetlinkMessage| matches!(m, RouteNetlinkMessage::NewLink(l) if l.attributes.contains(&lo));
        assert!(links.iter().any(is_lo));
    }

    #[test]
    fn a_refusal_is_an_errno() {
        let mut message = LinkMessage::default();
        message.header.index = u32::MAX >> 1;
        let error = Netlink::open().unwrap().change(RouteNetlinkMessage::DelLink(message), 0).unwrap_err();
        // ENODEV, or EPERM for a user who may not.
        assert!(matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EPERM)), "{error}");
    }
}
