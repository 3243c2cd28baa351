//! The table that `bench` prints.

use std::fmt;

#[derive(Clone, Copy)]
pub enum Unit {
    /// The values are seconds.
    Milliseconds,
    /// The values are bytes.
    Mebibytes,
}

pub struct Table {
    title: String,
    rows: Vec<(String, Unit, Vec<f64>, Vec<f64>)>,
}

impl Table {
    pub fn new(title: &str) -> Self {
        Self { title: title.to_owned(), rows: Vec::new() }
    }

    pub fn row(&mut self, name: &str, unit: Unit, runc: &[f64], krun: &[f64]) {
        self.rows.push((name.to_owned(), unit, runc.to_vec(), krun.to_vec()));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "{:<30}{:^27}   {:^27}", self.title, "runc", "krun")?;
        let columns = format!("{:>9}{:>9}{:>9}", "min", "median", "max");
        writeln!(f, "{:<30}{columns}   {columns}", "")?;
        for (name, unit, runc, krun) in &self.rows {
            let (scale, suffix) = match unit {
                Unit::Milliseconds => (1e3, "ms"),
                Unit::Mebibytes => (1.0 / f64::from(1 << 20), "MiB"),
            };
            let cells = |values: &[f64]| summary(values).map(|v| v.map(|v| v * scale));
            writeln!(f, "{name:<30}{}   {}  {suffix}", row(cells(runc)), row(cells(krun)))?;
        }
        Ok(())
    }
}

fn row(cells: Option<[f64; 3]>) -> String {
    match cells {
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
        let mut table = Table::new("2 runs");
        table.row("boot", Unit::Milliseconds, &[], &[0.25, 0.75]);
        table.row("PSS", Unit::Mebibytes, &[1048576.0], &[]);
        let text = table.to_string();
        let fields: Vec<Vec<&str>> = text.lines().skip(2).map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(fields[0], ["boot", "-", "-", "-", "250.0", "500.0", "750.0", "ms"]);
        assert_eq!(fields[1], ["PSS", "1.0", "1.0", "1.0", "-", "-", "-", "MiB"]);
    }
}
