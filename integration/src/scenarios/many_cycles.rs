//! One container after the other with the same id: nothing of the host may pile up.

use crate::ctx::{BUSYBOX, Ctx};
use crate::growth;
use crate::scenario::{Outcome, Scenario};
use anyhow::{Context, Result, ensure};
use std::fs;

pub const SCENARIOS: &[Scenario] = &[Scenario::new("many-cycles", many_cycles).long().timeout(6 * 3600)];

/// How many without being told. A thousand take more than an hour in an emulated box.
const TIMES: u64 = 40;

fn many_cycles(ctx: &Ctx) -> Result<Outcome> {
    let volume = ctx.work("volume");
    fs::create_dir(&volume).context("make a volume")?;
    let mount = format!("type=bind,src={},dst=/out,options=rbind:rw", volume.display());
    let id = ctx.id("");
    growth::repeat(TIMES, |round| {
        let script = format!("head -c 1000000 /dev/zero >/file; echo {round} >/out/round; echo up");
        let run = ctx.run(&["--rm", "--mount", &mount], BUSYBOX, &id, &["sh", "-c", &script]);
        run.run()?.ok()?.printed("up\n")?;
        let last = fs::read_to_string(volume.join("round")).context("read what it wrote")?;
        ensure!(last.trim() == round.to_string(), "it wrote {last}");
        Ok(())
    })?;
    Ok(Outcome::Passed)
}
