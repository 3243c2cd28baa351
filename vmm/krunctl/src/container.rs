//! The flags that describe a container, of `run` and `create`, and the container.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use crate::{
    env::{self, Variable},
    hosts::{self, Entry},
    network::{Plan, Ports, RESOLV_CONF},
    root::Root,
    spec::{
        self, Container, Process,
        limits::{self, Ulimit},
        mounts::{self, Tmpfs, Volume},
        user::{self, User},
    },
    vm,
};

/// The flags of a container.
#[derive(Args)]
#[group(skip)]
pub struct Arguments {
    /// Directory that holds the root file system
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    #[command(flatten)]
    pub vm: vm::Arguments,
    #[command(flatten)]
    env: env::Arguments,
    /// The command's working directory
    #[arg(short = 'w', long, value_name = "DIR", default_value = "/")]
    workdir: String,
    /// Who the command is: USER or USER:GROUP, names or numbers
    #[arg(short = 'u', long, value_name = "USER[:GROUP]", default_value = "0:0")]
    user: String,
    #[command(flatten)]
    ports: Ports,
    /// The name of its host
    #[arg(long, value_name = "NAME", default_value = spec::HOSTNAME, value_parser = hosts::name)]
    hostname: String,
    /// A line of its /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<Entry>,
    /// Show it a directory or file of the host
    #[arg(short = 'v', long, value_name = "HOST:GUEST[:ro]")]
    volume: Vec<Volume>,
    /// Mount a file system in the VM's memory
    #[arg(long, value_name = "GUEST[:OPTIONS]")]
    tmpfs: Vec<Tmpfs>,
    /// Let it write nothing in its root file system
    #[arg(long)]
    read_only: bool,
    /// Give it a capability besides the usual ones, or ALL
    #[arg(long, value_name = "CAP")]
    cap_add: Vec<String>,
    /// Take one of the usual capabilities from it, or ALL
    #[arg(long, value_name = "CAP")]
    cap_drop: Vec<String>,
    /// Limit what its processes use, as nofile=1024:4096
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<Ulimit>,
    /// The command and its arguments
    #[arg(required = true, last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// The name of the file in a bundle that is the container's /etc/hosts.
pub const HOSTS: &str = "hosts";

impl Arguments {
    /// The variables that the flags set.
    ///
    /// # Errors
    /// As [`env::Arguments::variables`].
    pub fn variables(&self) -> Result<Vec<Variable>> {
        self.env.variables()
    }

    /// Its network.
    ///
    /// # Errors
    /// When flags contradict each other.
    pub fn network(&self) -> Result<Plan> {
        self.vm.network.plan(!self.ports.list()?.is_empty())
    }

    /// Its published ports, as the annotation lists them.
    ///
    /// # Errors
    /// When one is there twice.
    pub fn published(&self) -> Result<String> {
        self.ports.list()
    }

    /// The text of the container's /etc/hosts, if it is not that of its root.
    pub fn hosts(&self) -> Option<String> {
        (!self.add_host.is_empty()).then(|| hosts::text(&self.hostname, &self.add_host))
    }

    /// The container of this id, with its bundle in `bundle` and the root `root`; `size` is that of its terminal.
    ///
    /// # Errors
    /// When a flag names what is not there.
    pub fn container(
        &self,
        (id, bundle): (&str, &Path),
        (root, network): (&Root, &Plan),
        variables: &[Variable],
        size: Option<(u16, u16)>,
    ) -> Result<Container> {
        let user = user::find(root.directory(), &self.user)?;
        let mut mounts = self.volume.iter().map(Volume::mount).collect::<Result<Vec<_>>>()?;
        mounts.extend(self.tmpfs.iter().map(Tmpfs::mount));
        if network.has_resolver() {
            mounts.push(mounts::own_file(&bundle.join(RESOLV_CONF), "/etc/resolv.conf"));
        }
        if self.hosts().is_some() {
            mounts.push(mounts::own_file(&bundle.join(HOSTS), "/etc/hosts"));
        }
        Ok(Container {
            process: Process {
                args: self.command.clone(),
                env: env::with(&defaults(&user, size.is_some()), variables)?,
                cwd: self.workdir.clone(),
                capabilities: limits::capabilities(&self.cap_add, &self.cap_drop)?,
                rlimits: limits::rlimits(&self.ulimit),
                terminal: size,
                user,
            },
            hostname: self.hostname.clone(),
            read_only: self.read_only,
            mounts,
            network: network.namespace(bundle),
            ports: self.ports.list()?,
            id: id.to_owned(),
        })
    }
}

/// The variables that every command of `user` has.
pub fn defaults(user: &User, tty: bool) -> Vec<String> {
    let home = user.home.as_deref().unwrap_or("/");
    let mut all = vec![env::PATH.to_owned(), format!("HOME={home}")];
    if tty {
        all.extend(std::env::var("TERM").ok().map(|term| format!("TERM={term}")));
    }
    all
}
