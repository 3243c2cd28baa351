//! The VM's NICs, and connections that the host makes into the VM or takes out of it. RPCs: Connect, Accept, Join.

pub mod connect;
pub mod nics;
pub mod seeming_address;
pub mod sockets;
pub mod spare;
