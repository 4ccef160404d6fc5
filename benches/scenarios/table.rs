//! The tables: who was measured, what came of it, and what it should be. Markdown for people, JSON for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::statistics::{Better, Sample, Verdict};

/// Who was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// The volsnap of this tree.
    New,
    /// The one it is held against.
    Old,
    /// What people use today, or nothing at all.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Seconds,
    Milliseconds,
    Bytes,
    Mebibytes,
    MegabytesPerSecond,
    Transactions,
    Count,
}

impl Unit {
    /// What a figure is divided by to be shown, with how many places, and the unit then.
    fn scale(self, value: f64) -> (f64, usize, &'static str) {
        match self {
            Self::Seconds if value < 10.0 => (1.0, 2, " s"),
            Self::Seconds => (1.0, 1, " s"),
            Self::Milliseconds => (1.0, 0, " ms"),
            Self::Bytes if value < 1e9 => (1e6, 2, " MB"),
            Self::Bytes => (1e9, 3, " GB"),
            Self::Mebibytes => (1.0, 0, " MiB"),
            Self::MegabytesPerSecond => (1.0, 0, " MB/s"),
            Self::Transactions => (1.0, 0, " tps"),
            Self::Count => (1.0, 0, ""),
        }
    }

    fn show(self, value: f64) -> String {
        let (divisor, places, unit) = self.scale(value);
        format!("{:.places$}{unit}", value / divisor)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Milliseconds => "ms",
            Self::Bytes => "bytes",
            Self::Mebibytes => "MiB",
            Self::MegabytesPerSecond => "MB/s",
            Self::Transactions => "transactions/s",
            Self::Count => "",
        }
    }

    fn better(self) -> Better {
        match self {
            Self::MegabytesPerSecond | Self::Transactions => Better::More,
            _ => Better::Less,
        }
    }
}

/// What a figure of the new build should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Aim {
    /// In the unit of the row.
    AtMost(f64),
    /// In the unit of the row.
    AtLeast(f64),
    /// So many times what people use.
    TimesOther(f64),
    /// At least so many times what people use.
    AtLeastTimesOther(f64),
}

#[derive(Debug)]
struct Row {
    what: String,
    unit: Unit,
    /// What the other figure is of.
    other: String,
    aim: Option<Aim>,
    figures: [Sample; 3],
    /// Whether the figure is one of all the rounds together.
    pooled: bool,
}

/// A row of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowId(usize);

#[derive(Debug)]
pub(crate) struct Table {
    name: &'static str,
    conditions: String,
    rows: Vec<Row>,
}

impl Table {
    pub(crate) fn new(name: &'static str, conditions: impl Into<String>) -> Self {
        Self { name, conditions: conditions.into(), rows: Vec::new() }
    }

    /// Adds a row for `what`.
    pub(crate) fn row(&mut self, what: impl Into<String>, unit: Unit) -> RowId {
        self.rows.push(Row {
            what: what.into(),
            unit,
            other: String::new(),
            aim: None,
            figures: Default::default(),
            pooled: false,
        });
        RowId(self.rows.len() - 1)
    }

    /// Adds a row for `what`, which is held against `other`.
    pub(crate) fn row_beside(&mut self, what: impl Into<String>, unit: Unit, other: &str) -> RowId {
        let row = self.row(what, unit);
        other.clone_into(&mut self.rows[row.0].other);
        row
    }

    pub(crate) fn aim(&mut self, row: RowId, aim: Aim) {
        self.rows[row.0].aim = Some(aim);
    }

    pub(crate) fn push(&mut self, row: RowId, who: Who, value: f64) {
        self.rows[row.0].figures[who as usize].push(value);
    }

    /// Adds a figure that all the rounds have in common.
    pub(crate) fn pooled(&mut self, row: RowId, who: Who, value: f64) {
        self.push(row, who, value);
        self.rows[row.0].pooled = true;
    }

    pub(crate) fn median(&self, row: RowId, who: Who) -> f64 {
        self.rows[row.0].figures[who as usize].median()
    }

    /// Returns what was aimed at and missed, and what is worse than it was.
    pub(crate) fn misses(&self) -> Vec<String> {
        let mut misses = Vec::new();
        for row in self.rows.iter().filter(|row| row.is_measured()) {
            if row.reached() == Some(false) {
                misses.push(format!("{}: {}: the aim is {}", self.name, row.what, row.aim_words()));
            }
            if row.verdict() == Some(Verdict::Worse) {
                misses
                    .push(format!("{}: {}: worse than it was by more than the spread", self.name, row.what));
            }
        }
        misses
    }

