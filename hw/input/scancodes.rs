//! What a PS/2 keyboard sends for each key (IBM PS/2 Hardware Interface Technical Reference,
//! "Keyboard"; Microsoft, "Keyboard Scan Code Specification").

use base::input::KeyCode;

/// The make code of a key in sets 2 and 3: `0xe0` in the high byte is a prefix, zero means that the
/// set has no code for the key. In order of [`KeyCode::ALL`].
#[rustfmt::skip]
const CODES: [(u16, u16); KeyCode::ALL.len()] = [
    (0, 0), // unmapped
    (0x12, 0x12), // shift
    (0x59, 0x59), // shift_r
    (0x11, 0x19), // alt
    (0xe011, 0x39), // alt_r
    (0x14, 0x11), // ctrl
    (0xe014, 0x58), // ctrl_r
    (0, 0x91), // menu
    (0x76, 0x08), // esc
    (0x16, 0x16), // 1
    (0x1e, 0x1e), // 2
    (0x26, 0x26), // 3
    (0x25, 0x25), // 4
    (0x2e, 0x2e), // 5
    (0x36, 0x36), // 6
    (0x3d, 0x3d), // 7
    (0x3e, 0x3e), // 8
    (0x46, 0x46), // 9
    (0x45, 0x45), // 0
    (0x4e, 0x4e), // minus
    (0x55, 0x55), // equal
    (0x66, 0x66), // backspace
    (0x0d, 0x0d), // tab
    (0x15, 0x15), // q
    (0x1d, 0x1d), // w
    (0x24, 0x24), // e
    (0x2d, 0x2d), // r
    (0x2c, 0x2c), // t
    (0x35, 0x35), // y
    (0x3c, 0x3c), // u
    (0x43, 0x43), // i
    (0x44, 0x44), // o
    (0x4d, 0x4d), // p
    (0x54, 0x54), // bracket_left
    (0x5b, 0x5b), // bracket_right
    (0x5a, 0x5a), // ret
    (0x1c, 0x1c), // a
    (0x1b, 0x1b), // s
    (0x23, 0x23), // d
    (0x2b, 0x2b), // f
    (0x34, 0x34), // g
    (0x33, 0x33), // h
    (0x3b, 0x3b), // j
    (0x42, 0x42), // k
    (0x4b, 0x4b), // l
    (0x4c, 0x4c), // semicolon
    (0x52, 0x52), // apostrophe
    (0x0e, 0x0e), // grave_accent
    (0x5d, 0x5c), // backslash
    (0x1a, 0x1a), // z
    (0x22, 0x22), // x
    (0x21, 0x21), // c
    (0x2a, 0x2a), // v
    (0x32, 0x32), // b
    (0x31, 0x31), // n
    (0x3a, 0x3a), // m
    (0x41, 0x41), // comma
    (0x49, 0x49), // dot
    (0x4a, 0x4a), // slash
    (0x7c, 0x7e), // asterisk
    (0x29, 0x29), // spc
    (0x58, 0x14), // caps_lock
    (0x05, 0x07), // f1
    (0x06, 0x0f), // f2
    (0x04, 0x17), // f3
    (0x0c, 0x1f), // f4
    (0x03, 0x27), // f5
    (0x0b, 0x2f), // f6
    (0x83, 0x37), // f7
    (0x0a, 0x3f), // f8
    (0x01, 0x47), // f9
    (0x09, 0x4f), // f10
    (0x77, 0x76), // num_lock
    (0x7e, 0x5f), // scroll_lock
    (0xe04a, 0x4a), // kp_divide
    (0x7c, 0x7e), // kp_multiply
    (0x7b, 0x4e), // kp_subtract
    (0x79, 0x7c), // kp_add
    (0xe05a, 0x79), // kp_enter
    (0x71, 0x71), // kp_decimal
    (0xe07c, 0x57), // sysrq
    (0x70, 0x70), // kp_0
    (0x69, 0x69), // kp_1
    (0x72, 0x72), // kp_2
    (0x7a, 0x7a), // kp_3
    (0x6b, 0x6b), // kp_4
    (0x73, 0x73), // kp_5
    (0x74, 0x74), // kp_6
    (0x6c, 0x6c), // kp_7
    (0x75, 0x75), // kp_8
    (0x7d, 0x7d), // kp_9
    (0x61, 0x13), // less
    (0x78, 0x56), // f11
    (0x07, 0x5e), // f12
    (0xe07c, 0x57), // print
    (0xe06c, 0x6e), // home
    (0xe07d, 0x6f), // pgup
    (0xe07a, 0x6d), // pgdn
    (0xe069, 0x65), // end
    (0xe06b, 0x61), // left
    (0xe075, 0x63), // up
    (0xe072, 0x60), // down
    (0xe074, 0x6a), // right
    (0xe070, 0x67), // insert
    (0xe071, 0x64), // delete
    (0xe028, 0x0a), // stop
    (0, 0x0b), // again
    (0, 0x0c), // props
    (0, 0x10), // undo
    (0, 0), // front
    (0, 0x18), // copy
    (0, 0x20), // open
    (0, 0x28), // paste
    (0, 0x30), // find
    (0, 0x38), // cut
    (0, 0), // lf
    (0, 0x09), // help
    (0xe01f, 0x8b), // meta_l
    (0xe027, 0x8c), // meta_r
    (0xe02f, 0x8d), // compose
    (0xe07e, 0x62), // pause
    (0x51, 0), // ro
    (0x62, 0x87), // hiragana
    (0x64, 0x86), // henkan
    (0x6a, 0x5d), // yen
    (0x67, 0x85), // muhenkan
    (0x13, 0x87), // katakanahiragana
    (0x6d, 0), // kp_comma
    (0x0f, 0), // kp_equals
    (0xe037, 0), // power
    (0xe03f, 0), // sleep
    (0xe05e, 0), // wake
    (0xe04d, 0x93), // audionext
    (0xe015, 0x94), // audioprev
    (0xe03b, 0x98), // audiostop
    (0xe034, 0), // audioplay
    (0xe023, 0x9c), // audiomute
    (0xe032, 0x95), // volumeup
    (0xe021, 0x9d), // volumedown
    (0xe050, 0), // mediaselect
    (0xe048, 0), // mail
    (0xe02b, 0xa3), // calculator
    (0xe040, 0), // computer
    (0xe03a, 0x97), // ac_home
    (0xe038, 0), // ac_back
    (0xe030, 0), // ac_forward
    (0xe020, 0), // ac_refresh
    (0xe018, 0), // ac_bookmarks
    (0, 0), // lang1
    (0, 0), // lang2
    (0x2f, 0x7f), // f13
    (0x37, 0x80), // f14
    (0x3f, 0x81), // f15
    (0, 0x82), // f16
    (0, 0x83), // f17
    (0, 0), // f18
    (0, 0), // f19
    (0, 0), // f20
    (0, 0), // f21
    (0, 0), // f22
    (0, 0), // f23
    (0, 0), // f24
];

