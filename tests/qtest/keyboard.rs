//! The keyboard controller, the PS/2 keyboard and mouse behind it, and port 92h.

use crate::{machine, machine_with_qmp};
use anyhow::{Result, ensure};
use testbed::pc::expect;
use testbed::qtest::QTest;

const DATA: u16 = 0x60;
const COMMAND: u16 = 0x64;
const PORT_92: u16 = 0x92;

const READ_MODE: u8 = 0x20;
const WRITE_MODE: u8 = 0x60;
const READ_OUTPUT: u8 = 0xd0;
const WRITE_OUTPUT: u8 = 0xd1;
const TO_MOUSE: u8 = 0xd4;

const FULL: u8 = 1;
const MOUSE_FULL: u8 = 0x20;
const ACKNOWLEDGE: u8 = 0xfa;
const RESEND: u8 = 0xfe;

/// A command of the controller and its answer of one byte.
fn ask(test: &mut QTest, command: u8) -> Result<u8> {
    test.outb(COMMAND, command)?;
    test.inb(DATA)
}

fn drain(test: &mut QTest) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while test.inb(COMMAND)? & FULL != 0 && bytes.len() < 32 {
        bytes.push(test.inb(DATA)?);
    }
    Ok(bytes)
}

fn keyboard(test: &mut QTest, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut answer = Vec::new();
    for &byte in bytes {
        test.outb(DATA, byte)?;
        answer.extend(drain(test)?);
    }
    Ok(answer)
}

fn mouse(test: &mut QTest, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut answer = Vec::new();
    for &byte in bytes {
        test.outb(COMMAND, TO_MOUSE)?;
        test.outb(DATA, byte)?;
        answer.extend(drain(test)?);
    }
    Ok(answer)
}

/// Sends bytes to one of the two devices and returns all answers.
type Send = fn(&mut QTest, &[u8]) -> Result<Vec<u8>>;

/// Commands with their answers.
type Talk<'a> = &'a [(&'a [u8], &'a [u8])];

fn converse(test: &mut QTest, send: Send, talk: Talk<'_>) -> Result<()> {
    for (command, wanted) in talk {
        let answer = send(test, command)?;
        ensure!(answer == *wanted, "{command:02x?}: {answer:02x?} instead of {wanted:02x?}");
    }
    Ok(())
}

#[test]
fn the_controller_passes_its_tests() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    expect("status at reset", test.inb(COMMAND)?, 0x18)?;
    expect("self test", ask(test, 0xaa)?, 0x55)?;
    expect("the system flag is set", test.inb(COMMAND)?, 0x1c)?;
    expect("keyboard interface", ask(test, 0xab)?, 0)?;
    expect("mouse interface", ask(test, 0xa9)?, 0)?;
    expect("input port", ask(test, 0xc0)?, 0x80)
}

#[test]
fn the_command_byte_enables_and_disables() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    expect("at reset", ask(test, READ_MODE)?, 0x03)?;
    for (command, mode) in [(0xad, 0x13), (0xa7, 0x33), (0xae, 0x23), (0xa8, 0x03)] {
        test.outb(COMMAND, command)?;
        expect("mode", ask(test, READ_MODE)?, mode)?;
    }
    for mode in [0x61, 0x00, 0x7f, 0x03] {
        test.outb(COMMAND, WRITE_MODE)?;
        test.outb(DATA, mode)?;
        expect("mode", ask(test, READ_MODE)?, mode)?;
    }
    Ok(())
}

#[test]
fn buffers_can_be_filled_by_command() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    test.irq_intercept_in("ioapic")?;
    test.outb(COMMAND, 0xd2)?;
    test.outb(DATA, 0x5a)?;
    ensure!(test.edges()? == [(1, true)]);
    expect("from the keyboard", test.inb(COMMAND)? & (FULL | MOUSE_FULL), FULL)?;
    expect("byte", test.inb(DATA)?, 0x5a)?;
    ensure!(test.edges()? == [(1, false)]);
    test.outb(COMMAND, 0xd3)?;
    test.outb(DATA, 0xa5)?;
    ensure!(test.edges()? == [(12, true)]);
    expect("from the mouse", test.inb(COMMAND)? & (FULL | MOUSE_FULL), FULL | MOUSE_FULL)?;
    expect("byte", test.inb(DATA)?, 0xa5)?;
    ensure!(test.edges()? == [(12, false)]);
    expect("empty", test.inb(COMMAND)? & FULL, 0)
}

#[test]
fn interrupts_come_as_the_command_byte_says() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    test.irq_intercept_in("ioapic")?;
    for (mode, wanted) in [(0x00, &[][..]), (0x03, &[(1, true), (1, false)])] {
        test.outb(COMMAND, WRITE_MODE)?;
        test.outb(DATA, mode)?;
        test.edges()?;
        test.outb(DATA, 0xee)?;
        expect("echo", test.inb(DATA)?, 0xee)?;
        let edges = test.edges()?;
        ensure!(edges == wanted, "mode {mode:02x}: {edges:?}");
    }
    // One edge for each byte.
    test.outb(DATA, 0xf2)?;
    expect("acknowledge", test.inb(DATA)?, ACKNOWLEDGE)?;
    ensure!(test.edges()? == [(1, true), (1, false), (1, true)]);
    Ok(())
}

