//! `krunctl exec`: one more process in a VM that runs, of ours or of containerd's.

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, ensure};
use clap::Args;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use shim::direct::{OPERATORS_PROCESS, OperatorsProcess, StdioPaths};
use tokio::{signal::unix, time::timeout};

use super::{client::Vm, name, sandbox, state::State};
use crate::{
    bundle::Bundle,
    container::defaults,
    duration, env, exit,
    signals::{ENDING, MANY, Signals},
    spec::user,
    stdio::Fifos,
    terminal, vm,
};

/// How long a guest may take over what nobody waits for.
const LAST_CALLS: Duration = Duration::from_secs(2);

/// What runs when nobody names a command.
const SHELL: &str = "/bin/sh";

/// The flags of `exec`.
#[derive(Args)]
pub struct Arguments {
    /// The VM's name
    #[arg(value_name = "NAME", value_parser = name, required_unless_present = "sandbox")]
    name: Option<String>,
    #[command(flatten)]
    containerds: sandbox::Arguments,
    #[command(flatten)]
    env: env::Arguments,
    /// Give the command our standard input
    #[arg(short = 'i', long)]
    interactive: bool,
    /// Allocate a terminal for the command
    #[arg(short = 't', long = "tty")]
    tty: bool,
    /// End the command after this time, with exit status 124: 30s, 5m, 1h
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    timeout: Option<Duration>,
    /// The command's working directory, instead of that of the VM's own command, or of / with --sandbox
    #[arg(short = 'w', long, value_name = "DIR")]
    workdir: Option<String>,
    /// Who the command is, instead of who the VM's own command is: USER or USER:GROUP, names or numbers
    #[arg(short = 'u', long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// The command and its arguments; without, on a terminal, a shell
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// How the command is run: as the flags say, or as a shell on this terminal.
struct Plan {
    args: Vec<String>,
    interactive: bool,
    tty: bool,
}

impl Plan {
    fn of(arguments: &Arguments) -> Result<Plan> {
        if !arguments.command.is_empty() {
            let (interactive, tty) = (arguments.interactive, arguments.tty);
            return Ok(Plan { args: arguments.command.clone(), interactive, tty });
        }
        ensure!(
            io::stdin().is_terminal(),
            "no command, and standard input is no terminal: give one after --"
        );
        Ok(Plan { args: vec![SHELL.to_owned()], interactive: true, tty: true })
    }

    /// Says in the process whether it has a terminal.
    fn complete(&self, process: &mut Value) -> Result<()> {
        process["terminal"] = self.tty.into();
        if self.tty {
            let (columns, rows) = terminal::size()?;
            process["consoleSize"] = json!({"width": columns, "height": rows});
        }
        Ok(())
    }
}

/// Where the command runs.
enum Target {
    /// In the container of a VM of ours.
    Named(State),
    /// In the VM of a sandbox of containerd's. The FIFOs are in the bundle.
    Sandbox(Bundle),
}

impl Target {
    fn of(arguments: &Arguments) -> Result<Target> {
        Ok(match &arguments.name {
            Some(name) => Target::Named(State::open(name)?),
            // Then there is a --sandbox.
            None => Target::Sandbox(Bundle::make()?),
        })
    }

    /// Connects, and describes the process.
    async fn connect(
        &self,
        arguments: &Arguments,
        plan: &Plan,
        variables: &[env::Variable],
    ) -> Result<(Vm, Value)> {
        match self {
            Target::Named(state) => {
                let description = state.description()?;
                let vm = Vm::connect(state).await?;
                let process = process(arguments, plan, &vm, variables, &description.spec["process"]).await?;
                Ok((vm, process))
            }
            Target::Sandbox(_) => {
                let vm = arguments.containerds.connect().await?;
                let cwd = arguments.workdir.as_deref().unwrap_or("/");
                Ok((vm, sandbox::process(&plan.args, plan.tty, cwd, variables)?))
            }
        }
    }

    fn directory(&self) -> PathBuf {
        match self {
            Target::Named(state) => Vm::bundle(state),
            Target::Sandbox(bundle) => bundle.path().to_owned(),
        }
    }

