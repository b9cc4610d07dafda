use super::*;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn front() -> Front {
    Front::new(Token::new("secret").unwrap(), vec!["box".into()])
}

/// A request with a good `Host` and whatever else.
fn request(first: &str, fields: &[&str]) -> String {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    format!("{first} HTTP/1.1\r\nHost: 127.0.0.1:6080\r\n{fields}\r\n")
}

fn judged(text: &str) -> Outcome {
    let (length, outcome) = front().receive(text.as_bytes()).unwrap();
    assert_eq!(length, text.len());
    outcome
}

fn text(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Answer(bytes) | Outcome::Last(bytes) | Outcome::Open(_, bytes) => {
            String::from_utf8_lossy(bytes).into_owned()
        }
        other => panic!("{other:?}"),
    }
}

fn status(text_of_request: &str) -> u16 {
    text(&judged(text_of_request))[9..12].parse().unwrap()
}

const TOKEN: &str = "Authorization: Bearer secret";

#[test]
fn the_page_is_for_everybody_and_says_how_to_treat_it() {
    let answer = text(&judged(&request("GET /", &["Accept-Encoding: br, gzip"])));
    let (head, _) = answer.split_once("\r\n\r\n").unwrap();
    for field in [
        "HTTP/1.1 200 OK",
        "Content-Type: text/html; charset=utf-8",
        "Content-Encoding: gzip",
        "Content-Security-Policy: default-src 'none'; script-src 'self';",
        "frame-ancestors 'none'",
        "X-Content-Type-Options: nosniff",
        "Referrer-Policy: no-referrer",
        "Cache-Control: no-cache",
    ] {
        assert!(head.contains(field), "{field}");
    }
    let script = head.split("script-src").nth(1).unwrap().split(';').next().unwrap();
    assert_eq!(script, " 'self'");
    let etag = head.lines().find_map(|line| line.strip_prefix("ETag: ")).unwrap();
    assert_eq!(status(&request("GET /", &[&format!("If-None-Match: {etag}")])), 304);

    let plain = text(&judged(&request("GET /", &["Accept-Encoding: gzip;q=0"])));
    assert!(plain.contains("<!doctype html>") && !plain.contains("Content-Encoding"));
    let head = text(&judged(&request("HEAD /style.css", &[])));
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"));
    let last = judged(&request("GET /", &["Connection: close"]));
    assert!(matches!(last, Outcome::Last(_)));
    assert_eq!(status(&request("GET /nothing", &[])), 404);
    assert_eq!(status(&request("DELETE /", &[])), 405);
}

#[test]
fn the_machine_is_for_those_who_know_the_token() {
    for fields in [
        &[][..],
        &["Authorization: Bearer wrong"],
        &["Authorization: Basic secret"],
        &["Authorization: Bearer"],
        &["Authorization: Bearer secret", "Authorization: Bearer secret"],
        &["Cookie: token=secret"],
    ] {
        assert_eq!(status(&request("GET /api/machine", fields)), 401, "{fields:?}");
    }
    assert_eq!(status(&request("GET /api/machine?token=secret", &[])), 401);
    let machine = Outcome::Report(Report::Machine);
    assert_eq!(judged(&request("GET /api/machine", &[TOKEN])), machine);
    assert_eq!(judged(&request("GET /api/figures?x", &[TOKEN])), Outcome::Report(Report::Figures));
    assert_eq!(status(&request("POST /api/machine", &[TOKEN])), 405);
    assert_eq!(status(&request("GET /api/nothing", &[TOKEN])), 404);
}

#[test]
fn names_that_this_host_does_not_have_are_refused() {
    let named = |host: &str| status(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    for host in ["localhost", "LOCALHOST:6080", "10.0.0.1:80", "[::1]", "[::1]:6080", "box:1"] {
        assert_eq!(named(host), 200, "{host}");
    }
    for host in
        ["evil.example:6080", "127.0.0.1.evil.example", "localhost.evil", "[::1", "[x]:1", "box:x"]
    {
        assert_eq!(named(host), 421, "{host}");
    }
    assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), 400);
    assert_eq!(status("GET / HTTP/1.1\r\nHost: box\r\nHost: box\r\n\r\n"), 400);
}

