//! The keys of a keyboard.

macro_rules! key_codes {
    ($($name:ident = $text:literal, $number:literal;)+) => {
        /// A key by its place on the keyboard: QMP's `QKeyCode`, with its numbers.
        #[allow(missing_docs)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum KeyCode { $($name),+ }

        impl KeyCode {
            /// All keys; the number of a key in QMP's enumeration is its index.
            pub const ALL: &[KeyCode] = &[$(KeyCode::$name),+];

            /// The key's name in QMP and in `sendkey`.
            pub const fn name(self) -> &'static str {
                match self { $(KeyCode::$name => $text),+ }
            }

            /// What the first PC keyboards send for the key (set 1), with bit 7 for the prefix of
            /// the keys that came later; zero if it has no code. QMP's `number`, and the key code
            /// of VNC's extended key events.
            pub const fn number(self) -> u8 {
                match self { $(KeyCode::$name => $number),+ }
            }
        }
    };
}

key_codes! {
    Unmapped = "unmapped", 0;
    Shift = "shift", 0x2a;
    ShiftR = "shift_r", 0x36;
    Alt = "alt", 0x38;
    AltR = "alt_r", 0xb8;
    Ctrl = "ctrl", 0x1d;
    CtrlR = "ctrl_r", 0x9d;
    Menu = "menu", 0x9e;
    Esc = "esc", 0x01;
    Digit1 = "1", 0x02;
    Digit2 = "2", 0x03;
    Digit3 = "3", 0x04;
    Digit4 = "4", 0x05;
    Digit5 = "5", 0x06;
    Digit6 = "6", 0x07;
    Digit7 = "7", 0x08;
    Digit8 = "8", 0x09;
    Digit9 = "9", 0x0a;
    Digit0 = "0", 0x0b;
    Minus = "minus", 0x0c;
    Equal = "equal", 0x0d;
    Backspace = "backspace", 0x0e;
    Tab = "tab", 0x0f;
    Q = "q", 0x10;
    W = "w", 0x11;
    E = "e", 0x12;
    R = "r", 0x13;
    T = "t", 0x14;
    Y = "y", 0x15;
    U = "u", 0x16;
    I = "i", 0x17;
    O = "o", 0x18;
    P = "p", 0x19;
    BracketLeft = "bracket_left", 0x1a;
    BracketRight = "bracket_right", 0x1b;
    Ret = "ret", 0x1c;
    A = "a", 0x1e;
    S = "s", 0x1f;
    D = "d", 0x20;
    F = "f", 0x21;
    G = "g", 0x22;
    H = "h", 0x23;
    J = "j", 0x24;
    K = "k", 0x25;
    L = "l", 0x26;
    Semicolon = "semicolon", 0x27;
    Apostrophe = "apostrophe", 0x28;
    GraveAccent = "grave_accent", 0x29;
    Backslash = "backslash", 0x2b;
    Z = "z", 0x2c;
    X = "x", 0x2d;
    C = "c", 0x2e;
    V = "v", 0x2f;
    B = "b", 0x30;
    N = "n", 0x31;
    M = "m", 0x32;
    Comma = "comma", 0x33;
    Dot = "dot", 0x34;
    Slash = "slash", 0x35;
    Asterisk = "asterisk", 0x37;
    Spc = "spc", 0x39;
    CapsLock = "caps_lock", 0x3a;
    F1 = "f1", 0x3b;
    F2 = "f2", 0x3c;
    F3 = "f3", 0x3d;
    F4 = "f4", 0x3e;
    F5 = "f5", 0x3f;
    F6 = "f6", 0x40;
    F7 = "f7", 0x41;
    F8 = "f8", 0x42;
    F9 = "f9", 0x43;
    F10 = "f10", 0x44;
    NumLock = "num_lock", 0x45;
    ScrollLock = "scroll_lock", 0x46;
    KpDivide = "kp_divide", 0xb5;
    KpMultiply = "kp_multiply", 0x37;
    KpSubtract = "kp_subtract", 0x4a;
    KpAdd = "kp_add", 0x4e;
    KpEnter = "kp_enter", 0x9c;
    KpDecimal = "kp_decimal", 0x53;
    Sysrq = "sysrq", 0x54;
    Kp0 = "kp_0", 0x52;
    Kp1 = "kp_1", 0x4f;
    Kp2 = "kp_2", 0x50;
    Kp3 = "kp_3", 0x51;
    Kp4 = "kp_4", 0x4b;
    Kp5 = "kp_5", 0x4c;
    Kp6 = "kp_6", 0x4d;
    Kp7 = "kp_7", 0x47;
    Kp8 = "kp_8", 0x48;
    Kp9 = "kp_9", 0x49;
    Less = "less", 0x56;
    F11 = "f11", 0x57;
    F12 = "f12", 0x58;
    Print = "print", 0xb7;
    Home = "home", 0xc7;
    Pgup = "pgup", 0xc9;
    Pgdn = "pgdn", 0xd1;
    End = "end", 0xcf;
    Left = "left", 0xcb;
    Up = "up", 0xc8;
    Down = "down", 0xd0;
    Right = "right", 0xcd;
    Insert = "insert", 0xd2;
    Delete = "delete", 0xd3;
    Stop = "stop", 0xe8;
    Again = "again", 0x85;
    Props = "props", 0x86;
    Undo = "undo", 0x87;
    Front = "front", 0x8c;
    Copy = "copy", 0xf8;
    Open = "open", 0x64;
    Paste = "paste", 0x65;
    Find = "find", 0xc1;
    Cut = "cut", 0xbc;
    Lf = "lf", 0x5b;
    Help = "help", 0xf5;
    MetaL = "meta_l", 0xdb;
    MetaR = "meta_r", 0xdc;
    Compose = "compose", 0xdd;
    Pause = "pause", 0xc6;
    Ro = "ro", 0x73;
    Hiragana = "hiragana", 0x77;
    Henkan = "henkan", 0x79;
    Yen = "yen", 0x7d;
    Muhenkan = "muhenkan", 0x7b;
    Katakanahiragana = "katakanahiragana", 0x70;
    KpComma = "kp_comma", 0x7e;
    KpEquals = "kp_equals", 0x59;
    Power = "power", 0xde;
    Sleep = "sleep", 0xdf;
    Wake = "wake", 0xe3;
    Audionext = "audionext", 0x99;
    Audioprev = "audioprev", 0x90;
    Audiostop = "audiostop", 0xa4;
    Audioplay = "audioplay", 0xa2;
    Audiomute = "audiomute", 0xa0;
    Volumeup = "volumeup", 0xb0;
    Volumedown = "volumedown", 0xae;
    Mediaselect = "mediaselect", 0xed;
    Mail = "mail", 0xec;
    Calculator = "calculator", 0xa1;
    Computer = "computer", 0xeb;
    AcHome = "ac_home", 0xb2;
    AcBack = "ac_back", 0xea;
    AcForward = "ac_forward", 0xe9;
    AcRefresh = "ac_refresh", 0xe7;
    AcBookmarks = "ac_bookmarks", 0xe6;
    Lang1 = "lang1", 0x72;
    Lang2 = "lang2", 0x71;
    F13 = "f13", 0x5d;
    F14 = "f14", 0x5e;
    F15 = "f15", 0x5f;
    F16 = "f16", 0x55;
    F17 = "f17", 0x83;
    F18 = "f18", 0xf7;
    F19 = "f19", 0x84;
    F20 = "f20", 0x5a;
    F21 = "f21", 0x74;
    F22 = "f22", 0xf9;
    F23 = "f23", 0x6d;
    F24 = "f24", 0x6f;
}

