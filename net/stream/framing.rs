//! Frames in a stream of bytes: each behind its length, four bytes, big-endian.

use std::io::{self, Read};

/// Longer frames do not exist; whoever announces one does not speak this protocol.
pub(crate) const LONGEST: usize = (64 << 10) + 4096;
pub(crate) const LENGTH: usize = 4;

/// Takes frames out of a stream.
pub(crate) struct Deframer {
    buffer: Box<[u8]>,
    /// Bytes between the length and the frame, which are given out before it.
    header: usize,
    /// What has been read and not been taken lies between these.
    start: usize,
    end: usize,
}

impl Default for Deframer {
    fn default() -> Self {
        Deframer::with_header(0)
    }
}

impl Deframer {
    /// For frames with so many bytes between the length and the frame.
    pub fn with_header(header: usize) -> Self {
        let buffer = vec![0; 2 * (LONGEST + LENGTH)].into();
        Deframer { buffer, header, start: 0, end: 0 }
    }

    /// Reads once, if there is room. The number of bytes is that of `read`: zero at the end.
    pub fn fill(&mut self, from: &mut impl Read) -> io::Result<usize> {
        // Who uses `frames` does not take what has nothing in it.
        while let Ok(Some([])) = self.next() {
            self.take();
        }
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let count = from.read(&mut self.buffer[self.end..])?;
        self.end += count;
        Ok(count)
    }

    /// Whether the last read could have given more.
    pub fn has_room(&self) -> bool {
        self.end < self.buffer.len()
    }

    /// The frame that begins somewhere. A length that no frame has is an error: what follows cannot be told
    /// apart any more.
    fn frame_at(&self, start: usize) -> io::Result<Option<&[u8]>> {
        let ready = &self.buffer[start..self.end];
        let Some((length, rest)) = ready.split_first_chunk::<LENGTH>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(rest.get(..self.header + length))
    }

    /// The next frame, which stays until [`take`](Self::take).
    pub fn next(&self) -> io::Result<Option<&[u8]>> {
        self.frame_at(self.start)
    }

    /// The frames that are there, empty ones left out, and where each ends, for
    /// [`take_until`](Self::take_until). Nothing comes after an error.
    pub fn frames(&self) -> impl Iterator<Item = io::Result<(&[u8], usize)>> {
        let mut at = self.start;
        let mut next = move || -> io::Result<Option<(&[u8], usize)>> {
            // Nothing comes after an error.
            let mut start = std::mem::replace(&mut at, self.end);
            while let Some(frame) = self.frame_at(start)? {
                start += LENGTH + frame.len();
                if !frame.is_empty() {
                    at = start;
                    return Ok(Some((frame, start)));
                }
            }
            Ok(None)
        };
        std::iter::from_fn(move || next().transpose())
    }

    /// The frame that [`next`](Self::next) returned is done with.
    pub fn take(&mut self) {
        if let Ok(Some(frame)) = self.next() {
            self.start += LENGTH + frame.len();
        }
    }

    /// The frames that end here and before are done with.
    pub fn take_until(&mut self, end: usize) {
        self.start = end;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(frames: &[Vec<u8>]) -> Vec<u8> {
        let framed = |frame: &Vec<u8>| [&(frame.len() as u32).to_be_bytes()[..], frame].concat();
        frames.iter().flat_map(framed).collect()
    }

    /// Gives what it has in pieces of the given lengths.
    struct Pieces<'a>(&'a [u8], Vec<usize>);

    impl Read for Pieces<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let count = self.1.pop().unwrap_or(usize::MAX).clamp(1, to.len()).min(self.0.len());
            to[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..12),
            pieces in prop::collection::vec(1usize..4000, 0..40),
        ) {
            let bytes = stream(&frames);
            let mut from = Pieces(&bytes, pieces);
            let mut deframer = Deframer::default();
            let mut seen = Vec::new();
            loop {
                while let Some(frame) = deframer.next().unwrap() {
                    seen.push(frame.to_vec());
                    deframer.take();
                }
                if deframer.fill(&mut from).unwrap() == 0 {
                    break;
                }
            }
            prop_assert_eq!(seen, frames);
        }

        #[test]
        fn several_at_once_are_the_same(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..90),
            pieces in prop::collection::vec(1usize..40_000, 0..40),
        ) {
            let bytes = stream(&frames);
            let mut from = Pieces(&bytes, pieces);
            let mut deframer = Deframer::default();
            let mut seen = Vec::new();
            loop {
                let some: Vec<(Vec<u8>, usize)> = deframer
                    .frames()
                    .take(3)
                    .map(|frame| frame.map(|(bytes, end)| (bytes.to_vec(), end)).unwrap())
                    .collect();
                match some.last() {
                    Some((_, end)) => deframer.take_until(*end),
                    None if deframer.fill(&mut from).unwrap() == 0 => break,
                    None => {}
                }
                seen.extend(some.into_iter().map(|(bytes, _)| bytes));
            }
            let wanted: Vec<_> = frames.into_iter().filter(|frame| !frame.is_empty()).collect();
            prop_assert_eq!(seen, wanted);
        }
    }

    #[test]
    fn frames_of_nothing_do_not_fill_the_buffer() {
        let mut deframer = Deframer::default();
        let nothing = vec![0; 1 << 20];
        let mut from = &nothing[..];
        while deframer.fill(&mut from).unwrap() > 0 {
            assert!(deframer.frames().next().is_none());
        }
        assert!(from.is_empty());
    }

    #[test]
    fn the_longest_frame_fits_and_a_longer_one_is_an_error() {
        let longest = vec![7; LONGEST];
        let mut deframer = Deframer::default();
        let bytes = stream(std::slice::from_ref(&longest));
        let mut from = &bytes[..];
        while deframer.fill(&mut from).unwrap() > 0 {}
        assert_eq!(deframer.next().unwrap(), Some(&longest[..]));
        deframer.take();
        assert_eq!(deframer.next().unwrap(), None);
        deframer.fill(&mut &(LONGEST as u32 + 1).to_be_bytes()[..]).unwrap();
        assert!(deframer.next().is_err());
    }
}