/// Prefix of the keys that the first PC keyboard did not have.
const EXTENDED: u8 = 0xe0;
const EXTENDED_CODE: u16 = 0xe000;
/// Prefix of a break code in sets 2 and 3.
const RELEASED: u8 = 0xf0;
/// Set in a break code of set 1.
const RELEASED_1: u8 = 0x80;

/// The make code of a key in set 1, in the form of [`CODES`].
fn set_1(key: KeyCode) -> u16 {
    // The same key, which tells itself apart by what is held with it.
    let key = if key == KeyCode::Sysrq { KeyCode::Print } else { key };
    let number = u16::from(key.number());
    number & 0x7f | if number & 0x80 != 0 { EXTENDED_CODE } else { 0 }
}

/// The modifiers that are held, as far as codes depend on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modifiers(u8);

impl Modifiers {
    const KEYS: [KeyCode; 6] = [
        KeyCode::Shift,
        KeyCode::ShiftR,
        KeyCode::Ctrl,
        KeyCode::CtrlR,
        KeyCode::Alt,
        KeyCode::AltR,
    ];

    /// From [`Modifiers::bits`].
    pub fn from_bits(bits: u8) -> Self {
        Modifiers(bits)
    }

    /// As a number.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// A key goes down or up.
    pub fn note(&mut self, key: KeyCode, down: bool) {
        if let Some(bit) = Self::KEYS.iter().position(|&modifier| modifier == key) {
            self.0 = self.0 & !(1 << bit) | u8::from(down) << bit;
        }
    }

