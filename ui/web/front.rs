//! What visitors ask for, and whether they may: requests come in, answers go out, and nothing is
//! done meanwhile.
//!
//! Who knows the token may do everything; who does not, may have the page itself, which says nothing
//! about the machine. The token comes in the field `Authorization`, or for WebSockets, for which
//! browsers do not let pages set that, as one of the protocols asked for. It is never part of a
//! request's target, and there are no cookies, which browsers send to all ports of a host and on
//! behalf of any page.
//!
//! A page of somebody else's can neither read the answers nor open a socket here: what says that it
//! comes from elsewhere is refused (`Origin`), and so is what calls this host by a name that it is
//! not known to have, as happens when somebody else's name was made to lead here (`Host`).

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::Monitor;
use super::assets::Asset;
use super::options::Token;
use crate::http::{Fault, Request};
use crate::websocket;

/// The protocol of WebSockets here.
const PROTOCOL: &str = "rhea";
/// What comes before the token if that is one.
const TOKEN_PROTOCOL: &str = "token.";
/// Longest text to be typed.
const MAX_TEXT: usize = 16 << 10;

/// Fields of every answer. Styles may be made by scripts, which the terminals do; scripts may not.
const ALWAYS: &str = "Content-Security-Policy: default-src 'none'; script-src 'self'; \
    style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self'; \
    font-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\
    X-Content-Type-Options: nosniff\r\n\
    X-Frame-Options: DENY\r\n\
    Referrer-Policy: no-referrer\r\n\
    Cross-Origin-Opener-Policy: same-origin\r\n\
    Cross-Origin-Resource-Policy: same-origin\r\n";

/// What a WebSocket leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Channel {
    /// A screen, by its number, or the first.
    Screen(Option<usize>),
    /// A terminal, by the id of its character device.
    Terminal(String),
    /// A monitor of its own.
    Monitor(Monitor),
}

/// What is to be told about the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// What there is.
    Machine,
    /// What it has done.
    Figures,
}

/// What comes of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This answer; then the next request.
    Answer(Vec<u8>),
    /// This answer, and the connection ends.
    Last(Vec<u8>),
    /// A report, as JSON.
    Report(Report),
    /// So many bytes follow, which are a text to be typed.
    Type(usize),
    /// A WebSocket, opened by this answer.
    Open(Channel, Vec<u8>),
}

/// Who may ask, and for what.
#[derive(Debug)]
pub struct Front {
    token: Token,
    /// Names of this host, in small letters.
    hosts: Vec<String>,
}

impl Front {
    /// Lets in who knows the token; `hosts` are names that this host has besides its addresses.
    pub fn new(token: Token, hosts: Vec<String>) -> Self {
        Front { token, hosts }
    }

    /// The token.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// Reads the next request; says how many bytes it has, and what comes of it. `None` while it is
    /// not all there.
    pub fn receive(&self, bytes: &[u8]) -> Option<(usize, Outcome)> {
        match Request::parse(bytes) {
            Ok(None) => None,
            Ok(Some((request, length))) => {
                let outcome = match self.judge(&request) {
                    Outcome::Answer(answer) if request.lists("connection", "close") => {
                        Outcome::Last(answer)
                    }
                    outcome => outcome,
                };
                Some((length, outcome))
            }
            Err(Fault::TooLong) => Some((bytes.len(), refuse(431, ""))),
            Err(Fault::Malformed) => Some((bytes.len(), refuse(400, ""))),
        }
    }

    fn judge(&self, request: &Request) -> Outcome {
        let Ok(Some(host)) = request.single("host") else { return refuse(400, "") };
        if !self.is_ours(host) {
            return refuse(421, "This host does not know that name: see allow-host=.");
        }
        match request.single("origin") {
            Ok(None) => {}
            Ok(Some(origin)) if is_of_host(origin, host) => {}
            _ => return refuse(403, "Another page's request."),
        }
        let body = match request.single("content-length").map(|length| length.map(str::parse)) {
            Ok(None) => 0,
            Ok(Some(Ok(length))) => length,
            _ => return refuse(400, ""),
        };
        if request.field("transfer-encoding").is_some() {
            return refuse(411, "");
        }
        let Some(path) = request.target.split('?').next().filter(|path| path.starts_with('/'))
        else {
            return refuse(400, "");
        };
        let typing = path == "/api/type";
        let limit = if typing { MAX_TEXT } else { 0 };
        if body > limit {
            return refuse(413, "");
        }
        if !path.starts_with("/api/") && !path.starts_with("/ws/") {
            return asset(path, request);
        }
        if !said_token(request).is_some_and(|said| self.token.is(said)) {
            // What may follow as a body is not read.
            return refuse(401, "The token is missing or wrong.");
        }
        let expected = if typing { "POST" } else { "GET" };
        if request.method != expected {
            return refuse(405, "");
        }
        match path {
            "/api/machine" => Outcome::Report(Report::Machine),
            "/api/figures" => Outcome::Report(Report::Figures),
            "/api/type" => Outcome::Type(body),
            _ => match channel(path) {
                Some(channel) => open(channel, request),
                None => Outcome::Answer(error(404, "")),
            },
        }
    }

