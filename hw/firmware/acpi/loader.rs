//! The table loader script of fw_cfg (`etc/table-loader`).
//!
//! The machine knows the tables, firmware knows where memory is free. So the machine hands over the tables with
//! offsets in place of addresses, and a script of 128-byte commands: allocate memory for a file, add a file's address
//! to a field, compute a checksum, report an address back to the machine.

use std::collections::HashMap;

use thiserror::Error;

const COMMAND_LENGTH: usize = 128;
const NAME_LENGTH: usize = 56;

/// Where a file is to be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// Anywhere below 4 GiB.
    High,
    /// In the segment 0xF0000, where operating systems look for root pointers.
    BiosSegment,
}

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Load `file` into memory.
    Allocate {
        /// File.
        file: String,
        /// Alignment, a power of two.
        align: u32,
        /// Place.
        zone: Zone,
    },
    /// Add the address of `source` to the little-endian number of `size` bytes at `offset` of `file`.
    AddPointer {
        /// File to change.
        file: String,
        /// File whose address is added.
        source: String,
        /// Where.
        offset: u32,
        /// 1, 2, 4 or 8.
        size: u8,
    },
    /// Set the byte at `offset` of `file` so that `length` bytes from `start` add up to zero.
    AddChecksum {
        /// File to change.
        file: String,
        /// Where.
        offset: u32,
        /// First byte that is summed.
        start: u32,
        /// Number of bytes.
        length: u32,
    },
    /// Write the address of `source` plus `source_offset` back to the machine's `file`.
    WritePointer {
        /// File of the machine.
        file: String,
        /// File whose address is reported.
        source: String,
        /// Where in `file`.
        offset: u32,
        /// Added to the address.
        source_offset: u32,
        /// 1, 2, 4 or 8.
        size: u8,
    },
}

/// Why a script cannot be read or executed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LoaderError {
    /// Not a whole number of commands, or a field with an impossible value.
    #[error("Malformed table loader command {0}")]
    Malformed(usize),
    /// A command names a file that is not there or not yet allocated.
    #[error("Table loader refers to unknown file '{0}'")]
    UnknownFile(String),
    /// A command reaches beyond the end of a file.
    #[error("Table loader reaches beyond the end of '{0}'")]
    OutOfBounds(String),
    /// The allocator found no room.
    #[error("No guest memory left for '{0}'")]
    NoRoom(String),
}

/// A sequence of commands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script(pub Vec<Command>);

/// The result of a script: what to write where in guest memory.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Address and contents of each allocated file, with its name.
    pub files: Vec<(String, u64, Vec<u8>)>,
    /// Contents of the files that were reported back to the machine.
    pub reports: Vec<(String, Vec<u8>)>,
}

impl Image {
    /// Address of an allocated file.
    pub fn address(&self, file: &str) -> Option<u64> {
        self.files.iter().find(|(name, ..)| name == file).map(|(_, address, _)| *address)
    }
}

impl Script {
    /// The script as it stands in the fw_cfg file.
    pub fn encode(&self) -> Vec<u8> {
        self.0.iter().flat_map(encode_command).collect()
    }

    /// Reads a script; commands of an unknown kind are skipped, as the interface asks.
    pub fn decode(bytes: &[u8]) -> Result<Script, LoaderError> {
        let (commands, rest) = bytes.as_chunks::<COMMAND_LENGTH>();
        if !rest.is_empty() {
            return Err(LoaderError::Malformed(commands.len()));
        }
        let mut script = Vec::new();
        for (position, command) in commands.iter().enumerate() {
            script.extend(decode_command(command).ok_or(LoaderError::Malformed(position))?);
        }
        Ok(Script(script))
    }
}

fn encode_command(command: &Command) -> [u8; COMMAND_LENGTH] {
    let mut bytes = Vec::with_capacity(COMMAND_LENGTH);
    fn file_name(bytes: &mut Vec<u8>, name: &str) {
        bytes.extend(name.bytes().chain([0; NAME_LENGTH]).take(NAME_LENGTH));
    }
    fn numbers(bytes: &mut Vec<u8>, numbers: &[u32]) {
        bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    }
    match command {
        Command::Allocate { file, align, zone } => {
            numbers(&mut bytes, &[1]);
            file_name(&mut bytes, file);
            numbers(&mut bytes, &[*align]);
            bytes.push(match zone {
                Zone::High => 1,
                Zone::BiosSegment => 2,
            });
        }
        Command::AddPointer { file, source, offset, size } => {
            numbers(&mut bytes, &[2]);
            file_name(&mut bytes, file);
            file_name(&mut bytes, source);
            numbers(&mut bytes, &[*offset]);
            bytes.push(*size);
        }
        Command::AddChecksum { file, offset, start, length } => {
            numbers(&mut bytes, &[3]);
            file_name(&mut bytes, file);
            numbers(&mut bytes, &[*offset, *start, *length]);
        }
        Command::WritePointer { file, source, offset, source_offset, size } => {
            numbers(&mut bytes, &[4]);
            file_name(&mut bytes, file);
            file_name(&mut bytes, source);
            numbers(&mut bytes, &[*offset, *source_offset]);
            bytes.push(*size);
        }
    }
    let mut out = [0; COMMAND_LENGTH];
    out[..bytes.len()].copy_from_slice(&bytes);
    out
}

