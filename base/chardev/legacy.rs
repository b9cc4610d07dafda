//! The short forms that `-serial`, `-monitor`, `-qmp` and their like take.

use super::{ChardevError, ChardevSpec};

/// What a short form means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Legacy {
    /// No device at all (`none`).
    None,
    /// A device that exists under this id (`chardev:ID`).
    Existing(String),
    /// A device to be made.
    New(ChardevSpec),
    /// A device to be made, which a monitor shares (`mon:...`).
    WithMonitor(ChardevSpec),
}

/// What keys and values a short form stands for; `None` if it is malformed.
type Pairs = Option<Vec<(String, String)>>;

impl Legacy {
    /// Reads a short form; a device to be made gets the id `label`. Some malformed ones have no
    /// message of their own: the caller's ("could not connect ... to character backend") says it
    /// all.
    pub fn parse(label: &str, text: &str) -> Result<Legacy, Option<ChardevError>> {
        if text == "none" {
            return Ok(Legacy::None);
        }
        if let Some(id) = text.strip_prefix("chardev:") {
            return Ok(Legacy::Existing(id.into()));
        }
        if let Some(shared) = text.strip_prefix("mon:") {
            let mut spec = parse_spec(label, shared)?;
            spec.mux = true;
            // Ctrl-C goes to the guest, as C-a x can end the program.
            if let super::BackendSpec::Stdio { signal } = &mut spec.backend {
                *signal = false;
            }
            return Ok(Legacy::WithMonitor(spec));
        }
        parse_spec(label, text).map(Legacy::New)
    }
}

fn parse_spec(label: &str, text: &str) -> Result<ChardevSpec, Option<ChardevError>> {
    let (kind, rest) = text.split_once(':').map_or((text, None), |(k, r)| (k, Some(r)));
    let pairs = match (kind, rest) {
        ("null" | "pty" | "stdio", None) => Some(vec![backend(kind)]),
        ("vc", None) => Some(vec![backend("vc")]),
        ("vc", Some(size)) => vc_size(size),
        ("file" | "pipe" | "pty", Some(path)) => Some(vec![backend(kind), pair("path", path)]),
        ("unix", Some(rest)) => unix(rest),
        ("tcp" | "telnet" | "websocket" | "tn3270", Some(rest)) => tcp(kind, rest),
        ("udp", Some(rest)) => udp(rest),
        _ if text.starts_with("/dev/") => Some(vec![backend("serial"), pair("path", text)]),
        _ => return Err(Some(ChardevError::UnknownLegacy(text.into()))),
    };
    let mut pairs = pairs.ok_or(None)?;
    // The label is the program's own word, and need not be an identifier.
    pairs.push(pair("id", "compat"));
    let spec = ChardevSpec::from_options(&pairs)?;
    Ok(ChardevSpec { id: label.into(), ..spec })
}

fn pair(key: &str, value: &str) -> (String, String) {
    (key.into(), value.into())
}

fn backend(name: &str) -> (String, String) {
    pair("backend", name)
}

/// `WIDTHxHEIGHT`, each in pixels or, with a C, in characters.
fn vc_size(text: &str) -> Pairs {
    let side = |text: &str, characters: &str, pixels: &str| {
        let (digits, key) = match text.strip_suffix('C') {
            Some(digits) => (digits, characters),
            None => (text, pixels),
        };
        let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| pair(key, digits))
    };
    let (width, height) = text.split_once('x')?;
    Some(vec![backend("vc"), side(width, "cols", "width")?, side(height, "rows", "height")?])
}

/// `PATH[,option...]`; a comma in the path is doubled.
fn unix(rest: &str) -> Pairs {
    let mut words = split_at_commas(rest).into_iter();
    let mut pairs = vec![backend("socket")];
    if let Some(path) = words.next().filter(|path| !path.is_empty()) {
        pairs.push(pair("path", &path));
    }
    pairs.extend(words.map(|word| option(&word)));
    Some(pairs)
}

/// `HOST:PORT[,option...]`; the host may be empty, or an IPv6 address in brackets.
fn tcp(kind: &str, rest: &str) -> Pairs {
    let (host, rest) = host_and_rest(rest)?;
    let (port, options) = rest.split_once(',').map_or((rest, None), |(p, o)| (p, Some(o)));
    if port.is_empty() {
        return None;
    }
    let mut pairs = vec![backend("socket"), pair("host", host), pair("port", port)];
    if kind != "tcp" {
        pairs.push(pair(kind, "on"));
    }
    pairs.extend(options.map(split_at_commas).into_iter().flatten().map(|word| option(&word)));
    Some(pairs)
}

/// `[HOST]:PORT[@[ADDRESS]:PORT]`
fn udp(rest: &str) -> Pairs {
    let (remote, local) = rest.split_once('@').map_or((rest, None), |(r, l)| (r, Some(l)));
    let (host, port) = host_and_rest(remote)?;
    if port.is_empty() {
        return None;
    }
    let mut pairs = vec![backend("udp"), pair("host", host), pair("port", port)];
    if let Some(local) = local {
        let (address, port) = host_and_rest(local)?;
        pairs.extend([pair("localaddr", address), pair("localport", port)]);
    }
    Some(pairs)
}

fn host_and_rest(text: &str) -> Option<(&str, &str)> {
    match text.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once("]:"),
        None => text.split_once(':'),
    }
}

/// `key=value`, or a flag: `server` is `server=on`, `nowait` is `wait=off`.
fn option(word: &str) -> (String, String) {
    let known = |name: &str| super::OPTIONS.iter().any(|(option, _)| *option == name);
    match (word.split_once('='), word.strip_prefix("no")) {
        (Some((key, value)), _) => pair(key, value),
        (None, Some(negated)) if !known(word) && known(negated) => pair(negated, "off"),
        (None, _) => pair(word, "on"),
    }
}

/// Splits at single commas; two commas stand for one.
fn split_at_commas(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ',' && chars.next_if_eq(&',').is_none() {
            words.push(String::new());
        } else if let Some(word) = words.last_mut() {
            word.push(c);
        }
    }
    words
}

#[cfg(test)]
mod tests;
