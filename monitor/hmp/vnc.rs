//! Those who see the machine over a network.

use ui::vnc::{Auth, Endpoint, Server};

use super::command::{Context, Failure, Printed, silence};
use super::words::Arguments;
use crate::qapi::{ErrorClass, QmpError};
use crate::qmp::vnc_commands::PasswordSet;

/// What people are told whose server asks for no password.
const NO_PASSWORDS: &str =
    "If you want use passwords please enable password auth using '-vnc ${dpy},password'.\n";

pub(super) fn info(context: &Context<'_>, _: &mut Arguments<'_>) -> Printed {
    let servers = context.vm.vnc().all();
    if servers.is_empty() {
        return Ok("None\n".into());
    }
    Ok(servers.iter().rev().map(|server| describe(server)).collect())
}

fn describe(server: &Server) -> String {
    let place = |endpoint: &Endpoint| {
        let websocket = if endpoint.websocket { " (Websocket)" } else { "" };
        format!("{}:{} ({}{websocket})", endpoint.host, endpoint.service, endpoint.family)
    };
    let auth = |indent: &str, auth: Auth| {
        let within = auth.vencrypt().unwrap_or("none");
        format!("{indent}Auth: {} (Sub: {within})\n", auth.primary())
    };
    let mut text = format!("{}:\n", server.id());
    let endpoints = server.endpoints();
    for (endpoint, way_in) in &endpoints {
        text += &format!("  Server: {}\n{}", place(endpoint), auth("    ", *way_in));
    }
    for client in server.clients() {
        let place = place(&client.peer);
        text += &format!("  Client: {place}\n    x509_dname: none\n    sasl_username: none\n");
    }
    if endpoints.is_empty() {
        text += &auth("  ", server.auth());
    }
    if let Some(display) = server.display() {
        text += &format!("  Display: {display}\n");
    }
    text
}

/// The end of a command that changes the password.
fn set(context: &Context<'_>, display: Option<&str>, password: &str) -> Printed {
    let failed = "Error: Could not set password\n";
    Ok(match context.set_vnc_password(display, password) {
        PasswordSet::Done => String::new(),
        PasswordSet::NoServer => failed.into(),
        PasswordSet::NotAsked => format!("{NO_PASSWORDS}{failed}"),
    })
}

/// `change vnc password [new]`.
pub(super) fn change(context: &Context<'_>, arguments: &mut Arguments<'_>) -> Printed {
    if arguments.word() != Some("password") {
        return Err(QmpError::new("Expected 'password' after 'vnc'").into());
    }
    let password = arguments.word();
    arguments.end("change")?;
    let Some(password) = password else {
        return Err(QmpError::new("Parameter 'password' is missing").into());
    };
    set(context, None, password)
}

/// The word behind `-d`.
fn display<'a>(arguments: &mut Arguments<'a>) -> Result<Option<&'a str>, Failure> {
    if arguments.flag('d')? { Ok(arguments.word()) } else { Ok(None) }
}

/// The protocol, which has to be VNC.
fn protocol(command: &str, arguments: &mut Arguments<'_>) -> Result<(), Failure> {
    match arguments.word() {
        Some("vnc") => Ok(()),
        Some("spice") => {
            Err(QmpError::of(ErrorClass::DeviceNotActive, "SPICE is not in use").into())
        }
        Some(other) => Err(QmpError::new(format!("invalid parameter value: {other}")).into()),
        None => Err(format!("{command}: string expected").into()),
    }
}

pub(super) fn set_password(context: &Context<'_>, arguments: &mut Arguments<'_>) -> Printed {
    protocol("set_password", arguments)?;
    let password = arguments.word().ok_or("set_password: string expected".to_owned())?;
    let display = display(arguments)?;
    let connected = arguments.word().unwrap_or("keep");
    arguments.end("set_password")?;
    match connected {
        "keep" => set(context, display, password),
        "fail" | "disconnect" => {
            let message = "parameter 'connected' must be 'keep' when 'protocol' is 'vnc'";
            Err(QmpError::new(message).into())
        }
        other => Err(QmpError::new(format!("invalid parameter value: {other}")).into()),
    }
}

pub(super) fn expire_password(context: &Context<'_>, arguments: &mut Arguments<'_>) -> Printed {
    protocol("expire_password", arguments)?;
    let time = arguments.word().ok_or("expire_password: string expected".to_owned())?;
    let display = display(arguments)?;
    arguments.end("expire_password")?;
    context.expire_vnc_password(display, time)?;
    silence()
}
