//! The VM's NICs, and connections that the host makes into the VM or takes out of it. RPCs: Connect, Accept, ListenForLookups, AcceptLookup,
//! Join.

pub mod connect;
pub mod nics;
pub mod resolver;
pub mod seeming_address;
pub mod sockets;
pub mod spare;