    /// Runs the process there.
    async fn exec(&self, vm: &Vm, name: &str, process: Value, stdio: StdioPaths) -> Result<()> {
        match self {
            Target::Named(_) => vm.exec(name, serde_json::to_vec(&process)?, "", stdio).await,
            Target::Sandbox(_) => {
                let wrapped = serde_json::to_vec(&OperatorsProcess { operators_process: process })?;
                match vm.exec(name, wrapped, OPERATORS_PROCESS, stdio).await {
                    Ok(()) => Ok(()),
                    Err(error) => Err(match sandbox::doubt(vm).await {
                        Some(doubt) => error.context(doubt),
                        None => error,
                    }),
                }
            }
        }
    }
}

/// Answers the command's exit status.
///
/// # Errors
/// When it could not be run.
pub fn run(arguments: &Arguments) -> Result<u8> {
    let variables = arguments.env.variables()?;
    let plan = Plan::of(arguments)?;
    vm::check_root()?;
    if plan.tty {
        terminal::require()?;
    }
    let target = Target::of(arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let status = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let (vm, mut process) = target.connect(arguments, &plan, &variables).await?;
        plan.complete(&mut process)?;
        // No other exec had it, nor left a FIFO with it.
        let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let name = format!("exec-{}-{}", std::process::id(), since.as_nanos());
        let mut fifos = Fifos::make(&target.directory(), &name, plan.interactive, plan.tty)?;
        fifos.start_output();
        target.exec(&vm, &name, process, fifos.paths()).await?;
        attend(&vm, &name, fifos, (arguments, &plan), &mut signals).await
    });
    // A thread may still be reading our stdin.
    runtime.shutdown_background();
    status
}

/// The process, as that of the container with what the flags change.
async fn process(
    arguments: &Arguments,
    plan: &Plan,
    vm: &Vm,
    variables: &[env::Variable],
    own: &Value,
) -> Result<Value> {
    let mut process = own.clone();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut inherited: Vec<String> = own["env"].as_array().into_iter().flatten().map(text).collect();
    if let Some(named) = &arguments.user {
        let user = user::find(&vm.root().await?, named)?;
        inherited.retain(|pair| !pair.starts_with("HOME="));
        inherited.extend(defaults(&user, &[], false).into_iter().filter(|pair| pair.starts_with("HOME=")));
        process["user"] = json!({"uid": user.uid, "gid": user.gid, "additionalGids": user.groups});
        let effective = if user.uid == 0 { own["capabilities"]["bounding"].clone() } else { json!([]) };
        process["capabilities"]["effective"] = effective.clone();
        process["capabilities"]["permitted"] = effective;
    }
    if plan.tty {
        inherited.retain(|pair| !pair.starts_with("TERM="));
        inherited.extend(std::env::var("TERM").ok().map(|term| format!("TERM={term}")));
    }
    process["args"] = plan.args.clone().into();
    process["env"] = env::with(&inherited, variables)?.into();
    if let Some(directory) = &arguments.workdir {
        process["cwd"] = directory.clone().into();
    }
    Ok(process)
}

async fn attend(
    vm: &Vm,
    name: &str,
    mut fifos: Fifos,
    (arguments, plan): (&Arguments, &Plan),
    signals: &mut Signals,
) -> Result<u8> {
    let is_raw = plan.tty && plan.interactive;
    let raw = is_raw.then(terminal::Raw::enter).transpose()?;
    fifos.start_input(vm.close_stdin(name));
    let finished = async {
        let status = vm.wait(name).await;
        // A process that it has left behind may have the output open.
        fifos.idle().await;
        status
    };
    let status = tokio::select! {
        status = finished => status,
        // It, or its guest, does not heed them. It is killed, and not waited for.
        unheeded = forward(vm, name, plan.tty, signals) => unheeded.map(exit::of_signal),
        () = duration::passed(arguments.timeout) => {
            vm.signal(name, Signal::SIGKILL as i32).await;
            let ended = vm.wait(name).await;
            fifos.idle().await;
            ended.map(|_| exit::TIMEOUT)
        }
    };
    drop(raw);
    if timeout(LAST_CALLS, vm.forget(name)).await.is_err() {
        eprintln!("krunctl: the guest may still have the process: it does not answer");
    }
    status
}

/// Forwards signals and, with a terminal, its sizes, for as long as it is polled. Answers the third that was to end the process
/// and did not; it is killed then.
async fn forward(vm: &Vm, name: &str, tty: bool, signals: &mut Signals) -> Result<Signal> {
    let mut resized = unix::signal(unix::SignalKind::window_change())?;
    let mut ending = 0;
    loop {
        tokio::select! {
            signal = signals.next() => {
                ending += u32::from(ENDING.contains(&signal));
                let is_last = ending == MANY;
                let sent = if is_last { Signal::SIGKILL } else { signal };
                // The guest may never answer, and the next signal is to be heard.
                let _ = timeout(LAST_CALLS, vm.signal(name, sent as i32)).await;
                if is_last {
                    return Ok(signal);
                }
            }
            _ = resized.recv(), if tty => vm.resize(name, terminal::size()?).await,
        }
    }
}
