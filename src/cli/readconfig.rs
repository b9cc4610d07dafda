//! `-readconfig`.

use base::options::Opts;
use base::options::config::{ConfigSection, parse_config};
use machine::config::Origin;

use super::table::{self, Apply};
use super::{Builder, Done, fault, firmware, numa, standard};

pub(super) fn readconfig(builder: &mut Builder<'_, '_>, name: &str, origin: &Origin) -> Done {
    let bytes = match std::fs::read(name) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::IsADirectory => {
            return fault(origin, "Cannot read config file: Is a directory");
        }
        Err(error) => {
            return fault(origin, format!("Could not open '{name}': {}", os_text(&error)));
        }
    };
    let text = String::from_utf8_lossy(&bytes);
    let sections = parse_config(&text).or_else(|error| fault(origin, error))?;
    sections.into_iter().try_for_each(|section| apply(builder, section, name, origin))
}

/// The system's words for an error, without Rust's number behind them.
fn os_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_string()
}

/// Applies a section as the option that has its keys. Wrong keys are reported at the option, wrong
/// values at the section's last line.
fn apply(
    builder: &mut Builder<'_, '_>,
    section: ConfigSection,
    name: &str,
    option: &Origin,
) -> Done {
    let ConfigSection { group, opts, line } = section;
    let Some((keys, entry)) = table::find_group(&group) else {
        return fault(option, format!("There is no option group '{group}'"));
    };
    let origin = if opts.entries.is_empty() {
        Origin::None
    } else {
        Origin::File { name: name.into(), line }
    };
    match (entry.apply, group.as_str()) {
        (_, "device") => standard::device_opts(builder, opts, &origin),
        (_, "object") => standard::object_opts(builder, opts, &origin),
        (_, "numa") => numa::numa_opts(builder, opts, &origin),
        (_, "smbios") => firmware::smbios_opts(builder, opts, &origin),
        (_, "global") => {
            keys.check(&opts).or_else(|error| fault(option, error))?;
            standard::global_opts(builder, opts, &origin)
        }
        (Apply::Opts { apply, .. }, _) => {
            keys.check(&opts).or_else(|error| fault(option, error))?;
            apply(builder, opts, &origin)
        }
        // Those that are a tree: `[machine]`, `[smp-opts]`, `[boot-opts]`.
        (Apply::Text(apply), _) => apply(builder, &argument(&opts), option),
        (Apply::Flag(_) | Apply::Refused(_), _) => Ok(()),
    }
}

/// The argument that says the same as a section.
fn argument(opts: &Opts) -> String {
    let double = |(key, value): &(String, String)| format!("{key}={}", value.replace(',', ",,"));
    opts.entries.iter().map(double).collect::<Vec<_>>().join(",")
}
