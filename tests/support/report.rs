//! What the test guest's `report` script printed, and the part of it that two
//! emulators must agree on.

use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// The line that ends a report.
pub const COMPLETE: &str = "rhea-report: complete";

const BEGIN: &str = "rhea-report: begin ";
const END: &str = "rhea-report: end";

/// The sections of a report by name, each with its lines.
pub struct Report {
    sections: BTreeMap<String, Vec<String>>,
}

impl Report {
    /// Reads a report out of everything a console showed.
    pub fn parse(console: &str) -> Result<Self> {
        let mut sections = BTreeMap::new();
        let mut open: Option<(String, Vec<String>)> = None;
        for line in console.lines() {
            if let Some(name) = line.strip_prefix(BEGIN) {
                open = Some((name.to_owned(), Vec::new()));
            } else if line == END {
                sections.extend(open.take());
            } else if line == COMPLETE {
                return Ok(Self { sections });
            } else if let Some((_, lines)) = &mut open {
                lines.push(line.to_owned());
            }
        }
        bail!("the report has no end")
    }

    /// The lines of one section.
    pub fn section(&self, name: &str) -> Result<&[String]> {
        let lines = self.sections.get(name);
        lines.map(Vec::as_slice).with_context(|| format!("the report has no section {name}"))
    }

    /// The sections whose names start with `prefix`, the prefix taken off.
    pub fn group<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a [String])> {
        self.sections
            .iter()
            .filter_map(move |(name, lines)| Some((name.strip_prefix(prefix)?, lines.as_slice())))
    }

    /// What the kernel complained about, one line for each kind: warnings and worse, without numbers,
    /// and without what only tells how busy the host was.
    pub fn warnings(&self) -> Result<String> {
        let lines: BTreeSet<String> =
            self.section("dmesg")?.iter().filter_map(|line| warning(line)).collect();
        Ok(join(&lines))
    }

    /// The comparable form: file names and their contents.
    pub fn comparable(&self) -> Result<BTreeMap<String, String>> {
        let mut files = BTreeMap::new();
        for name in ["iomem", "ioports"] {
            let rows = self.section(name)?.iter().filter(|row| !is_kernel_image(row));
            files.insert(format!("{name}.txt"), join(rows));
        }
        files.insert("interrupts.txt".to_owned(), interrupts(self.section("interrupts")?));
        files.insert("cpuinfo.txt".to_owned(), cpuinfo(self.section("cpuinfo")?));
        files.insert("clocksource.txt".to_owned(), join(self.section("clocksource")?));
        let mut pci = String::new();
        for (device, lines) in self.group("pci/") {
            writeln!(pci, "{device}\n{}", join(lines))?;
        }
        files.insert("pci.txt".to_owned(), pci);
        let mut acpi = String::new();
        for (table, lines) in self.group("acpi/") {
            let mut bytes = bytes(lines).with_context(|| format!("ACPI table {table}"))?;
            if table == "DSDT" {
                // A program, of which only a fingerprint is kept.
                writeln!(acpi, "{table}\n{} bytes, {:016x}", bytes.len(), fingerprint(&bytes))?;
                continue;
            }
            forget_addresses(&mut bytes);
            writeln!(acpi, "{table}\n{}", hex(&bytes))?;
        }
        files.insert("acpi.txt".to_owned(), acpi);
        Ok(files)
    }
}

/// FNV-1a, 64 bits.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Where in RAM the kernel lies depends on the kernel, not on the machine.
fn is_kernel_image(row: &str) -> bool {
    row.contains(" : Kernel ")
}

/// The sources of interrupts: number, controller, trigger and owner, without
/// how many there were. Counts of the kinds at the foot (NMI, LOC, ...) depend
/// on the kernel alone, so only the devices' rows are kept.
fn interrupts(lines: &[String]) -> String {
    let cpus = lines.first().map_or(0, |heading| heading.split_whitespace().count());
    let rows = lines.iter().skip(1).filter_map(|line| {
        let (number, rest) = line.trim().split_once(':')?;
        number.parse::<u32>().ok()?;
        let words: Vec<_> = rest.split_whitespace().skip(cpus).collect();
        Some(format!("{number}: {}", words.join(" ")))
    });
    let mut text = format!("{cpus} CPUs\n");
    for row in rows {
        text.push_str(&row);
        text.push('\n');
    }
    text
}

/// Without what is measured or decided by the host and the kernel.
fn cpuinfo(lines: &[String]) -> String {
    let measured = ["cpu MHz", "bogomips", "bugs", "microcode"];
    join(lines.iter().filter(|line| !measured.iter().any(|key| line.starts_with(key))))
}

