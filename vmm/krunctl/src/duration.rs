//! A time as `--timeout` says it: `30s`, `5m`, `1h`, `500ms`, or seconds.

use std::time::Duration;

/// The units, in milliseconds.
const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("", 1000)];

/// Reads it.
///
/// # Errors
/// When it is none, saying what is allowed.
pub fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, milliseconds)| milliseconds);
    let time = unit.and_then(|unit| number.parse::<u64>().ok()?.checked_mul(*unit));
    let time = time.filter(|milliseconds| *milliseconds > 0);
    time.map(Duration::from_millis)
        .ok_or_else(|| "it must be a number above 0 with s, m, h or ms, as 30s".to_owned())
}

/// As [`parse`], where no time at all is one.
///
/// # Errors
/// As there.
pub fn parse_or_zero(text: &str) -> Result<Duration, String> {
    if ["0", "0s"].contains(&text) { Ok(Duration::ZERO) } else { parse(text) }
}

/// Waits for so long; for ever without a limit.
pub async fn passed(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit() {
        for (text, milliseconds) in
            [("30s", 30_000), ("5m", 300_000), ("1h", 3_600_000), ("20", 20_000), ("7ms", 7)]
        {
            assert_eq!(parse(text).unwrap(), Duration::from_millis(milliseconds), "{text}");
        }
        for text in
            ["", "s", "0", "0s", "-1s", "1.5s", "1 s", "1d", "99999999999999999999s", "18446744073709551615h"]
        {
            assert!(parse(text).unwrap_err().contains("30s"), "{text}");
        }
    }
}
