//! Properties of the machine types of a PC: `-machine pc,x=y`.

use base::props::{OnOffAuto, Props, Size};
use hw::firmware::acpi::Oem;
use hw::firmware::smbios::EntryPoint;

use crate::config::ConfigError;

base::prop_enum! {
    /// The format of the SMBIOS entry point.
    pub enum SmbiosEntryPoint: "str", "" {
        /// Whichever can describe the machine.
        Auto = "auto",
        /// The 32-bit one.
        Bits32 = "32",
        /// The 64-bit one.
        Bits64 = "64",
    }
}

/// Firmware beyond it would reach down to the chips below 4 GiB.
const FIRMWARE_LIMIT: u64 = 16 << 20;

/// Properties of a PC.
#[derive(Clone, Debug, Props)]
pub struct PcProps {
    /// ACPI hardware and tables.
    #[prop(help = "Enable ACPI")]
    pub acpi: OnOffAuto,
    /// Memory of devices can be shared with another process.
    #[prop(name = "aux-ram-share")]
    pub aux_ram_share: bool,
    /// Bus locks per second that a guest may take; as many as it likes if zero.
    #[prop(
        name = "bus-lock-ratelimit",
        help = "Set the ratelimit for the bus locks acquired in VMs"
    )]
    pub bus_lock_ratelimit: u64,
    /// The default root bus is not behind an IOMMU. The board has none.
    #[prop(name = "default-bus-bypass-iommu")]
    pub default_bus_bypass_iommu: bool,
    /// Guest memory is part of a core dump of this process.
    #[prop(name = "dump-guest-core", default = true, help = "Include guest memory in a core dump")]
    pub dump_guest_core: bool,
    /// Firmware checks a floppy's signature before it boots from it.
    #[prop(name = "fd-bootchk", default = true)]
    pub floppy_boot_check: bool,
    /// There may be a display.
    #[prop(default = true, help = "Set on/off to enable/disable graphics emulation")]
    pub graphics: bool,
    /// There is an HPET.
    #[prop(default = true, help = "Enable/disable high precision event timer emulation")]
    pub hpet: bool,
    /// There is a PS/2 controller.
    #[prop(default = true, help = "Enable/disable Intel 8042 PS/2 controller emulation")]
    pub i8042: bool,
    /// Most bytes of firmware in flash memory.
    #[prop(name = "max-fw-size", default = Size(8 << 20), help = "Maximum combined firmware size")]
    pub max_firmware: Size,
    /// Where RAM below 4 GiB ends at the latest.
    #[prop(name = "max-ram-below-4g", help = "Maximum ram below the 4G boundary (32bit boundary)")]
    pub max_ram_below_4g: Size,
    /// The host may share equal pages.
    #[prop(name = "mem-merge", default = true, help = "Enable/disable memory merge support")]
    pub mem_merge: bool,
    /// There is an 8259 pair.
    #[prop(help = "Enable i8259 PIC")]
    pub pic: OnOffAuto,
    /// There is an 8254.
    #[prop(help = "Enable i8254 PIT")]
    pub pit: OnOffAuto,
    /// There is a SATA bus. Boards with an i440FX have none in any case.
    #[prop(default = true, help = "Enable/disable Serial ATA bus")]
    pub sata: bool,
    /// Format of the SMBIOS entry point.
    #[prop(name = "smbios-entry-point-type", help = "SMBIOS Entry Point type [32, 64]")]
    pub smbios_entry_point: SmbiosEntryPoint,
    /// There is a system management bus. Boards with an i440FX have it with power management.
    #[prop(default = true, help = "Enable/disable system management bus")]
    pub smbus: bool,
    /// System management mode is offered.
    #[prop(help = "Enable SMM")]
    pub smm: OnOffAuto,
    /// The stream of a migration does not describe itself.
    #[prop(name = "suppress-vmdesc", help = "Set on to disable self-describing migration")]
    pub suppress_vmdesc: bool,
    /// There is a USB controller.
    #[prop(help = "Set on/off to enable/disable usb")]
    pub usb: bool,
    /// There is a VMware back door.
    #[prop(help = "Enable vmport (pc & q35)")]
    pub vmport: OnOffAuto,
    /// OEM id in ACPI tables.
    #[prop(
        name = "x-oem-id",
        help = "Override the default value of field OEMID in ACPI table header.The string may be up to 6 bytes in size"
    )]
    pub oem_id: Option<String>,
    /// OEM table id in ACPI tables.
    #[prop(
        name = "x-oem-table-id",
        help = "Override the default value of field OEM Table ID in ACPI table header.The string may be up to 8 bytes in size"
    )]
    pub oem_table_id: Option<String>,
}

