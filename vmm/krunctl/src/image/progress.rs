//! How far a pull is, on a terminal.

use std::{
    io::{self, Write},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use images::Progress;

/// How often it is drawn.
const OFTEN: Duration = Duration::from_millis(100);

/// How wide the bar is, in characters.
const WIDTH: u128 = 28;

/// A line that shows it.
pub struct Bar(Option<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Bytes of each layer: those that are there, and all.
    layers: Vec<(u64, u64)>,
    drawn: Option<Instant>,
}

impl Bar {
    /// One that is drawn, or not.
    pub fn new(is_drawn: bool) -> Bar {
        Bar(is_drawn.then(Mutex::default))
    }

    /// Shows a layer's progress.
    pub fn show(&self, progress: &Progress) {
        let Some(state) = &self.0 else { return };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.layers.resize(progress.layers, (0, 0));
        if let Some(layer) = state.layers.get_mut(progress.layer) {
            *layer = (progress.done, progress.total);
        }
        if state.drawn.is_none_or(|drawn| drawn.elapsed() >= OFTEN) {
            state.drawn = Some(Instant::now());
            // Whoever does not see it can do without it.
            let _ = write!(io::stderr(), "\r{}", line(&state.layers));
        }
    }

    /// Ends the line.
    pub fn end(&self) {
        let Some(state) = &self.0 else { return };
        let state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.drawn.is_some() {
            let _ = writeln!(io::stderr(), "\r{}", line(&state.layers));
        }
    }
}

fn line(layers: &[(u64, u64)]) -> String {
    let whole = layers.iter().filter(|(done, total)| done == total && *total > 0).count();
    let (done, total) = layers.iter().fold((0, 0), |sum, layer| (sum.0 + layer.0, sum.1 + layer.1));
    let mib = |bytes: u64| bytes >> 20;
    let bar = "#".repeat((u128::from(done.min(total)) * WIDTH / u128::from(total.max(1))) as usize);
    let width = WIDTH as usize;
    format!("[{bar:width$}] layers: {whole} of {}, {} of {} MiB", layers.len(), mib(done), mib(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_adds_layers_up() {
        let bar = format!("[{}{}]", "#".repeat(16), " ".repeat(12));
        let text = line(&[(3 << 20, 3 << 20), (1 << 20, 4 << 20), (0, 0)]);
        assert_eq!(text, format!("{bar} layers: 1 of 3, 4 of 7 MiB"));
        assert!(line(&[]).starts_with("[ ") && line(&[(u64::MAX, u64::MAX)]).contains("#]"));
    }
}
