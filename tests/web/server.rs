//! Requests and WebSockets, byte by byte.

use std::io::{Read, Write};

use anyhow::{Result, bail, ensure};
use serde_json::json;
use testbed::sectors::{self, ECHO, SERIAL_ECHO};

use crate::client::{Socket, ask, connect, read_answer, request};
use crate::{Page, is_ours};

/// A socket that has to open.
fn open(page: &Page, path: &str) -> Result<Socket> {
    let protocols = format!("Sec-WebSocket-Protocol: rhea, token.{}", page.token);
    match Socket::open(&page.address, path, &[&protocols])? {
        Ok(socket) => Ok(socket),
        Err(status) => bail!("{path}: {status}"),
    }
}

#[test]
fn who_knows_the_token_gets_in_and_nobody_else() -> Result<()> {
    if !is_ours() {
        return Ok(());
    }
    let page = Page::serve(":0", &["-S"])?;
    ensure!(page.token.len() == 32, "a token of {}", page.token);
    let status = |what: &str, fields: &[&str]| {
        Ok::<_, anyhow::Error>(ask(&page.address, &request(&page.address, what, fields))?.status)
    };
    let bearer = page.bearer();
    ensure!(status("GET /", &[])? == 200);
    ensure!(status("GET /api/machine", &[])? == 401);
    ensure!(status("GET /api/machine", &["Authorization: Bearer x"])? == 401);
    ensure!(status("GET /api/machine", &[&bearer, "Origin: http://evil.example"])? == 403);
    let foreign = request("evil.example", "GET /api/machine", &[&bearer]);
    ensure!(ask(&page.address, &foreign)?.status == 421);
    let long = format!("X: {}", "x".repeat(9000));
    ensure!(status("GET /", &[&long])? == 431);
    ensure!(status("POST /api/type", &[&bearer, "Content-Length: 100000"])? == 413);
    ensure!(ask(&page.address, "RFB 003.008\n")?.status == 400);

    let machine = ask(&page.address, &request(&page.address, "GET /api/machine", &[&bearer]))?;
    let machine = machine.json()?;
    ensure!(machine["name"] == "tested", "{machine}");
    ensure!(machine["screens"] == json!([{"number": 0, "title": "VGA"}]), "{machine}");

    for path in ["/ws/qmp", "/ws/monitor", "/ws/screen"] {
        let refused = |fields: &[&str], status| {
            let opened = Socket::open(&page.address, path, fields)?;
            ensure!(opened.as_ref().err() == Some(&status), "{path} {fields:?}");
            Ok(())
        };
        refused(&[], 401)?;
        refused(&["Sec-WebSocket-Protocol: rhea, token.wrong"], 401)?;
        refused(&[&bearer, "Origin: http://127.0.0.1:1"], 403)?;
    }
    Ok(())
}

#[test]
fn a_connection_takes_one_request_after_the_other() -> Result<()> {
    if !is_ours() {
        return Ok(());
    }
    let page = Page::serve(":0,token=known", &["-S"])?;
    ensure!(page.token == "known");
    let mut stream = connect(&page.address)?;
    let both = [
        request(&page.address, "GET /style.css", &["Accept-Encoding: gzip"]),
        request(&page.address, "GET /api/figures", &[&page.bearer()]),
    ];
    stream.write_all(both.concat().as_bytes())?;
    let style = read_answer(&mut stream)?;
    ensure!(style.status == 200 && style.body.starts_with(&[0x1f, 0x8b]), "{style:?}");
    let figures = read_answer(&mut stream)?.json()?;
    ensure!(figures["processors"].as_array().is_some_and(|list| list.len() == 1), "{figures}");
    Ok(())
}

#[test]
fn the_screen_is_there_by_rfb() -> Result<()> {
    if !is_ours() {
        return Ok(());
    }
    let page = Page::serve(":0", &["-S"])?;
    for path in ["/ws/screen", "/ws/screen/0"] {
        let mut socket = open(&page, path)?;
        ensure!(socket.take(12)? == b"RFB 003.008\n");
        socket.send(b"RFB 003.008\n")?;
        ensure!(socket.take(2)? == [1, 1]);
        socket.send(&[1])?;
        ensure!(socket.take(4)? == [0; 4]);
        socket.send(&[1])?;
        let init = socket.take(24)?;
        let side = |at: usize| u16::from_be_bytes([init[at], init[at + 1]]);
        ensure!(side(0) >= 640 && side(2) >= 400, "{init:?}");
        ensure!(socket.take(usize::from(init[23]))? == b"tested");
    }
    let missing = Socket::open(&page.address, "/ws/screen/7", &[&page.bearer()])?;
    ensure!(missing.err() == Some(404));
    // It is no server of VNC as far as management is concerned.
    let mut qmp = open(&page, "/ws/qmp")?;
    ensure!(qmp.message()?["QMP"].is_object());
    qmp.execute("qmp_capabilities")?;
    ensure!(qmp.execute("query-vnc-servers")? == json!([]));
    Ok(())
}

