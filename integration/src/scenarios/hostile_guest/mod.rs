//! A PID 1 of ours in guest-init's place lies, floods, stalls and breaks the protocol. It costs its container, and nobody
//! else anything: each command on it ends in time, with a status that is no lie, and shim, log and host stay as they are.
//!
//! The attacks are those of `integration/hostile-init`; each has a VM of its own.

mod life;

use crate::ctx::Ctx;
use crate::scenario::{Outcome, Scenario};
use anyhow::Result;
use life::{
    Life::{self, Killed, Run},
    Status::{self, Failed, Is},
};

const WHY: &str = "runc has no guest";

pub const SCENARIOS: &[Scenario] = &[
    scenario("hostile-guest-sample", |ctx| all(ctx, SAMPLE), 400),
    scenario("hostile-guest-hellos", |ctx| all(ctx, HELLOS), 900).long(),
    scenario("hostile-guest-control", |ctx| all(ctx, CONTROL), 900).long(),
    scenario("hostile-guest-answers", |ctx| all(ctx, ANSWERS), 900).long(),
    scenario("hostile-guest-silence", |ctx| all(ctx, SILENCE), 1200).long(),
    scenario("hostile-guest-streams", |ctx| all(ctx, STREAMS), 900).long(),
    scenario("hostile-guest-floods", |ctx| all(ctx, FLOODS), 900).long(),
    scenario("hostile-guest-machine", |ctx| all(ctx, MACHINE), 900).long(),
];

const fn scenario(name: &'static str, run: fn(&Ctx) -> Result<Outcome>, seconds: u64) -> Scenario {
    Scenario::new(name, run).krun_only(WHY).timeout(seconds)
}

/// One attack, and what it must come to.
struct Attack {
    name: &'static str,
    does: &'static str,
    life: Life,
    /// What `ctr run` must report.
    status: Status,
    /// Seconds within which each command must end.
    within: u64,
}

const fn attack(name: &'static str, does: &'static str, life: Life, status: Status, within: u64) -> Attack {
    Attack { name, does, life, status, within }
}

/// Seconds in which an emulated, busy box boots a VM.
const BOOT: u64 = 120;
/// Seconds that the shim gives a guest's boot, a call, and a kill, each with a boot before it. Source: `BOOT`, `CALL`,
/// `SIGN_OF_LIFE` and `GONE` of shim/src/sandbox/krun/vm.rs, `LAST_WORD` of container.rs.
const NO_HELLO: u64 = 90 + BOOT;
const NO_ANSWER: u64 = BOOT + 30 + 5 + 10;
const NO_END: u64 = BOOT + 10 + 10;

/// One of each kind.
const SAMPLE: &[Attack] = &[
    attack(
        "unasked-answers",
        "answers 20,000 calls that were not made, before each that was",
        Run,
        Failed,
        BOOT,
    ),
    attack("ends-with-status-0", "ends its VM with libkrun's status 0 and no exit record", Run, Failed, BOOT),
    attack("log-lines", "logs lines of 1 KiB without a pause", Killed(&["version"]), Is(137), BOOT),
];

const HELLOS: &[Attack] = &[
    attack("never-dials", "never dials", Run, Failed, NO_HELLO),
    attack("half-hello", "sends half a hello", Run, Failed, NO_HELLO),
    attack("control-only", "introduces 200 control connections and no other", Run, Failed, NO_HELLO),
    attack("wrong-nonce-first", "dials 4 times with a wrong nonce, then rightly", Killed(&[]), Is(137), BOOT),
    attack("dials-1000", "dials 1,000 times with a wrong nonce, then rightly", Run, Failed, NO_HELLO),
    attack("dials-on", "forks a process that dials on for ever", Killed(&["version"]), Is(137), BOOT),
    attack("exits", "exits at once with status 0", Run, Failed, BOOT),
    attack("reboots", "reboots at once", Run, Failed, BOOT),
];

const CONTROL: &[Attack] = &[
    attack("garbage", "sends frames of no kind", Run, Failed, BOOT),
    attack("frame-of-4-gib", "answers with a frame of 4 GiB", Run, Failed, NO_ANSWER),
    attack("frame-of-4-mib-unsent", "promises a frame of 4 MiB and sends none of it", Run, Failed, NO_ANSWER),
    attack("calls-the-host", "sends requests to the host", Run, Failed, BOOT),
    attack("stream-data", "streams data for a call that has no stream", Run, Failed, BOOT),
    attack("answers-twice", "answers each call twice", Run, Failed, BOOT),
    attack("closes-control", "closes only the control connection", Run, Failed, BOOT),
    attack("stops-reading", "stops reading the control connection", Killed(&["exec"]), Is(137), NO_ANSWER),
];

