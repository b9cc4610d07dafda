//! Numbers gathered, and the tables made of them.

use super::options::GROUPS;
use super::workloads::{Line, Outcome, group};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter, Write};

/// Who did the work.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    Native,
    Qemu,
    Passt,
    Rhea,
}

impl Who {
    /// As in the head of a table.
    fn title(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Qemu => "QEMU",
            Self::Passt => "passt",
            Self::Rhea => "Rhea",
        }
    }
}

impl Display for Who {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Qemu => "qemu",
            Self::Passt => "passt",
            Self::Rhea => "rhea",
        })
    }
}

#[derive(Clone, Copy, PartialEq)]
pub enum Unit {
    Seconds,
    Milliseconds,
    /// Measured in nanoseconds, shown in microseconds.
    Nanoseconds,
    Megabytes,
    Percent,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Seconds => format!("{value:.2} s"),
            Self::Milliseconds => format!("{value:.1} ms"),
            Self::Nanoseconds if value < 1e4 => format!("{:.2} µs", value / 1e3),
            Self::Nanoseconds if value < 1e5 => format!("{:.1} µs", value / 1e3),
            Self::Nanoseconds => format!("{:.0} µs", value / 1e3),
            Self::Megabytes => format!("{value:.1} MB"),
            Self::Percent => format!("{value:.1} %"),
        }
    }
}

/// What is measured; less is better in all of them.
#[derive(Clone)]
pub struct Metric {
    pub name: String,
    pub what: String,
    pub unit: Unit,
}

impl Metric {
    pub fn new(name: &str, what: &str, unit: Unit) -> Self {
        Self { name: name.to_owned(), what: what.to_owned(), unit }
    }
}

/// The numbers of one run.
pub type Measured = Vec<(Metric, f64)>;

struct Series {
    metric: Metric,
    values: BTreeMap<Who, Vec<f64>>,
    /// Why there are no numbers.
    notes: BTreeMap<Who, String>,
}

impl Series {
    fn median(&self, who: Who) -> Option<f64> {
        self.values.get(&who).and_then(|values| median(values))
    }

    /// How many times as much `who` took as `base`.
    fn ratio(&self, who: Who, base: Who) -> Option<f64> {
        Some(self.median(who)? / self.median(base)?)
    }

    fn shown(&self, who: Who) -> String {
        match (self.median(who), self.notes.get(&who)) {
            (Some(value), _) => self.metric.unit.show(value),
            (None, Some(note)) => note.clone(),
            (None, None) => String::new(),
        }
    }
}

/// All series, in the order in which they first came.
#[derive(Default)]
pub struct Results {
    series: Vec<Series>,
    wrong: Vec<String>,
}

/// Pairs of a ratio's columns: how slow against the host, how fast against QEMU.
const SLOWNESS: [Who; 2] = [Who::Qemu, Who::Rhea];

impl Results {
    pub fn add(&mut self, metric: Metric, who: Who, value: f64) {
        self.entry(metric).values.entry(who).or_default().push(value);
    }

    pub fn add_workload(&mut self, line: &Line, who: Who) {
        let metric = Metric::new(&line.name, &line.name, Unit::Nanoseconds);
        match &line.outcome {
            Outcome::Nanoseconds(value) => self.add(metric, who, *value),
            Outcome::Skipped(why) => {
                self.entry(metric).notes.insert(who, format!("skipped: {why}"));
            }
            Outcome::Wrong(what) => {
                self.entry(metric).notes.insert(who, "wrong result".to_owned());
                self.wrong.push(format!("{}: {who}: {what}", line.name));
            }
        }
    }

    fn entry(&mut self, metric: Metric) -> &mut Series {
        let known = self.series.iter().position(|series| series.metric.name == metric.name);
        let place = known.unwrap_or_else(|| {
            self.series.push(Series { metric, values: BTreeMap::new(), notes: BTreeMap::new() });
            self.series.len() - 1
        });
        &mut self.series[place]
    }

    /// A wrong result is not a benchmark's result: the run has failed.
    pub fn complaint(&self) -> Option<String> {
        (!self.wrong.is_empty()).then(|| format!("wrong results:\n{}", self.wrong.join("\n")))
    }

    /// Three tables: the machine, groups of workloads, single workloads.
    pub fn markdown(&self) -> String {
        let (workloads, machine): (Vec<&Series>, Vec<&Series>) =
            self.series.iter().partition(|series| group(&series.metric.name).is_some());
        let mut text = String::new();
        let (networks, machine): (Vec<&Series>, Vec<&Series>) =
            machine.iter().partition(|series| series.values.contains_key(&Who::Passt));
        if !machine.is_empty() {
            text += &against(&machine, &[Who::Qemu]);
            text.push('\n');
        }
        if !networks.is_empty() {
            text += &against(&networks, &[Who::Qemu, Who::Passt]);
            text.push('\n');
        }
        if !workloads.is_empty() {
            text += &groups(&workloads);
            text.push('\n');
            text += &singles(&workloads);
        }
        text
    }

    pub fn json(&self, about: Value) -> Value {
        let series: Vec<Value> = self
            .series
            .iter()
            .map(|series| {
                let unit = match series.metric.unit {
                    Unit::Seconds => "s",
                    Unit::Milliseconds => "ms",
                    Unit::Nanoseconds => "ns",
                    Unit::Megabytes => "MB",
                    Unit::Percent => "%",
                };
                let mut row = json!({ "name": series.metric.name, "unit": unit });
                for (who, values) in &series.values {
                    row[who.to_string()] = json!(values);
                }
                for (who, note) in &series.notes {
                    row[who.to_string()] = json!(note);
                }
                row
            })
            .collect();
        json!({ "about": about, "results": series })
    }
}

