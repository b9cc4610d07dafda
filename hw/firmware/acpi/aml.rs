//! A builder for AML, the bytecode of ACPI definition blocks (ACPI 6.4, chapter 20).
//!
//! Every function returns one encoded term; containers take their contents as an iterator of terms. Strings in
//! operand position are names (`"PCI0"`, `"\\_SB.PCI0.PRES.CSEL"`); [`string`] makes a string constant. Nothing here
//! knows about any machine.

/// One encoded AML term (or a sequence of terms).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aml(Vec<u8>);

impl Aml {
    /// The encoded bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl From<&str> for Aml {
    fn from(name: &str) -> Aml {
        path(name)
    }
}

impl FromIterator<Aml> for Aml {
    fn from_iter<I: IntoIterator<Item = Aml>>(terms: I) -> Aml {
        Aml(terms.into_iter().flat_map(|term| term.0).collect())
    }
}

/// Whether a method runs in at most one thread at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// May run concurrently.
    NotSerialized,
    /// Runs in one thread at a time; needed when it creates named objects.
    Serialized,
}

/// Address space of an operation region.
#[derive(Clone, Copy, Debug)]
pub enum Space {
    /// Memory.
    Memory = 0,
    /// I/O ports.
    Io = 1,
    /// PCI configuration space of the enclosing device.
    PciConfig = 2,
}

/// Access width of a field.
#[derive(Clone, Copy, Debug)]
pub enum Access {
    /// 8 bits.
    Byte = 1,
    /// 32 bits.
    Dword = 3,
}

/// What becomes of the bits that a write to a field does not cover.
#[derive(Clone, Copy, Debug)]
pub enum Update {
    /// Read, modify, write.
    Preserve = 0,
    /// They are written as zero.
    WriteAsZeros = 2,
}

/// Whether accesses to a field take the global lock.
#[derive(Clone, Copy, Debug)]
pub enum Lock {
    /// They do not.
    NoLock = 0,
    /// They do.
    Lock = 1,
}

