//! `krunctl run`: runs a command in a microVM whose root file system is a directory. It needs no containerd.
//!
//! It mounts in a mount namespace of its own, and the vmm ends when it ends. So even when it is killed, only a directory and a
//! cgroup are left, which the next run removes.

mod command;
mod flags;
mod terminal;

use anyhow::Result;

use crate::{bundle::Bundle, console::Console, root::Root, session, stdio::Fifos};
pub use flags::Arguments;

/// Answers the command's exit status.
///
/// # Errors
/// When it could not be run.
pub fn run(arguments: &Arguments) -> Result<u8> {
    let variables = arguments.env.variables()?;
    arguments.vm.check()?;
    if arguments.tty {
        terminal::require()?;
    }
    let root = Root::open(&arguments.root)?;
    let bundle = Bundle::make()?;
    root.bind(&bundle)?;
    let size = arguments.tty.then(terminal::size).transpose()?;
    bundle.describe(&arguments.container(&bundle, &root, &variables, size)?.json())?;
    let console = Console::of(&bundle, &arguments.vm)?;
    let mut fifos = Fifos::make(&bundle, "run", arguments.interactive, arguments.tty)?;
    fifos.start_output();
    let options = arguments.vm.options(bundle.path())?;
    let status = session::with_container(&bundle, options, fifos.paths(), async |session, signals| {
        command::attend(session, signals, fifos, arguments).await
    });
    drop(console);
    status
}
