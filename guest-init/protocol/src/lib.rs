//! The guest protocol: what crosses the boundary between the host and PID 1 of the microVM.
//!
//! Both sides build on this library, so the wire format stands in one place: the boot file
//! ([`boot`]), the introduction of a connection ([`hello`]), the calls ([`api`]), their failures
//! ([`failure`]), the byte streams ([`mux`]), the sockets at a stream's ends ([`relay`]), and where
//! Docker's resolver is ([`resolver`]). What only one side does has no place here.
//!
//! The guest is hostile, and what it sends may be anything: this library bounds what the host keeps of it, and the host
//! believes none of it. A program that runs VMs gets a guest from the crate `vm-launcher`, which re-exports this one.

pub mod boot;
pub mod failure;
pub mod hello;
pub mod mux;
pub mod relay;
pub mod resolver;

/// What the stubs of [`api`] take and return is this library's: a call's context (its deadline), and its error.
pub use ttrpc;

/// Types and ttrpc stubs that are generated from `proto/guest.proto`. Its comments say what they mean:
///
/// ```text
#[doc = include_str!("../proto/guest.proto")]
/// ```
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
