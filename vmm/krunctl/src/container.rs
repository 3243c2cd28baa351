//! The flags that describe a container, of `run` and `create`, and the container.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use clap::{ArgGroup, Args};
use images::{Image, ImageConfig};

use crate::{
    cgroup,
    env::{self, Variable},
    hosts::{self, Entry},
    image,
    inject::Injection,
    network::{Plan, Ports, RESOLV_CONF},
    root::{Origin, Root, Writes},
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
#[command(group(ArgGroup::new("origin").args(["root", "image"]).required(true)))]
pub struct Arguments {
    /// Directory that holds the root file system
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Image that holds it: a reference, an archive (docker save, OCI), or the directory of an OCI layout
    #[arg(long, value_name = "REFERENCE|ARCHIVE|LAYOUT")]
    image: Option<String>,
    #[command(flatten)]
    source: image::Source,
    /// The first words of the command, instead of the image's entry point
    #[arg(long, value_name = "CMD")]
    entrypoint: Option<String>,
    #[command(flatten)]
    pub vm: vm::Arguments,
    #[command(flatten)]
    env: env::Arguments,
    /// The command's working directory, instead of the image's or /
    #[arg(short = 'w', long, value_name = "DIR")]
    workdir: Option<String>,
    /// Who the command is, instead of the image's user or root: USER or USER:GROUP, names or numbers
    #[arg(short = 'u', long, value_name = "USER[:GROUP]")]
    user: Option<String>,
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
    /// Put a file or directory of the host into the image before the command runs
    #[arg(long, value_name = "SOURCE:TARGET[:MODE]", requires = "image")]
    inject: Vec<Injection>,
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
    /// The command and its arguments, instead of the image's
    #[arg(last = true, value_name = "CMD")]
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
        self.vm.network.plan(!self.ports.list()?.is_empty(), self.image.is_some())
    }

    /// Its published ports, as the annotation lists them.
    ///
    /// # Errors
    /// When one is there twice.
    pub fn published(&self) -> Result<String> {
        self.ports.list()
    }

    /// Where its root file system comes from. An image is in the store as long as what comes with it is held.
    ///
    /// # Errors
    /// When it cannot be had.
    pub fn origin(&self) -> Result<(Origin, Option<Image>)> {
        match (&self.image, &self.root) {
            (Some(name), _) => {
                let image = image::obtain(name, &self.source)?;
                Ok((Origin::Image(image.record().reference.clone()), Some(image)))
            }
            (None, Some(root)) => Ok((Origin::Directory(std::path::absolute(root)?), None)),
            // The command line has one of them.
            (None, None) => bail!("--root or --image is needed"),
        }
    }

    /// Where what is written goes in a run.
    pub fn writes(&self) -> Writes<'static> {
        if self.image.is_some() { Writes::Memory(self.vm.memory) } else { Writes::Through }
    }

    /// What is put into its image.
    pub fn injections(&self) -> &[Injection] {
        &self.inject
    }

    /// The text of the container's /etc/hosts, if it is not that of its root.
    pub fn hosts(&self) -> Option<String> {
        let is_own = self.image.is_some() || !self.add_host.is_empty();
        is_own.then(|| hosts::text(&self.hostname, &self.add_host))
    }

    fn args(&self, config: &ImageConfig) -> Result<Vec<String>> {
        let args = config.argv(self.entrypoint.as_deref(), &self.command);
        ensure!(!args.is_empty(), "no command: give one after --; the image, if there is one, names none");
        Ok(args)
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
        let config = root.config();
        let named = self.user.as_deref().or(config.user.as_deref()).unwrap_or("0:0");
        let user = user::find(root.directory(), named)?;
        let cwd = self.workdir.as_deref().or(config.working_dir.as_deref()).unwrap_or("/");
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
                args: self.args(config)?,
                env: env::with(&defaults(&user, &config.env, size.is_some()), variables)?,
                cwd: cwd.to_owned(),
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
            cgroup: cgroup::at_top(id),
        })
    }
}

/// The variables that every command of `user` has, unless the image has others.
pub fn defaults(user: &User, image: &[String], tty: bool) -> Vec<String> {
    let home = user.home.as_deref().unwrap_or("/");
    let mut all = vec![env::PATH.to_owned(), format!("HOME={home}")];
    if tty {
        all.extend(std::env::var("TERM").ok().map(|term| format!("TERM={term}")));
    }
    for pair in image {
        let key = pair.split('=').next();
        all.retain(|other| other.split('=').next() != key);
        all.push(pair.clone());
    }
    all
}