    fn holds(self, key: KeyCode) -> bool {
        Self::KEYS
            .iter()
            .position(|&modifier| modifier == key)
            .is_some_and(|n| self.0 >> n & 1 != 0)
    }

    fn any(self, keys: [KeyCode; 2]) -> bool {
        keys.into_iter().any(|key| self.holds(key))
    }
}

/// What a key sends in scan code set `set` (1 to 3).
pub fn sequence(set: u8, key: KeyCode, down: bool, held: Modifiers) -> Vec<u8> {
    let codes = Codes { set };
    match key {
        KeyCode::Pause if set != 3 => match (down, held.any([KeyCode::Ctrl, KeyCode::CtrlR])) {
            // The key sends its break code at once and nothing when it is released.
            (false, _) => Vec::new(),
            (true, true) => [codes.make(key), codes.release(key)].concat(),
            (true, false) if set == 1 => vec![0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5],
            (true, false) => vec![0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77],
        },
        KeyCode::Print | KeyCode::Sysrq if set != 3 => codes.print_screen(key, down, held),
        // These two of Korean keyboards say only that they go down.
        KeyCode::Lang1 | KeyCode::Lang2 if !down => Vec::new(),
        _ if down => codes.make(key),
        _ => codes.release(key),
    }
}

struct Codes {
    set: u8,
}

impl Codes {
    fn make(&self, key: KeyCode) -> Vec<u8> {
        self.bytes(self.code(key), true)
    }

    fn release(&self, key: KeyCode) -> Vec<u8> {
        self.bytes(self.code(key), false)
    }

    fn code(&self, key: KeyCode) -> u16 {
        let (set2, set3) = CODES[key as usize];
        match self.set {
            1 => set_1(key),
            2 => set2,
            _ => set3,
        }
    }

    fn bytes(&self, code: u16, down: bool) -> Vec<u8> {
        let [prefix, code] = code.to_be_bytes();
        if code == 0 {
            return Vec::new();
        }
        let mut bytes = Vec::new();
        if prefix != 0 {
            bytes.push(EXTENDED);
        }
        match (down, self.set) {
            (true, _) => bytes.push(code),
            (false, 1) => bytes.push(code | RELEASED_1),
            (false, _) => bytes.extend([RELEASED, code]),
        }
        bytes
    }

    /// Print Screen is wrapped in a Shift that is not there, unless Shift or Ctrl is; with Alt it is
    /// the Sys Rq of the AT keyboard, which interrupts the held Alt.
    fn print_screen(&self, key: KeyCode, down: bool, held: Modifiers) -> Vec<u8> {
        let alt = [KeyCode::Alt, KeyCode::AltR].into_iter().find(|&alt| held.holds(alt));
        if let Some(alt) = alt {
            let again = [self.release(alt), self.make(alt)].concat();
            let sys_rq = self.bytes(if self.set == 1 { 0x54 } else { 0x84 }, down);
            return if down { [again, sys_rq].concat() } else { [sys_rq, again].concat() };
        }
        let own = if down { self.make(key) } else { self.release(key) };
        let shift = [KeyCode::Shift, KeyCode::ShiftR];
        if held.any(shift) || held.any([KeyCode::Ctrl, KeyCode::CtrlR]) {
            return own;
        }
        let fake = self.bytes(EXTENDED_CODE | self.code(KeyCode::Shift), down);
        if down { [fake, own].concat() } else { [own, fake].concat() }
    }
}

