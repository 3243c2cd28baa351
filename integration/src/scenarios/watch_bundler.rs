//! A bundler from npm that watches its sources, as dev servers do, while the host edits them.

use crate::ctx::{Ctx, DEBIAN};
use crate::scenario::{Outcome, Scenario};
use crate::wait::until_true;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

pub const SCENARIOS: &[Scenario] =
    &[Scenario::new("watch-bundler", bundler).image(DEBIAN).needs("rollup").timeout(400)];

/// Where the box has it.
const ROLLUP: &str = "/usr/local/libexec/krun/rollup";

/// Within what time the bundle must be made anew. The bundler looks when it hears of a change, and by itself never.
const SOON: Duration = Duration::from_secs(60);

/// After what time a change is made once more: the bundler may have had it before it asked for events.
const AGAIN: Duration = Duration::from_secs(8);

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
    // It ends with its standard input.
    let running = ctx.run(&flags, DEBIAN, &id, &args).hold_stdin().spawn()?;
    let bundle = source.join("out/bundle.js");
    let bundled = |what: &str, text: &str, change: &dyn Fn() -> Result<()>| -> Result<()> {
        let began = Instant::now();
        let mut next = began;
        until_true(what, SOON, || {
            if Instant::now() >= next {
                change()?;
                next = Instant::now() + AGAIN;
            }
            Ok(fs::read_to_string(&bundle).is_ok_and(|bundle| bundle.contains(text)))
        })
        .with_context(|| format!("the bundler said {}", String::from_utf8_lossy(&running.stderr_now())))?;
        println!("tried: {what}: bundled within {} ms", began.elapsed().as_millis());
        Ok(())
    };
    let (main, a, b) = (source.join("main.js"), source.join("lib/a.js"), source.join("lib/b.js"));
    bundled("the first bundle", "main-1", &|| Ok(()))?;
    bundled("an edit in place", "a-2", &|| write(&a, "export const a = 'a-2';\n"))?;
    for text in ["a-3", "a-4"] {
        let change = || replace(&a, &format!("export const a = '{text}';\n"));
        bundled("a file replaced by a rename", text, &change)?;
    }
    bundled("a new file, and a file that names it", "b-1", &|| {
        write(&b, "export const b = 'b-1';\n")?;
        write(&main, "import { a } from './lib/a.js';\nimport { b } from './lib/b.js';\nconsole.log(a, b);\n")
    })?;
    bundled("an edit of the new file", "b-2", &|| write(&b, "export const b = 'b-2';\n"))?;
    ctx.kill(&id, "SIGTERM")?.ok()?;
    running.finish()?.ok()?;
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
