//! What a scenario is: a name, who runs it, how long it may take, and the function that does it.

use crate::ctx::{BUSYBOX, Ctx};
use anyhow::Result;
use std::time::Duration;

/// How a scenario that did not fail ended.
pub enum Outcome {
    Passed,
    Skipped(String),
}

pub struct Scenario {
    pub name: &'static str,
    /// Also run on the older containerds.
    pub smoke: bool,
    /// Only in the long run, by hand: others show the same more cheaply.
    pub long: bool,
    /// Why runc cannot run it, if so.
    pub krun_only: Option<&'static str>,
    /// The image it runs, where that is more than busybox: not every box has it.
    pub image: &'static str,
    /// A program that it runs and that not every box has (`hack/box up --tools`).
    pub needs: Option<&'static str>,
    /// Wall time after which it is ended and has failed.
    pub timeout: Duration,
    pub run: fn(&Ctx) -> Result<Outcome>,
}

/// Wall time that is plenty for one or two microVM boots in an emulated box with neighbours.
const USUAL_TIMEOUT: Duration = Duration::from_secs(240);

impl Scenario {
    pub const fn new(name: &'static str, run: fn(&Ctx) -> Result<Outcome>) -> Self {
        Self {
            name,
            smoke: false,
            long: false,
            krun_only: None,
            image: BUSYBOX,
            needs: None,
            timeout: USUAL_TIMEOUT,
            run,
        }
    }

    pub const fn smoke(mut self) -> Self {
        self.smoke = true;
        self
    }

    pub const fn long(mut self) -> Self {
        self.long = true;
        self
    }

    pub const fn krun_only(mut self, why: &'static str) -> Self {
        self.krun_only = Some(why);
        self
    }

    pub const fn image(mut self, image: &'static str) -> Self {
        self.image = image;
        self
    }

    pub const fn needs(mut self, program: &'static str) -> Self {
        self.needs = Some(program);
        self
    }

    pub const fn timeout(mut self, seconds: u64) -> Self {
        self.timeout = Duration::from_secs(seconds);
        self
    }
}