#[test]
fn pages_of_others_are_refused() {
    let from = |origin: &str| request("GET /api/machine", &[TOKEN, &format!("Origin: {origin}")]);
    assert_eq!(judged(&from("http://127.0.0.1:6080")), Outcome::Report(Report::Machine));
    // Somebody else may have decrypted it.
    assert_eq!(judged(&from("https://127.0.0.1:6080")), Outcome::Report(Report::Machine));
    for origin in
        ["http://127.0.0.1:8000", "http://127.0.0.1", "http://evil.example", "null", "file://"]
    {
        assert_eq!(status(&from(origin)), 403, "{origin}");
    }
}

fn socket(path: &str, fields: &[&str]) -> String {
    let key = format!("Sec-WebSocket-Key: {KEY}");
    let opening = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", &key];
    request(&format!("GET {path}"), &[&opening, fields].concat())
}

#[test]
fn sockets_lead_to_what_they_name() {
    const OFFER: &str = "Sec-WebSocket-Protocol: rhea, token.secret";
    for (path, expected) in [
        ("/ws/screen", Channel::Screen(None)),
        ("/ws/screen/3", Channel::Screen(Some(3))),
        ("/ws/terminal/serial0", Channel::Terminal("serial0".into())),
        ("/ws/qmp", Channel::Monitor(Monitor::Control)),
        ("/ws/monitor", Channel::Monitor(Monitor::Prompt)),
    ] {
        let outcome = judged(&socket(path, &[OFFER]));
        let answer = text(&outcome);
        assert!(matches!(outcome, Outcome::Open(channel, _) if channel == expected), "{path}");
        assert!(answer.starts_with("HTTP/1.1 101 "));
        assert!(answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        // The token does not come back.
        assert!(answer.contains("Sec-WebSocket-Protocol: rhea\r\n") && !answer.contains("secret"));
    }
    assert!(matches!(judged(&socket("/ws/qmp", &[TOKEN])), Outcome::Open(..)));
    assert_eq!(status(&socket("/ws/qmp", &[])), 401);
    assert_eq!(status(&socket("/ws/qmp", &["Sec-WebSocket-Protocol: token.wrong"])), 401);
    assert_eq!(status(&socket("/ws/qmp", &[OFFER, "Origin: http://evil.example"])), 403);
    assert_eq!(status(&socket("/ws/screen/x", &[OFFER])), 404);
    assert_eq!(status(&request("GET /ws/qmp", &[TOKEN])), 426);
}

#[test]
fn only_texts_to_be_typed_have_bodies_and_short_ones() {
    let post = |fields: &[&str]| request("POST /api/type", fields);
    assert_eq!(judged(&post(&[TOKEN, "Content-Length: 5"])), Outcome::Type(5));
    assert_eq!(status(&post(&[TOKEN, "Content-Length: 99999"])), 413);
    assert_eq!(status(&post(&["Content-Length: 5"])), 401);
    assert_eq!(status(&post(&[TOKEN, "Content-Length: -1"])), 400);
    assert_eq!(status(&post(&[TOKEN, "Content-Length: 5", "Content-Length: 6"])), 400);
    assert_eq!(status(&post(&[TOKEN, "Transfer-Encoding: chunked"])), 411);
    assert_eq!(status(&request("GET /", &["Content-Length: 5"])), 413);
    assert_eq!(status(&request("GET http://x/", &[])), 400);
}

#[test]
fn requests_come_one_after_the_other_or_not_at_all() {
    let one = request("GET /style.css", &[]);
    let both = [one.clone(), request("GET /", &[])].concat();
    let (length, _) = front().receive(both.as_bytes()).unwrap();
    assert_eq!(length, one.len());
    assert!(front().receive(&one.as_bytes()[..one.len() - 1]).is_none());
    assert_eq!(status("nonsense\r\n\r\n"), 400);
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(20_000));
    assert_eq!(status(&long), 431);
}
