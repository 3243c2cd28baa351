//! The connections that the host's kernel remembers. An address that had another VM before must begin without that one's: what
//! belongs to a known connection passes the policy.
//!
//! Source of numbers and layouts: linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h, linux/netlink.h.

use std::{io, net::Ipv4Addr};

use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};

/// `NFNL_SUBSYS_CTNETLINK`, with `IPCTNL_MSG_CT_NEW`, `_GET` and `_DELETE`.
const NEW: u16 = 1 << 8;
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;

/// Attributes: the tuples of a connection's two directions and its zone; of a tuple its addresses; of those the source.
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_SRC: u16 = 1;

/// Bits of an attribute's type that are not its number.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// `struct nlmsghdr` and the `struct nfgenmsg` after it.
const HEADER: usize = 16;
const GENERIC: usize = 4;

/// Has the kernel forget every connection in which `address` sends, in this thread's network namespace.
pub fn forget(address: Ipv4Addr) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    let mut found = Vec::new();
    request(&socket, GET, NLM_F_DUMP, &[])?;
    each_answer(&socket, |attributes| {
        let sends = |direction| source(attributes, direction) == Some(address);
        if sends(CTA_TUPLE_ORIG) || sends(CTA_TUPLE_REPLY) {
            found.push(key(attributes));
        }
    })?;
    for key in found {
        request(&socket, DELETE, NLM_F_ACK, &key)?;
        match each_answer(&socket, |_| {}) {
            // It has ended meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            deleted => deleted?,
        }
    }
    Ok(())
}

fn request(socket: &Socket, kind: u16, flags: u16, attributes: &[u8]) -> io::Result<()> {
    let length = (HEADER + GENERIC + attributes.len()) as u32;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend((flags | NLM_F_REQUEST).to_ne_bytes());
    // The sequence, the port, and IPv4 without version and id.
    message.extend([0; 8]);
    message.extend([libc::AF_INET as u8, 0, 0, 0]);
    message.extend(attributes);
    socket.send(&message, 0).map(drop)
}

/// Passes the attributes of every connection that the kernel answers with.
fn each_answer(socket: &Socket, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while let Some(length) = rest.first_chunk().map(|length| u32::from_ne_bytes(*length) as usize) {
            let broken = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is cut off");
            let message = rest.get(..length.max(HEADER)).ok_or_else(broken)?;
            let kind = u16::from_ne_bytes([message[4], message[5]]);
            let body = &message[HEADER..];
            match kind {
                NEW => each(body.get(GENERIC..).unwrap_or_default()),
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = body.first_chunk().map(|code| i32::from_ne_bytes(*code)).ok_or_else(broken)?;
                    return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                _ => {}
            }
            rest = rest.get(message.len().next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// What names a connection in a request: its first tuple and its zone, as the kernel gave them.
fn key(attributes: &[u8]) -> Vec<u8> {
    let named = |kind: &u16| [CTA_TUPLE_ORIG, CTA_ZONE].contains(kind);
    let mut key = Vec::new();
    for (_, whole, _) in Attributes(attributes).filter(|(kind, ..)| named(kind)) {
        key.extend(whole);
        key.resize(key.len().next_multiple_of(4), 0);
    }
    key
}

/// Who sends in a direction of a connection.
fn source(attributes: &[u8], direction: u16) -> Option<Ipv4Addr> {
    let find =
        |attributes, wanted| Attributes(attributes).find(|(kind, ..)| *kind == wanted).map(|found| found.2);
    let address = find(find(find(attributes, direction)?, CTA_TUPLE_IP)?, CTA_IP_V4_SRC)?;
    address.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets))
}

/// Goes through attributes: the number of each, all its bytes, and its value.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let [a, b, c, d] = *self.0.first_chunk()?;
        let whole = self.0.get(..usize::from(u16::from_ne_bytes([a, b])))?;
        let value = whole.get(4..)?;
        self.0 = self.0.get(whole.len().next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & NLA_TYPE_MASK, whole, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = (4 + value.len()) as u16;
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_connection_is_known_by_its_senders_and_named_by_its_first_tuple() {
        let tuple = |kind: u16, source: [u8; 4]| {
            let ip = attribute(CTA_TUPLE_IP | 0x8000, &attribute(CTA_IP_V4_SRC, &source));
            attribute(kind | 0x8000, &ip)
        };
        let (first, second) =
            (tuple(CTA_TUPLE_ORIG, [10, 213, 0, 2]), tuple(CTA_TUPLE_REPLY, [203, 0, 113, 1]));
        let zone = attribute(CTA_ZONE, &[0, 7]);
        let all = [first.clone(), second, attribute(3, &[0; 4]), zone.clone()].concat();
        assert_eq!(source(&all, CTA_TUPLE_ORIG), Some(Ipv4Addr::new(10, 213, 0, 2)));
        assert_eq!(source(&all, CTA_TUPLE_REPLY), Some(Ipv4Addr::new(203, 0, 113, 1)));
        assert_eq!(key(&all), [first, zone].concat());
    }

    #[test]
    fn broken_attributes_end_the_list() {
        for bytes in [&[0, 0, 0, 0][..], &[3, 0, 1, 0], &[200, 0, 1, 0, 0], &[8]] {
            assert_eq!(source(bytes, CTA_TUPLE_ORIG), None);
        }
    }
}
