//! USB controllers: their registers, and devices that are reached without a driver.

use crate::{machine, machine_with_clock, machine_with_qmp};
use anyhow::{Result, bail, ensure};
use serde_json::json;
use testbed::pc::{devfn, expect};
use testbed::qtest::QTest;

const PLACE: u8 = devfn(4, 0);
const PORTS: u16 = 0xc000;
const BAR: u64 = 0xfe00_0000;
const OPERATIONAL: u64 = BAR + 0x40;
const INTERRUPTER: u64 = BAR + 0x1020;
const DOORBELLS: u64 = BAR + 0x2000;

const COMMANDS: u64 = 0x10_0000;
const EVENTS: u64 = 0x10_1000;
const SEGMENTS: u64 = 0x10_2000;
const CONTEXT_TABLE: u64 = 0x10_3000;
const CONTEXTS: u64 = 0x10_4000;
const INPUT: u64 = 0x10_5000;
const RING: u64 = 0x10_6000;
const DATA: u64 = 0x10_7000;

const FRAMES: u64 = 0x11_0000;
const QUEUE: u64 = 0x12_0000;
const TRANSFERS: u64 = 0x12_1000;

/// A tablet, as QEMU 10.0 describes it.
const TABLET: [u8; 18] = [18, 1, 0, 2, 0, 0, 0, 0x40, 0x27, 6, 1, 0, 0, 0, 1, 3, 10, 1];

fn store(test: &mut QTest, at: u64, words: &[u32]) -> Result<()> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    test.write(at, &bytes)
}

#[test]
fn uhci_shows_its_ports() -> Result<()> {
    let devices = ["-device", "piix3-usb-uhci,addr=4", "-device", "usb-tablet"];
    let mut vm = machine(&devices)?;
    let test = vm.qtest();
    expect("identity", test.pci_readl(PLACE, 0)?, 0x7020_8086)?;
    expect("class", test.pci_readl(PLACE, 8)?, 0x0c03_0001)?;
    expect("release", test.pci_readb(PLACE, 0x60)?, 0x10)?;
    expect("pin", test.pci_readb(PLACE, 0x3d)?, 4)?;
    test.pci_writel(PLACE, 0x20, PORTS.into())?;
    test.pci_writew(PLACE, 4, 5)?;
    for (offset, value) in [(0, 0), (2, 0x20), (4, 0), (6, 0), (0x10, 0x83), (0x12, 0x80)] {
        expect(&format!("register {offset:#x}"), test.inw(PORTS + offset)?, value)?;
    }
    expect("start of frame", test.inb(PORTS + 0xc)?, 64)?;
    test.outw(PORTS + 0x10, 2)?;
    expect("the change is cleared", test.inw(PORTS + 0x10)?, 0x81)?;
    test.outw(PORTS + 0x10, 4)?;
    expect("enabled", test.inw(PORTS + 0x10)?, 0x85)?;
    test.outw(PORTS, 2)?;
    expect("reset", test.inw(PORTS + 2)?, 0x20)?;
    Ok(())
}

/// Reads the tablet's descriptor by a queue of three transfers.
#[test]
fn uhci_does_a_request() -> Result<()> {
    let devices = ["-device", "piix3-usb-uhci,addr=4", "-device", "usb-tablet"];
    let Some(mut vm) = machine_with_clock(&devices)? else { return Ok(()) };
    let test = vm.qtest();
    test.pci_writel(PLACE, 0x20, PORTS.into())?;
    test.pci_writew(PLACE, 4, 5)?;
    for n in 0..1024 {
        test.writel(FRAMES + 4 * n, QUEUE as u32 | 2)?;
    }
    store(test, QUEUE, &[1, TRANSFERS as u32])?;
    test.write(DATA, &[0x80, 6, 0, 1, 0, 0, 18, 0])?;
    let active = 1 << 23 | 3 << 27;
    let transfer = |pid: u32, len: u32| pid | len.wrapping_sub(1) << 21;
    store(test, TRANSFERS, &[TRANSFERS as u32 | 0x24, active, transfer(0x2d, 8), DATA as u32])?;
    let data = DATA as u32 + 16;
    store(test, TRANSFERS + 32, &[TRANSFERS as u32 | 0x44, active, transfer(0x69, 18), data])?;
    store(test, TRANSFERS + 64, &[1, active | 1 << 24, transfer(0xe1, 0), 0])?;
    test.outl(PORTS + 8, FRAMES as u32)?;
    test.outw(PORTS + 0x10, 4)?;
    test.outw(PORTS + 4, 4)?;
    test.outw(PORTS, 1)?;
    test.clock_step(3_000_000)?;
    expect("status", test.inw(PORTS + 2)?, 1)?;
    expect("the last transfer", test.readl(TRANSFERS + 68)? & 0x00ff_07ff, 0x7ff)?;
    let mut wanted = TABLET;
    wanted[7] = 8;
    ensure!(test.read(DATA + 16, 18)? == wanted);
    expect("frame", test.inw(PORTS + 6)?, 3)
}

