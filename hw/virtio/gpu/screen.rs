//! What the requests are about: resources with pixels, and the heads that show them.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::memory::Dma;
use ui::{Cursor, CursorShape, Damage, Rect, SizeWish, Surface, text};

use super::protocol::{
    CURSOR_SIDE, EDID_LEN, Header, MAX_SCANOUTS, Refusal, Words, answer, format, request,
};
use crate::display::edid::Edid;
use crate::display::pixels::{Order, rgb32};

/// Pieces of guest memory behind a resource, at most.
const MAX_PIECES: u32 = 16384;
/// Rectangles that are told of one by one.
const MAX_RECTS: usize = 32;
const PIXEL: u64 = 4;

/// Guest memory that a resource is filled from: pieces, each with its place among all.
#[derive(Default)]
struct Backing(Vec<(u64, u64, u32)>);

impl Backing {
    fn read(&self, memory: &Dma, mut at: u64, mut into: &mut [u8]) {
        let first = self.0.partition_point(|(start, _, len)| start + u64::from(*len) <= at);
        for &(start, address, len) in self.0.get(first..).unwrap_or_default() {
            let skip = at.saturating_sub(start);
            let count = (u64::from(len) - skip).min(into.len() as u64) as usize;
            let (part, rest) = into.split_at_mut(count);
            memory.read(address.wrapping_add(skip), part);
            (into, at) = (rest, at + count as u64);
            if into.is_empty() {
                return;
            }
        }
    }
}

/// Pixels, as the guest has them.
struct Resource {
    width: u32,
    height: u32,
    order: Order,
    has_alpha: bool,
    bytes: Vec<u8>,
    backing: Backing,
}

impl Resource {
    fn bounds(&self) -> Rect {
        Rect::new(0, 0, self.width, self.height)
    }

    fn pitch(&self) -> u64 {
        u64::from(self.width) * PIXEL
    }

    fn size(&self) -> u64 {
        self.pitch() * u64::from(self.height)
    }

    /// Bytes from a pixel on to the end of its row, as far as there are so many.
    fn span(&self, x: u32, y: u32, count: u32) -> &[u8] {
        let at = (u64::from(y) * self.pitch() + u64::from(x) * PIXEL) as usize;
        self.bytes.get(at..at + count as usize * PIXEL as usize).unwrap_or_default()
    }

    fn cursor(&self, hot: (u32, u32)) -> CursorShape {
        let mut pixels = vec![0; (self.width * self.height) as usize];
        rgb32(&self.bytes, self.order, &mut pixels);
        let alpha = match self.order {
            Order::Bgrx | Order::Rgbx => 3,
            Order::Xrgb | Order::Xbgr => 0,
        };
        for (pixel, bytes) in pixels.iter_mut().zip(self.bytes.as_chunks::<4>().0) {
            let opacity = if self.has_alpha { bytes[alpha] } else { 0xff };
            *pixel |= u32::from(opacity) << 24;
        }
        CursorShape {
            width: self.width,
            height: self.height,
            hot_x: hot.0.min(self.width),
            hot_y: hot.1.min(self.height),
            pixels,
        }
    }
}

/// A head.
struct Scanout {
    monitor: Edid,
    connected: bool,
    /// What it shows: a part of a resource.
    shown: Option<(u32, Rect)>,
    /// What changed since the last look, in the head's own coordinates.
    damage: Vec<Rect>,
    /// All of it did.
    anew: bool,
    cursor: Cursor,
}

/// The device behind its queues.
pub struct Screen {
    memory: Dma,
    resources: BTreeMap<u32, Resource>,
    scanouts: Vec<Scanout>,
    /// Bytes that resources may take, and take.
    limit: u64,
    used: u64,
    /// A driver has shown something since the device was reset.
    driven: bool,
}

type Answer = Result<Vec<u8>, Refusal>;

impl Screen {
    /// So many heads, of which the first has a monitor.
    pub fn new(memory: &Dma, heads: usize, size: (u32, u32), limit: u64) -> Self {
        let scanout = |index| Scanout {
            monitor: Edid { width: size.0, height: size.1, ..Edid::default() },
            connected: index == 0,
            shown: None,
            damage: Vec::new(),
            anew: true,
            cursor: Cursor::default(),
        };
        Screen {
            memory: memory.clone(),
            resources: BTreeMap::new(),
            scanouts: (0..heads).map(scanout).collect(),
            limit,
            used: 0,
            driven: false,
        }
    }