impl PcProps {
    /// Refuses values that make no sense or that this build cannot honour.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.max_ram_below_4g.0 > 1 << 32 {
            return Err(ConfigError::new(format!(
                "Machine option 'max-ram-below-4g={}' expects size less than or equal to 4G",
                self.max_ram_below_4g.0
            )));
        }
        for (name, value, most) in
            [("x-oem-id", &self.oem_id, 6), ("x-oem-table-id", &self.oem_table_id, 8)]
        {
            if value.as_ref().is_some_and(|value| value.len() > most) {
                return Err(ConfigError::new(format!(
                    "User specified {name} value is bigger than {most} bytes in size"
                )));
            }
        }
        if self.max_firmware.0 > FIRMWARE_LIMIT {
            return Err(ConfigError::new(format!(
                "User specified max allowed firmware size {} is greater than 16MiB. If combined \
                 firmware size exceeds 16MiB the system may not boot, or experience intermittent\
                 stability issues.",
                self.max_firmware.0
            )));
        }
        Ok(())
    }

    /// What the operator should know of a value that is honoured.
    pub fn warnings(&self, ram: u64) -> Vec<String> {
        let Some(limit) = self.max_below_4g() else { return Vec::new() };
        let mut warnings = Vec::new();
        if limit < 1 << 20 {
            warnings.push(format!(
                "Only {limit} bytes of RAM below the 4GiB boundary,BIOS may not work with less than 1MiB"
            ));
        }
        if ram >= limit && !limit.is_multiple_of(1 << 30) {
            warnings.push(format!(
                "Large machine and max_ram_below_4g ({limit}) not a multiple of 1G; possible bad performance."
            ));
        }
        warnings
    }

    /// `max-ram-below-4g`, if given.
    pub fn max_below_4g(&self) -> Option<u64> {
        Some(self.max_ram_below_4g.0).filter(|&limit| limit > 0)
    }

    /// Identification in ACPI tables: padded with spaces by default, with zeros if given.
    pub fn oem(&self) -> Oem {
        let mut oem = Oem::default();
        if let Some(id) = &self.oem_id {
            oem.id = padded(id);
        }
        if let Some(id) = &self.oem_table_id {
            oem.table_id = padded(id);
        }
        oem
    }

    /// The format of the SMBIOS entry point.
    pub fn entry_point(&self) -> EntryPoint {
        match self.smbios_entry_point {
            SmbiosEntryPoint::Bits64 => EntryPoint::Bits64,
            SmbiosEntryPoint::Auto | SmbiosEntryPoint::Bits32 => EntryPoint::Bits32,
        }
    }
}

fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
    bytes
}

#[cfg(test)]
mod tests {
    use base::props::PropInput;

    use super::*;

    fn set(pairs: &[(&str, &str)]) -> Result<PcProps, String> {
        let mut props = PcProps::default();
        for (name, value) in pairs {
            props
                .set("pc-i440fx-10.0-machine", name, PropInput::Text(value))
                .map_err(|error| error.to_string())?;
        }
        props.check().map_err(|error| error.to_string())?;
        Ok(props)
    }

    /// Texts recorded from QEMU 10.0.2.
    #[test]
    fn faults() {
        for (name, value, message) in [
            ("foo", "1", "Property 'pc-i440fx-10.0-machine.foo' not found"),
            ("hpet", "1", "Parameter 'hpet' expects 'on' or 'off'"),
            ("smm", "x", "Parameter 'smm' does not accept value 'x'"),
            ("max-ram-below-4g", "x", "Parameter 'max-ram-below-4g' expects size"),
            (
                "max-ram-below-4g",
                "5G",
                "Machine option 'max-ram-below-4g=5368709120' expects size less than or equal to 4G",
            ),
            ("x-oem-id", "TOOLONG", "User specified x-oem-id value is bigger than 6 bytes in size"),
            (
                "smbios-entry-point-type",
                "x",
                "Parameter 'smbios-entry-point-type' does not accept value 'x'",
            ),
        ] {
            assert_eq!(set(&[(name, value)]).map(|_| ()), Err(message.into()));
        }
    }

    #[test]
    fn values() {
        let props = set(&[("hpet", "off"), ("max-ram-below-4g", "2G"), ("x-oem-id", "ACME")]);
        let props = props.unwrap();
        assert!(!props.hpet && props.mem_merge);
        assert_eq!(props.max_below_4g(), Some(2 << 30));
        assert_eq!(props.oem(), Oem { id: *b"ACME\0\0", table_id: *b"BXPC    " });
        assert_eq!(PcProps::default().max_below_4g(), None);
    }
}