/// A driver of xHCI that does one thing after the other.
struct Driver<'a> {
    test: &'a mut QTest,
    commands: u64,
    events: u64,
    blocks: u64,
}

impl<'a> Driver<'a> {
    fn start(test: &'a mut QTest) -> Result<Self> {
        test.pci_writel(PLACE, 0x10, BAR as u32)?;
        test.pci_writew(PLACE, 4, 6)?;
        store(test, SEGMENTS, &[EVENTS as u32, 0, 64, 0])?;
        for (at, value) in [
            (OPERATIONAL + 0x38, 8),
            (OPERATIONAL + 0x30, CONTEXT_TABLE),
            (OPERATIONAL + 0x34, 0),
            (OPERATIONAL + 0x18, COMMANDS | 1),
            (OPERATIONAL + 0x1c, 0),
            (INTERRUPTER + 8, 1),
            (INTERRUPTER + 0x18, EVENTS),
            (INTERRUPTER + 0x1c, 0),
            (INTERRUPTER + 0x10, SEGMENTS),
            (INTERRUPTER + 0x14, 0),
            (OPERATIONAL, 5),
        ] {
            test.writel(at, value as u32)?;
        }
        Ok(Driver { test, commands: 0, events: 0, blocks: 0 })
    }

    /// The type and the code of the next event.
    fn event(&mut self) -> Result<(u32, u32)> {
        let at = EVENTS + 16 * self.events;
        let control = self.test.readl(at + 12)?;
        if control & 1 == 0 {
            bail!("no event");
        }
        self.events += 1;
        self.test.writel(INTERRUPTER + 0x18, (EVENTS + 16 * self.events) as u32 | 8)?;
        Ok((control >> 10 & 0x3f, self.test.readl(at + 8)? >> 24))
    }

    fn command(&mut self, kind: u32, parameter: u64, slot: u32) -> Result<u32> {
        let at = COMMANDS + 16 * self.commands;
        self.commands += 1;
        store(self.test, at, &[parameter as u32, 0, 0, kind << 10 | slot << 24 | 1])?;
        self.test.writel(DOORBELLS, 0)?;
        let (event, code) = self.event()?;
        expect("a command's event", event, 33)?;
        Ok(code)
    }

    /// A request of the first slot's device; returns the code of its last event.
    fn request(&mut self, setup: [u8; 8]) -> Result<u32> {
        let len = u32::from(u16::from_le_bytes([setup[6], setup[7]]));
        let [low, high] = [0, 4]
            .map(|n| u32::from_le_bytes([setup[n], setup[n + 1], setup[n + 2], setup[n + 3]]));
        for words in [
            [low, high, 8, 2 << 10 | 1 << 6 | 1],
            [DATA as u32, 0, len, 3 << 10 | 1 << 16 | 1],
            [0, 0, 0, 4 << 10 | 1 << 5 | 1],
        ] {
            store(self.test, RING + 16 * self.blocks, &words)?;
            self.blocks += 1;
        }
        self.test.writel(DOORBELLS + 4, 1)?;
        let (event, code) = self.event()?;
        expect("a transfer's event", event, 32)?;
        Ok(code)
    }
}

