//! A VM is given to one of those that ask for it at once.

use super::{Pool, taken_since};
use crate::containerd_log;
use crate::ctx::Ctx;
use crate::scenario::Outcome;
use anyhow::{Result, ensure};
use std::collections::BTreeSet;

/// Containers at a time.
const MANY: usize = 4;

/// How often they come.
const ROUNDS: usize = 3;

pub fn given_once(ctx: &Ctx) -> Result<Outcome> {
    let mut pool = Pool::start(ctx, "[[pool]]\ncount = 1\n", 1)?;
    let mut all = 0;
    for round in 0..ROUNDS {
        let mark = containerd_log::mark();
        let begun: Vec<_> = (0..MANY)
            .map(|number| {
                let id = ctx.id(&format!("{round}-{number}"));
                ctx.sh(&[], &id, "cat /proc/sys/kernel/random/boot_id; hostname").spawn()
            })
            .collect::<Result<_>>()?;
        let mut boots = BTreeSet::new();
        for container in begun {
            boots.insert(container.finish()?.ok()?.stdout_text());
        }
        ensure!(boots.len() == MANY, "{MANY} containers had {} VMs", boots.len());
        let taken = taken_since(mark)?;
        ensure!((1..=2).contains(&taken), "{taken} VMs are the pool's, which has one at a time");
        println!("tried: {MANY} at once ask for the last VM: {taken} got one of the pool's, all ran");
        all += taken;
        ensure!(
            pool.given() == all,
            "the pool says that it gave {} away, the shims took {all}",
            pool.given()
        );
        pool.has_booted(all + 1)?;
    }
    pool.end()?;
    Ok(Outcome::Passed)
}