#[test]
fn the_keyboard_answers_every_command() -> Result<()> {
    let mut vm = machine(&[])?;
    const OK: &[u8] = &[ACKNOWLEDGE];
    converse(
        vm.qtest(),
        keyboard,
        &[
            (&[0xee], &[0xee]),
            (&[0xf2], &[ACKNOWLEDGE, 0xab, 0x83]),
            (&[0xff], &[ACKNOWLEDGE, 0xaa]),
            (&[0xf5], OK),
            (&[0xf4], OK),
            (&[0xf6], OK),
            (&[0xed, 0x07], &[ACKNOWLEDGE, ACKNOWLEDGE]),
            (&[0xf3, 0x20], &[ACKNOWLEDGE, ACKNOWLEDGE]),
            (&[0xf0, 0x00], &[ACKNOWLEDGE, ACKNOWLEDGE, 2]),
            (&[0xf0, 0x03], &[ACKNOWLEDGE, ACKNOWLEDGE]),
            (&[0xf0, 0x00], &[ACKNOWLEDGE, ACKNOWLEDGE, 3]),
            (&[0xf0, 0x01], &[ACKNOWLEDGE, ACKNOWLEDGE]),
            (&[0xf0, 0x00], &[ACKNOWLEDGE, ACKNOWLEDGE, 1]),
            (&[0xf0, 0x02], &[ACKNOWLEDGE, ACKNOWLEDGE]),
            (&[0xe1], &[RESEND]),
            (&[0xfe], &[RESEND]),
        ],
    )
}

#[test]
fn translation_turns_set_2_into_set_1() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    test.outb(COMMAND, WRITE_MODE)?;
    test.outb(DATA, 0x43)?;
    // The identification and the number of the set are translated like any code.
    converse(
        test,
        keyboard,
        &[
            (&[0xf2], &[ACKNOWLEDGE, 0xab, 0x41]),
            (&[0xf0, 0x00], &[ACKNOWLEDGE, ACKNOWLEDGE, 0x41]),
        ],
    )
}

#[test]
fn the_mouse_answers_every_command() -> Result<()> {
    let mut vm = machine(&[])?;
    const OK: &[u8] = &[ACKNOWLEDGE];
    const OK2: &[u8] = &[ACKNOWLEDGE, ACKNOWLEDGE];
    converse(
        vm.qtest(),
        mouse,
        &[
            (&[0xf2], &[ACKNOWLEDGE, 0]),
            (&[0xff], &[ACKNOWLEDGE, 0xaa, 0]),
            // Status: scaling 1:1, off, resolution 2, 100 samples a second.
            (&[0xe9], &[ACKNOWLEDGE, 0x00, 2, 100]),
            (&[0xe7], OK),
            (&[0xf4], OK),
            (&[0xf3, 200], OK2),
            (&[0xe8, 3], OK2),
            (&[0xe9], &[ACKNOWLEDGE, 0x30, 3, 200]),
            (&[0xe6], OK),
            (&[0xf5], OK),
            (&[0xf0], OK),
            (&[0xe9], &[ACKNOWLEDGE, 0x40, 3, 200]),
            (&[0xeb], &[ACKNOWLEDGE, 0x08, 0, 0]),
            (&[0xea], OK),
            (&[0xf6], OK),
            (&[0xe9], &[ACKNOWLEDGE, 0x00, 2, 100]),
            // Wrapped round, everything comes back but the two that end it.
            (&[0xee], OK),
            (&[0x12, 0x55], &[0x12, 0x55]),
            (&[0xec], OK),
        ],
    )
}

#[test]
fn knocking_with_sample_rates_finds_wheel_and_buttons() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    mouse(test, &[0xf3, 200, 0xf3, 100, 0xf3, 80])?;
    converse(test, mouse, &[(&[0xf2], &[ACKNOWLEDGE, 3])])?;
    mouse(test, &[0xf3, 200, 0xf3, 200, 0xf3, 80])?;
    converse(test, mouse, &[(&[0xf2], &[ACKNOWLEDGE, 4])])?;
    converse(test, mouse, &[(&[0xeb], &[ACKNOWLEDGE, 0x08, 0, 0, 0])])
}

#[test]
fn address_line_20_has_two_switches() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    expect("output port", ask(test, READ_OUTPUT)?, 0xcf)?;
    test.outb(COMMAND, 0xdd)?;
    expect("off", ask(test, READ_OUTPUT)?, 0xcd)?;
    test.outb(COMMAND, 0xdf)?;
    expect("on", ask(test, READ_OUTPUT)?, 0xcf)?;
    for value in [0xdd, 0xdf] {
        test.outb(COMMAND, WRITE_OUTPUT)?;
        test.outb(DATA, value)?;
        expect("output port", ask(test, READ_OUTPUT)?, value)?;
    }
    // Port 92h keeps its own bit, and all others but the one that resets.
    expect("port 92h", test.inb(PORT_92)?, 0)?;
    for value in [2, 0, 0xfe] {
        test.outb(PORT_92, value)?;
        expect("port 92h", test.inb(PORT_92)?, value)?;
    }
    Ok(())
}

#[test]
fn three_switches_reset_the_machine() -> Result<()> {
    for (port, values) in [(COMMAND, &[0xfe][..]), (PORT_92, &[0, 1]), (COMMAND, &[0xf0])] {
        let mut vm = machine_with_qmp(&[])?;
        vm.qtest().outbs(port, values)?;
        let event = vm.qmp().wait_event("RESET")?;
        ensure!(event["data"]["guest"] == true, "{event}");
        ensure!(event["data"]["reason"] == "guest-reset", "{event}");
    }
    Ok(())
}
