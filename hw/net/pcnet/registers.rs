//! Registers of the Am79C970A (AMD, PCnet-PCI II datasheet, appendix B): those of control and status,
//! those of the bus, and their bits.

/// Control and status registers, by number.
#[rustfmt::skip]
pub(super) mod csr {
    pub const STATUS: usize = 0;
    pub const INIT_LOW: usize = 1;
    pub const INIT_HIGH: usize = 2;
    pub const MASKS: usize = 3;
    pub const FEATURES: usize = 4;
    pub const EXTENDED: usize = 5;
    pub const RING_LENGTHS: usize = 6;
    /// The table of groups, four words; the address, three.
    pub const GROUPS: usize = 8;
    pub const ADDRESS: usize = 12;
    pub const MODE: usize = 15;
    pub const INIT_LOW_ALIAS: usize = 16;
    pub const INIT_HIGH_ALIAS: usize = 17;
    /// The rings' first descriptors, two words each.
    pub const RECEIVE_RING: usize = 24;
    pub const TRANSMIT_RING: usize = 30;
    pub const POLL_INTERVAL: usize = 47;
    pub const STYLE: usize = 58;
    /// How many descriptors are left in either ring until it begins anew.
    pub const RECEIVE_LEFT: usize = 72;
    pub const TRANSMIT_LEFT: usize = 74;
    /// How many descriptors there are.
    pub const RECEIVE_LENGTH: usize = 76;
    pub const TRANSMIT_LENGTH: usize = 78;
    pub const FIFO: usize = 80;
    pub const CHIP_LOW: usize = 88;
    pub const CHIP_HIGH: usize = 89;
    /// How long the bus may take, and what else the bus is told.
    pub const BUS_TIMEOUT: usize = 100;
    pub const BUS: usize = 103;
    pub const COUNT: usize = 128;
}

/// Bits of [`csr::STATUS`].
pub(super) mod status {
    pub const INIT: u16 = 1 << 0;
    pub const STRT: u16 = 1 << 1;
    pub const STOP: u16 = 1 << 2;
    pub const TDMD: u16 = 1 << 3;
    pub const TXON: u16 = 1 << 4;
    pub const RXON: u16 = 1 << 5;
    pub const IENA: u16 = 1 << 6;
    pub const INTR: u16 = 1 << 7;
    pub const IDON: u16 = 1 << 8;
    pub const TINT: u16 = 1 << 9;
    pub const RINT: u16 = 1 << 10;
    pub const MERR: u16 = 1 << 11;
    pub const MISS: u16 = 1 << 12;
    pub const CERR: u16 = 1 << 13;
    pub const BABL: u16 = 1 << 14;
    pub const ERR: u16 = 1 << 15;
    /// Cleared by writing one.
    pub const EVENTS: u16 = BABL | CERR | MISS | MERR | RINT | TINT | IDON;
    /// Those that interrupt, where [`super::csr::MASKS`] lets them.
    pub const INTERRUPTS: u16 = BABL | MISS | MERR | RINT | TINT | IDON;
    /// Those that [`ERR`] sums up.
    pub const ERRORS: u16 = BABL | CERR | MISS | MERR;
}

/// Bits of [`csr::FEATURES`].
pub(super) mod features {
    /// Reasons for an interrupt, each of which has its mask in the bit below.
    pub const EVENTS: u16 = 1 << 9 | 1 << 5 | 1 << 3 | 1 << 1;
    /// One that the driver sets itself, without a mask.
    pub const UINT: u16 = 1 << 6;
    pub const UINT_COMMAND: u16 = 1 << 7;
    pub const STRIP: u16 = 1 << 10;
    pub const PAD: u16 = 1 << 11;
    /// The controller does not look at rings by itself.
    pub const NO_POLLING: u16 = 1 << 12;
}

/// Bits of [`csr::EXTENDED`].
pub(super) mod extended {
    /// Reasons for an interrupt, each of which is let through by the bit below.
    pub const EVENTS: u16 = 1 << 11 | 1 << 9 | 1 << 7 | 1 << 4;
    pub const SUSPEND: u16 = 1 << 0;
    /// No interrupt for what was sent, but where the descriptor asks for it.
    pub const TOKINTD: u16 = 1 << 15;
    pub const LTINTEN: u16 = 1 << 14;
}

/// Bits of [`csr::MODE`].
pub(super) mod mode {
    pub const NO_RECEIVER: u16 = 1 << 0;
    pub const NO_TRANSMITTER: u16 = 1 << 1;
    pub const LOOP: u16 = 1 << 2;
    pub const NO_ADDRESS: u16 = 1 << 13;
    pub const NO_BROADCAST: u16 = 1 << 14;
    pub const PROMISCUOUS: u16 = 1 << 15;
}

/// Bus configuration registers, by number.
pub(super) mod bcr {
    pub const MISCELLANEOUS: usize = 2;
    /// What lights a lamp: four of these.
    pub const LAMPS: usize = 4;
    pub const LAST_LAMP: usize = 7;
    pub const FULL_DUPLEX: usize = 9;
    pub const BURST: usize = 18;
    pub const EEPROM: usize = 19;
    pub const STYLE: usize = 20;
    pub const LATENCY: usize = 22;
    pub const COUNT: usize = 32;
}

/// Of [`bcr::MISCELLANEOUS`]: the address PROM can be written.
pub(super) const PROM_WRITABLE: u16 = 1 << 8;
/// Of [`bcr::LAMPS`]: it shines while there is a link; it shines.
pub(super) const LAMP_LINK: u16 = 1 << 6;
pub(super) const LAMP_ON: u16 = 1 << 15;
/// Of [`bcr::BURST`]: ports are 32 bits wide.
pub(super) const DWORD_PORTS: u16 = 1 << 7;
/// Of [`csr::STYLE`]: the number of the style; structures are of 32 bits, as on the PCnet.
pub(super) const STYLE_NUMBER: u16 = 0xff;
pub(super) const STYLE_32: u16 = 1 << 8;
pub(super) const STYLE_PCNET: u16 = 1 << 9;

/// What is not zero after a hardware reset.
pub(super) const CSR_AT_RESET: &[(usize, u16)] = &[
    (csr::STATUS, status::STOP),
    (csr::FEATURES, 0x0115),
    (csr::STYLE, STYLE_PCNET),
    (csr::RECEIVE_LENGTH, 1),
    (csr::TRANSMIT_LENGTH, 1),
    (csr::FIFO, 0x1410),
    (csr::CHIP_LOW, 0x1003),
    (csr::CHIP_HIGH, 0x0262),
    (csr::BUS_TIMEOUT, 0x0200),
    (csr::BUS, 0x0105),
];
pub(super) const BCR_AT_RESET: &[(usize, u16)] = &[
    (0, 0x0005),
    (1, 0x0005),
    (bcr::MISCELLANEOUS, 0x0002),
    (bcr::LAMPS, 0x00c0),
    (5, 0x0084),
    (6, 0x0088),
    (7, 0x0090),
    (bcr::BURST, 0x9001),
    (bcr::EEPROM, 0x0002),
    (bcr::STYLE, STYLE_PCNET),
    (bcr::LATENCY, 0xff06),
];

/// Control and status registers that a driver may write only while the controller is stopped or
/// suspended: from, to. None of the others can be written but those that are named above.
pub(super) const ONLY_STOPPED: &[(usize, usize)] = &[(1, 2), (8, 57), (59, 79), (112, 112)];
