//! The last step in a container's first process: libcontainer has set everything up, and this finds and executes the
//! program. libcontainer's own executor wants PATH even for absolute names, forgets the order of the environment, and says
//! little when it fails.

use std::collections::HashMap;
use std::convert::Infallible;
use std::ffi::{CString, NulError};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use libcontainer::oci_spec::runtime::{Process, Spec};
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};

use crate::process::{env, lookup, trace};
use crate::rpc::fault::{Refusal, errno_text};

/// Exit status of a process that could not be executed after all (runc's).
const EXEC_FAILED: i32 = 255;

/// Executes what the spec says.
#[derive(Clone, Default)]
pub struct GuestExecutor {
    home: Arc<Mutex<Option<String>>>,
}

impl Executor for GuestExecutor {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let (args, env) = args_and_env(spec);
        let uid = spec.process().as_ref().map_or(0, |process| process.user().uid());
        *self.home.lock().unwrap_or_else(PoisonError::into_inner) = env::home(uid);
        lookup::executable(args.first().map_or("", String::as_str), env).map(drop).map_err(|why| {
            trace::decisive(&why);
            ExecutorValidationError::ArgValidationError(why.to_string())
        })
    }

    // libcontainer passes a map, which has lost the environment's order.
    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let (args, env) = args_and_env(spec);
        let home = self.home.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let env = env::prepare(env, home.as_deref());
        let why = match lookup::executable(args.first().map_or("", String::as_str), &env) {
            Ok(path) => match execute(&path, args, &env) {
                Ok(never) => match never {},
                Err(why) => why,
            },
            Err(why) => why,
        };
        // Start has been answered: the error goes to the container's output, as runc's does.
        eprintln!("{why}");
        // SAFETY: ends the process without running exit handlers of PID 1's image.
        unsafe { libc::_exit(EXEC_FAILED) }
    }
}

fn args_and_env(spec: &Spec) -> (&[String], &[String]) {
    let list = |get: fn(&Process) -> &Option<Vec<String>>| {
        spec.process().as_ref().and_then(|process| get(process).as_deref()).unwrap_or_default()
    };
    (list(Process::args), env::without_placeholder(list(Process::env)))
}

/// Replaces this process. Returns only when that failed.
pub fn execute(path: &Path, args: &[String], env: &[String]) -> Result<Infallible, Refusal> {
    let strings = |list: &[String]| -> Result<Vec<CString>, NulError> {
        list.iter().map(|entry| CString::new(entry.as_bytes())).collect()
    };
    let text = |why: String| format!("exec {}: {why}", path.display());
    let name =
        CString::new(path.as_os_str().as_bytes()).map_err(|err| Refusal::other(text(err.to_string())))?;
    let args = strings(args).map_err(|err| Refusal::other(text(format!("argument: {err}"))))?;
    let env = strings(env).map_err(|err| Refusal::other(text(format!("environment: {err}"))))?;
    nix::unistd::execve(&name, &args, &env).map_err(|errno| {
        let err = errno.into();
        Refusal::of_command(&err, text(errno_text(&err)))
    })
}
