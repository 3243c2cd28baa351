//! What containerd tells of a container, as `ctr events` prints it.

use crate::command::{Cmd, Running};
use crate::ctx::Ctx;
use crate::wait::until_true;
use anyhow::{Result, ensure};
use serde_json::Value;
use std::time::Duration;

/// A label of containerd's namespace, whose change is an event.
const LABEL: &str = "krun-scenario";

/// A client that hears everything.
pub struct Events {
    heard: Running,
}

/// What was told of a container, in order: each end's status, and that it was created or deleted.
#[derive(Debug, Default)]
pub struct Told {
    pub created: usize,
    pub exits: Vec<u64>,
    pub deleted: usize,
}

impl Events {
    /// Listens, and returns when it hears.
    pub fn listen(ctx: &Ctx) -> Result<Events> {
        let heard = Cmd::new(&["ctr", "events"]).timeout(3600).spawn()?;
        until_true("ctr to hear events", Duration::from_secs(30), || {
            for label in [format!("{LABEL}=x"), format!("{LABEL}=")] {
                ctx.ctr(&["namespaces", "label", "default", &label]).run()?.ok()?;
            }
            Ok(String::from_utf8_lossy(&heard.stdout_now()).contains("/namespaces/update"))
        })?;
        Ok(Events { heard })
    }

    /// What was told so far of the container `id` itself, not of its execs.
    pub fn of(&self, id: &str) -> Told {
        let mut told = Told::default();
        for line in String::from_utf8_lossy(&self.heard.stdout_now()).lines() {
            let Some((before, event)) = line.split_once('{') else { continue };
            let Ok(event) = serde_json::from_str::<Value>(&format!("{{{event}")) else { continue };
            if event["container_id"] != id {
                continue;
            }
            match before.split_whitespace().last() {
                Some("/tasks/create") => told.created += 1,
                Some("/tasks/exit") if event["id"] == id => {
                    told.exits.push(event["exit_status"].as_u64().unwrap_or(0));
                }
                Some("/tasks/delete") => told.deleted += 1,
                _ => {}
            }
        }
        told
    }

    /// Waits until a container that was created has also been told to have ended and to be gone. When it is `failing` to
    /// be created, containerd tells neither.
    pub fn settled(&self, id: &str, failing: bool) -> Result<Told> {
        let mut told = self.of(id);
        if told.created == 0 || failing {
            return Ok(told);
        }
        until_true("a task's exit and its delete to be told", Duration::from_secs(20), || {
            told = self.of(id);
            Ok(!told.exits.is_empty() && told.deleted > 0)
        })?;
        ensure!(told.created == 1, "one container was created {} times", told.created);
        Ok(told)
    }
}
