//! The same bytes to both programs: the same answers, the same news to management.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testbed::{DEADLINE, program, reference_qemu, skip};

/// What a client says, and how many bytes it waits for each time.
type Dialogue = &'static [(&'static [u8], usize)];

const DIALOGUES: &[(&str, Dialogue)] = &[
    ("", &[(b"", 12), (b"RFB 003.008\n", 2), (b"\x01", 4), (b"\x01", 28)]),
    ("", &[(b"", 12), (b"RFB 003.007\n", 2), (b"\x01\x01", 28)]),
    ("", &[(b"", 12), (b"RFB 003.003\n", 4), (b"\x01", 28)]),
    ("", &[(b"", 12), (b"RFB 003.005\n", 4), (b"\x00", 28)]),
    ("", &[(b"", 12), (b"RFB 003.008\n", 2), (b"\x02", 31)]),
    ("", &[(b"", 12), (b"RFB 004.001\n", 5)]),
    ("password=on", &[(b"", 12), (b"RFB 003.008\n", 2)]),
    ("share=force-shared", &[(b"", 12), (b"RFB 003.008\n", 2), (b"\x01", 4), (b"\x00", 28)]),
];

/// Everything that comes, up to what is waited for.
fn hold(path: &Path, dialogue: Dialogue) -> Result<Vec<Vec<u8>>> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut answers = Vec::new();
    for (said, length) in dialogue {
        stream.write_all(said)?;
        let mut answer = Vec::new();
        // An end before that is an answer too.
        (&mut stream).take(*length as u64).read_to_end(&mut answer)?;
        answers.push(answer);
    }
    Ok(answers)
}

/// Without what differs from run to run.
fn cleaned(mut value: Value, directory: &Path) -> Value {
    fn walk(value: &mut Value, directory: &str) {
        match value {
            Value::Object(map) => map.values_mut().for_each(|value| walk(value, directory)),
            Value::Array(list) => list.iter_mut().for_each(|value| walk(value, directory)),
            Value::String(text) => *text = text.replace(directory, ""),
            _ => {}
        }
    }
    walk(&mut value, &directory.display().to_string());
    value
}

fn answers(program: &Path, options: &str, dialogue: Dialogue) -> Result<Vec<Value>> {
    let directory = tempfile::tempdir()?;
    let mut vm = crate::serve(program, directory.path(), options, &["-S"])?;
    let answers = hold(&directory.path().join("vnc"), dialogue)?;
    let mut told = vec![json!(answers)];
    for event in ["VNC_CONNECTED", "VNC_DISCONNECTED"] {
        told.push(vm.qmp().wait_event(event)?["data"].clone());
    }
    for (command, arguments) in [
        ("query-vnc", json!({})),
        ("query-vnc-servers", json!({})),
        ("human-monitor-command", json!({"command-line": "info vnc"})),
    ] {
        told.push(vm.qmp().execute_with(command, arguments)?);
    }
    for (command, arguments) in [
        ("change-vnc-password", json!({"password": "x"})),
        ("set_password", json!({"protocol": "vnc", "password": "x", "connected": "fail"})),
        ("set_password", json!({"protocol": "vnc", "password": "x", "display": "nobody"})),
        ("set_password", json!({"protocol": "spice", "password": "x"})),
        ("expire_password", json!({"protocol": "vnc", "time": "never"})),
        ("expire_password", json!({"protocol": "vnc", "time": "soon"})),
        ("display-reload", json!({"type": "vnc", "tls-certs": true})),
        ("display-update", json!({"type": "vnc", "addresses": []})),
    ] {
        let answer = vm.qmp().execute_with(command, arguments);
        told.push(match answer {
            Ok(value) => value,
            Err(error) => json!(error.to_string()),
        });
    }
    Ok(told.into_iter().map(|value| cleaned(value, directory.path())).collect())
}

#[test]
fn both_say_the_same() -> Result<()> {
    let qemu = match reference_qemu() {
        Ok(qemu) => qemu,
        Err(reason) => {
            skip(&reason);
            return Ok(());
        }
    };
    for (options, dialogue) in DIALOGUES {
        let ours = answers(&program(), options, dialogue)?;
        let theirs = answers(&qemu, options, dialogue)?;
        ensure!(ours == theirs, "{options} {dialogue:?}:\n{ours:#?}\n{theirs:#?}");
    }
    Ok(())
}
