//! What Linux offers and no library wraps the way it is needed here, on the host and in the guest.
//!
//! One module for each thing: pidfds ([`pidfd`]), the ends of processes ([`wait`]), starting a program in namespaces and a cgroup ([`spawn`]), rtnetlink
//! ([`netlink`]), `lo` ([`loopback`]), the list of mounts ([`mountinfo`]), mounts that are nowhere yet ([`mount_tree`]), file handles ([`file_handle`]), the files of a cgroup ([`cgroup`]), descriptors for another
//! process ([`descriptors`]), when a process runs ([`scheduling`]), whether there is
//! Landlock ([`landlock`]), user namespaces ([`user_namespace`]), a user for each process
//! ([`process_uid`]), which socket gets what is sent to an address ([`sk_lookup`]), and dialling a VM's host ([`vsock`]). Nothing here knows of containers.

pub mod cgroup;
mod clone;
pub mod descriptors;
pub mod file_handle;
pub mod landlock;
pub mod loopback;
pub mod mount_tree;
pub mod mountinfo;
pub mod netlink;
pub mod pidfd;
pub mod process_uid;
pub mod scheduling;
pub mod sk_lookup;
pub mod spawn;
pub mod user_namespace;
pub mod vsock;
pub mod wait;
