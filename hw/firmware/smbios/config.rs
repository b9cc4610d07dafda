//! What `-smbios` can set, one type of structure at a time.

use thiserror::Error;

/// Why an `-smbios` option is refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SmbiosError {
    /// Key that the type does not have.
    #[error("Invalid parameter '{0}'")]
    UnknownKey(String),
    /// `type=` with a type that cannot be described by fields.
    #[error("Don't know how to build fields for SMBIOS type {0}")]
    UnknownType(u64),
    /// Not a number.
    #[error("Parameter '{0}' expects a number")]
    NotANumber(String),
    /// Neither on nor off.
    #[error("Parameter '{0}' expects 'on' or 'off'")]
    NotASwitch(String),
    /// `release=` is not `%d.%d`.
    #[error("Invalid release")]
    Release,
    /// `uuid=` is malformed.
    #[error("Invalid UUID")]
    Uuid,
    /// Speeds are 16 bits wide.
    #[error("SMBIOS CPU speed is too large (> 65535)")]
    Speed,
    /// `kind=` names no kind of device.
    #[error("invalid parameter value: {0}")]
    Kind(String),
    /// `type=` after `file=` with the same type.
    #[error("can't add fields, binary file already loaded!")]
    AlreadyLoaded,
    /// `file=` after `type=` with the same type.
    #[error("can't load type {0} struct, fields already specified!")]
    AlreadySpecified(u8),
    /// The file holds no structure.
    #[error("SMBIOS file is too short for a structure")]
    Truncated,
}

/// A UUID in the order in which it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// Reads the form `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
    pub fn parse(text: &str) -> Option<Uuid> {
        let groups: Vec<&str> = text.split('-').collect();
        if !groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) {
            return None;
        }
        let digits: Option<Vec<u8>> = groups
            .concat()
            .chars()
            .map(|digit| digit.to_digit(16).map(|digit| digit as u8))
            .collect();
        let bytes: Vec<u8> = digits?.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        bytes.try_into().ok().map(Uuid)
    }

    /// The form in tables: the first three groups are little-endian numbers.
    pub fn to_little_endian(self) -> [u8; 16] {
        let mut out = self.0;
        out[..4].reverse();
        out[4..6].reverse();
        out[6..8].reverse();
        out
    }
}

/// A type of structure whose fields can be set by name.
pub trait Fields {
    /// Sets one field.
    fn apply(&mut self, key: &str, value: &str) -> Result<(), SmbiosError>;
}

fn text(field: &mut Option<String>, value: &str) -> Result<(), SmbiosError> {
    *field = Some(value.to_string());
    Ok(())
}

fn unknown(key: &str) -> Result<(), SmbiosError> {
    Err(SmbiosError::UnknownKey(key.into()))
}

fn number(key: &str, value: &str) -> Result<u64, SmbiosError> {
    let parsed = match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => value.parse(),
    };
    parsed.map_err(|_| SmbiosError::NotANumber(key.into()))
}

fn speed(key: &str, value: &str) -> Result<u16, SmbiosError> {
    u16::try_from(number(key, value)?).map_err(|_| SmbiosError::Speed)
}

/// Firmware (type 0).
#[derive(Clone, Debug, Default)]
pub struct Bios {
    /// Vendor.
    pub vendor: Option<String>,
    /// Version.
    pub version: Option<String>,
    /// Release date.
    pub date: Option<String>,
    /// Release number, major and minor.
    pub release: Option<(u8, u8)>,
    /// Whether it is UEFI.
    pub uefi: bool,
}

impl Fields for Bios {
    fn apply(&mut self, key: &str, value: &str) -> Result<(), SmbiosError> {
        match key {
            "vendor" => text(&mut self.vendor, value),
            "version" => text(&mut self.version, value),
            "date" => text(&mut self.date, value),
            "release" => {
                let numbers = value
                    .split_once('.')
                    .map(|(major, minor)| (major.parse::<u32>(), minor.parse::<u32>()));
                let Some((Ok(major), Ok(minor))) = numbers else {
                    return Err(SmbiosError::Release);
                };
                self.release = Some((major as u8, minor as u8));
                Ok(())
            }
            "uefi" => {
                self.uefi = match value {
                    "on" | "yes" | "true" | "y" => true,
                    "off" | "no" | "false" | "n" => false,
                    _ => return Err(SmbiosError::NotASwitch(key.into())),
                };
                Ok(())
            }
            _ => unknown(key),
        }
    }
}

