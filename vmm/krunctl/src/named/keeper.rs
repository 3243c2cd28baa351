//! The process that keeps a VM while it runs: the sandbox is in it, and the VM ends with it.

use std::{
    io::{self, Write},
    os::{fd::AsFd, unix::net::UnixListener},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::Signal,
    unistd::{dup2_stdout, setsid},
};
use shim::direct::{Author, NewContainer, RuntimeOptions, Served, StdioPaths};
use tokio::time::timeout;

use super::{
    Name, bundle_of, client,
    log::Copies,
    state::{Description, State},
};
use crate::{
    bundle::Bundle,
    console::Console,
    inject, logger, network,
    root::{self, Origin, Root, Writes},
    signals::{self, GRACE, Signals},
    stdio::Fifos,
};

/// What it says to who started it.
pub const READY: &str = "ready\n";

/// What was written to an image, in the VM's directory.
const LAYER: &str = "layer";

/// Keeps the VM until its command ends.
///
/// # Errors
/// When it cannot be started; that is said on standard output as well.
pub fn run(name: &Name) -> Result<u8> {
    let kept = keep(&name.name);
    if let Err(error) = &kept {
        // Nobody may be there to read it.
        let _ = write!(io::stdout(), "{error:#}");
    }
    kept.map(|()| 0)
}

fn keep(name: &str) -> Result<()> {
    // The terminal's end is not the VM's.
    setsid().context("leaving the session")?;
    let state = State::open(name)?;
    let _kept = state.keep()?;
    let description = state.description()?;
    logger::set(description.debug);
    // Before the process has other threads.
    root::enter()?;
    let bundle = bundle_of(name)?;
    let layer = state.path(LAYER);
    let writes = match &description.root {
        Origin::Directory(_) => Writes::Through,
        Origin::Image(_) => Writes::Disk(&layer),
    };
    let root = Root::mount(&description.root, writes, &bundle)?;
    inject::all(&description.inject, &root)?;
    bundle.describe(&description.spec)?;
    for (file, text) in &description.files {
        bundle.write(file, text.as_bytes())?;
    }
    state.starting()?;
    match keep_running(&state, &description, &bundle) {
        // Where that cannot be noted, it is lost.
        Ok(status) => state.ended(status),
        Err(error) => {
            state.not_started()?;
            Err(error)
        }
    }
}

/// Answers the command's exit status.
fn keep_running(state: &State, description: &Description, bundle: &Bundle) -> Result<u32> {
    signals::hold()?;
    let network = description.network.make(bundle)?;
    let fifos = Fifos::make(bundle.path(), "vm", false, false)?;
    let paths = fifos.paths();
    let logged = vec![paths.stdout.clone().into(), paths.stderr.clone().into()];
    let _console = Console::of(bundle, description.debug)?;
    let copies = Copies::start(&state.path("."), logged)?;
    let socket = bundle.path().join(client::SOCKET);
    let listener =
        UnixListener::bind(&socket).with_context(|| format!("listening on {}", socket.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(Duration::from_secs(1))
        .build()?;
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = serve(bundle, description, paths, listener) => ended,
            () = network::attend(network.as_ref()) => unreachable!("it never ends"),
        }
    });
    // A thread may wait for a file system that never answers.
    runtime.shutdown_background();
    let status = ended?;
    copies.finish();
    Ok(status)
}

/// Answers the command's exit status.
async fn serve(
    bundle: &Bundle,
    description: &Description,
    stdio: StdioPaths,
    listener: UnixListener,
) -> Result<u32> {
    let mut signals = Signals::listen()?;
    if let Some(signal) = signals.came() {
        bail!("{signal} came before it started");
    }
    let mut served = Served::new(bundle.id());
    let options = RuntimeOptions {
        config_body: Some(description.options.clone()),
        author: Author::Krunctl,
        ..RuntimeOptions::default()
    };
    let (id, path) = (bundle.id().to_owned(), bundle.path().to_owned());
    served.start(NewContainer { id, bundle: path, rootfs: Vec::new(), stdio, options }).await?;
    let attended = attend(&mut served, description, listener, &mut signals).await;
    if attended.is_err() {
        let _ = served.signal(Signal::SIGKILL as u32).await;
        served.ended().await;
    }
    served.delete().await;
    served.close().await;
    attended
}

/// Answers calls until the command ends, or this process is told to end; answers the command's exit status.
async fn attend(
    served: &mut Served,
    description: &Description,
    listener: UnixListener,
    signals: &mut Signals,
) -> Result<u32> {
    served.serve(listener).await?;
    say_ready().context("saying that the VM runs")?;
    tokio::select! {
        exit = served.ended() => return Ok(exit.status),
        _ = signals.next() => {}
    }
    let _ = served.signal(description.stop_signal.unsigned_abs()).await;
    if timeout(GRACE, served.ended()).await.is_err() {
        let _ = served.signal(Signal::SIGKILL as u32).await;
    }
    Ok(served.ended().await.status)
}

/// Tells who started this, and lets go of the pipe.
fn say_ready() -> Result<()> {
    // Nobody may wait for it any more.
    let _ = io::stdout().write_all(READY.as_bytes());
    let _ = io::stdout().flush();
    let null = std::fs::File::options().write(true).open("/dev/null")?;
    dup2_stdout(null.as_fd())?;
    Ok(())
}