/// One element of a field list.
#[derive(Clone, Copy, Debug)]
pub enum FieldUnit {
    /// A named run of bits.
    Named(&'static str, usize),
    /// Bits without a name.
    Skip(usize),
}

const ZERO_OP: u8 = 0x00;
const ONE_OP: u8 = 0x01;
const BYTE_PREFIX: u8 = 0x0a;
const WORD_PREFIX: u8 = 0x0b;
const DWORD_PREFIX: u8 = 0x0c;
const STRING_PREFIX: u8 = 0x0d;
const QWORD_PREFIX: u8 = 0x0e;
const DUAL_NAME_PREFIX: u8 = 0x2e;
const MULTI_NAME_PREFIX: u8 = 0x2f;
const EXT_OP_PREFIX: u8 = 0x5b;

/// `PkgLength` (ACPI 6.4, 20.2.4) of a number of bytes or bits as it stands.
fn package_length(length: usize, out: &mut Vec<u8>) {
    if length < 1 << 6 {
        out.push(length as u8);
        return;
    }
    let extra = match length {
        l if l < 1 << 12 => 1,
        l if l < 1 << 20 => 2,
        _ => 3,
    };
    out.push(extra << 6 | (length & 0xf) as u8);
    out.extend((0..extra).map(|byte| (length >> (4 + 8 * byte)) as u8));
}

/// An opcode, the length of everything behind it, and the contents. The length counts its own bytes.
fn sized(opcode: &[u8], contents: &[u8]) -> Aml {
    let own = match contents.len() {
        l if l + 1 < 1 << 6 => 1,
        l if l + 2 < 1 << 12 => 2,
        l if l + 3 < 1 << 20 => 3,
        _ => 4,
    };
    let mut out = opcode.to_vec();
    package_length(contents.len() + own, &mut out);
    out.extend_from_slice(contents);
    Aml(out)
}

fn joined(head: &[u8], terms: impl IntoIterator<Item = Aml>) -> Aml {
    let mut out = head.to_vec();
    out.extend(terms.into_iter().flat_map(|term| term.0));
    Aml(out)
}

fn contents(head: Aml, body: impl IntoIterator<Item = Aml>) -> Vec<u8> {
    joined(&head.0, body).0
}

fn segment(name: &str, out: &mut Vec<u8>) {
    debug_assert!(!name.is_empty() && name.len() <= 4, "bad name segment {name:?}");
    out.extend(name.bytes().chain([b'_'; 4]).take(4));
}

/// A name: up to four characters a segment, segments separated by dots, with an optional root (`\`) or parent (`^`)
/// prefix.
pub fn path(name: &str) -> Aml {
    let segments = name.trim_start_matches(['\\', '^']);
    let mut out = name.as_bytes()[..name.len() - segments.len()].to_vec();
    let parts: Vec<&str> = segments.split('.').filter(|part| !part.is_empty()).collect();
    match parts.len() {
        0 => out.push(ZERO_OP),
        1 => {}
        2 => out.push(DUAL_NAME_PREFIX),
        n => out.extend([MULTI_NAME_PREFIX, n as u8]),
    }
    for part in parts {
        segment(part, &mut out);
    }
    Aml(out)
}

/// An integer in its shortest form.
pub fn int(value: u64) -> Aml {
    Aml(match value {
        0 => vec![ZERO_OP],
        1 => vec![ONE_OP],
        2..=0xff => vec![BYTE_PREFIX, value as u8],
        0x100..=0xffff => [&[WORD_PREFIX][..], &(value as u16).to_le_bytes()].concat(),
        0x1_0000..=0xffff_ffff => dword(value as u32).0,
        _ => [&[QWORD_PREFIX][..], &value.to_le_bytes()].concat(),
    })
}

/// A 32-bit integer in its full form, for values that are patched later.
pub fn dword(value: u32) -> Aml {
    Aml([&[DWORD_PREFIX][..], &value.to_le_bytes()].concat())
}

/// A string constant.
pub fn string(value: &str) -> Aml {
    let mut out = vec![STRING_PREFIX];
    out.extend(value.bytes().filter(|byte| *byte != 0));
    out.push(0);
    Aml(out)
}

/// A compressed EISA identifier such as `PNP0A03` (ACPI 6.4, 19.6.36).
pub fn eisa_id(id: &str) -> Aml {
    debug_assert_eq!(id.len(), 7, "bad EISA identifier {id:?}");
    let vendor = id.bytes().take(3).fold(0u32, |sum, letter| sum << 5 | u32::from(letter & 0x1f));
    let product = id
        .bytes()
        .skip(3)
        .fold(0u32, |sum, digit| sum << 4 | char::from(digit).to_digit(16).unwrap_or_default());
    dword((vendor << 16 | product).swap_bytes())
}

/// A buffer with initial contents.
pub fn buffer(bytes: &[u8]) -> Aml {
    sized(&[0x11], &contents(int(bytes.len() as u64), [Aml(bytes.to_vec())]))
}

/// A UUID as the buffer that `ToUUID` makes: the first three groups are little endian.
pub fn uuid(groups: (u32, u16, u16, [u8; 8])) -> Aml {
    let mut bytes = groups.0.to_le_bytes().to_vec();
    bytes.extend(groups.1.to_le_bytes());
    bytes.extend(groups.2.to_le_bytes());
    bytes.extend(groups.3);
    buffer(&bytes)
}

/// A package of the given elements (at most 255).
pub fn package(elements: impl IntoIterator<Item = Aml>) -> Aml {
    let elements: Vec<Aml> = elements.into_iter().collect();
    debug_assert!(elements.len() <= 0xff);
    sized(&[0x12], &contents(Aml(vec![elements.len() as u8]), elements))
}

/// A package of so many uninitialised elements.
pub fn empty_package(count: u8) -> Aml {
    sized(&[0x12], &[count])
}

/// `LocalN`.
pub fn local(n: u8) -> Aml {
    debug_assert!(n < 8);
    Aml(vec![0x60 + n])
}

/// `ArgN`.
pub fn arg(n: u8) -> Aml {
    debug_assert!(n < 7);
    Aml(vec![0x68 + n])
}

/// The debug object.
pub fn debug() -> Aml {
    Aml(vec![EXT_OP_PREFIX, 0x31])
}

/// The absent target of an operation that is used for its value.
pub fn nowhere() -> Aml {
    Aml(vec![ZERO_OP])
}

/// `Name (name, value)`.
pub fn name(name: &str, value: Aml) -> Aml {
    joined(&[0x08], [path(name), value])
}

/// `Scope (name) { ... }`.
pub fn scope(name: &str, body: impl IntoIterator<Item = Aml>) -> Aml {
    sized(&[0x10], &contents(path(name), body))
}

/// `Device (name) { ... }`.
pub fn device(name: &str, body: impl IntoIterator<Item = Aml>) -> Aml {
    sized(&[EXT_OP_PREFIX, 0x82], &contents(path(name), body))
}

/// `Processor (name, id, 0, 0) { ... }`.
pub fn processor(name: &str, id: u8, body: impl IntoIterator<Item = Aml>) -> Aml {
    let no_register_block = Aml(vec![id, 0, 0, 0, 0, 0]);
    sized(&[EXT_OP_PREFIX, 0x83], &contents(Aml::from_iter([path(name), no_register_block]), body))
}

/// `Method (name, args, sync) { ... }`.
pub fn method(name: &str, args: u8, sync: Sync, body: impl IntoIterator<Item = Aml>) -> Aml {
    let flags = args & 7 | if sync == Sync::Serialized { 8 } else { 0 };
    sized(&[0x14], &contents(Aml::from_iter([path(name), Aml(vec![flags])]), body))
}

/// `Mutex (name, 0)`.
pub fn mutex(name: &str) -> Aml {
    joined(&[EXT_OP_PREFIX, 0x01], [path(name), Aml(vec![0])])
}

/// `OperationRegion (name, space, offset, length)`.
pub fn operation_region(name: &str, space: Space, offset: Aml, length: u64) -> Aml {
    joined(&[EXT_OP_PREFIX, 0x80], [path(name), Aml(vec![space as u8]), offset, int(length)])
}

/// `Field (region, access, lock, update) { ... }`.
pub fn field(region: &str, access: Access, lock: Lock, update: Update, units: &[FieldUnit]) -> Aml {
    let mut list = vec![access as u8 | (lock as u8) << 4 | (update as u8) << 5];
    for unit in units {
        let bits = match *unit {
            FieldUnit::Named(name, bits) => {
                segment(name, &mut list);
                bits
            }
            FieldUnit::Skip(bits) => {
                list.push(0);
                bits
            }
        };
        package_length(bits, &mut list);
    }
    sized(&[EXT_OP_PREFIX, 0x81], &contents(path(region), [Aml(list)]))
}

/// `CreateDWordField (source, offset, name)`.
pub fn create_dword_field(source: impl Into<Aml>, offset: u64, name: &str) -> Aml {
    joined(&[0x8a], [source.into(), int(offset), path(name)])
}

/// A method call.
pub fn call(method: &str, args: impl IntoIterator<Item = Aml>) -> Aml {
    joined(&path(method).0, args)
}

/// `Store (value, target)`.
pub fn store(value: impl Into<Aml>, target: impl Into<Aml>) -> Aml {
    joined(&[0x70], [value.into(), target.into()])
}

/// `Increment (target)`.
pub fn increment(target: impl Into<Aml>) -> Aml {
    joined(&[0x75], [target.into()])
}

/// `Add (a, b, target)`.
pub fn add(a: impl Into<Aml>, b: impl Into<Aml>, target: impl Into<Aml>) -> Aml {
    joined(&[0x72], [a.into(), b.into(), target.into()])
}

/// `Subtract (a, b, target)`.
pub fn subtract(a: impl Into<Aml>, b: impl Into<Aml>, target: impl Into<Aml>) -> Aml {
    joined(&[0x74], [a.into(), b.into(), target.into()])
}

/// `ShiftLeft (a, b, target)`.
pub fn shift_left(a: impl Into<Aml>, b: impl Into<Aml>, target: impl Into<Aml>) -> Aml {
    joined(&[0x79], [a.into(), b.into(), target.into()])
}

/// `ShiftRight (a, b, target)`.
pub fn shift_right(a: impl Into<Aml>, b: impl Into<Aml>, target: impl Into<Aml>) -> Aml {
    joined(&[0x7a], [a.into(), b.into(), target.into()])
}

/// `And (a, b, target)`.
pub fn and(a: impl Into<Aml>, b: impl Into<Aml>, target: impl Into<Aml>) -> Aml {
    joined(&[0x7b], [a.into(), b.into(), target.into()])
}

/// `Or (a, b, target)`.
pub fn or(a: impl Into<Aml>, b: impl Into<Aml>, target: impl Into<Aml>) -> Aml {
    joined(&[0x7d], [a.into(), b.into(), target.into()])
}

/// `LAnd (a, b)`.
pub fn both(a: Aml, b: Aml) -> Aml {
    joined(&[0x90], [a, b])
}

/// `LOr (a, b)`.
pub fn either(a: Aml, b: Aml) -> Aml {
    joined(&[0x91], [a, b])
}

/// `LNot (a)`.
pub fn not(a: Aml) -> Aml {
    joined(&[0x92], [a])
}

/// `LEqual (a, b)`.
pub fn equal(a: impl Into<Aml>, b: impl Into<Aml>) -> Aml {
    joined(&[0x93], [a.into(), b.into()])
}

/// `LGreater (a, b)`.
pub fn greater(a: impl Into<Aml>, b: impl Into<Aml>) -> Aml {
    joined(&[0x94], [a.into(), b.into()])
}

/// `LLess (a, b)`.
pub fn less(a: impl Into<Aml>, b: impl Into<Aml>) -> Aml {
    joined(&[0x95], [a.into(), b.into()])
}

/// `If (condition) { ... }`.
pub fn when(condition: Aml, body: impl IntoIterator<Item = Aml>) -> Aml {
    sized(&[0xa0], &contents(condition, body))
}

/// `While (condition) { ... }`.
pub fn repeat_while(condition: Aml, body: impl IntoIterator<Item = Aml>) -> Aml {
    sized(&[0xa2], &contents(condition, body))
}

/// `Break`.
pub fn leave() -> Aml {
    Aml(vec![0xa5])
}

/// `Return (value)`.
pub fn ret(value: impl Into<Aml>) -> Aml {
    joined(&[0xa4], [value.into()])
}

/// `Notify (object, value)`.
pub fn notify(object: &str, value: Aml) -> Aml {
    joined(&[0x86], [path(object), value])
}

/// `Acquire (mutex, forever)`.
pub fn acquire(mutex: &str) -> Aml {
    joined(&[EXT_OP_PREFIX, 0x23], [path(mutex), Aml(vec![0xff, 0xff])])
}

/// `Release (mutex)`.
pub fn release(mutex: &str) -> Aml {
    joined(&[EXT_OP_PREFIX, 0x27], [path(mutex)])
}

/// `SizeOf (object)`.
pub fn size_of(object: impl Into<Aml>) -> Aml {
    joined(&[0x87], [object.into()])
}

/// `DerefOf (reference)`.
pub fn deref_of(reference: Aml) -> Aml {
    joined(&[0x83], [reference])
}

/// `Index (object, position)`, a reference to one element.
pub fn index(object: impl Into<Aml>, position: Aml) -> Aml {
    joined(&[0x88], [object.into(), position, nowhere()])
}

/// `ToHexString (value, target)`.
pub fn to_hex_string(value: Aml, target: Aml) -> Aml {
    joined(&[0x98], [value, target])
}

/// `ToBuffer (value, target)`.
pub fn to_buffer(value: Aml, target: Aml) -> Aml {
    joined(&[0x96], [value, target])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_padded_and_prefixed() {
        assert_eq!(path("_SB").0, b"_SB_");
        assert_eq!(path("\\").0, b"\\\0");
        assert_eq!(path("\\_SB.PCI0").0, b"\\\x2e_SB_PCI0");
        assert_eq!(path("\\_SB.PCI0.S08").0, b"\\\x2f\x03_SB_PCI0S08_");
        assert_eq!(path("^S48.PCNT").0, b"^\x2eS48_PCNT");
    }

    #[test]
    fn integers_take_their_shortest_form() {
        assert_eq!(int(0).0, [0]);
        assert_eq!(int(1).0, [1]);
        assert_eq!(int(0xff).0, [0x0a, 0xff]);
        assert_eq!(int(0x100).0, [0x0b, 0, 1]);
        assert_eq!(int(0x1_0000).0, [0x0c, 0, 0, 1, 0]);
        assert_eq!(int(1 << 32).0, [0x0e, 0, 0, 0, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn eisa_identifiers_are_compressed() {
        // The worked example of the specification: PNP0303 is 41 D0 03 03.
        assert_eq!(eisa_id("PNP0303").0, [0x0c, 0x41, 0xd0, 0x03, 0x03]);
    }

    /// Decodes a package length as an interpreter does.
    fn decode_length(bytes: &[u8]) -> (usize, usize) {
        let extra = usize::from(bytes[0] >> 6);
        if extra == 0 {
            return (usize::from(bytes[0]), 1);
        }
        let high = (0..extra).map(|i| usize::from(bytes[1 + i]) << (4 + 8 * i)).sum::<usize>();
        (high | usize::from(bytes[0] & 0xf), 1 + extra)
    }

    proptest! {
        #[test]
        fn a_container_says_its_own_length(size in prop_oneof![0usize..300, 4080..4110usize, 1048560..1048600usize]) {
            let term = sized(&[0x10], &vec![0; size]).0;
            let (length, bytes) = decode_length(&term[1..]);
            prop_assert_eq!(length, term.len() - 1);
            prop_assert_eq!(bytes + size, length);
        }
    }
}
