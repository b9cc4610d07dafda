//! What the command line asks for, as plain data.
//!
//! The program fills a [`MachineConfig`] from its options; the board reads it. What can be judged
//! without knowing the board has been judged; what cannot (is there such a device, does it have this
//! property) carries its [`Origin`], so that the fault is reported at the option as it was typed.

mod boot;
mod consoles;
mod drives;
mod memory;
mod networks;
mod numa;
mod origin;
mod process;
mod smp;
mod tree;

use base::options::Opts;
use base::options::config::GlobalProp;
use base::props::Uuid;
use cpu::icount;
use serde_json::{Map, Value};

pub use boot::BootConfig;
pub use consoles::Consoles;
pub use drives::{BlockdevConfig, Drive, DriveConfig};
pub use memory::MemoryConfig;
pub use networks::{LegacyNet, NetdevConfig, NetworkConfig, NicConfig, NicNetwork};
pub use numa::{CpuRange, NumaNode, NumaOption, NumaPlan};
pub use origin::{ConfigError, Located, Origin};
pub use process::{
    Actions, AddFd, MemLock, Messages, OnPanic, OnReboot, OnShutdown, OnWatchdog, Overcommit,
    ProcessConfig, RunAs, RunWith, Sandbox, SandboxElevate,
};
pub use smp::{SmpConfig, SmpLimits, Topology};
pub use tree::Tree;

/// Everything the command line says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MachineConfig {
    /// `-machine`'s type; the default machine if absent.
    pub machine: Option<String>,
    /// `-machine`'s properties, less those that have a place of their own here.
    pub machine_props: Map<String, Value>,
    /// Accelerators to try, in order.
    pub accels: Vec<Located<AccelConfig>>,
    /// `-icount`, if instructions are counted
    pub icount: Option<Located<icount::Options>>,
    /// `-seed`: what random numbers that processors give the guest follow from
    pub seed: Option<u64>,
    /// `-cpu`: the model and its features, as typed.
    pub cpu: Option<String>,
    /// `-smp`
    pub smp: SmpConfig,
    /// `-m` and its kin
    pub memory: MemoryConfig,
    /// `-numa`
    pub numa: Vec<Located<NumaOption>>,
    /// `-name` and `-uuid`
    pub identity: Identity,
    /// `-smbios`
    pub smbios: Vec<Located<SmbiosEntry>>,
    /// `-rtc`
    pub rtc: RtcConfig,
    /// `-boot`
    pub boot: BootConfig,
    /// `-kernel` and what goes with it
    pub kernel: KernelConfig,
    /// `-bios`
    pub firmware: Option<String>,
    /// `-L`, in order
    pub data_dirs: Vec<String>,
    /// `-option-rom`, in order
    pub option_roms: Vec<Located<OptionRom>>,
    /// `-fw_cfg`
    pub fw_cfg: Vec<Located<FwCfgEntry>>,
    /// `-device`, in order
    pub devices: Vec<Located<DeviceConfig>>,
    /// `-usbdevice`, in order
    pub usb_devices: Vec<Located<String>>,
    /// `-object`, in order
    pub objects: Vec<Located<ObjectConfig>>,
    /// `-global`, in order; later ones count
    pub globals: Vec<GlobalProp>,
    /// `-chardev`, with the key `backend`
    pub chardevs: Vec<Located<Opts>>,
    /// `-blockdev`, in order
    pub blockdevs: Vec<Located<BlockdevConfig>>,
    /// `-drive` and its short forms, in order
    pub drives: Vec<Located<DriveConfig>>,
    /// `-snapshot`
    pub snapshot: bool,
    /// `-serial`, as typed
    pub serials: Vec<Located<String>>,
    /// `-parallel`, as typed
    pub parallels: Vec<Located<String>>,
    /// `-debugcon`, as typed
    pub debugcons: Vec<Located<String>>,
    /// `-mon`, `-monitor`, `-qmp`, in order
    pub monitors: Vec<Located<MonitorConfig>>,
    /// `-no-reboot`, `-no-shutdown`, `-action`, `-watchdog-action`
    pub actions: Actions,
    /// How the process itself behaves.
    pub process: ProcessConfig,
    /// `-msg`
    pub messages: Messages,
    /// `-overcommit`
    pub overcommit: Overcommit,
    /// `-qtest` and `-qtest-log`
    pub qtest: QtestConfig,
    /// `-d`, `-D`, `-dfilter`, `-trace`
    pub log: LogConfig,
    /// `-S`
    pub start_paused: bool,
    /// `-nodefaults`
    pub no_defaults: bool,
    /// `-nographic`
    pub no_graphic: bool,
    /// `-vga`; the board's own choice if absent.
    pub vga: Option<Located<String>>,
    /// `-display`, and what `-nographic` makes of it
    pub display: Display,
    /// `-vnc` and `-display vnc`, in order
    pub vncs: Vec<Located<Opts>>,
    /// `-web` and `-display web`, in order
    pub webs: Vec<Located<Opts>>,
    /// `-netdev`, `-nic` and `-net`
    pub networks: NetworkConfig,
    /// `-k`
    pub keyboard_layout: Option<String>,
    /// `-echr`: the escape character of multiplexed terminals.
    pub escape_char: Option<u8>,
}

