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
    rows: Vec<(String, Unit, [Values; N])>,
}

impl<const N: usize> Table<N> {
    pub fn new(title: &str, columns: [&'static str; N]) -> Self {
        Self { title: title.to_owned(), columns, rows: Vec::new() }
    }

    pub fn row(&mut self, name: &str, unit: Unit, values: [&[f64]; N]) {
        self.rows.push((name.to_owned(), unit, values.map(<[f64]>::to_vec)));
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let line = |cells: [String; N]| cells.join("   ");
        writeln!(f, "{:<30}{}", self.title, line(self.columns.map(|column| format!("{column:^27}"))))?;
        let heads = || format!("{:>9}{:>9}{:>9}", "min", "median", "max");
        writeln!(f, "{:<30}{}", "", line(std::array::from_fn(|_| heads())))?;
        for (name, unit, values) in &self.rows {
            let (scale, suffix) = unit.shown();
            let cells = values.each_ref().map(|v| cells(summary(v).map(|v| v.map(|v| v * scale))));
            writeln!(f, "{name:<30}{}  {suffix}", line(cells))?;
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
}
