//! One structure: a formatted area followed by strings, which the area names by position.

/// A structure under construction.
pub struct Structure {
    area: Vec<u8>,
    strings: Vec<u8>,
    count: u8,
}

impl Structure {
    /// An empty structure with its header.
    pub fn new(kind: u8, handle: u16) -> Structure {
        let [low, high] = handle.to_le_bytes();
        Structure { area: vec![kind, 0, low, high], strings: vec![], count: 0 }
    }

    /// Structure type.
    pub fn kind(&self) -> u8 {
        self.area[0]
    }

    /// Appends to the formatted area.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Structure {
        self.area.extend_from_slice(bytes);
        self
    }

    /// Appends a byte.
    pub fn u8(&mut self, value: u8) -> &mut Structure {
        self.bytes(&[value])
    }

    /// Appends 16 bits.
    pub fn u16(&mut self, value: u16) -> &mut Structure {
        self.bytes(&value.to_le_bytes())
    }

    /// Appends 32 bits.
    pub fn u32(&mut self, value: u32) -> &mut Structure {
        self.bytes(&value.to_le_bytes())
    }

    /// Appends a reference to a string; position 0 stands for an absent or empty one.
    pub fn string(&mut self, value: Option<&str>) -> &mut Structure {
        match value.filter(|value| !value.is_empty()) {
            Some(value) => {
                self.text(value);
                self.u8(self.count)
            }
            None => self.u8(0),
        }
    }

    /// Adds a string without a reference.
    pub fn text(&mut self, value: &str) {
        self.strings.extend(value.bytes().filter(|byte| *byte != 0));
        self.strings.push(0);
        self.count = self.count.saturating_add(1);
    }

    /// The bytes. An empty list of strings is ended by two zeros as well.
    pub fn finish(mut self) -> Vec<u8> {
        self.area[1] = self.area.len() as u8;
        if self.strings.is_empty() {
            self.strings.push(0);
        }
        self.strings.push(0);
        [self.area, self.strings].concat()
    }
}