    /// Back to the state after power-up; monitors stay.
    pub fn reset(&mut self) {
        self.resources.clear();
        (self.used, self.driven) = (0, false);
        for scanout in &mut self.scanouts {
            (scanout.shown, scanout.anew) = (None, true);
            scanout.cursor = Cursor::default();
        }
    }

    /// Whether a driver has shown something since the device was reset.
    pub fn is_driven(&self) -> bool {
        self.driven
    }

    /// Answers a request; `body` is what follows its header.
    pub fn answer(&mut self, header: &Header, body: &[u8]) -> Vec<u8> {
        let mut words = Words(body);
        let result = match header.kind {
            request::GET_DISPLAY_INFO => self.display_info(header),
            request::GET_EDID => self.edid(header, words.u32()),
            request::RESOURCE_CREATE_2D => self.create(&mut words).map(|()| Vec::new()),
            request::RESOURCE_UNREF => self.unref(words.u32()).map(|()| Vec::new()),
            request::SET_SCANOUT => self.set_scanout(&mut words).map(|()| Vec::new()),
            request::RESOURCE_FLUSH => self.flush(&mut words).map(|()| Vec::new()),
            request::TRANSFER_TO_HOST_2D => self.transfer(&mut words).map(|()| Vec::new()),
            request::ATTACH_BACKING => self.attach(&mut words).map(|()| Vec::new()),
            request::DETACH_BACKING => self.detach(words.u32()).map(|()| Vec::new()),
            request::UPDATE_CURSOR | request::MOVE_CURSOR => {
                self.move_cursor(header.kind, &mut words).map(|()| Vec::new())
            }
            _ => Err(Refusal::Unspecified),
        };
        match result {
            Ok(bytes) if bytes.is_empty() => header.answer(answer::NO_DATA),
            Ok(bytes) => bytes,
            Err(refusal) => header.answer(refusal as u32),
        }
    }

    fn display_info(&self, header: &Header) -> Answer {
        let mut bytes = header.answer(answer::DISPLAY_INFO);
        for index in 0..MAX_SCANOUTS {
            let head = self.scanouts.get(index).filter(|scanout| scanout.connected);
            let (width, height) = head.map_or((0, 0), |scanout| scanout.monitor.size());
            for word in [0, 0, width, height, u32::from(head.is_some()), 0] {
                bytes.extend(word.to_le_bytes());
            }
        }
        Ok(bytes)
    }

    fn edid(&self, header: &Header, head: u32) -> Answer {
        let scanout = self.scanouts.get(head as usize).ok_or(Refusal::Parameter)?;
        let mut bytes = header.answer(answer::EDID);
        bytes.extend((EDID_LEN as u32).to_le_bytes());
        bytes.extend([0; 4]);
        let mut edid = scanout.monitor.bytes();
        edid.resize(EDID_LEN, 0);
        bytes.extend(edid);
        Ok(bytes)
    }

    fn resource(&mut self, id: u32) -> Result<&mut Resource, Refusal> {
        self.resources.get_mut(&id).ok_or(Refusal::NoResource)
    }

    fn create(&mut self, words: &mut Words<'_>) -> Result<(), Refusal> {
        let (id, number, width, height) = (words.u32(), words.u32(), words.u32(), words.u32());
        if id == 0 || self.resources.contains_key(&id) {
            return Err(Refusal::NoResource);
        }
        let (order, has_alpha) = format(number).ok_or(Refusal::Parameter)?;
        if width == 0 || height == 0 || width > Surface::MAX_SIDE || height > Surface::MAX_SIDE {
            return Err(Refusal::Parameter);
        }
        let backing = Backing::default();
        let mut resource = Resource { width, height, order, has_alpha, bytes: Vec::new(), backing };
        if self.used + resource.size() > self.limit {
            return Err(Refusal::OutOfMemory);
        }
        self.used += resource.size();
        resource.bytes = vec![0; resource.size() as usize];
        self.resources.insert(id, resource);
        Ok(())
    }

