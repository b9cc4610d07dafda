//! The 8237 pair and the page registers. No device of the board without drives moves anything.

use crate::machine;
use anyhow::Result;
use testbed::pc::expect;
use testbed::qtest::QTest;

/// A controller: how far its ports are apart, and where they are.
struct Controller {
    base: u16,
    step: u16,
}

const CONTROLLERS: [Controller; 2] =
    [Controller { base: 0x00, step: 1 }, Controller { base: 0xc0, step: 2 }];

const COMMAND: u16 = 8;
const REQUEST: u16 = 9;
const SINGLE_MASK: u16 = 10;
const CLEAR_FLIP_FLOP: u16 = 12;
const MASTER_CLEAR: u16 = 13;
const CLEAR_MASK: u16 = 14;
const WRITE_MASK: u16 = 15;

impl Controller {
    fn port(&self, register: u16) -> u16 {
        self.base + register * self.step
    }

    fn write(&self, test: &mut QTest, register: u16, value: u8) -> Result<()> {
        test.outb(self.port(register), value)
    }

    fn word(&self, test: &mut QTest, register: u16) -> Result<u16> {
        self.write(test, CLEAR_FLIP_FLOP, 0)?;
        let port = self.port(register);
        Ok(u16::from_le_bytes([test.inb(port)?, test.inb(port)?]))
    }

    fn set_word(&self, test: &mut QTest, register: u16, value: u16) -> Result<()> {
        self.write(test, CLEAR_FLIP_FLOP, 0)?;
        test.outbs(self.port(register), &value.to_le_bytes())
    }
}

#[test]
fn addresses_and_counts_are_words_in_two_halves() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    for controller in CONTROLLERS {
        for register in 0..8 {
            controller.set_word(test, register, 0x1200 + register)?;
        }
        for register in 0..8 {
            expect("word", controller.word(test, register)?, 0x1200 + register)?;
        }
    }
    Ok(())
}

#[test]
fn the_flip_flop_is_cleared_by_command_and_by_master_clear() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    for controller in CONTROLLERS {
        controller.set_word(test, 0, 0x1234)?;
        for clear in [CLEAR_FLIP_FLOP, MASTER_CLEAR] {
            controller.write(test, CLEAR_FLIP_FLOP, 0)?;
            expect("low", test.inb(controller.port(0))?, 0x34)?;
            controller.write(test, clear, 0)?;
            expect("low again", test.inb(controller.port(0))?, 0x34)?;
            expect("high", test.inb(controller.port(0))?, 0x12)?;
        }
    }
    Ok(())
}

#[test]
fn a_software_request_shows_in_the_status() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    for controller in CONTROLLERS {
        for channel in 0..4u8 {
            controller.write(test, REQUEST, 4 | channel)?;
            expect("requested", test.inb(controller.port(COMMAND))?, 0x10 << channel)?;
            controller.write(test, REQUEST, channel)?;
            expect("taken back", test.inb(controller.port(COMMAND))?, 0)?;
        }
    }
    Ok(())
}

#[test]
fn write_only_registers_read_as_nothing() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    for controller in CONTROLLERS {
        for register in [SINGLE_MASK, CLEAR_FLIP_FLOP, MASTER_CLEAR, CLEAR_MASK, WRITE_MASK] {
            controller.write(test, register, 0)?;
            expect("register", test.inb(controller.port(register))?, 0)?;
        }
    }
    Ok(())
}

#[test]
fn page_registers_keep_a_byte() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    for port in [0x81, 0x82, 0x83, 0x87, 0x89, 0x8a, 0x8b, 0x8f] {
        test.check_masks(&[(port, 0xff, 0)])?;
        test.outb(port, port as u8)?;
    }
    for port in [0x81, 0x82, 0x83, 0x87, 0x89, 0x8a, 0x8b, 0x8f] {
        expect("page", test.inb(port)?, port as u8)?;
    }
    // The others of the block are nobody's.
    for port in [0x84, 0x85, 0x86, 0x88, 0x8c, 0x8d, 0x8e] {
        test.outb(port, 0x55)?;
        expect("no page", test.inb(port)?, 0xff)?;
    }
    Ok(())
}
