//! Lists on standard output: a table for people, or JSON for programs.

use anyhow::Result;
use clap::ValueEnum;
use serde_json::Value;

use crate::out;

/// How a list is printed.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

/// A text in one line that moves no cursor: an image or a guest may have chosen it.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Prints these fields of all, below their names.
///
/// # Errors
/// When they cannot be written.
pub fn print(columns: &[&str], all: &[Value]) -> Result<()> {
    let cell = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => plain(text),
        Value::Array(words) => plain(&words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")),
        other => other.to_string(),
    };
    let heads = columns.iter().map(|column| column.to_uppercase().replace('_', " ")).collect();
    let mut rows: Vec<Vec<String>> = vec![heads];
    rows.extend(all.iter().map(|one| columns.iter().map(|column| cell(&one[*column])).collect()));
    let widths: Vec<_> = (0..columns.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut lines = Vec::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        lines.push(cells.collect::<Vec<_>>().join("  ").trim_end().to_owned());
    }
    out::line(lines.join("\n"))
}

/// A number of bytes for people.
pub fn human(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.iter().find(|(shift, _)| bytes >> shift > 0) {
        Some((shift, unit)) => format!("{:.1} {unit}", bytes as f64 / (1_u64 << shift) as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_an_images_moves_no_cursor() {
        assert_eq!(plain("a\x1b[2J\nb\u{9b}ä"), "a [2J b ä");
    }

    #[test]
    fn bytes_have_a_unit() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (7 << 20, "7.0 MiB"), (9 << 30, "9.0 GiB")]
        {
            assert_eq!(human(bytes), text);
        }
    }
}