#[test]
fn terminals_are_shared_and_remember() -> Result<()> {
    if !is_ours() {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let disk = sectors::disk(directory.path(), SERIAL_ECHO)?;
    let page = Page::serve(":0", &["-drive", &disk, "-serial", "vc", "-monitor", "vc"])?;
    let mut one = open(&page, "/ws/terminal/serial0")?;
    one.until(">")?;
    one.send(b"hello")?;
    one.until("hello")?;
    let mut other = open(&page, "/ws/terminal/serial0")?;
    other.until(">hello")?;
    other.send(b" there")?;
    one.until(" there")?;

    let mut monitor = open(&page, "/ws/terminal/compat_monitor0")?;
    monitor.until("(qemu) ")?;
    let machine =
        ask(&page.address, &request(&page.address, "GET /api/machine", &[&page.bearer()]))?;
    let expected = json!([
        {"id": "serial0", "title": "Serial 0"},
        {"id": "compat_monitor0", "title": "Monitor"},
    ]);
    ensure!(machine.json()?["terminals"] == expected);
    let missing = Socket::open(&page.address, "/ws/terminal/nothing", &[&page.bearer()])?;
    ensure!(missing.err() == Some(404));
    Ok(())
}

#[test]
fn the_monitor_completes_and_answers() -> Result<()> {
    if !is_ours() {
        return Ok(());
    }
    let page = Page::serve(":0", &["-S"])?;
    let mut socket = open(&page, "/ws/monitor")?;
    socket.until("(qemu) ")?;
    socket.send(b"info vers\t\r")?;
    let said = socket.until("(qemu) ")?;
    ensure!(said.contains("ion") && said.contains("10.0.2"), "{said:?}");
    // Each visitor has one of their own.
    let mut other = open(&page, "/ws/monitor")?;
    let greeting = other.until("(qemu) ")?;
    ensure!(!greeting.contains("vers"), "{greeting:?}");
    Ok(())
}

#[test]
fn buttons_change_what_the_machine_does() -> Result<()> {
    if !is_ours() {
        return Ok(());
    }
    let page = Page::serve(":0", &[])?;
    let mut socket = open(&page, "/ws/qmp")?;
    ensure!(socket.message()?["QMP"].is_object());
    socket.execute("qmp_capabilities")?;
    ensure!(socket.execute("query-status")?["running"] == true);
    socket.execute("stop")?;
    ensure!(socket.execute("query-status")?["status"] == "paused");
    socket.execute("cont")?;
    // The event may come before the answer.
    socket.send(b"{\"execute\": \"system_reset\"}")?;
    socket.until("\"RESET\"")?;
    socket.until("\n")?;
    socket.execute("quit")?;
    // The socket ends with the program.
    ensure!(socket.until("never").is_err());
    let finished = page.vm.finish()?;
    ensure!(finished.status.success(), "{}", finished.stderr);
    Ok(())
}

#[test]
fn texts_are_typed_by_the_layout() -> Result<()> {
    if !is_ours() {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let disk = sectors::disk(directory.path(), ECHO)?;
    let mut page = Page::serve(":0", &["-drive", &disk])?;
    sectors::until_shown(&mut page.vm, ">")?;
    let text = "Hello, \u{2603}World!";
    let length = format!("Content-Length: {}", text.len());
    let post = request(&page.address, "POST /api/type", &[&page.bearer(), &length]);
    let answer = ask(&page.address, &(post.clone() + text))?;
    ensure!(answer.json()? == json!({"typed": 13, "missing": "\u{2603}"}), "{answer:?}");
    sectors::until_shown(&mut page.vm, ">Hello, World!")?;
    page.vm.qmp().execute("stop")?;
    ensure!(ask(&page.address, &(post + text))?.status == 409);
    Ok(())
}

#[test]
fn visitors_who_say_nothing_are_in_nobodys_way() -> Result<()> {
    if !is_ours() {
        return Ok(());
    }
    let mut page = Page::serve(":0,connections=2", &[])?;
    let mut silent = Vec::new();
    for n in 0..200 {
        let mut stream = connect(&page.address)?;
        if n % 2 == 0 {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: ")?;
        }
        silent.push(stream);
    }
    page.vm.qmp().execute("query-status")?;
    let one = open(&page, "/ws/monitor")?;
    let mut two = open(&page, "/ws/qmp")?;
    ensure!(two.message()?["QMP"].is_object());
    let third = Socket::open(&page.address, "/ws/monitor", &[&page.bearer()])?;
    ensure!(third.err() == Some(503));
    drop(one);
    // The place is free again.
    crate::until("room", || {
        Ok(Socket::open(&page.address, "/ws/monitor", &[&page.bearer()])?.is_ok())
    })?;
    // Those who came first had to go.
    let mut rest = Vec::new();
    ensure!(silent[0].read_to_end(&mut rest).is_ok_and(|count| count == 0));
    Ok(())
}
