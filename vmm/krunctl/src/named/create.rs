//! `krunctl create`: the state of a VM that `start` starts.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Args;

use super::{
    id_of,
    state::{self, Description, State},
};
use crate::{
    bundle,
    container::{self, HOSTS},
    root::Root,
};

/// The flags of `create`.
#[derive(Args)]
pub struct Arguments {
    /// The VM's name
    #[arg(long, value_name = "NAME", value_parser = state::name)]
    name: String,
    #[command(flatten)]
    container: container::Arguments,
}

/// Makes the VM's state.
///
/// # Errors
/// When it cannot be; nothing is left then.
pub fn run(arguments: &Arguments) -> Result<u8> {
    let container = &arguments.container;
    let variables = container.variables()?;
    let plan = container.network()?;
    container.vm.check()?;
    let root = Root::open(&container.root)?;
    let id = id_of(&arguments.name);
    let bundle = bundle::path_of(&id);
    let described = container.container((&id, &bundle), (&root, &plan), &variables, None)?;
    let hosts = container.hosts().map(|text| (HOSTS.to_owned(), text));
    let options = container.vm.options(&plan, &bundle)?.config_body.unwrap_or_default();
    let description = Description {
        version: 1,
        root: std::path::absolute(root.path())?,
        cpus: container.vm.cpus,
        memory: container.vm.memory,
        options,
        network: plan,
        spec: described.json(),
        files: hosts.into_iter().collect::<BTreeMap<_, _>>(),
        created: state::now(),
    };
    let state = State::create(&arguments.name, &description)?;
    println!("{}", state.name());
    Ok(0)
}
