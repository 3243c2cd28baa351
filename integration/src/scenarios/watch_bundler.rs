//! A bundler from npm that watches its sources, as dev servers do, while the host edits them.

use crate::command::Running;
use crate::ctx::{Ctx, DEBIAN};
use crate::scenario::{Outcome, Scenario};
use crate::wait::until_true;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

pub const SCENARIOS: &[Scenario] =
    &[Scenario::new("watch-bundler", bundler).image(DEBIAN).needs("rollup").timeout(400)];

/// Where the box has it.
const ROLLUP: &str = "/usr/local/libexec/krun/rollup";

/// Within what time the bundle must be made anew: a Node.js in an emulated guest needs most of it. It must be less than the 5 s for
/// which a guest keeps names and attributes, which alone would be enough for a watcher that looks by itself; this one does not.
const SOON: Duration = Duration::from_secs(60);

fn bundler(ctx: &Ctx) -> Result<Outcome> {
    let source = ctx.work("source");
    fs::create_dir_all(source.join("lib")).context("make directories")?;
    write(&source.join("main.js"), "import { a } from './lib/a.js';\nconsole.log('main-1', a);\n")?;
    write(&source.join("lib/a.js"), "export const a = 'a-1';\n")?;
    let volumes = [
        format!("type=bind,src={ROLLUP},dst=/rollup,options=rbind:ro"),
        format!("type=bind,src={},dst=/src,options=rbind:rw", source.display()),
    ];
    let flags: Vec<_> = volumes.iter().flat_map(|volume| ["--mount", volume]).collect();
    let flags = [flags.as_slice(), &["--env", "LD_LIBRARY_PATH=/rollup", "--cwd", "/src", "--rm"]].concat();
    let args =
        ["/rollup/node", "/rollup/rollup/dist/bin/rollup", "-w", "-i", "main.js", "-o", "out/bundle.js"];
    let id = ctx.id("");
    let mut running = ctx.run(&flags, DEBIAN, &id, &args).spawn()?;
    let bundle = source.join("out/bundle.js");
    let has = |running: &Running, what: &str, text: &str| -> Result<()> {
        let began = Instant::now();
        until_true(what, SOON, || Ok(fs::read_to_string(&bundle).is_ok_and(|bundle| bundle.contains(text))))
            .with_context(|| {
                format!("the bundler said {}", String::from_utf8_lossy(&running.stderr_now()))
            })?;
        println!("tried: {what}: bundled within {} ms", began.elapsed().as_millis());
        Ok(())
    };
    has(&running, "the first bundle", "main-1")?;
    running.wait_for_stderr("waiting for changes")?;
    // It asks for events when it has the bundle ready, and reads what has changed until then with the next.
    write(&source.join("lib/a.js"), "export const a = 'a-2';\n")?;
    has(&running, "an edit in place", "a-2")?;
    replace(&source.join("lib/a.js"), "export const a = 'a-3';\n")?;
    has(&running, "a file replaced by a rename", "a-3")?;
    replace(&source.join("lib/a.js"), "export const a = 'a-4';\n")?;
    has(&running, "the same once more", "a-4")?;
    write(&source.join("lib/b.js"), "export const b = 'b-1';\n")?;
    let main =
        "import { a } from './lib/a.js';\nimport { b } from './lib/b.js';\nconsole.log('main-2', a, b);\n";
    write(&source.join("main.js"), main)?;
    has(&running, "a new file, and a file that names it", "b-1")?;
    write(&source.join("lib/b.js"), "export const b = 'b-2';\n")?;
    has(&running, "an edit of the new file", "b-2")?;
    ctx.kill(&id, "SIGTERM")?.ok()?;
    let ended = running.finish()?;
    ensure!(ended.status != 0, "the bundler ended by itself: {}", ended.stderr_text());
    Ok(Outcome::Passed)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// As editors do.
fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("tmp");
    write(&new, text)?;
    fs::rename(&new, path).with_context(|| format!("replace {}", path.display()))
}
