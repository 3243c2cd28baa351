//! `krunctl create`: the state of a VM that `start` starts.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Args;
use nix::sys::signal::Signal;
use shim::failpoint;

use super::{
    bundle_of,
    state::{self, Description, State},
};
use crate::{
    container::{self, HOSTS},
    image, inject, out,
    root::{self, Origin, Root},
    signals,
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
    State::check_free(&arguments.name)?;
    let (origin, _image) = container.origin()?;
    root::enter()?;
    let bundle = bundle_of(&arguments.name)?;
    // Another may have made it while this one pulled.
    State::check_free(&arguments.name)?;
    // To look into it. It is mounted anew at each start.
    let root = Root::mount(&origin, container.writes(), &bundle)?;
    // What is missing is found now.
    inject::all(container.injections(), &root)?;
    let described = container.container((bundle.id(), bundle.path()), (&root, &plan), &variables, None)?;
    let hosts = container.hosts().map(|text| (HOSTS.to_owned(), text));
    let options = container.vm.options(&plan, bundle.path())?.config_body.unwrap_or_default();
    let stop_signal = root.config().stop_signal.as_deref().map(signals::named).transpose()?;
    let (shown, root) = match origin {
        Origin::Image(reference) => {
            (reference.clone(), Origin::Image(image::keep(&reference, &arguments.name)?))
        }
        origin => (origin.to_string(), origin),
    };
    failpoint!(blocking "command.image-kept");
    let description = Description {
        version: state::VERSION,
        root,
        shown,
        stop_signal: stop_signal.unwrap_or(Signal::SIGTERM as i32),
        cpus: container.vm.cpus,
        memory: container.vm.memory,
        options,
        debug: container.vm.debug_console,
        inject: container.injections().to_vec(),
        network: plan,
        spec: described.json(),
        files: hosts.into_iter().collect::<BTreeMap<_, _>>(),
        created: state::now(),
    };
    let state = State::create(&arguments.name, &description).inspect_err(|_| {
        // Unless it is another VM's by now.
        if State::check_free(&arguments.name).is_ok() {
            let _ = image::release(&arguments.name);
        }
    })?;
    // It is made, even if its name cannot be printed.
    let _ = out::line(state.name());
    Ok(0)
}
