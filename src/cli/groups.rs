//! The keys of options.

use base::options::{OptDesc, OptGroup, OptType};

const fn string(name: &'static str) -> OptDesc {
    OptDesc::new(name, OptType::String)
}

const fn bool(name: &'static str) -> OptDesc {
    OptDesc::new(name, OptType::Bool)
}

const fn number(name: &'static str) -> OptDesc {
    OptDesc::new(name, OptType::Number)
}

const fn size(name: &'static str) -> OptDesc {
    OptDesc::new(name, OptType::Size)
}

macro_rules! groups {
    ($($constant:ident $name:literal $implied:expr => [$($key:expr),* $(,)?];)*) => {$(
        pub(super) const $constant: OptGroup =
            OptGroup { name: $name, implied: $implied, keys: &[$($key),*] };
    )*};
}

groups! {
    ACCEL "accel" Some("accel") => [];
    ACTION "action" None => [string("reboot"), string("shutdown"), string("panic"), string("watchdog")];
    ADD_FD "add-fd" None => [number("fd"), number("set"), string("opaque")];
    BOOT "boot-opts" Some("order") => [
        string("order"), string("once"), bool("menu"), string("splash"), number("splash-time"),
        number("reboot-timeout"), bool("strict"),
    ];
    CHARDEV "chardev" Some("backend") => [
        string("backend"), string("path"), string("input-path"), string("host"), string("port"),
        string("fd"), string("localaddr"), string("localport"), number("to"), bool("ipv4"), bool("ipv6"),
        bool("wait"), bool("server"), bool("delay"), bool("nodelay"), number("reconnect"),
        number("reconnect-ms"), bool("telnet"), bool("tn3270"), string("tls-creds"), string("tls-authz"),
        bool("websocket"), number("width"), number("height"), number("cols"), number("rows"), bool("mux"),
        bool("signal"), string("name"), number("debug"), size("size"), string("chardev"),
        string("chardevs.0"), string("chardevs.1"), string("chardevs.2"), string("chardevs.3"),
        bool("append"), string("logfile"), bool("logappend"), bool("mouse"), bool("clipboard"),
        bool("tight"), bool("abstract"),
    ];
    DEVICE "device" Some("driver") => [];
    DRIVE "drive" None => [];
    FW_CFG "fw_cfg" Some("name") => [string("name"), string("file"), string("string"), string("gen_id")];
    ICOUNT "icount" Some("shift") => [string("shift"), bool("align"), bool("sleep"), string("rr"),
        string("rrfile"), string("rrsnapshot")];
    MACHINE "machine" Some("type") => [string("type"), string("accel"), bool("usb"), string("kernel"),
        string("initrd"), string("append"), string("shim"), string("dtb"), string("firmware"),
        string("memory-backend")];
    MEMORY "memory" Some("size") => [size("size"), number("slots"), size("maxmem")];
    MON "mon" Some("chardev") => [string("mode"), string("chardev"), bool("pretty")];
    MSG "msg" None => [bool("timestamp"), bool("guest-name")];
    NAME "name" Some("guest") => [string("guest"), string("process"), bool("debug-threads")];
    NET "net" Some("type") => [];
    NET_NIC "net" Some("type") => [string("type"), string("model"), string("macaddr"), string("netdev"),
        string("addr"), number("vectors")];
    NETDEV "netdev" Some("type") => [];
    NIC "nic" Some("type") => [];
    NUMA "numa" Some("type") => [];
    OBJECT "object" Some("qom-type") => [];
    OVERCOMMIT "overcommit" None => [string("mem-lock"), bool("cpu-pm")];
    RTC "rtc" None => [string("base"), string("clock"), string("driftfix")];
    OPTION_ROM "option-rom" Some("romfile") => [number("bootindex"), string("romfile")];
    RUN_WITH "run-with" None => [bool("async-teardown"), string("chroot"), string("user")];
    SANDBOX "sandbox" Some("enable") => [
        bool("enable"), string("obsolete"), string("elevateprivileges"), string("spawn"),
        string("resourcecontrol"),
    ];
    SMBIOS "smbios" None => [];
    SMP "smp-opts" Some("cpus") => [
        number("cpus"), number("drawers"), number("books"), number("sockets"), number("dies"),
        number("clusters"), number("modules"), number("cores"), number("threads"), number("maxcpus"),
    ];
    TRACE "trace" Some("enable") => [string("enable"), string("events"), string("file")];
}

/// Keys of `-smbios type=N`.
pub(super) const SMBIOS_TYPES: &[(u8, OptGroup)] = &[
    (
        0,
        smbios(&[
            string("vendor"),
            string("version"),
            string("date"),
            string("release"),
            bool("uefi"),
        ]),
    ),
    (
        1,
        smbios(&[
            string("manufacturer"),
            string("product"),
            string("version"),
            string("serial"),
            string("uuid"),
            string("sku"),
            string("family"),
        ]),
    ),
    (
        2,
        smbios(&[
            string("manufacturer"),
            string("product"),
            string("version"),
            string("serial"),
            string("asset"),
            string("location"),
        ]),
    ),
    (
        3,
        smbios(&[
            string("manufacturer"),
            string("version"),
            string("serial"),
            string("asset"),
            string("sku"),
        ]),
    ),
    (
        4,
        smbios(&[
            string("sock_pfx"),
            string("manufacturer"),
            string("version"),
            string("serial"),
            string("asset"),
            string("part"),
            number("max-speed"),
            number("current-speed"),
            number("processor-family"),
            number("processor-id"),
        ]),
    ),
    (
        8,
        smbios(&[
            string("internal_reference"),
            string("external_reference"),
            number("connector_type"),
            number("port_type"),
        ]),
    ),
    (
        9,
        smbios(&[
            string("slot_designation"),
            number("slot_type"),
            number("slot_data_bus_width"),
            number("current_usage"),
            number("slot_length"),
            number("slot_id"),
            number("slot_characteristics1"),
            number("slot_characteristics2"),
            string("pci_device"),
        ]),
    ),
    (11, smbios(&[string("value"), string("path")])),
    (
        17,
        smbios(&[
            string("loc_pfx"),
            string("bank"),
            string("manufacturer"),
            string("serial"),
            string("asset"),
            string("part"),
            number("speed"),
        ]),
    ),
    (41, smbios(&[string("designation"), string("kind"), number("instance"), string("pcidev")])),
];

const fn smbios(keys: &'static [OptDesc]) -> OptGroup {
    OptGroup { name: "smbios", implied: None, keys }
}
