//! The VM as a whole: its configuration, its user namespace, its clock, its end. RPCs: Configure, SetClock.

pub mod clock;
pub mod configure;
pub mod idle;
pub mod power;
pub mod users;
