//! The figures of docs/performance.md. Who makes one of them worse hears so.

use super::table::Table;

/// How much worse a figure may be, as a part of it: the clock repeats to about 2 %.
const TOLERANCE: f64 = 0.05;

/// Row, column, median: milliseconds and MiB. The first byte from a pool's VM varies by a tenth, and is left out.
const FIGURES: [(&str, &str, f64); 8] = [
    ("ctr run --rm … true", "krun", 454.1),
    ("ctr run --rm … true", "krun, pool", 254.8),
    ("first byte of output", "krun", 390.0),
    ("ctr task exec … true", "krun", 72.9),
    ("vmm spawned → guest answers", "krun", 242.4),
    ("process ends → exit event", "krun", 3.7),
    ("PSS of shim", "krun", 7.8),
    ("PSS of vmm", "krun", 75.8),
];

/// One line for each figure that is worse.
pub fn compare<const N: usize>(table: &Table<N>) -> Vec<String> {
    FIGURES.iter().filter_map(|figure| worse(*figure, table)).collect()
}

fn worse<const N: usize>((row, column, committed): (&str, &str, f64), table: &Table<N>) -> Option<String> {
    let now = table.median(row, column);
    let is_good = now.is_some_and(|now| now <= committed * (1.0 + TOLERANCE));
    (!is_good).then(|| match now {
        Some(now) => format!(
            "WORSE: {row} of {column}: {now:.1}, {:.1} % more than {committed:.1}",
            (now / committed - 1.0) * 100.0
        ),
        None => format!("WORSE: {row} of {column}: not measured"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::table::Unit;
    use super::*;

    #[test]
    fn a_figure_may_be_a_little_worse() {
        let mut table = Table::new("", ["runc", "krun"]);
        table.row("boot", Unit::Milliseconds, [&[], &[0.1049]]);
        assert_eq!(worse(("boot", "krun", 100.0), &table), None);
        let line = worse(("boot", "krun", 99.0), &table).unwrap();
        assert!(line.contains("boot of krun: 104.9, 6.0 % more than 99.0"), "{line}");
        assert!(worse(("boot", "runc", 1.0), &table).unwrap().contains("not measured"));
        assert!(worse(("end", "krun", 1.0), &table).is_some());
    }
}
