//! What firmware does to the chips before a kernel runs, for kernels that are started without
//! firmware: BARs, interrupt routing, memory attributes, power management. The outcome is the one
//! that SeaBIOS leaves behind, so that guests see the same machine either way.

use hw::intc::i8259::ELCR_PORT;
use hw::pci::{Bar, BarKind, PciFunction, ROM_BAR, reg};

use hw::input::i8042;

use super::board::Pc;

const IO_START: u64 = 0xc000;
const MEMORY_END: u64 = 0xfec0_0000;
const PAGE: u64 = 0x1000;

/// ISA interrupts that PIRQA to PIRQD are routed to.
const PIRQ_ROUTES: [u8; 4] = [10, 10, 11, 11];
/// Of these interrupts, the secondary 8259's are level-triggered.
const LEVEL_TRIGGERED: u8 = 1 << (10 - 8) | 1 << (11 - 8);

/// Register writes on the board's own functions: offset, size, value.
type Writes = &'static [(usize, u8, u32)];

/// The BIOS area read-only, the parts behind it writable for the kernel's use; SMRAM closed.
/// The area of option ROMs comes last.
const HOST_BRIDGE: Writes =
    &[(0x57, 1, 0x40), (0x59, 1, 0x10), (0x5e, 1, 0x31), (0x5f, 1, 0x33), (0x72, 1, 0x0a)];
/// PM registers at 600h, SMI on APM commands, SMBus host at 700h.
const POWER_MANAGEMENT: Writes = &[
    (reg::INTERRUPT_LINE, 1, 9),
    (0x40, 4, 0x601),
    (0x80, 1, 0x01),
    (0x5b, 1, 0x02),
    (0x5f, 1, 0x90),
    (0x67, 1, 0x08),
    (0x90, 4, 0x701),
    (0xd2, 1, 0x09),
];
/// Routes of PIRQA to PIRQD.
const ISA_BRIDGE: Writes = &[(0x60, 4, u32::from_le_bytes(PIRQ_ROUTES))];
/// Decoding of the legacy IDE ports.
const IDE: Writes = &[(0x40, 4, 0x8000_8000)];

/// Scan codes are translated to set 1, the keyboard interrupts, the mouse is off.
const KEYBOARD_MODE: u8 = 0x61;

struct Wanted<'a> {
    function: &'a PciFunction,
    number: usize,
    bar: Bar,
}

impl Wanted<'_> {
    /// What it takes: memory is given out by pages.
    fn room(&self) -> u64 {
        match self.bar.kind {
            BarKind::Io => self.bar.size,
            _ => self.bar.size.max(PAGE),
        }
    }

    /// Programs the register and returns the address behind the BAR.
    fn place(&self, at: u64) -> u64 {
        let offset = if self.number == ROM_BAR { reg::ROM } else { reg::BAR0 + 4 * self.number };
        self.function.config_write(offset, 4, at as u32);
        if matches!(self.bar.kind, BarKind::Memory64 { .. }) {
            self.function.config_write(offset + 4, 4, (at >> 32) as u32);
        }
        at + self.room()
    }
}

fn place_all(mut wanted: Vec<Wanted<'_>>, start: u64) {
    // Powers of two in falling order never leave a gap.
    wanted.sort_by_key(|wanted| std::cmp::Reverse(wanted.room()));
    wanted.iter().fold(start, |at, wanted| wanted.place(at));
}

fn total(wanted: &[Wanted<'_>]) -> (u64, u64) {
    let sizes = wanted.iter().map(Wanted::room);
    (sizes.clone().sum(), sizes.max().unwrap_or(1))
}

fn place_bars(functions: &[std::sync::Arc<PciFunction>]) {
    let (mut io, mut plain, mut prefetchable) = (Vec::new(), Vec::new(), Vec::new());
    for function in functions {
        let config = function.config();
        for (number, bar) in config.bars().iter().enumerate() {
            let Some(bar) = *bar else { continue };
            let wanted = Wanted { function, number, bar };
            match bar.kind {
                BarKind::Io => io.push(wanted),
                BarKind::Memory32 { prefetchable: true }
                | BarKind::Memory64 { prefetchable: true } => prefetchable.push(wanted),
                _ => plain.push(wanted),
            }
        }
    }
    place_all(io, IO_START);
    let mut groups = [plain, prefetchable];
    if total(&groups[0]).0 > total(&groups[1]).0 {
        groups.swap(0, 1);
    }
    let mut end = MEMORY_END;
    for group in groups {
        let (size, align) = total(&group);
        end = end.saturating_sub(size) & !(align - 1);
        place_all(group, end);
    }
}

/// The ISA interrupt of a function's pin.
fn interrupt_line(devfn: u8, pin: u8) -> u8 {
    PIRQ_ROUTES[hw::pci::i440fx::intx_map(devfn, pin)]
}

/// Slot, pin (0 is INTA#) and I/O APIC input of every function that interrupts.
pub fn pci_interrupts(pc: &Pc) -> Vec<(u8, u8, u8)> {
    let functions = pc.pci.functions();
    let with_pins = functions.iter().filter_map(|function| {
        let pin = function.config().u8(reg::INTERRUPT_PIN).checked_sub(1)?;
        Some((function.devfn() >> 3, pin, function.config().u8(reg::INTERRUPT_LINE)))
    });
    with_pins.collect()
}

/// Sets the machine up as firmware would.
pub fn set_up(pc: &Pc) {
    let functions = pc.pci.functions();
    place_bars(&functions);
    for function in &functions {
        let pin = function.config().u8(reg::INTERRUPT_PIN);
        if pin > 0 {
            let line = interrupt_line(function.devfn(), pin);
            function.config_write(reg::INTERRUPT_LINE, 1, line.into());
        }
        let command = reg::COMMAND_IO | reg::COMMAND_MEMORY | reg::COMMAND_SERR;
        function.config_write(reg::COMMAND, 2, command.into());
        let writes: Writes = match function.name() {
            "i440FX" => HOST_BRIDGE,
            "PIIX4_PM" => POWER_MANAGEMENT,
            "piix3-ide" => IDE,
            "PIIX3" => ISA_BRIDGE,
            _ => &[],
        };
        for &(offset, size, value) in writes {
            function.config_write(offset, size, value);
        }
    }
    let out = |port, value: u8| pc.map.ports.write_uint(port, 1, value.into());
    out(ELCR_PORT + 1, LEVEL_TRIGGERED);
    out(i8042::COMMAND_PORT, i8042::SELF_TEST);
    pc.map.ports.read_uint(i8042::DATA_PORT, 1);
    out(i8042::COMMAND_PORT, i8042::WRITE_MODE);
    out(i8042::DATA_PORT, KEYBOARD_MODE);
}

/// Memory attributes of the area of option ROMs.
const ROM_ATTRIBUTES: usize = 0x5a;

/// RAM takes the place of option ROMs, for them to be copied into and to set themselves up.
pub fn open_roms(pc: &Pc) {
    set_rom_attributes(pc, 0x3333_3333);
}

/// Option ROMs are read-only from now on.
pub fn close_roms(pc: &Pc) {
    set_rom_attributes(pc, 0x1111_1111);
}

fn set_rom_attributes(pc: &Pc, attributes: u32) {
    if let Some(bridge) = pc.pci.function(0) {
        bridge.config_write(ROM_ATTRIBUTES, 4, attributes);
    }
}
