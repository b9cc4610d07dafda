//! The table of options.

use base::options::{OptGroup, OptType, Opts};
use machine::config::Origin;
use serde_json::{Value, json};

use super::{Builder, Done, PROGRAM, Stop};
use super::{characters, debug, display, drives, firmware, networks, process, refused, standard};

/// One option.
pub(super) struct CliOption {
    /// Its names, without the dash; listings show the last.
    pub names: &'static [&'static str],
    /// The form of its argument; empty if it has none.
    pub form: &'static str,
    /// What it does; empty for one that is not listed.
    pub help: &'static str,
    /// Its keys, for `-readconfig`, `-set` and `query-command-line-options`.
    pub group: Option<&'static OptGroup>,
    /// What it does to the configuration.
    pub apply: Apply,
}

type ApplyText = fn(&mut Builder<'_, '_>, &str, &Origin) -> Done;
type ApplyOpts = fn(&mut Builder<'_, '_>, Opts, &Origin) -> Done;
/// Looks at the text before it is read as keys and values; true if that was all.
type FirstLook = fn(&mut Builder<'_, '_>, &str, &Origin) -> Result<bool, Stop>;

/// What an option does to the configuration.
#[derive(Clone, Copy)]
pub(super) enum Apply {
    Flag(fn(&mut Builder<'_, '_>) -> Done),
    Text(ApplyText),
    Opts { first_look: Option<FirstLook>, apply: ApplyOpts },
    Refused(&'static str),
}

impl CliOption {
    /// An option without argument.
    pub const fn flag(
        names: &'static [&'static str],
        help: &'static str,
        apply: fn(&mut Builder<'_, '_>) -> Done,
    ) -> Self {
        CliOption { names, form: "", help, group: None, apply: Apply::Flag(apply) }
    }

    /// An option whose argument is taken as it is.
    pub const fn text(
        names: &'static [&'static str],
        form: &'static str,
        help: &'static str,
        apply: ApplyText,
    ) -> Self {
        CliOption { names, form, help, group: None, apply: Apply::Text(apply) }
    }

    /// An option whose argument is a list of keys and values.
    pub const fn opts(
        names: &'static [&'static str],
        form: &'static str,
        help: &'static str,
        group: &'static OptGroup,
        apply: ApplyOpts,
    ) -> Self {
        CliOption {
            names,
            form,
            help,
            group: Some(group),
            apply: Apply::Opts { first_look: None, apply },
        }
    }

    /// An option that QEMU has and this build has not.
    pub const fn refused(
        name: &'static [&'static str],
        form: &'static str,
        why: &'static str,
    ) -> Self {
        CliOption { names: name, form, help: "", group: None, apply: Apply::Refused(why) }
    }

    /// Gives `first_look` a look at the text first.
    pub const fn with_first_look(mut self, first_look: FirstLook) -> Self {
        if let Apply::Opts { apply, .. } = self.apply {
            self.apply = Apply::Opts { first_look: Some(first_look), apply };
        }
        self
    }

    /// Adds keys to an option that reads its argument in its own way.
    pub const fn with_group(mut self, group: &'static OptGroup) -> Self {
        self.group = Some(group);
        self
    }
}

const SECTIONS: [(&str, &[CliOption]); 8] = [
    ("Standard options", standard::OPTIONS),
    ("Block device options", drives::OPTIONS),
    ("Display and USB options", display::OPTIONS),
    ("Network options", networks::OPTIONS),
    ("Character device and monitor options", characters::OPTIONS),
    ("Firmware, boot and clock options", firmware::OPTIONS),
    ("Process options", process::OPTIONS),
    ("Debug options", debug::OPTIONS),
];

fn options() -> impl Iterator<Item = &'static CliOption> {
    SECTIONS.iter().flat_map(|(_, options)| options.iter()).chain(refused::OPTIONS)
}

/// All names of options.
#[cfg(test)]
pub(super) fn names() -> Vec<&'static str> {
    options().flat_map(|option| option.names.iter().copied()).collect()
}

/// The option of that name.
pub(super) fn find(name: &str) -> Option<&'static CliOption> {
    options().find(|option| option.names.contains(&name))
}

/// The option whose group has that name.
pub(super) fn find_group(name: &str) -> Option<(&'static OptGroup, &'static CliOption)> {
    options().find_map(|option| Some((option.group.filter(|group| group.name == name)?, option)))
}

/// What `-version` prints.
pub fn version_text() -> String {
    format!(
        "QEMU emulator version 10.0.2 (Rhea {})\nA PC emulator, compatible with QEMU 10.0\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// What `-help` prints.
pub fn help_text() -> String {
    let mut text = version_text();
    text += &format!(
        "usage: {PROGRAM} [options] [disk_image]\n\n'disk_image' is a raw hard disk image for IDE hard disk 0\n"
    );
    for (title, options) in SECTIONS {
        text += &format!("\n{title}:\n");
        for option in options {
            let names: Vec<String> = option.names.iter().map(|name| format!("-{name}")).collect();
            let head = format!("{} {}", names.join(" or "), option.form);
            let mut lines = option.help.lines();
            let head = head.trim_end();
            if head.len() < 16 {
                text += &format!("{head:<16}{}\n", lines.next().unwrap_or_default());
            } else {
                text += &format!("{head}\n");
            }
            lines.for_each(|line| text += &format!("{:16}{line}\n", ""));
        }
    }
    text += "\nWhen using -nographic, press 'ctrl-a h' to get some help.\n";
    text
}

/// What `query-command-line-options` answers.
pub fn command_line_options() -> Vec<Value> {
    let parameter = |key: &base::options::OptDesc| {
        let ty = match key.ty {
            OptType::String => "string",
            OptType::Bool => "boolean",
            OptType::Number => "number",
            OptType::Size => "size",
        };
        let mut parameter = json!({"name": key.name, "type": ty});
        if !key.help.is_empty() {
            parameter["help"] = key.help.into();
        }
        parameter
    };
    let mut seen: Vec<&str> = Vec::new();
    let groups = options().filter_map(|option| option.group).filter(|group| {
        let new = !seen.contains(&group.name);
        seen.push(group.name);
        new
    });
    groups
        .map(|group| {
            let parameters: Vec<Value> = group.keys.iter().map(parameter).collect();
            json!({"option": group.name, "parameters": parameters})
        })
        .collect()
}