const ANSWERS: &[Attack] = &[
    attack("exit-record-lies", "ends at once with status 0x1ff, in the far future", Run, Failed, BOOT),
    attack("exits-in-vain", "tells the container's end before its start", Run, Failed, BOOT),
    attack(
        "forged-kernel",
        "names a kernel of 200 KiB, with forged lines of a log",
        Killed(&[]),
        Is(137),
        BOOT,
    ),
    attack("forged-error", "fails with 200 KiB of forged lines of a log", Run, Failed, BOOT),
    attack("long-error", "fails with 4 MiB of forged lines of a log", Run, Failed, BOOT),
    attack("unknown-code", "fails with a code that there is not", Killed(&[]), Is(137), BOOT),
    attack("error-that-is-ok", "fails with the code OK", Killed(&[]), Is(137), BOOT),
    attack("undecodable", "answers with bytes that are no message", Run, Failed, BOOT),
    attack("stats-lie", "has 8,000 statistics with absurd numbers", Killed(&["metrics"; 3]), Is(137), BOOT),
    attack("long-stats", "has statistics of 4 MiB", Killed(&["metrics"; 3]), Failed, BOOT),
];

const SILENCE: &[Attack] = &[
    attack("silent-create", "never answers CreateContainer", Run, Failed, NO_ANSWER),
    attack("silent-start", "never answers Start", Run, Failed, NO_ANSWER),
    attack("silent-wait", "never answers Wait", Killed(&[]), Is(137), NO_END),
    attack("silent-signal", "never answers Signal", Killed(&[]), Is(137), NO_END),
    attack("silent-exec", "never answers Exec", Killed(&["exec"]), Is(137), NO_ANSWER),
    attack("silent-stats", "never answers Stats", Killed(&["metrics"]), Is(137), NO_ANSWER),
    attack("silent-all", "answers nothing any more", Killed(&["exec"]), Is(137), NO_ANSWER),
];

const STREAMS: &[Attack] = &[
    attack("empty-data", "sends data without data", Run, Failed, BOOT),
    attack(
        "one-byte-data",
        "sends single bytes without end to a reader that stands still",
        Run,
        Failed,
        BOOT,
    ),
    attack("one-byte-data-in-window", "sends a window of single bytes", Killed(&["version"]), Is(137), BOOT),
    attack("beyond-the-window", "sends data without credit", Run, Failed, BOOT),
    attack("long-frame", "sends a frame of 4 GiB", Run, Failed, BOOT),
    attack("unknown-frame", "sends frames of no kind", Run, Failed, BOOT),
    attack("endless-credit", "gives credit beyond the window", Run, Failed, BOOT),
    attack("half-a-frame", "sends half a frame", Killed(&[]), Is(137), BOOT),
    attack("closes-streams", "closes only the stream connection", Run, Failed, BOOT),
    attack("reads-no-streams", "never reads the stream connection", Killed(&["execs"]), Is(137), BOOT),
    attack("data-after-eof", "sends output after its end", Run, Failed, BOOT),
    attack("output-without-end", "keeps the output open after the exit record", Killed(&[]), Is(137), NO_END),
];

const FLOODS: &[Attack] = &[
    attack(
        "unopened-streams",
        "sends to each stream that nobody opened",
        Killed(&["neighbour"]),
        Is(137),
        BOOT,
    ),
    attack("log-empty-lines", "logs 64 Ki empty lines at a time", Killed(&["version"]), Is(137), BOOT),
    attack("log-one-line", "logs one line without end", Killed(&["version"]), Is(137), BOOT),
];

const MACHINE: &[Attack] = &[
    attack("exits-later", "exits with status 0 while the container runs", Run, Failed, BOOT),
    attack("crashes", "has its kernel panic", Run, Failed, BOOT),
    attack("spins", "spins", Killed(&["version"]), Is(137), NO_END),
    attack("eats-memory", "takes all memory of its VM", Run, Failed, NO_END + BOOT),
];

/// Tries all, and says what each came to, also when one failed.
fn all(ctx: &Ctx, attacks: &[Attack]) -> Result<Outcome> {
    let mut failures = Vec::new();
    for attack in attacks {
        match life::live(ctx, attack) {
            Ok(got) => println!("tried: {} ({}): {got}", attack.name, attack.does),
            Err(error) => {
                println!("tried: {} ({}): NOT AS IT MUST: {error:#}", attack.name, attack.does);
                failures.push(format!("{}: {error:#}", attack.name));
            }
        }
    }
    anyhow::ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(Outcome::Passed)
}