/// The system (type 1).
#[derive(Clone, Debug, Default)]
pub struct System {
    /// Manufacturer.
    pub manufacturer: Option<String>,
    /// Product name.
    pub product: Option<String>,
    /// Version.
    pub version: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Identity, in place of the machine's own.
    pub uuid: Option<Uuid>,
    /// Stock keeping unit.
    pub sku: Option<String>,
    /// Product family.
    pub family: Option<String>,
}

impl Fields for System {
    fn apply(&mut self, key: &str, value: &str) -> Result<(), SmbiosError> {
        match key {
            "manufacturer" => text(&mut self.manufacturer, value),
            "product" => text(&mut self.product, value),
            "version" => text(&mut self.version, value),
            "serial" => text(&mut self.serial, value),
            "sku" => text(&mut self.sku, value),
            "family" => text(&mut self.family, value),
            "uuid" => {
                self.uuid = Some(Uuid::parse(value).ok_or(SmbiosError::Uuid)?);
                Ok(())
            }
            _ => unknown(key),
        }
    }
}

/// A type of structure that is nothing but strings, each set by the key of its name.
macro_rules! strings {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $field:ident,)* }) => {
        $(#[$about])*
        #[derive(Clone, Debug, Default)]
        pub struct $name {
            $($(#[$doc])* pub $field: Option<String>,)*
        }

        impl Fields for $name {
            fn apply(&mut self, key: &str, value: &str) -> Result<(), SmbiosError> {
                match key {
                    $(stringify!($field) => text(&mut self.$field, value),)*
                    _ => unknown(key),
                }
            }
        }
    };
}

strings! {
    /// The main board (type 2).
    BaseBoard {
        /// Manufacturer.
        manufacturer,
        /// Product name.
        product,
        /// Version.
        version,
        /// Serial number.
        serial,
        /// Asset tag.
        asset,
        /// Location in the chassis.
        location,
    }
}

strings! {
    /// The chassis (type 3).
    Chassis {
        /// Manufacturer.
        manufacturer,
        /// Version.
        version,
        /// Serial number.
        serial,
        /// Asset tag.
        asset,
        /// Stock keeping unit.
        sku,
    }
}

/// All processors (type 4).
#[derive(Clone, Debug)]
pub struct Processor {
    /// Socket names are this and a number.
    pub socket_prefix: String,
    /// Manufacturer.
    pub manufacturer: Option<String>,
    /// Version.
    pub version: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Asset tag.
    pub asset: Option<String>,
    /// Part number.
    pub part: Option<String>,
    /// Identifier in place of what CPUID says.
    pub id: Option<u64>,
    /// Family.
    pub family: u16,
    /// Highest speed in MHz.
    pub max_speed: u16,
    /// Present speed in MHz.
    pub current_speed: u16,
}

impl Default for Processor {
    fn default() -> Processor {
        const FAMILY_OTHER: u16 = 1;
        Processor {
            socket_prefix: "CPU".into(),
            manufacturer: None,
            version: None,
            serial: None,
            asset: None,
            part: None,
            id: None,
            family: FAMILY_OTHER,
            max_speed: 2000,
            current_speed: 2000,
        }
    }
}

impl Fields for Processor {
    fn apply(&mut self, key: &str, value: &str) -> Result<(), SmbiosError> {
        match key {
            "sock_pfx" => self.socket_prefix = value.into(),
            "manufacturer" => text(&mut self.manufacturer, value)?,
            "version" => text(&mut self.version, value)?,
            "serial" => text(&mut self.serial, value)?,
            "asset" => text(&mut self.asset, value)?,
            "part" => text(&mut self.part, value)?,
            "processor-id" => self.id = Some(number(key, value)?),
            "processor-family" => self.family = number(key, value)? as u16,
            "max-speed" => self.max_speed = speed(key, value)?,
            "current-speed" => self.current_speed = speed(key, value)?,
            _ => return unknown(key),
        }
        Ok(())
    }
}

/// One port connector (type 8).
#[derive(Clone, Debug, Default)]
pub struct PortConnector {
    /// Name on the board.
    pub internal: Option<String>,
    /// Name on the outside.
    pub external: Option<String>,
    /// Connector on the outside.
    pub connector_type: u8,
    /// What it is for.
    pub port_type: u8,
}

impl Fields for PortConnector {
    fn apply(&mut self, key: &str, value: &str) -> Result<(), SmbiosError> {
        match key {
            "internal_reference" => text(&mut self.internal, value)?,
            "external_reference" => text(&mut self.external, value)?,
            "connector_type" => self.connector_type = number(key, value)? as u8,
            "port_type" => self.port_type = number(key, value)? as u8,
            _ => return unknown(key),
        }
        Ok(())
    }
}

/// One expansion slot (type 9).
#[derive(Clone, Debug, Default)]
pub struct SystemSlot {
    /// Name.
    pub designation: Option<String>,
    /// Kind of bus.
    pub kind: u8,
    /// Width of the data bus.
    pub width: u8,
    /// Whether it is in use.
    pub usage: u8,
    /// Long or short.
    pub length: u8,
    /// Number.
    pub id: u16,
    /// Two bytes of characteristics.
    pub characteristics: [u8; 2],
    /// Identifier of the device in it; the machine resolves it to [`SystemSlot::pci_address`].
    pub pci_device: Option<String>,
    /// Bus and function of the device in it.
    pub pci_address: Option<(u8, u8)>,
}

impl Fields for SystemSlot {
    fn apply(&mut self, key: &str, value: &str) -> Result<(), SmbiosError> {
        match key {
            "slot_designation" => text(&mut self.designation, value)?,
            "slot_type" => self.kind = number(key, value)? as u8,
            "slot_data_bus_width" => self.width = number(key, value)? as u8,
            "current_usage" => self.usage = number(key, value)? as u8,
            "slot_length" => self.length = number(key, value)? as u8,
            "slot_id" => self.id = number(key, value)? as u16,
            "slot_characteristics1" => self.characteristics[0] = number(key, value)? as u8,
            "slot_characteristics2" => self.characteristics[1] = number(key, value)? as u8,
            "pci_device" => text(&mut self.pci_device, value)?,
            _ => return unknown(key),
        }
        Ok(())
    }
}

/// Free strings (type 11).
#[derive(Clone, Debug, Default)]
pub struct OemStrings {
    /// The strings. For `path=` the caller reads the file and adds its contents here.
    pub values: Vec<String>,
}

impl Fields for OemStrings {
    fn apply(&mut self, key: &str, value: &str) -> Result<(), SmbiosError> {
        match key {
            "value" => {
                self.values.push(value.into());
                Ok(())
            }
            _ => unknown(key),
        }
    }
}

/// All memory modules (type 17).
#[derive(Clone, Debug, Default)]
pub struct MemoryDevice {
    /// Locators are this and a number.
    pub locator_prefix: Option<String>,
    /// Bank.
    pub bank: Option<String>,
    /// Manufacturer.
    pub manufacturer: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Asset tag.
    pub asset: Option<String>,
    /// Part number.
    pub part: Option<String>,
    /// Speed in mega-transfers a second.
    pub speed: u16,
}

impl Fields for MemoryDevice {
    fn apply(&mut self, key: &str, value: &str) -> Result<(), SmbiosError> {
        match key {
            "loc_pfx" => text(&mut self.locator_prefix, value),
            "bank" => text(&mut self.bank, value),
            "manufacturer" => text(&mut self.manufacturer, value),
            "serial" => text(&mut self.serial, value),
            "asset" => text(&mut self.asset, value),
            "part" => text(&mut self.part, value),
            "speed" => {
                self.speed = number(key, value)? as u16;
                Ok(())
            }
            _ => unknown(key),
        }
    }
}

/// One device on the board (type 41).
#[derive(Clone, Debug, Default)]
pub struct OnboardDevice {
    /// Name.
    pub designation: Option<String>,
    /// Kind, see the names that `kind=` takes.
    pub kind: u8,
    /// Number among its kind.
    pub instance: u8,
    /// Identifier of the device; the machine resolves it to [`OnboardDevice::pci_address`].
    pub pci_device: Option<String>,
    /// Bus and function.
    pub pci_address: Option<(u8, u8)>,
}

/// Names of onboard devices, from kind 1 (DSP0134, 7.42.2).
const ONBOARD_KINDS: [&str; 10] =
    ["other", "unknown", "video", "scsi", "ethernet", "tokenring", "sound", "pata", "sata", "sas"];

impl Fields for OnboardDevice {
    fn apply(&mut self, key: &str, value: &str) -> Result<(), SmbiosError> {
        match key {
            "designation" => text(&mut self.designation, value)?,
            "kind" => {
                let kind = (1..).zip(ONBOARD_KINDS).find(|(_, name)| *name == value);
                self.kind = kind.ok_or_else(|| SmbiosError::Kind(value.into()))?.0;
            }
            "instance" => self.instance = number(key, value)? as u8,
            "pcidev" => text(&mut self.pci_device, value)?,
            _ => return unknown(key),
        }
        Ok(())
    }
}

/// Everything that `-smbios` has set.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Firmware; without it firmware describes itself.
    pub bios: Option<Bios>,
    /// The system.
    pub system: System,
    /// The main board, left out by default.
    pub board: Option<BaseBoard>,
    /// The chassis.
    pub chassis: Chassis,
    /// All processors.
    pub processor: Processor,
    /// Port connectors.
    pub ports: Vec<PortConnector>,
    /// Expansion slots.
    pub slots: Vec<SystemSlot>,
    /// Free strings.
    pub oem_strings: Option<OemStrings>,
    /// All memory modules.
    pub memory: MemoryDevice,
    /// Devices on the board.
    pub onboard: Vec<OnboardDevice>,
    raw: Vec<Vec<u8>>,
    specified: Vec<u8>,
}

impl Config {
    /// Begins a `type=` option: what its other keys are applied to.
    pub fn open(&mut self, kind: u64) -> Result<&mut dyn Fields, SmbiosError> {
        let unknown = SmbiosError::UnknownType(kind);
        let kind = u8::try_from(kind).map_err(|_| unknown.clone())?;
        if !matches!(kind, 0..=4 | 8 | 9 | 11 | 17 | 41) {
            return Err(unknown);
        }
        if self.has_raw(kind) {
            return Err(SmbiosError::AlreadyLoaded);
        }
        self.specified.push(kind);
        Ok(match kind {
            0 => self.bios.get_or_insert_default(),
            1 => &mut self.system,
            2 => self.board.get_or_insert_default(),
            3 => &mut self.chassis,
            4 => &mut self.processor,
            8 => self.ports.push_mut(PortConnector::default()),
            9 => self.slots.push_mut(SystemSlot::default()),
            11 => self.oem_strings.get_or_insert_default(),
            17 => &mut self.memory,
            _ => self.onboard.push_mut(OnboardDevice::default()),
        })
    }

    /// Adds a structure as it stands in a file (`file=`), in place of the one we would make.
    pub fn add_structure(&mut self, bytes: Vec<u8>) -> Result<(), SmbiosError> {
        const HEADER: usize = 4;
        if bytes.len() < HEADER {
            return Err(SmbiosError::Truncated);
        }
        if self.specified.contains(&bytes[0]) {
            return Err(SmbiosError::AlreadySpecified(bytes[0]));
        }
        self.raw.push(bytes);
        Ok(())
    }

    pub(super) fn raw_structures(&self) -> &[Vec<u8>] {
        &self.raw
    }

    pub(super) fn has_raw(&self, kind: u8) -> bool {
        self.raw.iter().any(|structure| structure.first() == Some(&kind))
    }
}
