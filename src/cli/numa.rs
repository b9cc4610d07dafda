//! `-numa`.

use base::options::number::{parse_int, parse_size};
use base::options::{Opts, ParsedOpts};
use machine::config::{CpuRange, Located, NumaOption, Origin};

use super::{Builder, Done, Stop, fault};

/// Most nodes that QEMU allows.
const MAX_NODES: u64 = 128;

pub(super) fn numa(builder: &mut Builder<'_, '_>, text: &str, origin: &Origin) -> Done {
    let ParsedOpts { opts, help, .. } = builder.parse_opts(Some("type"), text, origin)?;
    if help {
        return fault(origin, "Invalid parameter 'help'");
    }
    numa_opts(builder, opts, origin)
}

pub(super) fn numa_opts(builder: &mut Builder<'_, '_>, mut opts: Opts, origin: &Origin) -> Done {
    let Some(kind) = opts.take("type") else {
        return fault(origin, "Parameter 'type' is missing");
    };
    let mut keys = Keys { opts, origin };
    let option = match kind.as_str() {
        "node" => NumaOption::Node {
            id: keys.number("nodeid")?,
            cpus: keys.ranges("cpus")?,
            memory: keys.size("mem")?,
            memdev: keys.opts.take("memdev"),
            initiator: keys.number("initiator")?,
        },
        "dist" => NumaOption::Distance {
            from: keys.required("src")?,
            to: keys.required("dst")?,
            value: keys.required("val")?,
        },
        "cpu" => NumaOption::Cpu {
            node: keys.required("node-id")?,
            socket: keys.number("socket-id")?,
            die: keys.number("die-id")?,
            module: keys.number("module-id")?,
            core: keys.number("core-id")?,
            thread: keys.number("thread-id")?,
        },
        "hmat-lb" | "hmat-cache" => {
            return fault(origin, "ACPI HMAT is not available in this build");
        }
        _ => return fault(origin, format!("Parameter 'type' does not accept value '{kind}'")),
    };
    keys.finish()?;
    if let NumaOption::Node { id: Some(id), .. } = option
        && id >= MAX_NODES
    {
        return fault(origin, format!("Max number of NUMA nodes reached: {id}"));
    }
    builder.config.numa.push(Located::new(option, origin));
    Ok(())
}

/// Takes typed values out of a list; the wording of its faults is this option's own.
struct Keys<'a> {
    opts: Opts,
    origin: &'a Origin,
}

impl Keys<'_> {
    fn number(&mut self, key: &str) -> Result<Option<u64>, Stop> {
        let number = |text: &str| parse_int(text).and_then(|number| u64::try_from(number).ok());
        self.parsed(key, "a uint64 value", number)
    }

    fn size(&mut self, key: &str) -> Result<Option<u64>, Stop> {
        self.parsed(key, "a size value", |text| parse_size(text, 1 << 20).ok())
    }

    fn required(&mut self, key: &str) -> Result<u64, Stop> {
        match self.number(key)? {
            Some(number) => Ok(number),
            None => fault(self.origin, format!("Parameter '{key}' is missing")),
        }
    }

    fn ranges(&mut self, key: &str) -> Result<Vec<CpuRange>, Stop> {
        let ranges: Option<Vec<CpuRange>> = self.opts.get_all(key).map(parse_range).collect();
        self.opts.take(key);
        match ranges {
            Some(ranges) => Ok(ranges),
            None => {
                fault(self.origin, format!("Parameter '{key}' expects a uint64 value or range"))
            }
        }
    }

    fn parsed<T>(
        &mut self,
        key: &str,
        what: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Stop> {
        let Some(text) = self.opts.take(key) else { return Ok(None) };
        match parse(&text) {
            Some(value) => Ok(Some(value)),
            None => fault(self.origin, format!("Parameter '{key}' expects {what}")),
        }
    }

    fn finish(self) -> Done {
        match self.opts.entries.first() {
            Some((key, _)) => fault(self.origin, format!("Invalid parameter '{key}'")),
            None => Ok(()),
        }
    }
}

/// `3` or `0-3`
fn parse_range(text: &str) -> Option<CpuRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some(CpuRange { first, last })
}
