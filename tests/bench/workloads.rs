//! The work that `cargo xtask bench` has a guest do, and the host too, to see
//! how far an emulator is from the machine it runs on.
//!
//! A workload is a fixed amount of work, a *round*, whose result is known. It
//! is repeated while time allows and the median is printed, one line for each:
//!
//! ```text
//! workload: integer/sieve 5123456        nanoseconds for one round
//! workload: vector/avx2-float skipped: the CPU has no AVX2
//! workload: integer/sieve wrong: got 0x2, wanted 0x1
//! ```
//!
//! The first round warms caches and translators up and does not count, unless
//! it alone took longer than is allowed. `workload: clock` lines bracket the
//! whole, so that the reader can compare the guest's clock with its own.

mod code;
mod floating;
mod integer;
mod memory;
mod os;
mod random;
mod smp;
mod system;
mod vector;

use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Does the work once and returns its checksum.
type Round = Box<dyn FnMut() -> u64>;

/// One workload.
struct Workload {
    name: &'static str,
    /// What the CPU must have; [`Need::Nothing`] beyond x86-64 for most.
    needs: Need,
    /// Sets up what a round works on; this is not timed.
    prepare: fn() -> Round,
    /// What each round returns.
    sum: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Need {
    Nothing,
    Aes,
    Avx2,
    TwoCpus,
}

impl Workload {
    const fn new(name: &'static str, prepare: fn() -> Round, sum: u64) -> Self {
        Self { name, needs: Need::Nothing, prepare, sum }
    }

    const fn needs(mut self, needs: Need) -> Self {
        self.needs = needs;
        self
    }
}

const GROUPS: [(&str, &[Workload]); 7] = [
    ("integer", &integer::WORKLOADS),
    ("floating", &floating::WORKLOADS),
    ("vector", &vector::WORKLOADS),
    ("memory", &memory::WORKLOADS),
    ("system", &system::WORKLOADS),
    ("code", &code::WORKLOADS),
    ("smp", &smp::WORKLOADS),
];

const HELP: &str = "\
Usage: workloads [--limit MS] [NAME...]

Runs the workloads of the named groups (integer) or single ones (integer/sieve),
or all, and prints the median time of a round in nanoseconds.

  --limit MS   time for the rounds of one workload (300)
  --list       only list the names
";

/// No workload needs more rounds than this for a steady median.
const MOST_ROUNDS: usize = 200;

fn main() -> ExitCode {
    let mut limit = Duration::from_millis(300);
    let mut list = false;
    let mut names = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            // What the workload `system/exec` executes.
            system::NOTHING => return ExitCode::SUCCESS,
            "--list" => list = true,
            "--limit" => match args.next().and_then(|text| text.parse().ok()) {
                Some(ms) => limit = Duration::from_millis(ms),
                None => return refuse("--limit wants a number of milliseconds"),
            },
            "-h" | "--help" => {
                print!("{HELP}");
                return ExitCode::SUCCESS;
            }
            name => names.push(name.trim_end_matches('/').to_owned()),
        }
    }

    let chosen: Vec<(String, &Workload)> = GROUPS
        .iter()
        .flat_map(|(group, workloads)| {
            workloads.iter().map(move |one| (format!("{group}/{}", one.name), one))
        })
        .filter(|(path, _)| names.is_empty() || names.iter().any(|name| covers(name, path)))
        .collect();
    if let Some(name) = names.iter().find(|name| !chosen.iter().any(|(path, _)| covers(name, path)))
    {
        return refuse(&format!("no workload {name:?}"));
    }
    if list {
        chosen.iter().for_each(|(path, _)| println!("{path}"));
        return ExitCode::SUCCESS;
    }

    let begun = Instant::now();
    println!("workload: clock 0");
    let mut all_right = true;
    for (path, workload) in chosen {
        match measure(workload, limit) {
            Ok(median) => println!("workload: {path} {}", median.as_nanos()),
            Err(Trouble::Lacking(what)) => println!("workload: {path} skipped: {what}"),
            Err(Trouble::Wrong(sum)) => {
                all_right = false;
                println!("workload: {path} wrong: got {sum:#x}, wanted {:#x}", workload.sum);
            }
        }
    }
    println!("workload: clock {}", begun.elapsed().as_nanos());
    if all_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether `name` is the workload at `path`, or its group.
fn covers(name: &str, path: &str) -> bool {
    path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn refuse(why: &str) -> ExitCode {
    eprint!("{why}\n\n{HELP}");
    ExitCode::from(2)
}

/// Why a workload has no result.
enum Trouble {
    Lacking(&'static str),
    Wrong(u64),
}

fn measure(workload: &Workload, limit: Duration) -> Result<Duration, Trouble> {
    match workload.needs {
        Need::Aes if !is_x86_feature_detected!("aes") => {
            return Err(Trouble::Lacking("the CPU has no AES-NI"));
        }
        // Compilers that use the one use the other; so do these workloads.
        Need::Avx2 if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) => {
            return Err(Trouble::Lacking("the CPU has no AVX2 with FMA"));
        }
        Need::TwoCpus if os::cpus().len() < 2 => {
            return Err(Trouble::Lacking("there is one CPU only"));
        }
        _ => {}
    }
    let mut round = (workload.prepare)();
    let mut timed = || {
        let begun = Instant::now();
        let sum = round();
        let took = begun.elapsed();
        if sum == workload.sum { Ok(took) } else { Err(Trouble::Wrong(sum)) }
    };
    let first = timed()?;
    if first > limit {
        return Ok(first);
    }
    let begun = Instant::now();
    let mut times = Vec::new();
    while times.is_empty() || begun.elapsed() < limit && times.len() < MOST_ROUNDS {
        times.push(timed()?);
    }
    times.sort();
    Ok(times[times.len() / 2])
}
