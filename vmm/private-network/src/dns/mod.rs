//! The VM's DNS server. It asks the host's resolvers, and opens the policy for what listed names lead to before the VM hears of
//! it. The VM and the resolvers' answers are hostile.

mod answer;
mod openings;
mod query;
mod relay;
mod server;
mod upstream;

pub use relay::Relay;
pub use server::{Sockets, serve};
pub use upstream::Upstreams;

/// How a message comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}
