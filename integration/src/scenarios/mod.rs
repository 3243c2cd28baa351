//! The scenarios, by theme.

mod annotations;
mod bad_bundle;
mod bad_host;
mod bad_process;
mod block_root;
mod concurrency;
mod control;
mod crash;
mod docker;
mod enforcement;
mod execs;
mod exit_codes;
mod fidelity;
mod guest_kernel;
mod host_apparmor;
mod hostile;
mod hostile_guest;
mod hostile_net;
mod hostile_paths;
mod hostile_spec;
mod hostile_spec_cgroup;
mod hostile_vmm;
mod hung_volume;
mod identity;
mod kill_points;
mod krunctl;
mod krunctl_frames;
mod krunctl_image;
mod krunctl_kill_commands;
mod krunctl_kill_points;
mod krunctl_many;
mod krunctl_named;
mod krunctl_named_disk;
mod krunctl_named_races;
mod krunctl_network;
mod krunctl_operator;
mod krunctl_sh;
mod krunctl_terminal;
mod krunctl_unit;
mod library;
mod lifecycle;
mod like_runc;
mod limits;
mod many_cycles;
mod memory;
mod mounts;
mod nerdctl;
mod nerdctl_compose;
mod nerdctl_network;
mod network;
mod network_many;
mod network_tap;
mod operator_view;
mod orphans;
mod parity;
mod pod;
mod pod_many;
mod pool;
mod process;
mod runtimetest;
mod signals;
mod socket_dir;
mod stall;
mod stdio;
mod users;
mod watch;
mod watch_bundler;

use crate::scenario::Scenario;

/// Every theme's list, in the order in which they run.
pub const ALL: &[&[Scenario]] = &[
    exit_codes::SCENARIOS,
    signals::SCENARIOS,
    stdio::SCENARIOS,
    stall::SCENARIOS,
    lifecycle::SCENARIOS,
    pool::SCENARIOS,
    socket_dir::SCENARIOS,
    identity::SCENARIOS,
    process::SCENARIOS,
    concurrency::SCENARIOS,
    limits::SCENARIOS,
    memory::SCENARIOS,
    mounts::SCENARIOS,
    users::SCENARIOS,
    watch::SCENARIOS,
    watch_bundler::SCENARIOS,
    annotations::SCENARIOS,
    bad_process::SCENARIOS,
    bad_bundle::SCENARIOS,
    bad_host::SCENARIOS,
    block_root::SCENARIOS,
    enforcement::SCENARIOS,
    host_apparmor::SCENARIOS,
    fidelity::SCENARIOS,
    like_runc::SCENARIOS,
    runtimetest::SCENARIOS,
    execs::SCENARIOS,
    control::SCENARIOS,
    guest_kernel::SCENARIOS,
    hostile::SCENARIOS,
    hostile_net::SCENARIOS,
    hostile_paths::SCENARIOS,
    hung_volume::SCENARIOS,
    hostile_spec::SCENARIOS,
    hostile_spec_cgroup::SCENARIOS,
    hostile_guest::SCENARIOS,
    hostile_vmm::SCENARIOS,
    crash::SCENARIOS,
    operator_view::SCENARIOS,
    orphans::SCENARIOS,
    kill_points::SCENARIOS,
    network::SCENARIOS,
    network_tap::SCENARIOS,
    network_many::SCENARIOS,
    krunctl::SCENARIOS,
    krunctl_frames::SCENARIOS,
    krunctl_image::SCENARIOS,
    krunctl_kill_commands::SCENARIOS,
    krunctl_kill_points::SCENARIOS,
    krunctl_many::SCENARIOS,
    krunctl_named::SCENARIOS,
    krunctl_named_disk::SCENARIOS,
    krunctl_named_races::SCENARIOS,
    krunctl_network::SCENARIOS,
    krunctl_operator::SCENARIOS,
    krunctl_sh::SCENARIOS,
    krunctl_terminal::SCENARIOS,
    krunctl_unit::SCENARIOS,
    library::SCENARIOS,
    nerdctl::SCENARIOS,
    nerdctl_compose::SCENARIOS,
    nerdctl_network::SCENARIOS,
    docker::SCENARIOS,
    parity::SCENARIOS,
    pod::SCENARIOS,
    pod_many::SCENARIOS,
    many_cycles::SCENARIOS,
];
