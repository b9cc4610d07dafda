//! Input events: what a person types and points at, on their way from displays and monitors to the
//! devices that the guest reads them from.

macro_rules! key_codes {
    ($($name:ident = $text:literal,)+) => {
        /// A key by its place on the keyboard: QMP's `QKeyCode`, with its numbers.
        #[allow(missing_docs)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum KeyCode { $($name),+ }

        impl KeyCode {
            /// All keys; the number of a key is its index.
            pub const ALL: &[KeyCode] = &[$(KeyCode::$name),+];

            /// The key's name in QMP and in `sendkey`.
            pub const fn name(self) -> &'static str {
                match self { $(KeyCode::$name => $text),+ }
            }
        }
    };
}

key_codes! {
    Unmapped = "unmapped",
    Shift = "shift",
    ShiftR = "shift_r",
    Alt = "alt",
    AltR = "alt_r",
    Ctrl = "ctrl",
    CtrlR = "ctrl_r",
    Menu = "menu",
    Esc = "esc",
    Digit1 = "1",
    Digit2 = "2",
    Digit3 = "3",
    Digit4 = "4",
    Digit5 = "5",
    Digit6 = "6",
    Digit7 = "7",
    Digit8 = "8",
    Digit9 = "9",
    Digit0 = "0",
    Minus = "minus",
    Equal = "equal",
    Backspace = "backspace",
    Tab = "tab",
    Q = "q",
    W = "w",
    E = "e",
    R = "r",
    T = "t",
    Y = "y",
    U = "u",
    I = "i",
    O = "o",
    P = "p",
    BracketLeft = "bracket_left",
    BracketRight = "bracket_right",
    Ret = "ret",
    A = "a",
    S = "s",
    D = "d",
    F = "f",
    G = "g",
    H = "h",
    J = "j",
    K = "k",
    L = "l",
    Semicolon = "semicolon",
    Apostrophe = "apostrophe",
    GraveAccent = "grave_accent",
    Backslash = "backslash",
    Z = "z",
    X = "x",
    C = "c",
    V = "v",
    B = "b",
    N = "n",
    M = "m",
    Comma = "comma",
    Dot = "dot",
    Slash = "slash",
    Asterisk = "asterisk",
    Spc = "spc",
    CapsLock = "caps_lock",
    F1 = "f1",
    F2 = "f2",
    F3 = "f3",
    F4 = "f4",
    F5 = "f5",
    F6 = "f6",
    F7 = "f7",
    F8 = "f8",
    F9 = "f9",
    F10 = "f10",
    NumLock = "num_lock",
    ScrollLock = "scroll_lock",
    KpDivide = "kp_divide",
    KpMultiply = "kp_multiply",
    KpSubtract = "kp_subtract",
    KpAdd = "kp_add",
    KpEnter = "kp_enter",
    KpDecimal = "kp_decimal",
    Sysrq = "sysrq",
    Kp0 = "kp_0",
    Kp1 = "kp_1",
    Kp2 = "kp_2",
    Kp3 = "kp_3",
    Kp4 = "kp_4",
    Kp5 = "kp_5",
    Kp6 = "kp_6",
    Kp7 = "kp_7",
    Kp8 = "kp_8",
    Kp9 = "kp_9",
    Less = "less",
    F11 = "f11",
    F12 = "f12",
    Print = "print",
    Home = "home",
    Pgup = "pgup",
    Pgdn = "pgdn",
    End = "end",
    Left = "left",
    Up = "up",
    Down = "down",
    Right = "right",
    Insert = "insert",
    Delete = "delete",
    Stop = "stop",
    Again = "again",
    Props = "props",
    Undo = "undo",
    Front = "front",
    Copy = "copy",
    Open = "open",
    Paste = "paste",
    Find = "find",
    Cut = "cut",
    Lf = "lf",
    Help = "help",
    MetaL = "meta_l",
    MetaR = "meta_r",
    Compose = "compose",
    Pause = "pause",
    Ro = "ro",
    Hiragana = "hiragana",
    Henkan = "henkan",
    Yen = "yen",
    Muhenkan = "muhenkan",
    Katakanahiragana = "katakanahiragana",
    KpComma = "kp_comma",
    KpEquals = "kp_equals",
    Power = "power",
    Sleep = "sleep",
    Wake = "wake",
    Audionext = "audionext",
    Audioprev = "audioprev",
    Audiostop = "audiostop",
    Audioplay = "audioplay",
    Audiomute = "audiomute",
    Volumeup = "volumeup",
    Volumedown = "volumedown",
    Mediaselect = "mediaselect",
    Mail = "mail",
    Calculator = "calculator",
    Computer = "computer",
    AcHome = "ac_home",
    AcBack = "ac_back",
    AcForward = "ac_forward",
    AcRefresh = "ac_refresh",
    AcBookmarks = "ac_bookmarks",
    Lang1 = "lang1",
    Lang2 = "lang2",
    F13 = "f13",
    F14 = "f14",
    F15 = "f15",
    F16 = "f16",
    F17 = "f17",
    F18 = "f18",
    F19 = "f19",
    F20 = "f20",
    F21 = "f21",
    F22 = "f22",
    F23 = "f23",
    F24 = "f24",
}

impl KeyCode {
    /// The key of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|key| key.name() == name)
    }
}

/// A button of a pointing device, wheels included: QMP's `InputButton`.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Button {
    Left,
    Middle,
    Right,
    WheelUp,
    WheelDown,
    Side,
    Extra,
    WheelLeft,
    WheelRight,
}

/// A change at a relative pointing device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointerEvent {
    /// Moved by so many units, rightwards and downwards.
    Move {
        /// To the right.
        dx: i32,
        /// Downwards.
        dy: i32,
    },
    /// A button is pressed or released; for wheels a press is one notch.
    Button(Button, bool),
}

/// Takes key strokes.
pub trait KeySink: Send + Sync {
    /// A key goes down or up.
    fn key(&self, key: KeyCode, down: bool);
}

/// Takes movements and clicks.
pub trait PointerSink: Send + Sync {
    /// What happened at one moment; the guest sees it as one report if its protocol can say so.
    fn pointer(&self, events: &[PointerEvent]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_name_and_number() {
        for (number, &key) in KeyCode::ALL.iter().enumerate() {
            assert_eq!(KeyCode::from_name(key.name()), Some(key));
            assert_eq!(key as usize, number);
        }
        assert_eq!(KeyCode::from_name("kp_enter"), Some(KeyCode::KpEnter));
        assert_eq!(KeyCode::from_name("nothing"), None);
    }
}