/// A table of Rhea beside others.
fn against(rows: &[&Series], others: &[Who]) -> String {
    let columns: Vec<String> = others.iter().map(|who| format!(" {} |", who.title())).collect();
    let ratios: Vec<String> =
        others.iter().map(|who| format!(" {} / Rhea |", who.title())).collect();
    let mut text = format!("| |{} Rhea |{}\n", columns.concat(), ratios.concat());
    let _ = writeln!(text, "| --- |{}", " ---: |".repeat(2 * others.len() + 1));
    for series in rows {
        let shown: Vec<String> =
            others.iter().chain([&Who::Rhea]).map(|&who| series.shown(who)).collect();
        let ratios: Vec<String> =
            others.iter().map(|&who| times(series.ratio(who, Who::Rhea))).collect();
        let cells = [vec![series.metric.what.clone()], shown, ratios].concat();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

/// Geometric means over the workloads that both sides of a ratio have done.
fn groups(workloads: &[&Series]) -> String {
    let mut text = "| geometric means | QEMU / native | Rhea / native | QEMU / Rhea |\n\
                    | --- | ---: | ---: | ---: |\n"
        .to_owned();
    let mut row = |what: &str, members: &[&Series]| {
        let mean =
            |who, base| geometric_mean(members.iter().filter_map(|series| series.ratio(who, base)));
        let [qemu, rhea] = SLOWNESS.map(|who| times(mean(who, Who::Native)));
        let gain = times(mean(Who::Qemu, Who::Rhea));
        let _ = writeln!(text, "| {what} | {qemu} | {rhea} | {gain} |");
    };
    for (name, what) in GROUPS {
        let members: Vec<&Series> = members(workloads, |of| of == name);
        if !members.is_empty() {
            row(what, &members);
        }
    }
    row("all workloads", &members(workloads, |_| true));

    let find = |name: &str| workloads.iter().find(|series| series.metric.name == name);
    if let (Some(one), Some(two)) = (find("smp/parallel-one"), find("smp/parallel-two")) {
        let speed_up = |who: Who| {
            let both = one.median(who).zip(two.median(who));
            both.map_or(String::new(), |(one, two)| format!("{who} {:.2}", 2.0 * one / two))
        };
        let shown = [Who::Native, Who::Qemu, Who::Rhea].map(speed_up);
        let _ = writeln!(
            text,
            "\nSpeed-up of integer work on two CPUs over one: {}.",
            shown.join(", ").trim_start_matches(", ")
        );
    }
    text
}

/// The members of groups, without those that only serve the speed-up.
fn members<'a>(workloads: &[&'a Series], is_in: impl Fn(&str) -> bool) -> Vec<&'a Series> {
    let counts = |series: &&&Series| {
        let name = &series.metric.name;
        group(name).is_some_and(&is_in) && !name.starts_with("smp/parallel")
    };
    workloads.iter().filter(counts).copied().collect()
}

fn singles(workloads: &[&Series]) -> String {
    let mut text = "| workload | native | QEMU | Rhea | QEMU / native | Rhea / native | \
                    QEMU / Rhea |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        .to_owned();
    for series in workloads {
        let [qemu, rhea] = SLOWNESS.map(|who| times(series.ratio(who, Who::Native)));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {qemu} | {rhea} | {} |",
            series.metric.what,
            series.shown(Who::Native),
            series.shown(Who::Qemu),
            series.shown(Who::Rhea),
            times(series.ratio(Who::Qemu, Who::Rhea)),
        );
    }
    text
}

fn times(ratio: Option<f64>) -> String {
    ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"))
}

fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn geometric_mean(ratios: impl Iterator<Item = f64>) -> Option<f64> {
    let logarithms: Vec<f64> = ratios.map(f64::ln).collect();
    let count = logarithms.len() as f64;
    (count > 0.0).then(|| (logarithms.iter().sum::<f64>() / count).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, outcome: Outcome) -> Line {
        Line { name: name.to_owned(), outcome }
    }

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(&[3.0, 1.0, 200.0]), Some(3.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn groups_are_geometric_means_of_what_both_did() {
        let mut results = Results::default();
        for (name, qemu, rhea) in [("code/patched", 8.0, 1.0), ("code/fresh-functions", 2.0, 1.0)] {
            results.add_workload(&line(name, Outcome::Nanoseconds(qemu)), Who::Qemu);
            results.add_workload(&line(name, Outcome::Nanoseconds(rhea)), Who::Rhea);
        }
        let skipped = Outcome::Skipped("why".to_owned());
        results.add_workload(&line("code/data-beside-code", skipped), Who::Rhea);
        let text = results.markdown();
        assert!(text.contains("| code that changes |  |  | 4.00 |"), "{text}");
        assert!(text.contains("skipped: why"), "{text}");
        assert!(results.complaint().is_none());
    }

    #[test]
    fn the_speed_up_is_no_member_of_its_group() {
        let mut results = Results::default();
        for (name, time) in [("smp/parallel-one", 10.0), ("smp/parallel-two", 11.0)] {
            results.add_workload(&line(name, Outcome::Nanoseconds(time)), Who::Rhea);
        }
        let text = results.markdown();
        assert!(text.contains("over one: rhea 1.82."), "{text}");
        assert!(!text.contains("| two CPUs |"), "{text}");
    }

    #[test]
    fn a_wrong_result_fails_the_run() {
        let mut results = Results::default();
        results.add_workload(&line("code/patched", Outcome::Wrong("1".to_owned())), Who::Rhea);
        assert!(results.complaint().unwrap().contains("code/patched: rhea: 1"));
    }
}
