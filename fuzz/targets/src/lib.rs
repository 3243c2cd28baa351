//! What is fuzzed: for each input that a guest, a bundle's writer, a pod's author or containerd's client chooses, a
//! function that does with it what the shim does, and panics when a promise does not hold.
//!
//! `fuzz/fuzz_targets` gives them to libFuzzer; the test beside this runs every seed and corpus file through them. Most
//! are the shim's own; here are those of the guest's two connections.

mod calls;
mod hello;
mod mux;

/// A target: its name, which is also that of its directories of seeds and corpus, and what is done with an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 8] = [
    ("annotations", shim::fuzz::config_annotations),
    ("bundle", shim::fuzz::bundle),
    ("config_toml", shim::fuzz::config_toml),
    ("guest_answer", shim::fuzz::guest_answer),
    ("guest_calls", calls::run),
    ("hello", hello::run),
    ("mux", mux::run),
    ("stdio_uri", shim::fuzz::stdio_uri),
];

/// Runs the target `name`.
///
/// # Panics
/// When there is none, and when a promise does not hold.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    target.expect("a target of that name").1(data);
}

/// Runs `future` to its end, on a runtime that this thread keeps.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}