    fn unref(&mut self, id: u32) -> Result<(), Refusal> {
        let resource = self.resources.remove(&id).ok_or(Refusal::NoResource)?;
        self.used -= resource.size();
        for scanout in &mut self.scanouts {
            if scanout.shown.is_some_and(|(shown, _)| shown == id) {
                (scanout.shown, scanout.anew) = (None, true);
            }
        }
        Ok(())
    }

    fn set_scanout(&mut self, words: &mut Words<'_>) -> Result<(), Refusal> {
        let (rect, head, id) = (words.rect(), words.u32(), words.u32());
        if head as usize >= self.scanouts.len() {
            return Err(Refusal::NoScanout);
        }
        let shown = match id {
            0 => None,
            id => {
                let bounds = self.resource(id)?.bounds();
                if rect.is_empty() || !bounds.contains(&rect) {
                    return Err(Refusal::Parameter);
                }
                self.driven = true;
                Some((id, rect))
            }
        };
        if let Some(scanout) = self.scanouts.get_mut(head as usize) {
            (scanout.shown, scanout.anew) = (shown, true);
        }
        Ok(())
    }

    fn flush(&mut self, words: &mut Words<'_>) -> Result<(), Refusal> {
        let (rect, id) = (words.rect(), words.u32());
        let bounds = self.resource(id)?.bounds();
        if !bounds.contains(&rect) {
            return Err(Refusal::Parameter);
        }
        for scanout in &mut self.scanouts {
            let Some((_, part)) = scanout.shown.filter(|(shown, _)| *shown == id) else {
                continue;
            };
            let seen = part.intersection(&rect);
            if !seen.is_empty() {
                let place = Rect { x: seen.x - part.x, y: seen.y - part.y, ..seen };
                scanout.note(place);
            }
        }
        Ok(())
    }

    fn transfer(&mut self, words: &mut Words<'_>) -> Result<(), Refusal> {
        let (rect, offset, id) = (words.rect(), words.u64(), words.u32());
        let memory = self.memory.clone();
        let resource = self.resource(id)?;
        if !resource.bounds().contains(&rect) {
            return Err(Refusal::Parameter);
        }
        let pitch = resource.pitch();
        let (mut rows, mut row) = (rect.height, u64::from(rect.width) * PIXEL);
        if row == pitch {
            // Rows without gaps are one.
            (rows, row) = (1, row * u64::from(rect.height));
        }
        let mut to = u64::from(rect.y) * pitch + u64::from(rect.x) * PIXEL;
        let mut from = offset;
        for _ in 0..rows {
            if let Some(bytes) = resource.bytes.get_mut(to as usize..(to + row) as usize) {
                resource.backing.read(&memory, from, bytes);
            }
            (to, from) = (to + pitch, from.saturating_add(pitch));
        }
        Ok(())
    }

    fn attach(&mut self, words: &mut Words<'_>) -> Result<(), Refusal> {
        let (id, count) = (words.u32(), words.u32());
        let resource = self.resource(id)?;
        if !resource.backing.0.is_empty() || count > MAX_PIECES {
            return Err(Refusal::Unspecified);
        }
        let mut at = 0;
        for _ in 0..count {
            let (address, len, _padding) = (words.u64(), words.u32(), words.u32());
            resource.backing.0.push((at, address, len));
            at += u64::from(len);
        }
        Ok(())
    }

    fn detach(&mut self, id: u32) -> Result<(), Refusal> {
        self.resource(id)?.backing = Backing::default();
        Ok(())
    }

    fn move_cursor(&mut self, kind: u32, words: &mut Words<'_>) -> Result<(), Refusal> {
        let (head, x, y, _padding) = (words.u32(), words.u32(), words.u32(), words.u32());
        let (id, hot) = (words.u32(), (words.u32(), words.u32()));
        let scanout = self.scanouts.get_mut(head as usize).ok_or(Refusal::NoScanout)?;
        let cursor = &mut scanout.cursor;
        (cursor.x, cursor.y, cursor.visible) = (x as i32, y as i32, id != 0);
        if kind == request::UPDATE_CURSOR
            && let Some(resource) = self.resources.get(&id)
            && (resource.width, resource.height) == (CURSOR_SIDE, CURSOR_SIDE)
        {
            cursor.shape = Some(Arc::new(resource.cursor(hot)));
        }
        Ok(())
    }

