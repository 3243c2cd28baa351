//! Raw frames that come to the box.

use anyhow::{Context, Result};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::os::fd::{AsRawFd, OwnedFd};

/// The frames that come to the box, with titles that their sender put in angle brackets behind the payload.
pub struct Frames(OwnedFd);

impl Frames {
    /// Those from now on.
    pub fn capture() -> Result<Frames> {
        let socket =
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
                .context("make a packet socket")?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(60)).context("limit the wait")?;
        Ok(Frames(socket))
    }

    /// The titles so far, in order, up to that of the frame that was sent last.
    pub fn titles(&self, last: &str) -> Result<Vec<String>> {
        let (mut titles, mut frame) = (Vec::new(), [0; 2048]);
        while titles.last().is_none_or(|title| title != last) {
            let length = recv(self.0.as_raw_fd(), &mut frame, MsgFlags::empty())
                .with_context(|| format!("wait for {last}; until now there were {titles:?}"))?;
            let text = String::from_utf8_lossy(&frame[..length]).into_owned();
            titles.extend(
                text.rsplit_once('<').and_then(|(_, title)| title.strip_suffix('>')).map(str::to_owned),
            );
        }
        Ok(titles)
    }
}