/// `None` if malformed, `Some(None)` if unknown.
fn decode_command(bytes: &[u8; COMMAND_LENGTH]) -> Option<Option<Command>> {
    let number = |at: usize| {
        bytes.get(at..at + 4).and_then(|field| field.try_into().ok()).map(u32::from_le_bytes)
    };
    let file_name = |at: usize| {
        let field = bytes.get(at..at + NAME_LENGTH)?;
        let end = field.iter().position(|byte| *byte == 0)?;
        String::from_utf8(field[..end].to_vec()).ok()
    };
    let size = |at: usize| bytes.get(at).copied().filter(|size| matches!(size, 1 | 2 | 4 | 8));
    const FIRST: usize = 4;
    const SECOND: usize = FIRST + NAME_LENGTH;
    const THIRD: usize = SECOND + NAME_LENGTH;
    Some(Some(match number(0)? {
        1 => Command::Allocate {
            file: file_name(FIRST)?,
            align: number(SECOND).filter(|align| align.is_power_of_two())?,
            zone: match bytes[SECOND + 4] {
                1 => Zone::High,
                2 => Zone::BiosSegment,
                _ => return None,
            },
        },
        2 => Command::AddPointer {
            file: file_name(FIRST)?,
            source: file_name(SECOND)?,
            offset: number(THIRD)?,
            size: size(THIRD + 4)?,
        },
        3 => Command::AddChecksum {
            file: file_name(FIRST)?,
            offset: number(SECOND)?,
            start: number(SECOND + 4)?,
            length: number(SECOND + 8)?,
        },
        4 => Command::WritePointer {
            file: file_name(FIRST)?,
            source: file_name(SECOND)?,
            offset: number(THIRD)?,
            source_offset: number(THIRD + 4)?,
            size: size(THIRD + 8)?,
        },
        _ => return Some(None),
    }))
}

/// Executes a script over the named files. `allocate` hands out memory: size, alignment and zone to address.
pub fn execute<'a>(
    script: &Script,
    files: impl IntoIterator<Item = (&'a str, Vec<u8>)>,
    mut allocate: impl FnMut(u64, u64, Zone) -> Option<u64>,
) -> Result<Image, LoaderError> {
    let mut waiting: HashMap<&str, Vec<u8>> = files.into_iter().collect();
    let mut image = Image::default();
    for command in &script.0 {
        match command {
            Command::Allocate { file, align, zone } => {
                let data = waiting.remove(file.as_str()).ok_or_else(|| unknown(file))?;
                let address = allocate(data.len() as u64, u64::from(*align), *zone)
                    .ok_or_else(|| LoaderError::NoRoom(file.clone()))?;
                image.files.push((file.clone(), address, data));
            }
            Command::AddPointer { file, source, offset, size } => {
                let address = image.address(source).ok_or_else(|| unknown(source))?;
                let data = loaded(&mut image, file)?;
                let field = part(data, file, *offset, u32::from(*size))?;
                let mut number = [0; 8];
                number[..field.len()].copy_from_slice(field);
                let sum = u64::from_le_bytes(number).wrapping_add(address).to_le_bytes();
                field.copy_from_slice(&sum[..field.len()]);
            }
            Command::AddChecksum { file, offset, start, length } => {
                let data = loaded(&mut image, file)?;
                let sum = part(data, file, *start, *length)?
                    .iter()
                    .fold(0u8, |sum, byte| sum.wrapping_add(*byte));
                let byte = &mut part(data, file, *offset, 1)?[0];
                *byte = byte.wrapping_sub(sum);
            }
            Command::WritePointer { file, source, offset, source_offset, size } => {
                let address = image.address(source).ok_or_else(|| unknown(source))?;
                let address = address.wrapping_add(u64::from(*source_offset)).to_le_bytes();
                let mut data = waiting.remove(file.as_str()).ok_or_else(|| unknown(file))?;
                let field = part(&mut data, file, *offset, u32::from(*size))?;
                field.copy_from_slice(&address[..field.len()]);
                image.reports.push((file.clone(), data));
            }
        }
    }
    Ok(image)
}

