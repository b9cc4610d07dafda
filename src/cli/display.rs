//! Display and USB options, as far as there are any yet.

use base::options::{Keyval, Opts, is_help};
use machine::config::{ConfigError, Display, Located, Origin};
use machine::launch::display::{ADAPTERS, is_available};
use ui::vnc::GROUP as VNC;
use ui::web::GROUP as WEB;

use super::table::CliOption;
use super::{Builder, Done, Exit, Stop, fault};

pub(super) const OPTIONS: &[CliOption] = &[
    CliOption::text(
        &["display"],
        "none",
        "select the display ('-display help' lists them)",
        display,
    ),
    CliOption::opts(
        &["vnc"],
        "host:display|unix:path|none[,id=id][,to=n][,password=on][,password-secret=id]\
         [,tls-creds=id][,share=policy][,websocket=port][,reverse=on][,lossy=on][,...]",
        "serve the screen over a network by VNC",
        &VNC,
        vnc,
    )
    .with_first_look(vnc_help),
    CliOption::opts(
        &["web"],
        "[host]:port|unix:path[,token=text|,token-secret=id][,tls-creds=id]\
         [,allow-host=name][,connections=n][,lossy=on]",
        "serve screen, terminals, monitor and disks as a page for browsers,\n\
         to this host alone unless a host is given; its URL is printed",
        &WEB,
        web,
    )
    .with_first_look(web_help),
    CliOption::flag(
        &["nographic"],
        "no display; serial port and monitor share the terminal",
        |builder| {
            builder.config.no_graphic = true;
            builder.config.display = Display::None;
            Ok(())
        },
    ),
    CliOption::text(
        &["vga"],
        "none|std|cirrus|vmware|qxl|virtio",
        "select the display adapter ('-vga help' lists them)",
        vga,
    ),
    CliOption::text(
        &["k"],
        "language",
        "set the keyboard layout of displays",
        |builder, text, _| {
            builder.config.keyboard_layout = Some(text.into());
            Ok(())
        },
    ),
    CliOption::flag(&["full-screen"], "start displays in full screen", |_| Ok(())),
    CliOption::flag(&["usb"], "same as -machine usb=on", |builder| {
        builder.set_machine("usb", "on");
        Ok(())
    }),
    CliOption::text(
        &["usbdevice"],
        "name",
        "add a USB device: mouse, tablet or keyboard (use -device instead)",
        |builder, text, origin| {
            builder.set_machine("usb", "on");
            builder.config.usb_devices.push(Located::new(text.into(), origin));
            Ok(())
        },
    ),
];

/// Displays that QEMU knows and this build has not.
const DISPLAYS: [&str; 5] = ["gtk", "sdl", "egl-headless", "spice-app", "dbus"];

fn display(builder: &mut Builder<'_, '_>, text: &str, origin: &Origin) -> Done {
    if is_help(text) {
        builder.list("Available display backend types:\nnone\ncurses\nvnc\nweb\n");
        return Ok(());
    }
    // `vnc=:0` is short for the option of that name.
    if let Some(rest) = text.strip_prefix("vnc") {
        let Some(server) = rest.strip_prefix('=') else {
            return fault(origin, "VNC requires a display argument vnc=<display>");
        };
        builder.config.display = Display::None;
        let parsed = VNC.parse(server).or_else(|error| fault(origin, error))?;
        return vnc(builder, parsed.opts, origin);
    }
    if let Some(rest) = web_arguments(text) {
        builder.config.display = Display::None;
        let parsed = WEB.parse(&rest).or_else(|error| fault(origin, error))?;
        return web(builder, parsed.opts, origin);
    }
    let keys = Keyval::parse(text, Some("type")).or_else(|error| fault(origin, error))?;
    if keys.help {
        return fault(origin, "Help is not available for this option");
    }
    let Some(kind) = keys.tree.get("type").and_then(|kind| kind.as_str()) else {
        return fault(origin, "Parameter 'type' is missing");
    };
    match kind {
        "none" => {
            builder.config.display = Display::None;
            check_keys(&keys, &[], origin)
        }
        "default" => {
            builder.config.display = Display::Usual;
            check_keys(&keys, &[], origin)
        }
        "curses" => {
            builder.config.display = Display::Curses;
            check_keys(&keys, &["charset"], origin)?;
            match keys.tree.get("charset").and_then(|charset| charset.as_str()) {
                None | Some("CP437") => Ok(()),
                Some(other) => {
                    fault(origin, format!("charset '{other}' is not supported, only CP437 is"))
                }
            }
        }
        _ if DISPLAYS.contains(&kind) => {
            Err(ConfigError::new(format!("Display '{kind}' is not available.")).into())
        }
        _ => fault(origin, format!("Parameter 'type' does not accept value '{kind}'")),
    }
}

/// What all displays take, with one value that means something here.
const COMMON_KEYS: [(&str, &[&str]); 4] = [
    ("full-screen", &["on", "off"]),
    ("window-close", &["on", "off"]),
    ("show-cursor", &["on", "off"]),
    ("gl", &["on", "off", "core", "es"]),
];

fn check_keys(keys: &Keyval, own: &[&str], origin: &Origin) -> Done {
    for (key, value) in &keys.tree {
        if key == "type" || own.contains(&key.as_str()) {
            continue;
        }
        let Some((_, words)) = COMMON_KEYS.iter().find(|(known, _)| known == key) else {
            return fault(origin, format!("Parameter '{key}' is unexpected"));
        };
        if !value.as_str().is_some_and(|word| words.contains(&word)) {
            let expects = if *key == "gl" { "a valid mode" } else { "'on' or 'off'" };
            return fault(origin, format!("Parameter '{key}' expects {expects}"));
        }
    }
    Ok(())
}

fn vnc_help(_: &mut Builder<'_, '_>, text: &str, _: &Origin) -> Result<bool, Stop> {
    if is_help(text) {
        return Err(Stop::Exit(Exit { status: 1, output: VNC.help_text() }));
    }
    Ok(false)
}

fn vnc(builder: &mut Builder<'_, '_>, opts: Opts, origin: &Origin) -> Done {
    builder.config.vncs.push(Located::new(opts, origin));
    Ok(())
}

/// What `-display web`, `web=...` or `web,...` would be as an argument of `-web`.
fn web_arguments(text: &str) -> Option<String> {
    let rest = text.strip_prefix("web")?;
    match rest.strip_prefix(',') {
        Some(keys) => Some(keys.into()),
        None if rest.is_empty() => Some(String::new()),
        None => rest.starts_with('=').then(|| text.into()),
    }
}

fn web_help(_: &mut Builder<'_, '_>, text: &str, _: &Origin) -> Result<bool, Stop> {
    if is_help(text) {
        return Err(Stop::Exit(Exit { status: 1, output: WEB.help_text() }));
    }
    Ok(false)
}

fn web(builder: &mut Builder<'_, '_>, opts: Opts, origin: &Origin) -> Done {
    builder.config.webs.push(Located::new(opts, origin));
    Ok(())
}

fn vga(builder: &mut Builder<'_, '_>, text: &str, origin: &Origin) -> Done {
    if is_help(text) {
        let available = ADAPTERS.iter().filter(|(word, _, _)| is_available(word));
        let default = |word: &str| if word == "std" { " (default)" } else { "" };
        let line =
            |(word, name, _): &(&str, &str, _)| format!("{word:<20} {name}{}\n", default(word));
        builder.list(available.map(line).collect::<String>());
        return Ok(());
    }
    builder.config.vga = Some(Located::new(text.into(), origin));
    Ok(())
}
