//! Properties of the chips on a PC's board, which nobody adds and only `-global` sets.
//!
//! What the board itself decides (`smb_io_base`, `hpet-intcap` and so on) can be set without
//! effect, as under QEMU: the board has the last word.

use base::props::{PropError, PropInput, PropSpec, Props};
use hw::storage::floppy::DriveType;

base::prop_enum! {
    /// What becomes of timer interrupts that the guest was too late for.
    pub enum LostTickPolicy: "LostTickPolicy", "Policy for handling lost ticks (discard/delay/slew)" {
        /// They are lost.
        Discard = "discard",
        /// They come late, one after the other.
        Delay = "delay",
        /// They come late and faster.
        Slew = "slew",
    }
}

/// `PIIX4_PM`
#[derive(Debug, Props)]
pub struct PmProps {
    /// S3 is not offered.
    pub disable_s3: u8,
    /// S4 is not offered.
    pub disable_s4: u8,
    /// Sleep type of S4.
    #[prop(default = 2)]
    pub s4_val: u8,
    /// The board's decision.
    pub smb_io_base: u32,
    /// The board's decision.
    #[prop(name = "smm-enabled")]
    pub smm_enabled: bool,
    /// Devices behind bridges, of which the board has none, can come and go.
    #[prop(name = "acpi-pci-hotplug-with-bridge-support", default = true)]
    pub bridge_hotplug: bool,
}

/// `mc146818rtc`
#[derive(Debug, Props)]
pub struct RtcProps {
    /// The board's decision.
    #[prop(default = 1980)]
    pub base_year: i32,
    /// The index register's port.
    #[prop(default = 0x70)]
    pub iobase: u16,
    /// The interrupt.
    #[prop(default = 8)]
    pub irq: u8,
    /// Late interrupts.
    pub lost_tick_policy: LostTickPolicy,
}

/// `kvm-pit`: the interval timer in the kernel.
#[derive(Debug, Props)]
pub struct KernelPitProps {
    /// The board's decision.
    #[prop(default = u32::MAX)]
    pub iobase: u32,
    /// Late interrupts.
    #[prop(default = LostTickPolicy::Delay)]
    pub lost_tick_policy: LostTickPolicy,
}

/// `fw_cfg_io`
#[derive(Debug, Props)]
pub struct FwCfgProps {
    /// Whether the guest may read by DMA.
    #[prop(default = true)]
    pub dma_enabled: bool,
}

/// `isa-fdc`
#[derive(Debug, Props)]
pub struct FdcProps {
    /// The first port.
    #[prop(default = 0x3f0)]
    pub iobase: u32,
    /// The interrupt.
    #[prop(default = 6)]
    pub irq: u32,
    /// The DMA channel.
    #[prop(default = 2)]
    pub dma: u32,
    /// Without effect, as under QEMU: drives have types of their own.
    #[prop(name = "fdtypeA")]
    pub type_a: DriveType,
    /// Without effect, too.
    #[prop(name = "fdtypeB")]
    pub type_b: DriveType,
    /// What a drive is whose disk tells nothing.
    #[prop(default = DriveType::Extended3)]
    pub fallback: DriveType,
    /// The first drive's place in the order in which firmware tries to boot.
    #[prop(name = "bootindexA")]
    pub boot_index_a: Option<i32>,
    /// The second drive's.
    #[prop(name = "bootindexB")]
    pub boot_index_b: Option<i32>,
}

/// Why the floppy disk controller can not be as its properties want it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FdcPropError {
    /// A place that is to be found by itself.
    #[error("Cannot choose a fallback FDrive type of 'auto'")]
    Fallback,
    /// There are sixteen.
    #[error("isa-fdc: there is no ISA interrupt {0}")]
    NoInterrupt(u32),
    /// There are seven.
    #[error("isa-fdc: there is no DMA channel {0}")]
    NoChannel(u32),
    /// Both drives can not be the same one in the order.
    #[error("can't apply global isa-fdc.bootindexB={0}: The bootindex {0} has already been used")]
    SameBootIndex(i32),
}

impl FdcProps {
    /// Refuses what no board can have.
    pub fn check(&self) -> Result<(), FdcPropError> {
        if self.fallback == DriveType::Auto {
            return Err(FdcPropError::Fallback);
        }
        if self.irq > 15 {
            return Err(FdcPropError::NoInterrupt(self.irq));
        }
        if self.dma > 7 || self.dma == 4 {
            return Err(FdcPropError::NoChannel(self.dma));
        }
        if let Some(index) = self.boot_index_a.filter(|&index| index >= 0)
            && self.boot_index_b == Some(index)
        {
            return Err(FdcPropError::SameBootIndex(index));
        }
        Ok(())
    }
}