/// Where people see the machine, besides the servers that they ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Display {
    /// Nothing was said: a VNC server for this computer, unless there are others.
    #[default]
    Usual,
    /// Nowhere.
    None,
    /// In the terminal that the program was started in.
    Curses,
}

/// `-name` and `-uuid`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The guest's name.
    pub name: Option<String>,
    /// The process's name.
    pub process: Option<String>,
    /// Whether threads get names.
    pub debug_threads: bool,
    /// The guest's UUID.
    pub uuid: Option<Uuid>,
}

/// A ROM for firmware to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OptionRom {
    /// Its file.
    pub file: String,
    /// Its place among what can be booted, if it has one.
    pub boot_index: Option<i32>,
}

/// An accelerator to try.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccelConfig {
    /// Its name.
    pub name: String,
    /// Its properties.
    pub props: Vec<(String, String)>,
}

/// `-smbios`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SmbiosEntry {
    /// A structure from a file, as it is.
    File(String),
    /// Fields of the structure of a type; keys and number formats have been checked.
    Fields {
        /// The structure's type.
        kind: u8,
        /// Its fields.
        fields: Opts,
    },
}

/// `-rtc`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RtcConfig {
    /// What the clock shows at start.
    pub base: RtcBase,
    /// What makes it run.
    pub clock: RtcClock,
    /// Whether lost ticks are caught up with.
    pub slew: bool,
}

/// What the clock shows at start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RtcBase {
    /// The host's time, in UTC.
    #[default]
    Utc,
    /// The host's time, in its own zone.
    Localtime,
    /// Seconds since 1970-01-01T00:00:00, in UTC.
    At(i64),
}

/// What makes the clock run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RtcClock {
    /// The host's time of day.
    #[default]
    Host,
    /// The host's monotonic clock.
    Realtime,
    /// The guest's time: stands still when the guest does.
    Virtual,
}

/// `-kernel` and what goes with it
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelConfig {
    /// The image.
    pub kernel: Option<String>,
    /// The initial RAM disk; Multiboot takes a list.
    pub initrd: Option<String>,
    /// The command line.
    pub append: Option<String>,
    /// The EFI shim.
    pub shim: Option<String>,
    /// The device tree.
    pub dtb: Option<String>,
}

/// `-fw_cfg`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FwCfgEntry {
    /// The name the guest finds it by.
    pub name: String,
    /// Where its contents come from.
    pub source: FwCfgSource,
}

/// Where the contents of a `-fw_cfg` entry come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FwCfgSource {
    /// A file.
    File(String),
    /// The text itself, without a terminating zero.
    Text(String),
    /// An object that makes them.
    Object(String),
}

/// `-device`
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceConfig {
    /// The type.
    pub driver: String,
    /// The name that others know it by.
    pub id: Option<String>,
    /// The bus it sits on.
    pub bus: Option<String>,
    /// The rest.
    pub props: PropList,
}

/// `-object`
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectConfig {
    /// The type.
    pub type_name: String,
    /// The name that others know it by.
    pub id: String,
    /// The rest.
    pub props: PropList,
}

/// Properties as given: the two forms differ in what they accept.
#[derive(Clone, Debug, PartialEq)]
pub enum PropList {
    /// `key=value,...`, in order.
    Text(Vec<(String, String)>),
    /// A JSON object.
    Json(Map<String, Value>),
}

/// `-mon`, `-monitor` or `-qmp`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitorConfig {
    /// Where it listens.
    pub target: MonitorTarget,
    /// QMP, not the human monitor.
    pub control: bool,
    /// Whether JSON is indented.
    pub pretty: bool,
}

/// Where a monitor listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MonitorTarget {
    /// A `-chardev`, by its id.
    Chardev(String),
    /// The short form of `-monitor` and `-qmp`, as typed.
    Device(String),
}

/// `-qtest` and `-qtest-log`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QtestConfig {
    /// The chardev of the protocol, as typed.
    pub chardev: Option<String>,
    /// Where the protocol is logged to.
    pub log: Option<String>,
}

/// `-d`, `-D`, `-dfilter`, `-trace`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// Items to log, comma separated, as typed.
    pub items: Option<String>,
    /// The log's file; standard error if absent.
    pub file: Option<String>,
    /// Address ranges to log, as typed.
    pub filter: Option<String>,
    /// `-perfmap`
    pub perf_map: bool,
    /// Patterns of trace events to enable.
    pub trace_patterns: Vec<Located<String>>,
    /// Files with such patterns.
    pub trace_event_files: Vec<Located<String>>,
    /// The trace's own file.
    pub trace_file: Option<String>,
}
