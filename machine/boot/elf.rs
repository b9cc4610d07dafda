//! The parts of ELF that loaders need: program headers and notes, in both classes, little endian.

/// A segment to load.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Physical address.
    pub address: u64,
    /// Bytes in the file.
    pub data: &'a [u8],
    /// Size in memory; what the file does not hold is zero.
    pub size: u64,
    virtual_address: u64,
}

/// A parsed image.
#[derive(Clone, Debug)]
pub struct Elf<'a> {
    /// Entry point, as a physical address.
    pub entry: u64,
    /// Segments to load.
    pub segments: Vec<Segment<'a>>,
    /// Contents of note segments, with their alignment.
    notes: Vec<(&'a [u8], usize)>,
}

const MAGIC: &[u8] = b"\x7fELF";
const MACHINE_386: u64 = 3;
const MACHINE_X86_64: u64 = 62;
const LOAD: u64 = 1;
const NOTE: u64 = 4;

/// Whether the file says that it is ELF.
pub fn is_elf(file: &[u8]) -> bool {
    file.starts_with(MAGIC)
}

/// A little-endian number of `size` bytes.
pub fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(size)?)?;
    Some(field.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

fn slice(file: &[u8], offset: u64, length: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    file.get(start..start.checked_add(usize::try_from(length).ok()?)?)
}

/// Parses an image; the error says what is wrong.
pub fn parse(file: &[u8]) -> Result<Elf<'_>, &'static str> {
    const CLASS_32: u64 = 1;
    const CLASS_64: u64 = 2;
    const LITTLE_ENDIAN: u64 = 1;
    if !is_elf(file) || number(file, 5, 1) != Some(LITTLE_ENDIAN) {
        return Err("not a little-endian ELF file");
    }
    if !matches!(number(file, 18, 2), Some(MACHINE_386 | MACHINE_X86_64)) {
        return Err("not for an x86 machine");
    }
    let wide = match number(file, 4, 1) {
        Some(CLASS_32) => false,
        Some(CLASS_64) => true,
        _ => return Err("unknown ELF class"),
    };
    let truncated = "ELF header is truncated";
    let field = |narrow_at, narrow_size, wide_at, wide_size| {
        let value = if wide {
            number(file, wide_at, wide_size)
        } else {
            number(file, narrow_at, narrow_size)
        };
        value.ok_or(truncated)
    };
    let mut elf = Elf { entry: field(24, 4, 24, 8)?, segments: vec![], notes: vec![] };
    let headers = field(28, 4, 32, 8)?;
    let entry_size = field(42, 2, 54, 2)?;
    let count = field(44, 2, 56, 2)?;
    let size = if wide { 56 } else { 32 };
    // Headers on top of each other would name the same bytes thousands of times.
    if count > 0 && entry_size < size {
        return Err("program headers overlap");
    }
    for index in 0..count {
        let header = index.checked_mul(entry_size).and_then(|offset| offset.checked_add(headers));
        let header = header
            .and_then(|offset| slice(file, offset, size))
            .ok_or("program headers are truncated")?;
        elf.add_header(file, header, wide)?;
    }
    let noted: usize = elf.notes.iter().map(|(notes, _)| notes.len()).sum();
    if noted > file.len() {
        return Err("notes overlap");
    }
    // The entry point is virtual where the two kinds of addresses differ.
    let inside = |segment: &&Segment<'_>| {
        elf.entry.checked_sub(segment.virtual_address).is_some_and(|offset| offset < segment.size)
    };
    if let Some(segment) = elf.segments.iter().find(inside) {
        let offset = elf.entry - segment.virtual_address;
        elf.entry = segment.address.checked_add(offset).ok_or("entry point overflows")?;
    }
    Ok(elf)
}

impl<'a> Elf<'a> {
    fn add_header(
        &mut self,
        file: &'a [u8],
        header: &[u8],
        wide: bool,
    ) -> Result<(), &'static str> {
        let field = |narrow_at, wide_at| {
            let value =
                if wide { number(header, wide_at, 8) } else { number(header, narrow_at, 4) };
            value.ok_or("program headers are truncated")
        };
        let kind = number(header, 0, 4).unwrap_or(0);
        if kind != LOAD && kind != NOTE {
            return Ok(());
        }
        let (offset, virtual_address, address) = (field(4, 8)?, field(8, 16)?, field(12, 24)?);
        let (file_size, size, align) = (field(16, 32)?, field(20, 40)?, field(28, 48)?);
        let data = slice(file, offset, file_size).ok_or("a segment lies outside of the file")?;
        match kind {
            LOAD if size < file_size => {
                return Err("a segment is larger in the file than in memory");
            }
            LOAD if size > 0 => {
                self.segments.push(Segment { address, data, size, virtual_address })
            }
            NOTE => self.notes.push((data, if align == 8 { 8 } else { 4 })),
            _ => {}
        }
        Ok(())
    }

    /// Contents of a note.
    pub fn note(&self, owner: &[u8], kind: u64) -> Option<&'a [u8]> {
        self.notes.iter().find_map(|(notes, align)| find_note(notes, *align, owner, kind))
    }
}

fn find_note<'a>(notes: &'a [u8], align: usize, owner: &[u8], kind: u64) -> Option<&'a [u8]> {
    const HEADER: usize = 12;
    let mut rest = notes;
    loop {
        let name_size = usize::try_from(number(rest, 0, 4)?).ok()?;
        let contents_size = usize::try_from(number(rest, 4, 4)?).ok()?;
        let name_end = HEADER.checked_add(name_size)?;
        let contents_at = name_end.checked_next_multiple_of(align)?;
        let contents_end = contents_at.checked_add(contents_size)?;
        let (name, contents) = (rest.get(HEADER..name_end)?, rest.get(contents_at..contents_end)?);
        if number(rest, 8, 4) == Some(kind) && name.strip_suffix(b"\0").unwrap_or(name) == owner {
            return Some(contents);
        }
        rest = rest.get(contents_end.checked_next_multiple_of(align)?..)?;
    }
}