/// `i8042`
#[derive(Debug, Props)]
pub struct KeyboardProps {
    /// The keyboard's interrupt.
    #[prop(name = "kbd-irq", default = 1)]
    pub keyboard_irq: u8,
    /// The mouse's interrupt.
    #[prop(name = "mouse-irq", default = 12)]
    pub mouse_irq: u8,
}

/// `hpet`
#[derive(Debug, Props)]
pub struct HpetProps {
    /// The board's decision.
    #[prop(name = "hpet-intcap")]
    pub routes: u32,
}

/// Types of chips that there are on every board, without properties that can be set.
const PLAIN: &[&str] = &[
    "PIIX3",
    "i440FX",
    "i8257",
    "ioapic",
    "isa-i8259",
    "isa-pcspk",
    "isa-pit",
    "piix3-ide",
    "port92",
];

/// Types with properties.
const CHIPS: &[&str] =
    &["PIIX4_PM", "fw_cfg_io", "hpet", "i8042", "isa-fdc", "kvm-pit", "mc146818rtc"];

/// Whether a type is of chips on the board.
pub fn is_chip(name: &str) -> bool {
    CHIPS.contains(&name) || PLAIN.contains(&name)
}

/// The properties that a type of chip has.
pub fn specs(name: &str) -> &'static [PropSpec] {
    match name {
        "PIIX4_PM" => PmProps::specs(),
        "mc146818rtc" => RtcProps::specs(),
        "kvm-pit" => KernelPitProps::specs(),
        "fw_cfg_io" => FwCfgProps::specs(),
        "i8042" => KeyboardProps::specs(),
        "isa-fdc" => FdcProps::specs(),
        "hpet" => HpetProps::specs(),
        _ => &[],
    }
}

/// The chips' properties.
#[derive(Debug, Default)]
pub struct Onboard {
    /// Power management.
    pub pm: PmProps,
    /// The real-time clock.
    pub rtc: RtcProps,
    /// The interval timer, if it is the kernel's.
    pub kernel_pit: KernelPitProps,
    /// Firmware configuration.
    pub fw_cfg: FwCfgProps,
    /// The keyboard controller.
    pub i8042: KeyboardProps,
    /// The HPET.
    pub hpet: HpetProps,
    /// The floppy disk controller.
    pub fdc: FdcProps,
}

impl Onboard {
    /// Sets a property of a type of chip; `None` if the board has no such type.
    pub fn set(&mut self, chip: &str, name: &str, value: &str) -> Option<Result<(), PropError>> {
        let input = PropInput::Global(value);
        let props: &mut dyn Props = match chip {
            "PIIX4_PM" => &mut self.pm,
            "mc146818rtc" => &mut self.rtc,
            "kvm-pit" => &mut self.kernel_pit,
            "fw_cfg_io" => &mut self.fw_cfg,
            "i8042" => &mut self.i8042,
            "isa-fdc" => &mut self.fdc,
            "hpet" => &mut self.hpet,
            _ if PLAIN.contains(&chip) => return Some(Err(PropError::not_found(chip, name))),
            _ => return None,
        };
        Some(props.set(chip, name, input))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chips_by_type() {
        let mut chips = Onboard::default();
        let mut set = |chip, name, value| {
            chips.set(chip, name, value).map(|done| done.map_err(|error| error.to_string()))
        };
        assert_eq!(set("PIIX4_PM", "disable_s3", "1"), Some(Ok(())));
        assert_eq!(set("mc146818rtc", "lost_tick_policy", "slew"), Some(Ok(())));
        assert_eq!(set("nonsense", "x", "1"), None);
        let missing = "Property 'i440FX.x' not found".to_owned();
        assert_eq!(set("i440FX", "x", "1"), Some(Err(missing)));
        let range = "Parameter 'disable_s3' expects uint8_t".to_owned();
        assert_eq!(set("PIIX4_PM", "disable_s3", "300"), Some(Err(range)));
        assert_eq!(chips.pm.disable_s3, 1);
        assert_eq!(chips.rtc.lost_tick_policy, LostTickPolicy::Slew);
    }
}