    /// Brings a head's surface up to date.
    pub fn refresh(&mut self, head: usize, surface: &mut Surface, full: bool) -> Damage {
        let Some(scanout) = self.scanouts.get_mut(head) else { return Damage::default() };
        let full = std::mem::take(&mut scanout.anew) || full;
        let mut rects = std::mem::take(&mut scanout.damage);
        let shown = scanout.shown.and_then(|(id, part)| Some((self.resources.get(&id)?, part)));
        let Some((resource, part)) = shown else {
            return match full {
                true => text::notice(surface, text::NOT_ACTIVE),
                false => Damage::default(),
            };
        };
        let resized = surface.resize(part.width, part.height);
        if full || resized {
            rects = vec![surface.bounds()];
        }
        for rect in &rects {
            copy(resource, &part, rect, surface);
        }
        Damage { resized, rects }
    }

    /// A head's pointer.
    pub fn cursor(&self, head: usize) -> Cursor {
        self.scanouts.get(head).map(|scanout| scanout.cursor.clone()).unwrap_or_default()
    }

    /// A head's monitor prefers another size, or is not there if that is nothing.
    pub fn wish_size(&mut self, head: usize, wish: SizeWish) {
        if let Some(scanout) = self.scanouts.get_mut(head) {
            scanout.connected = wish.width > 0 && wish.height > 0;
            let monitor = &mut scanout.monitor;
            (monitor.width, monitor.height) = (wish.width, wish.height);
            monitor.millimetres = wish.millimetres;
            monitor.refresh_rate = wish.refresh_rate.unwrap_or(0);
        }
    }
}

impl Scanout {
    fn note(&mut self, rect: Rect) {
        if self.damage.len() == MAX_RECTS {
            let all = self.damage.drain(..).fold(rect, |all, one| all.union(&one));
            self.damage.push(all);
        } else {
            self.damage.push(rect);
        }
    }
}

fn copy(resource: &Resource, part: &Rect, rect: &Rect, surface: &mut Surface) {
    for y in rect.y..rect.bottom() {
        let columns = rect.x as usize..rect.right() as usize;
        let Some(row) = surface.row_mut(y).get_mut(columns) else { return };
        rgb32(resource.span(part.x + rect.x, part.y + y, rect.width), resource.order, row);
    }
}

#[cfg(test)]
mod tests {
    use base::memory::{AddressSpace, RamBlock, Region};

    use super::*;
    use crate::virtio::gpu::protocol::HEADER;

    struct Bench {
        ram: Arc<RamBlock>,
        screen: Screen,
    }

    impl Bench {
        fn new() -> Self {
            let ram = Arc::new(RamBlock::anonymous("ram", 0x10000).unwrap());
            let space = AddressSpace::new("memory", Region::ram(ram.clone()));
            let screen = Screen::new(&Dma::new(space), 2, (1024, 768), 1 << 20);
            Bench { ram, screen }
        }

        fn ask(&mut self, kind: u32, words: &[u32]) -> u32 {
            let mut header = [0; HEADER];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            let body: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            Words(&self.screen.answer(&Header::read(&header), &body)).u32()
        }
    }

    #[test]
    fn a_picture_gets_from_memory_to_the_screen() {
        let mut bench = Bench::new();
        bench.ram.write(0x1000, &[1, 2, 3, 0xff].repeat(8));
        bench.ram.write(0x2000, &[4, 5, 6, 0xff].repeat(8));
        let ok = answer::NO_DATA;
        assert_eq!(bench.ask(request::RESOURCE_CREATE_2D, &[7, 2, 4, 4]), ok);
        // Two pieces of two rows each.
        let pieces = [7, 2, 0x1000, 0, 32, 0, 0x2000, 0, 32, 0];
        assert_eq!(bench.ask(request::ATTACH_BACKING, &pieces), ok);
        assert_eq!(bench.ask(request::SET_SCANOUT, &[0, 0, 4, 4, 0, 7]), ok);
        let mut surface = Surface::default();
        assert!(bench.screen.refresh(0, &mut surface, false).resized);
        assert_eq!(surface.pixels(), [0; 16]);
        assert_eq!(bench.ask(request::TRANSFER_TO_HOST_2D, &[0, 1, 4, 2, 16, 0, 7, 0]), ok);
        assert!(bench.screen.refresh(0, &mut surface, false).is_empty(), "not yet flushed");
        assert_eq!(bench.ask(request::RESOURCE_FLUSH, &[0, 1, 4, 2, 7, 0]), ok);
        let damage = bench.screen.refresh(0, &mut surface, false);
        assert_eq!(damage.rects, [Rect::new(0, 1, 4, 2)]);
        assert_eq!(surface.row(1), [0x030201; 4]);
        assert_eq!(surface.row(2), [0x060504; 4]);
        assert_eq!(surface.row(3), [0; 4]);
        assert_eq!(bench.ask(request::RESOURCE_UNREF, &[7, 0]), ok);
        assert!(bench.screen.refresh(0, &mut surface, false).resized, "nothing is shown any more");
        assert_eq!(bench.screen.used, 0);
    }

