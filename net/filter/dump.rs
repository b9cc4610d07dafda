//! Frames in a file, as libpcap writes them.

use std::fs::File;
use std::io::{self, Write};

use base::clock::{ClockKind, Clocks};
use base::report::strerror;
use parking_lot::Mutex;

use crate::{Frame, NetError, segment};

const MAGIC: u32 = 0xa1b2_c3d4;
const VERSION: [u16; 2] = [2, 4];
const ETHERNET: u32 = 1;
const MICROSECOND: i64 = 1000;

/// A file.
pub(super) struct Dump {
    /// None once writing has failed.
    file: Mutex<Option<File>>,
    max: usize,
    clocks: Clocks,
}

impl Dump {
    /// Begins a file.
    pub fn create(name: &str, max: u32, clocks: &Clocks) -> Result<Dump, NetError> {
        let fault = |what: &str, error: io::Error| {
            let error = strerror(&error);
            NetError::failed(format!("net dump: can't {what} {name}: {error}"))
        };
        let mut file = File::create(name).map_err(|error| fault("open", error))?;
        file.write_all(&header(max)).map_err(|error| fault("write", error))?;
        Ok(Dump { file: Mutex::new(Some(file)), max: max as usize, clocks: clocks.clone() })
    }

    /// Appends a frame, as it would be on a wire: cut, and with its sums.
    pub fn write(&self, frame: &Frame<'_>) {
        let now = self.clocks.now(ClockKind::Host) / MICROSECOND;
        let time = [now / 1_000_000, now % 1_000_000].map(|part| part as u32);
        segment::finish(frame, |piece| {
            let whole = piece.len();
            let mut record = vec![0; 16 + whole.min(self.max)];
            let lengths = [(record.len() - 16) as u32, whole as u32];
            for (field, value) in record.chunks_exact_mut(4).zip(time.into_iter().chain(lengths)) {
                field.copy_from_slice(&value.to_le_bytes());
            }
            piece.copy(0, &mut record[16..]);
            let mut file = self.file.lock();
            if file.as_mut().is_some_and(|file| file.write_all(&record).is_err()) {
                base::warn_report!("network dump write error - stopping dump");
                *file = None;
            }
            true
        });
    }
}

fn header(max: u32) -> Vec<u8> {
    let mut header = MAGIC.to_le_bytes().to_vec();
    header.extend(VERSION.iter().flat_map(|part| part.to_le_bytes()));
    // Universal time, of no stated accuracy.
    header.extend([0; 8]);
    header.extend([max, ETHERNET].iter().flat_map(|word| word.to_le_bytes()));
    header
}