fn unknown(file: &str) -> LoaderError {
    LoaderError::UnknownFile(file.into())
}

fn loaded<'a>(image: &'a mut Image, file: &str) -> Result<&'a mut Vec<u8>, LoaderError> {
    let found = image.files.iter_mut().find(|(name, ..)| name == file);
    found.map(|(_, _, data)| data).ok_or_else(|| unknown(file))
}

fn part<'a>(
    data: &'a mut [u8],
    file: &str,
    offset: u32,
    length: u32,
) -> Result<&'a mut [u8], LoaderError> {
    let start = offset as usize;
    let end = start.checked_add(length as usize);
    end.and_then(|end| data.get_mut(start..end))
        .ok_or_else(|| LoaderError::OutOfBounds(file.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Script {
        Script(vec![
            Command::Allocate { file: "b".into(), align: 64, zone: Zone::High },
            Command::Allocate { file: "a".into(), align: 16, zone: Zone::BiosSegment },
            Command::AddPointer { file: "a".into(), source: "b".into(), offset: 4, size: 4 },
            Command::AddChecksum { file: "a".into(), offset: 0, start: 0, length: 8 },
            Command::WritePointer {
                file: "r".into(),
                source: "b".into(),
                offset: 8,
                source_offset: 3,
                size: 8,
            },
        ])
    }

    #[test]
    fn script_round_trips() {
        let bytes = sample().encode();
        assert_eq!(bytes.len(), 5 * COMMAND_LENGTH);
        assert_eq!(Script::decode(&bytes), Ok(sample()));
    }

    #[test]
    fn unknown_commands_are_skipped_and_padding_ignored() {
        let mut bytes = sample().encode();
        bytes.extend([0; COMMAND_LENGTH]);
        bytes.extend([0xff; COMMAND_LENGTH]);
        assert_eq!(Script::decode(&bytes), Ok(sample()));
        bytes.push(0);
        assert_eq!(Script::decode(&bytes), Err(LoaderError::Malformed(7)));
    }

    #[test]
    fn execution_relocates_sums_and_reports() {
        let files =
            [("a", vec![0, 1, 2, 3, 0x10, 0, 0, 0]), ("b", vec![0; 100]), ("r", vec![0; 16])];
        let image = execute(&sample(), files, |_, _, zone| {
            Some(if zone == Zone::High { 0x7fe_0000 } else { 0xf_5000 })
        })
        .unwrap();
        assert_eq!(image.address("a"), Some(0xf_5000));
        let (_, _, a) = image.files.iter().find(|(name, ..)| name == "a").unwrap();
        assert_eq!(a[4..], 0x7fe_0010u32.to_le_bytes());
        assert_eq!(a.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        assert_eq!(image.reports[0].1[8..], 0x7fe_0003u64.to_le_bytes());
    }

    #[test]
    fn bad_commands_are_refused_by_name() {
        let run = |command| {
            let script = Script(vec![
                Command::Allocate { file: "a".into(), align: 1, zone: Zone::High },
                command,
            ]);
            execute(&script, [("a", vec![0; 8])], |_, _, _| Some(0)).unwrap_err()
        };
        assert_eq!(
            run(Command::AddPointer { file: "a".into(), source: "a".into(), offset: 5, size: 4 }),
            LoaderError::OutOfBounds("a".into())
        );
        assert_eq!(
            run(Command::AddChecksum {
                file: "a".into(),
                offset: 0,
                start: u32::MAX,
                length: u32::MAX
            }),
            LoaderError::OutOfBounds("a".into())
        );
        assert_eq!(
            run(Command::AddPointer { file: "a".into(), source: "z".into(), offset: 0, size: 4 }),
            LoaderError::UnknownFile("z".into())
        );
    }

    proptest! {
        #[test]
        fn hostile_scripts_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512), kind in 0u32..6) {
            let mut bytes = bytes;
            for command in bytes.as_chunks_mut::<COMMAND_LENGTH>().0 {
                command[..4].copy_from_slice(&kind.to_le_bytes());
                command[4..8].copy_from_slice(b"a\0\0\0");
            }
            if let Ok(script) = Script::decode(&bytes) {
                let _ = execute(&script, [("a", vec![0; 64])], |_, _, _| Some(0x1000));
            }
        }
    }
}
