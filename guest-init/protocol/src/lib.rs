//! The guest protocol: what crosses the boundary between the host and PID 1 of the microVM.
//!
//! Both sides build on this library, so the wire format stands in one place: the boot file
//! ([`boot`]), how a connection introduces itself ([`hello`]), the calls ([`api`]), the byte
//! streams ([`mux`]) and what both sides do to a socket at their end ([`relay`]). It must never hold
//! anything that only one side does.

pub mod boot;
pub mod hello;
pub mod mux;
pub mod relay;

/// Types and ttrpc stubs generated from `proto/guest.proto`.
#[allow(missing_docs, clippy::all, unused, non_snake_case, non_camel_case_types, non_upper_case_globals)]
pub mod api {
    mod guest {
        include!(concat!(env!("OUT_DIR"), "/guest.rs"));
    }
    mod guest_ttrpc {
        use super::guest;
        include!(concat!(env!("OUT_DIR"), "/guest_ttrpc.rs"));
    }
    pub use guest::*;
    pub use guest_ttrpc::{Guest, GuestClient, create_guest};
}