#[test]
fn xhci_addresses_a_device() -> Result<()> {
    let devices = ["-device", "qemu-xhci,addr=4,streams=off", "-device", "usb-tablet"];
    let mut vm = machine(&devices)?;
    let test = vm.qtest();
    expect("identity", test.pci_readl(PLACE, 0)?, 0x000d_1b36)?;
    expect("class", test.pci_readl(PLACE, 8)?, 0x0c03_3001)?;
    expect("messages", test.pci_readl(PLACE, 0x90)?, 0x000f_0011)?;
    let mut driver = Driver::start(test)?;
    let test = &mut driver.test;
    for (offset, value) in
        [(0, 0x0100_0040), (4, 0x0800_1040), (0x10, 0x8_0001), (0x20, 0x0200_0402)]
    {
        expect(&format!("capability {offset:#x}"), test.readl(BAR + offset)?, value)?;
    }
    expect("it runs", test.readl(OPERATIONAL + 4)? & 1, 0)?;
    let port = BAR + 0x440 + 0x40;
    expect("port 5", test.readl(port)?, 0x2_0ee1)?;
    test.writel(port, 0x2_0210)?;
    let (event, code) = driver.event()?;
    ensure!((event, code) == (34, 1), "port change: {event} {code}");
    expect("after a reset", driver.test.readl(port)? & 0x1fff, 0xe03)?;
    expect("no operation", driver.command(23, 0, 0)?, 1)?;
    expect("nobody's slot", driver.command(10, 0, 1)?, 11)?;
    expect("a slot", driver.command(9, 0, 0)?, 1)?;
    let test = &mut driver.test;
    test.writeq(CONTEXT_TABLE + 8, CONTEXTS)?;
    store(test, INPUT, &[0, 3])?;
    store(test, INPUT + 32, &[1 << 27 | 3 << 20, 5 << 16])?;
    store(test, INPUT + 64, &[0, 4 << 3 | 64 << 16 | 3 << 1, RING as u32 | 1, 0, 8])?;
    expect("an address", driver.command(11, INPUT, 1)?, 1)?;
    expect("the slot's state", driver.test.readl(CONTEXTS + 12)?, 2 << 27 | 1)?;
    expect("a descriptor", driver.request([0x80, 6, 0, 1, 0, 0, 18, 0])?, 1)?;
    ensure!(driver.test.read(DATA, 18)? == TABLET);
    expect("what is refused", driver.request([0x80, 6, 0, 0x77, 0, 0, 18, 0])?, 6)?;
    expect("halted", driver.test.readl(CONTEXTS + 32)? & 7, 2)?;
    Ok(())
}

/// Texts recorded from QEMU 10.0.2.
#[test]
fn devices_come_and_go() -> Result<()> {
    let devices = ["-device", "piix3-usb-uhci,id=u", "-device", "usb-kbd,id=k"];
    let mut vm = machine_with_qmp(&devices)?;
    let qmp = vm.qmp();
    for (options, refusal) in [
        (json!({"driver": "usb-tablet", "id": "t"}), None),
        (
            json!({"driver": "usb-tablet", "port": "9"}),
            Some("usb port 9 (bus u.0) not found (in use?)"),
        ),
        (json!({"driver": "usb-tablet", "bus": "foo"}), Some("Bus 'foo' not found")),
        (
            json!({"driver": "usb-tablet", "usb_version": 3}),
            Some("Invalid usb version 3 for usb hid device"),
        ),
        (json!({"driver": "usb-mouse", "id": "t"}), Some("Duplicate device ID 't'")),
        (json!({"driver": "usb-mouse", "id": "m", "port": "2.2"}), None),
    ] {
        let reply = qmp.call(&json!({"execute": "device_add", "arguments": options}))?;
        let text = reply["error"]["desc"].as_str();
        ensure!(text == refusal, "{options}: {reply}");
    }
    let listing = qmp.hmp("info usb")?;
    let wanted = "  Device 0.0, Port 1, Speed 12 Mb/s, Product QEMU USB Keyboard, ID: k
  Device 0.0, Port 2, Speed 12 Mb/s, Product QEMU USB Hub
  Device 0.0, Port 2.1, Speed 12 Mb/s, Product QEMU USB Tablet, ID: t
  Device 0.0, Port 2.2, Speed 12 Mb/s, Product QEMU USB Mouse, ID: m
";
    ensure!(listing == wanted, "{listing}");
    let mice = qmp.hmp("info mice")?;
    ensure!(mice.contains("QEMU HID Tablet (absolute)\n") && mice.contains("QEMU HID Mouse\n"));
    qmp.execute_with("device_del", json!({"id": "t"}))?;
    let event = qmp.wait_event("DEVICE_DELETED")?;
    ensure!(event["data"]["path"] == "/machine/peripheral/t", "{event}");
    ensure!(!qmp.hmp("info mice")?.contains("Tablet"));
    let again = qmp.call(&json!({"execute": "device_del", "arguments": {"id": "t"}}))?;
    ensure!(again["error"]["desc"] == "Device 't' not found", "{again}");
    Ok(())
}