    /// Whether this host may be called so: by a name that it has, or by an address, which nobody
    /// else can have lead here.
    fn is_ours(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        if let Some(rest) = host.strip_prefix('[') {
            let Some((address, port)) = rest.split_once(']') else { return false };
            return address.parse::<Ipv6Addr>().is_ok() && is_port(port);
        }
        let (name, port) = host.split_at(host.find(':').unwrap_or(host.len()));
        let known = name == "localhost"
            || name.parse::<Ipv4Addr>().is_ok()
            || self.hosts.iter().any(|known| known == name);
        known && is_port(port)
    }
}

fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
}

/// Whether a page of this origin came from the host that it asks now. Which scheme it came by says
/// nothing where somebody else decrypts.
fn is_of_host(origin: &str, host: &str) -> bool {
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

fn said_token(request: &Request) -> Option<&str> {
    match request.single("authorization") {
        Ok(Some(said)) => {
            let (scheme, token) = said.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        }
        Ok(None) => request
            .items("sec-websocket-protocol")
            .find_map(|protocol| protocol.strip_prefix(TOKEN_PROTOCOL)),
        Err(_) => None,
    }
}

fn channel(path: &str) -> Option<Channel> {
    Some(match path.strip_prefix("/ws/")?.split_once('/') {
        None => match path {
            "/ws/screen" => Channel::Screen(None),
            "/ws/qmp" => Channel::Monitor(Monitor::Control),
            "/ws/monitor" => Channel::Monitor(Monitor::Prompt),
            _ => return None,
        },
        Some(("screen", number)) => Channel::Screen(Some(number.parse().ok()?)),
        Some(("terminal", id)) => Channel::Terminal(id.into()),
        Some(_) => return None,
    })
}

fn open(channel: Channel, request: &Request) -> Outcome {
    match websocket::accept_key(request) {
        Ok(accept) => {
            let named = request.lists("sec-websocket-protocol", PROTOCOL);
            let answer = websocket::opening("Rhea", &accept, named.then_some(PROTOCOL));
            Outcome::Open(channel, answer)
        }
        Err(fault) => Outcome::Answer(error(426, &fault.to_string())),
    }
}

fn asset(path: &str, request: &Request) -> Outcome {
    let Some(asset) = Asset::find(path) else { return Outcome::Answer(error(404, "")) };
    let with_body = match &*request.method {
        "GET" => true,
        "HEAD" => false,
        _ => return Outcome::Answer(error(405, "")),
    };
    let fields =
        format!("ETag: {}\r\nCache-Control: no-cache\r\nVary: Accept-Encoding\r\n", asset.etag);
    if request.lists("if-none-match", asset.etag) {
        return Outcome::Answer(answer(304, &fields, None));
    }
    let fields = format!("{fields}Content-Type: {}\r\n", asset.kind);
    let takes_gzip = request.items("accept-encoding").any(|item| {
        let (coding, weight) = item.split_once(';').unwrap_or((item, ""));
        coding.trim().eq_ignore_ascii_case("gzip") && weight.trim() != "q=0"
    });
    let mut message = match takes_gzip {
        true => answer(200, &format!("{fields}Content-Encoding: gzip\r\n"), Some(asset.gzip)),
        false => answer(200, &fields, Some(&asset.plain())),
    };
    if !with_body && let Some(end) = message.windows(4).position(|window| window == b"\r\n\r\n") {
        message.truncate(end + 4);
    }
    Outcome::Answer(message)
}

/// An answer in JSON, which nobody keeps.
pub fn json(status: u16, value: &serde_json::Value) -> Vec<u8> {
    let fields = "Content-Type: application/json\r\nCache-Control: no-store\r\n";
    answer(status, fields, Some(value.to_string().as_bytes()))
}

fn refuse(status: u16, why: &str) -> Outcome {
    Outcome::Last(error(status, why))
}

/// An answer that says what is wrong, in words if there are any, else by its name.
pub fn error(status: u16, why: &str) -> Vec<u8> {
    let closes = matches!(status, 400 | 401 | 403 | 411 | 413 | 421 | 431 | 503);
    let mut fields = String::from("Content-Type: text/plain; charset=utf-8\r\n");
    if closes {
        fields += "Connection: close\r\n";
    }
    match status {
        401 => fields += "WWW-Authenticate: Bearer\r\n",
        426 => fields += "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        _ => {}
    }
    let text = if why.is_empty() { name(status) } else { why };
    answer(status, &fields, Some(format!("{text}\n").as_bytes()))
}

fn answer(status: u16, fields: &str, body: Option<&[u8]>) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} {}\r\n{ALWAYS}{fields}", name(status));
    if let Some(body) = body {
        // Writing to a string does not fail.
        let _ = write!(head, "Content-Length: {}\r\n", body.len());
    }
    head += "\r\n";
    [head.as_bytes(), body.unwrap_or_default()].concat()
}

fn name(status: u16) -> &'static str {
    match status {
        200 => "OK",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        421 => "Misdirected Request",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        _ => "Service Unavailable",
    }
}

#[cfg(test)]
mod tests;
