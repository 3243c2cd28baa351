//! The table that `bench` prints.

use std::fmt;

#[derive(Clone, Copy)]
pub enum Unit {
    /// The values are seconds.
    Milliseconds,
    /// The values are seconds.
    Microseconds,
    /// The values are bytes.
    Mebibytes,
    /// The values are bytes per second.
    MebibytesPerSecond,
}

impl Unit {
    /// What a value is multiplied by, and what stands behind it.
    fn shown(self) -> (f64, &'static str) {
        let mebi = 1.0 / f64::from(1 << 20);
        match self {
            Unit::Milliseconds => (1e3, "ms"),
            Unit::Microseconds => (1e6, "µs"),
            Unit::Mebibytes => (mebi, "MiB"),
            Unit::MebibytesPerSecond => (mebi, "MiB/s"),
        }
    }
}

/// One column's values of a row; none where there is nothing to measure.
type Values = Vec<f64>;

/// `N` columns of least, median and largest.
pub struct Table<const N: usize> {
    title: String,
    columns: [&'static str; N],
    ratios: bool,
    rows: Vec<(String, Unit, [Values; N])>,
}

impl<const N: usize> Table<N> {
    pub fn new(title: &str, columns: [&'static str; N]) -> Self {
        Self { title: title.to_owned(), columns, ratios: false, rows: Vec::new() }
    }

    /// Shows behind each column but the first how many times the first one's median its median is.
    pub fn with_ratios(self) -> Self {
        Self { ratios: true, ..self }
    }

    /// The median of a row's column as it is shown, without its unit.
    pub fn median(&self, row: &str, column: &str) -> Option<f64> {
        let (_, unit, values) = self.rows.iter().find(|(name, _, _)| name == row)?;
        let [_, median, _] = summary(&values[self.columns.iter().position(|name| *name == column)?])?;
        Some(median * unit.shown().0)
    }

    pub fn row(&mut self, name: &str, unit: Unit, values: [&[f64]; N]) {
        self.rows.push((name.to_owned(), unit, values.map(<[f64]>::to_vec)));
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        // A column's cells, and what stands in the place of its ratio.
        let line = |cells: [(String, String); N]| {
            let with_ratio = |(at, (cells, ratio)): (usize, (String, String))| {
                if self.ratios && at > 0 { format!("{cells}{ratio:>8}") } else { cells }
            };
            cells.into_iter().enumerate().map(with_ratio).collect::<Vec<_>>().join("   ")
        };
        let titles = self.columns.map(|column| (format!("{column:^27}"), String::new()));
        writeln!(f, "{:<30}{}", self.title, line(titles))?;
        let heads = || (format!("{:>9}{:>9}{:>9}", "min", "median", "max"), "ratio".to_owned());
        writeln!(f, "{:<30}{}", "", line(std::array::from_fn(|_| heads())))?;
        for (name, unit, values) in &self.rows {
            let (scale, suffix) = unit.shown();
            let summaries = values.each_ref().map(|v| summary(v));
            let all = summaries.map(|s| (cells(s.map(|s| s.map(|v| v * scale))), ratio(s, summaries[0])));
            writeln!(f, "{name:<30}{}  {suffix}", line(all))?;
        }
        Ok(())
    }
}

fn cells(summary: Option<[f64; 3]>) -> String {
    match summary {
        Some([min, median, max]) => format!("{min:>9.1}{median:>9.1}{max:>9.1}"),
        None => format!("{:>9}{:>9}{:>9}", "-", "-", "-"),
    }
}

/// Of two medians.
fn ratio(of: Option<[f64; 3]>, to: Option<[f64; 3]>) -> String {
    of.zip(to).map_or_else(|| "-".to_owned(), |([_, of, _], [_, to, _])| format!("{:.2}", of / to))
}

/// Least, median and largest.
fn summary(values: &[f64]) -> Option<[f64; 3]> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (first, last) = (*sorted.first()?, *sorted.last()?);
    let middle = sorted.len() / 2;
    let median =
        if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
    Some([first, median, last])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(summary(&[3.0, 1.0, 2.0]), Some([1.0, 2.0, 3.0]));
        assert_eq!(summary(&[4.0, 1.0, 2.0, 3.0]), Some([1.0, 2.5, 4.0]));
        assert_eq!(summary(&[]), None);
    }

    #[test]
    fn units_are_converted_and_nothing_is_a_dash() {
        let mut table = Table::new("2 runs", ["runc", "krun"]);
        table.row("boot", Unit::Milliseconds, [&[], &[0.25, 0.75]]);
        table.row("PSS", Unit::Mebibytes, [&[1048576.0], &[]]);
        let text = table.to_string();
        let fields: Vec<Vec<&str>> = text.lines().skip(2).map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(fields[0], ["boot", "-", "-", "-", "250.0", "500.0", "750.0", "ms"]);
        assert_eq!(fields[1], ["PSS", "1.0", "1.0", "1.0", "-", "-", "-", "MiB"]);
    }

    #[test]
    fn ratios_are_of_medians_to_the_first_columns() {
        let mut table = Table::new("1 runs", ["runc", "krun", "other"]).with_ratios();
        table.row("stat", Unit::Microseconds, [&[2e-6], &[4e-6, 5e-6, 9e-6], &[]]);
        let text = table.to_string();
        let fields: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(fields[1].iter().filter(|head| **head == "ratio").count(), 2);
        let krun = ["4.0", "5.0", "9.0", "2.50"];
        assert_eq!(
            fields[2],
            [&["stat", "2.0", "2.0", "2.0"][..], &krun, &["-", "-", "-", "-", "µs"]].concat()
        );
    }
}