/// What the keyboard controller makes of the codes of set 2 when it translates them to set 1.
/// Codes from 80h on pass, but for the two that set 2 has there.
#[rustfmt::skip]
const TRANSLATION: [u8; 128] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
];

/// Translates one byte; [`RELEASED`] is to be swallowed by the caller and marks what follows.
pub fn translate(code: u8) -> u8 {
    match code {
        0x83 => 0x41,
        0x84 => 0x54,
        0..=0x7f => TRANSLATION[usize::from(code)],
        _ => code,
    }
}

/// Whether the byte says that the next one is a break code.
pub fn is_release(code: u8) -> bool {
    code == RELEASED
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(set: u8, key: KeyCode, held: &[KeyCode]) -> (Vec<u8>, Vec<u8>) {
        let mut modifiers = Modifiers::default();
        held.iter().for_each(|&key| modifiers.note(key, true));
        (sequence(set, key, true, modifiers), sequence(set, key, false, modifiers))
    }

    #[test]
    fn the_table_is_in_order() {
        for (key, codes) in [
            (KeyCode::A, (0x1e, 0x1c, 0x1c)),
            (KeyCode::F12, (0x58, 0x07, 0x5e)),
            (KeyCode::Up, (0xe048, 0xe075, 0x63)),
            (KeyCode::Volumedown, (0xe02e, 0xe021, 0x9d)),
            (KeyCode::F24, (0x6f, 0, 0)),
        ] {
            let (set2, set3) = CODES[key as usize];
            assert_eq!((set_1(key), set2, set3), codes, "{key:?}");
        }
    }

    /// The two sets agree wherever both have a code: the controller's table maps one on the other.
    #[test]
    fn set_2_translates_to_set_1() {
        for &key in KeyCode::ALL {
            let (set1, (set2, _)) = (set_1(key), CODES[key as usize]);
            if set2 != 0 {
                assert_eq!(translate(set2 as u8), set1 as u8, "{key:?}");
                assert_eq!(set1 >> 8, set2 >> 8, "{key:?}");
            }
        }
    }

    /// Observed on QEMU 10.0.
    #[test]
    fn print_and_pause_depend_on_modifiers() {
        let fake_shift = (vec![0xe0, 0x12, 0xe0, 0x7c], vec![0xe0, 0xf0, 0x7c, 0xe0, 0xf0, 0x12]);
        assert_eq!(keys(2, KeyCode::Print, &[]), fake_shift);
        assert_eq!(keys(1, KeyCode::Print, &[KeyCode::Ctrl]), (vec![0xe0, 0x37], vec![0xe0, 0xb7]));
        assert_eq!(
            keys(2, KeyCode::Sysrq, &[KeyCode::Alt]),
            (vec![0xf0, 0x11, 0x11, 0x84], vec![0xf0, 0x84, 0xf0, 0x11, 0x11])
        );
        assert_eq!(
            keys(1, KeyCode::Print, &[KeyCode::AltR, KeyCode::Shift]),
            (vec![0xe0, 0xb8, 0xe0, 0x38, 0x54], vec![0xd4, 0xe0, 0xb8, 0xe0, 0x38])
        );
        assert_eq!(keys(1, KeyCode::Pause, &[]).0, [0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]);
        assert_eq!(
            keys(2, KeyCode::Pause, &[KeyCode::CtrlR]),
            (vec![0xe0, 0x7e, 0xe0, 0xf0, 0x7e], vec![])
        );
        assert_eq!(keys(3, KeyCode::Pause, &[]), (vec![0x62], vec![0xf0, 0x62]));
    }
}