/// Blanks what depends on where the firmware put the tables: the pointers in
/// RSDT, XSDT and FADT and
/// the checksums over them (ACPI 6.5, 5.2.6 to 5.2.10).
fn forget_addresses(table: &mut [u8]) {
    let signature = table.get(..4).map(<[u8]>::to_vec).unwrap_or_default();
    let ranges: &[std::ops::Range<usize>] = match signature.as_slice() {
        b"RSDT" | b"XSDT" => &[9..10, 36..usize::MAX],
        b"FACP" => &[9..10, 36..44, 132..148],
        _ => &[],
    };
    let length = table.len();
    for range in ranges {
        let range = range.start.min(length)..range.end.min(length);
        table[range].fill(0);
    }
}

/// Warnings about clocks that the guest calibrates against each other while the host does other
/// things in between.
const ABOUT_TIME: [&str; 11] = [
    "tsc: ",
    "clocksource: ",
    "APIC calibration not consistent with PM-Timer",
    "hpet: Lost ",
    "hrtimer: interrupt took ",
    "calibrate_delay_direct() ",
    "Probably due to long platform interrupts",
    "Unstable clock detected",
    "If you want to keep using the local clock",
    "  \"trace_clock=local\"",
    "on the kernel command line",
];

/// The text of a line of `dmesg -r` (`<level>[time] text`) if its level is that of a warning or worse.
fn warning(line: &str) -> Option<String> {
    const WARNING: u8 = 4;
    let (level, rest) = line.strip_prefix('<')?.split_once('>')?;
    if level.parse::<u8>().ok()? & 7 > WARNING {
        return None;
    }
    let (_, text) = rest.split_once("] ")?;
    // Numbers of processors, printed one by one into a line that something else came between.
    if text.chars().all(|letter| matches!(letter, '#' | ' ' | '0'..='9')) {
        return None;
    }
    if ABOUT_TIME.iter().any(|start| text.starts_with(start)) {
        return None;
    }
    let mut kind = String::new();
    for letter in text.chars() {
        match letter {
            '0'..='9' if kind.ends_with('#') => {}
            '0'..='9' => kind.push('#'),
            _ => kind.push(letter),
        }
    }
    Some(kind)
}

fn bytes(lines: &[String]) -> Option<Vec<u8>> {
    let digits: String = lines.concat();
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    let line = |chunk: &[u8]| chunk.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    bytes.chunks(32).map(line).collect::<Vec<_>>().join("\n") + "\n"
}

fn join<'a>(lines: impl IntoIterator<Item = &'a String>) -> String {
    lines.into_iter().fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

/// The lines in which two texts differ, or nothing if they do not.
pub fn difference(wanted: &str, found: &str) -> Option<String> {
    if wanted == found {
        return None;
    }
    let (wanted, found): (Vec<_>, Vec<_>) = (wanted.lines().collect(), found.lines().collect());
    let mut text = String::new();
    for line in &wanted {
        if !found.contains(line) {
            text += &format!("- {line}\n");
        }
    }
    for line in &found {
        if !wanted.contains(line) {
            text += &format!("+ {line}\n");
        }
    }
    if text.is_empty() {
        text = "the same lines in another order or number\n".to_owned();
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupt_rows_keep_everything_but_the_counts() {
        let lines = [
            "            CPU0       CPU1",
            "   0:         29          0   IO-APIC   2-edge      timer",
            "   9:          0          0   IO-APIC   9-fasteoi   acpi",
            " NMI:          0          0   Non-maskable interrupts",
        ]
        .map(str::to_owned);
        assert_eq!(
            interrupts(&lines),
            "2 CPUs\n0: IO-APIC 2-edge timer\n9: IO-APIC 9-fasteoi acpi\n"
        );
    }

    #[test]
    fn warnings_are_kinds_of_lines_that_are_not_about_time() {
        assert_eq!(warning("<4>[    0.012] mtrr: CPU 12 and 3").unwrap(), "mtrr: CPU # and #");
        assert_eq!(warning("<3>[    0.012] failed").unwrap(), "failed");
        assert_eq!(warning("<6>[    0.012] fine"), None);
        assert_eq!(warning("<4>[    0.012]  #2 #3"), None);
        assert_eq!(warning("<4>[    0.012] tsc: Unable to calibrate against PIT"), None);
    }

    #[test]
    fn sections_end_where_the_script_says() {
        let console = "noise\nrhea-report: begin a\none\nrhea-report: end\nnoise\n\
                       rhea-report: begin b/c\ntwo\nrhea-report: end\nrhea-report: complete\n";
        let report = Report::parse(console).unwrap();
        assert_eq!(report.section("a").unwrap(), ["one"]);
        assert_eq!(report.group("b/").map(|(name, _)| name).collect::<Vec<_>>(), ["c"]);
        assert!(Report::parse("rhea-report: begin a\n").is_err());
    }

    #[test]
    fn a_difference_shows_both_sides() {
        assert_eq!(difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(difference("a\nb\n", "a\nc\n").unwrap(), "- b\n+ c\n");
        assert!(difference("a\nb\n", "b\na\n").unwrap().contains("order"));
    }
}
