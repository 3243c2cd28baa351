//! Launching a jailed vmm, and the handle to a running VM and its guest.
