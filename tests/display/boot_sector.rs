//! Boot sectors that set a mode by BIOS and fill memory with something that looks different everywhere.

/// A boot sector in the making: 16-bit code.
pub struct BootSector(Vec<u8>);

impl BootSector {
    /// With a stack, and segments at zero.
    pub fn new() -> Self {
        // cli; xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 7c00h; sti
        BootSector(vec![0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, 0xfb])
    }

    fn with(mut self, code: impl IntoIterator<Item = u8>) -> Self {
        self.0.extend(code);
        self
    }

    /// Calls the video BIOS with these values of AX, BX and CX.
    pub fn video(self, ax: u16, bx: u16, cx: u16) -> Self {
        let ([a, b], [c, d], [e, f]) = (ax.to_le_bytes(), bx.to_le_bytes(), cx.to_le_bytes());
        self.with([0xb8, a, b, 0xbb, c, d, 0xb9, e, f, 0xcd, 0x10])
    }

    /// Writes an indexed register.
    pub fn register(self, port: u16, index: u8, value: u8) -> Self {
        let [low, high] = port.to_le_bytes();
        self.with([0xba, low, high, 0xb8, index, value, 0xef])
    }

    /// Writes indexed registers behind one port.
    pub fn registers(self, port: u16, values: &[(u8, u8)]) -> Self {
        let ([a, b], [c, d]) = (port.to_le_bytes(), (values.len() as u16).to_le_bytes());
        let table: Vec<u8> = values.iter().flat_map(|(index, value)| [*index, *value]).collect();
        let [e, f] = (table.len() as u16).to_le_bytes();
        // The table lies behind a jump.
        let [g, h] = (0x7c00 + self.0.len() as u16 + 3).to_le_bytes();
        // mov si, table; mov cx, count; mov dx, port; lodsw; out dx, ax; loop
        self.with([0xe9, e, f])
            .with(table)
            .with([0xbe, g, h, 0xb9, c, d, 0xba, a, b])
            .with([0xad, 0xef, 0xe2, 0xfc])
    }

    /// Writes a colour of the DAC.
    pub fn color(self, index: u8, [red, green, blue]: [u8; 3]) -> Self {
        // mov dx, 3c8h; mov al, index; out dx, al; inc dx; for each level: mov al, level; out dx, al
        self.with([0xba, 0xc8, 0x03, 0xb0, index, 0xee, 0x42])
            .with([0xb0, red, 0xee, 0xb0, green, 0xee, 0xb0, blue, 0xee])
    }

    /// Writes a register of the attribute controller.
    pub fn attribute(self, index: u8, value: u8) -> Self {
        let select = [0xba, 0xda, 0x03, 0xec, 0xba, 0xc0, 0x03, 0xb0, index | 0x20, 0xee];
        self.with(select).with([0xb0, value, 0xee])
    }

    /// Fills words of a segment; `seed` makes fillings differ.
    pub fn fill(self, segment: u16, words: u16, seed: u16) -> Self {
        let ([a, b], [c, d]) = (segment.to_le_bytes(), words.to_le_bytes());
        let [e, f] = (seed.wrapping_mul(2579) | 1).to_le_bytes();
        // mov ax, segment; mov es, ax; xor di, di; mov cx, words
        self.with([0xb8, a, b, 0x8e, 0xc0, 0x31, 0xff, 0xb9, c, d])
            // mov ax, di; mov bx, di; shr bx, 3; xor ax, bx; imul ax, ax, seed; stosw; loop
            .with([0x89, 0xf8, 0x89, 0xfb, 0xc1, 0xeb, 0x03, 0x31, 0xd8, 0x69, 0xc0, e, f])
            .with([0xab, 0xe2, 0xf0])
    }

    /// Fills the four planes, each differently.
    pub fn fill_planes(self, segment: u16, words: u16) -> Self {
        let filled = (0..4_u8).fold(self, |sector, plane| {
            sector.register(0x3c4, 2, 1 << plane).fill(segment, words, u16::from(plane) * 3 + 2)
        });
        filled.register(0x3c4, 2, 15)
    }

    /// A disk with it.
    pub fn disk(self) -> Vec<u8> {
        // hlt; jmp to it
        let mut bytes = self.with([0xf4, 0xeb, 0xfd]).0;
        assert!(bytes.len() <= 510, "too much for a sector");
        bytes.resize(510, 0);
        bytes.extend([0x55, 0xaa]);
        bytes.resize(64 << 10, 0);
        bytes
    }
}