    /// Returns the table in Markdown: without a column that would be empty.
    pub(crate) fn markdown(&self, labels: &Labels) -> String {
        let rows: Vec<&Row> = self.rows.iter().filter(|row| row.is_measured()).collect();
        let has = |who: Who| rows.iter().any(|row| !row.figure(who).is_empty());
        let mut columns: Vec<Column<'_>> = vec![
            ("what", Box::new(|row| row.what.clone())),
            (&labels.new, Box::new(|row| row.cell(Who::New))),
        ];
        if has(Who::Old) {
            columns.push((&labels.old, Box::new(|row| row.cell(Who::Old))));
            let verdict =
                |row: &Row| row.verdict().map_or(String::new(), |verdict| verdict.words().to_owned());
            columns.push(("since then", Box::new(verdict)));
        }
        if has(Who::Other) {
            columns.push(("otherwise", Box::new(Row::other_cell)));
        }
        if rows.iter().any(|row| row.aim.is_some()) {
            columns.push(("aim", Box::new(Row::aim_cell)));
        }
        let mut text = format!("### {}\n\n{}:\n\n", self.name, self.conditions);
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        text.push_str(&line(columns.iter().map(|(title, _)| (*title).to_owned()).collect()));
        let _ = writeln!(text, "|{}", "---|".repeat(columns.len()));
        for row in rows {
            text.push_str(&line(columns.iter().map(|(_, cell)| cell(row)).collect()));
        }
        text
    }

    /// Returns everything that was measured, every round of it.
    pub(crate) fn json(&self) -> Value {
        let rows: Vec<Value> = self.rows.iter().filter(|row| row.is_measured()).map(Row::json).collect();
        json!({ "name": self.name, "conditions": self.conditions, "rows": rows })
    }
}

/// The head of a column, and what is in it.
type Column<'a> = (&'a str, Box<dyn Fn(&Row) -> String>);

/// How the builds are called in the head of a table.
#[derive(Debug)]
pub(crate) struct Labels {
    pub(crate) new: String,
    pub(crate) old: String,
}

impl Row {
    fn figure(&self, who: Who) -> &Sample {
        &self.figures[who as usize]
    }

    fn is_measured(&self) -> bool {
        self.figures.iter().any(|figure| !figure.is_empty())
    }

    /// The median, and in parentheses the least and the most of the rounds.
    fn cell(&self, who: Who) -> String {
        let figure = self.figure(who);
        if figure.is_empty() {
            return String::new();
        }
        let (divisor, places, _) = self.unit.scale(figure.median());
        let (least, most) = (
            format!("{:.places$}", figure.least() / divisor),
            format!("{:.places$}", figure.most() / divisor),
        );
        let middle = self.unit.show(figure.median());
        if least == most { middle } else { format!("{middle} ({least} – {most})") }
    }

    fn other_cell(&self) -> String {
        let (new, other) = (self.figure(Who::New).median(), self.figure(Who::Other).median());
        match (self.cell(Who::Other), &self.other) {
            (cell, _) if cell.is_empty() => cell,
            (cell, label) if self.figure(Who::New).is_empty() || other == 0.0 => format!("{label}: {cell}"),
            (cell, label) if new > 0.0 && new * 3.0 < other => {
                format!("{label}: {cell}: 1/{:.1}", other / new)
            }
            (cell, label) => format!("{label}: {cell}: {:.3} ×", new / other),
        }
    }

    fn aim_words(&self) -> String {
        match self.aim {
            None => String::new(),
            Some(Aim::AtMost(most)) => format!("≤ {}", self.unit.show(most)),
            Some(Aim::AtLeast(least)) => format!("≥ {}", self.unit.show(least)),
            Some(Aim::TimesOther(times)) if times < 0.3 => format!("≤ 1/{:.0}", 1.0 / times),
            Some(Aim::TimesOther(times)) => format!("≤ {times} ×"),
            Some(Aim::AtLeastTimesOther(times)) => format!("≥ {times} ×"),
        }
    }

    /// Whether the aim is reached; `None` without one, or without something to hold it against.
    fn reached(&self) -> Option<bool> {
        let (new, other) = (self.figure(Who::New), self.figure(Who::Other));
        if new.is_empty() {
            return None;
        }
        match self.aim? {
            Aim::AtMost(most) => Some(new.median() <= most),
            Aim::AtLeast(least) => Some(new.median() >= least),
            Aim::TimesOther(_) | Aim::AtLeastTimesOther(_) if other.is_empty() => None,
            Aim::TimesOther(times) => Some(new.median() <= times * other.median()),
            Aim::AtLeastTimesOther(times) => Some(new.median() >= times * other.median()),
        }
    }

    fn aim_cell(&self) -> String {
        match self.reached() {
            None => String::new(),
            Some(true) => format!("{}: yes", self.aim_words()),
            Some(false) => format!("{}: **no**", self.aim_words()),
        }
    }

    /// A figure of all the rounds together has no spread of its own, nor has a single one: neither has a verdict.
    fn verdict(&self) -> Option<Verdict> {
        let (new, old) = (self.figure(Who::New), self.figure(Who::Old));
        let comparable = !self.pooled && new.values().len() > 1 && old.values().len() > 1;
        comparable.then(|| Verdict::of(new, old, self.unit.better()))
    }

    fn json(&self) -> Value {
        let figure = |who: Who| {
            let figure = self.figure(who);
            (!figure.is_empty()).then(|| {
                json!({
                    "median": figure.median(), "least": figure.least(), "most": figure.most(),
                    "rounds": figure.values(),
                })
            })
        };
        json!({
            "what": self.what, "unit": self.unit.name(),
            "new": figure(Who::New), "old": figure(Who::Old), "other": figure(Who::Other),
            "other_is": self.other, "aim": self.aim_words(), "reached": self.reached(),
            "verdict": self.verdict().map(|verdict| format!("{verdict:?}").to_lowercase()),
        })
    }
}