    #[test]
    fn requests_that_make_no_sense_are_refused() {
        let mut bench = Bench::new();
        let create = request::RESOURCE_CREATE_2D;
        assert_eq!(bench.ask(create, &[0, 1, 4, 4]), Refusal::NoResource as u32);
        assert_eq!(bench.ask(create, &[1, 99, 4, 4]), Refusal::Parameter as u32);
        assert_eq!(bench.ask(create, &[1, 1, 0, 4]), Refusal::Parameter as u32);
        assert_eq!(bench.ask(create, &[1, 1, 16384, 16384]), Refusal::OutOfMemory as u32);
        assert_eq!(bench.ask(create, &[1, 1, 4, 4]), answer::NO_DATA);
        assert_eq!(bench.ask(create, &[1, 1, 4, 4]), Refusal::NoResource as u32);
        let outside = [1, 1, 4, 4, 0, 1];
        assert_eq!(bench.ask(request::SET_SCANOUT, &outside), Refusal::Parameter as u32);
        let no_head = [0, 0, 4, 4, 2, 1];
        assert_eq!(bench.ask(request::SET_SCANOUT, &no_head), Refusal::NoScanout as u32);
        let far = [u32::MAX, u32::MAX, u32::MAX, u32::MAX, 1, 0];
        assert_eq!(bench.ask(request::RESOURCE_FLUSH, &far), Refusal::Parameter as u32);
        assert_eq!(bench.ask(request::ATTACH_BACKING, &[1, 20000]), Refusal::Unspecified as u32);
        assert_eq!(bench.ask(0x999, &[]), Refusal::Unspecified as u32);
        // A request without a body is one of zeroes.
        assert_eq!(bench.ask(request::RESOURCE_UNREF, &[]), Refusal::NoResource as u32);
    }

    #[test]
    fn monitors_come_and_change() {
        let mut bench = Bench::new();
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&request::GET_DISPLAY_INFO.to_le_bytes());
        let info = |bench: &mut Bench| {
            let bytes = bench.screen.answer(&Header::read(&header), &[]);
            assert_eq!(bytes.len(), HEADER + 24 * MAX_SCANOUTS);
            let mut words = Words(&bytes[HEADER..]);
            [0; 12].map(|_| words.u32())
        };
        assert_eq!(info(&mut bench), [0, 0, 1024, 768, 1, 0, 0, 0, 0, 0, 0, 0]);
        bench.screen.wish_size(1, SizeWish { width: 800, height: 600, ..SizeWish::default() });
        assert_eq!(info(&mut bench)[8..], [800, 600, 1, 0]);
        bench.screen.wish_size(1, SizeWish::default());
        assert_eq!(info(&mut bench)[8..], [0; 4]);
    }

    #[test]
    fn pointers_have_a_shape_and_a_place() {
        let mut bench = Bench::new();
        assert_eq!(bench.ask(request::RESOURCE_CREATE_2D, &[3, 1, 64, 64]), answer::NO_DATA);
        let update = [0, 10, 20, 0, 3, 1, 2, 0];
        assert_eq!(bench.ask(request::UPDATE_CURSOR, &update), answer::NO_DATA);
        let cursor = bench.screen.cursor(0);
        let shape = cursor.shape.unwrap();
        assert_eq!((cursor.x, cursor.y, cursor.visible), (10, 20, true));
        assert_eq!((shape.hot_x, shape.hot_y, shape.pixels.len()), (1, 2, 4096));
        bench.ask(request::MOVE_CURSOR, &[0, 11, 21, 0, 0]);
        assert!(!bench.screen.cursor(0).visible);
    }
}
