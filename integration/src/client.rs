//! The clients that share a command line: nerdctl and docker.

use crate::command::Cmd;
use crate::ctx::{BUSYBOX, Ctx};
use anyhow::Result;

/// How long one command may take, in a busy emulated box: seconds.
const PATIENCE: u64 = 120;

/// A client, by its program's name.
pub struct Client(&'static str);

pub const NERDCTL: Client = Client("nerdctl");
pub const DOCKER: Client = Client("docker");

impl Client {
    /// `nerdctl ARGS…`
    pub fn cmd(&self, args: &[&str]) -> Cmd {
        Cmd::new(&[&[self.0], args].concat()).timeout(PATIENCE)
    }

    /// `nerdctl run --runtime R FLAGS… localhost/busybox:1 sh -c SCRIPT`
    pub fn run(&self, ctx: &Ctx, flags: &[&str], script: &str) -> Cmd {
        let runtime = ["run", "--runtime", ctx.runtime.containerd_name()];
        self.cmd(&[&runtime, flags, &[BUSYBOX, "sh", "-c", script]].concat())
    }

    /// A command that has a terminal of its own.
    pub fn on_a_terminal(&self, words: &str) -> Cmd {
        Cmd::new(&["script", "-qec", &format!("{} {words}", self.0), "/dev/null"]).timeout(PATIENCE)
    }

    /// What a shell in a running container says.
    pub fn says(&self, name: &str, script: &str) -> Result<String> {
        let said = self.cmd(&["exec", name, "sh", "-c", script]).run()?.ok()?;
        Ok(said.stdout_text().trim().to_owned())
    }

    /// A field of a container's state.
    pub fn state(&self, name: &str, what: &str) -> Result<String> {
        let format = format!("{{{{.State.{what}}}}}");
        Ok(self.cmd(&["inspect", "-f", &format, name]).run()?.ok()?.stdout_text().trim().to_owned())
    }
}