impl KeyCode {
    /// The key of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|key| key.name() == name)
    }

    /// The key of this number. The asterisk that is a key of its own shares one with that of the
    /// keypad, which nearly all keyboards mean.
    pub fn from_number(number: i64) -> Self {
        let number = u8::try_from(number).ok().filter(|&number| number > 0);
        let found = Self::ALL.iter().rfind(|key| Some(key.number()) == number);
        found.copied().unwrap_or(KeyCode::Unmapped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_name_and_number() {
        for (index, &key) in KeyCode::ALL.iter().enumerate() {
            assert_eq!(KeyCode::from_name(key.name()), Some(key));
            assert_eq!(key as usize, index);
            if key != KeyCode::Asterisk && key.number() > 0 {
                assert_eq!(KeyCode::from_number(key.number().into()), key);
            }
        }
        assert_eq!(KeyCode::from_name("kp_enter"), Some(KeyCode::KpEnter));
        assert_eq!(KeyCode::from_name("nothing"), None);
    }

    /// As QEMU 10.0.2 understands `send-key`.
    #[test]
    fn numbers_are_codes_of_set_1() {
        for (number, key) in [
            (0x1e, KeyCode::A),
            (0x37, KeyCode::KpMultiply),
            (0x54, KeyCode::Sysrq),
            (0x9c, KeyCode::KpEnter),
            (0xb7, KeyCode::Print),
            (0xc6, KeyCode::Pause),
            (0, KeyCode::Unmapped),
            (0x55 + 0x100, KeyCode::Unmapped),
            (-1, KeyCode::Unmapped),
        ] {
            assert_eq!(KeyCode::from_number(number), key, "{number:#x}");
        }
    }
}
