//! Adapters without registers of a VGA: graphics on virtio, driven by requests, and `ramfb`, driven by a file.
//! What they show is looked at by `screendump`.

use crate::machine_with_qmp;
use anyhow::{Result, ensure};
use serde_json::json;
use testbed::pc::{devfn, expect};
use testbed::until;
use testbed::vm::Vm;

const PLACE: u8 = devfn(4, 0);
const BAR: u64 = 0xfe80_0000;
/// The queue of requests.
const RING: u64 = 0x10_0000;
const AVAILABLE: u64 = 0x10_1000;
const USED: u64 = 0x10_2000;
const REQUEST: u64 = 0x10_3000;
const ANSWER: u64 = 0x10_4000;
const ANSWER_SIZE: u32 = 0x400;
const PIXELS: u64 = 0x20_0000;

/// Requests and answers (virtio 1.2, 5.7.6.7).
mod kind {
    pub const DISPLAY_INFO: u32 = 0x100;
    pub const CREATE: u32 = 0x101;
    pub const SHOW: u32 = 0x103;
    pub const FLUSH: u32 = 0x104;
    pub const TRANSFER: u32 = 0x105;
    pub const ATTACH: u32 = 0x106;
    pub const DONE: u32 = 0x1100;
    pub const INFO: u32 = 0x1101;
    pub const NO_HEAD: u32 = 0x1202;
    pub const NO_RESOURCE: u32 = 0x1203;
}

const WIDTH: u32 = 64;
const HEIGHT: u32 = 48;
/// Pixels of four bytes: blue, green, red, nothing.
const BGRX: u32 = 2;
const WHOLE: [u32; 4] = [0, 0, WIDTH, HEIGHT];

/// An adapter whose driver has started.
struct Gpu {
    vm: Vm,
    asked: u16,
}

impl Gpu {
    fn start(options: &str) -> Result<Self> {
        let device = format!("virtio-gpu-pci,id=gpu,addr=4,{options}");
        let mut vm = machine_with_qmp(&["-device", device.trim_end_matches(',')])?;
        let test = vm.qtest();
        test.pci_writel(PLACE, 0x20, BAR as u32)?;
        test.pci_writew(PLACE, 4, 6)?;
        test.writeb(BAR + 20, 3)?;
        test.writel(BAR + 8, 1)?;
        test.writel(BAR + 12, 1)?;
        test.writeb(BAR + 20, 0xb)?;
        expect("features are taken", test.readb(BAR + 20)?, 0xb)?;
        for (at, area) in [(32, RING), (40, AVAILABLE), (48, USED)] {
            test.writel(BAR + at, area as u32)?;
        }
        test.writew(BAR + 28, 1)?;
        test.writeb(BAR + 20, 0xf)?;
        Ok(Gpu { vm, asked: 0 })
    }

    /// Asks for something; returns the answer's kind.
    fn ask(&mut self, kind: u32, body: &[u32]) -> Result<u32> {
        let test = self.vm.qtest();
        let request: Vec<u32> = [kind, 0, 0, 0, 0, 0].iter().chain(body).copied().collect();
        let bytes: Vec<u8> = request.iter().flat_map(|word| word.to_le_bytes()).collect();
        test.write(REQUEST, &bytes)?;
        test.memset(ANSWER, ANSWER_SIZE as usize, 0)?;
        let parts = [(REQUEST, bytes.len() as u32, 1 | 1 << 16), (ANSWER, ANSWER_SIZE, 2)];
        for (n, (at, len, flags)) in (0..).zip(parts) {
            test.writeq(RING + 16 * n, at)?;
            test.writel(RING + 16 * n + 8, len)?;
            test.writel(RING + 16 * n + 12, flags)?;
        }
        test.writew(AVAILABLE + 4 + 2 * u64::from(self.asked % 64), 0)?;
        self.asked += 1;
        test.writew(AVAILABLE + 2, self.asked)?;
        test.writew(BAR + 0x3000, 0)?;
        let asked = self.asked;
        until("an answer", || Ok(test.readw(USED + 2)? == asked))?;
        test.readl(ANSWER)
    }

    /// Asks for something that is done.
    fn order(&mut self, kind: u32, body: &[u32]) -> Result<()> {
        expect(&format!("request {kind:#x}"), self.ask(kind, body)?, kind::DONE)
    }

    /// Makes a resource whose pixels are in guest memory.
    fn make(&mut self, id: u32) -> Result<()> {
        self.order(kind::CREATE, &[id, BGRX, WIDTH, HEIGHT])?;
        // Two pieces, of which one ends in the middle of a row.
        let (first, all) = (4 * WIDTH * 10 + 40, 4 * WIDTH * HEIGHT);
        let at = PIXELS as u32;
        let pieces = [[at, 0, first, 0], [at + 0x1_0000, 0, all - first, 0]];
        self.order(kind::ATTACH, &[&[id, 2], pieces.as_flattened()].concat())?;
        let pixels: Vec<u8> =
            (0..WIDTH * HEIGHT).flat_map(|n| pixel(id, n).to_le_bytes()).collect();
        let (one, other) = pixels.split_at(first as usize);
        self.vm.qtest().write(PIXELS, one)?;
        self.vm.qtest().write(PIXELS + 0x1_0000, other)?;
        self.order(kind::TRANSFER, &[&WHOLE[..], &[0, 0, id, 0]].concat())
    }

    fn picture(&mut self, head: u32) -> Result<Vec<u8>> {
        screendump(&mut self.vm, json!({"device": "gpu", "head": head}))
    }
}

/// Pixels that are nowhere the same.
fn pixel(id: u32, n: u32) -> u32 {
    n.wrapping_mul(2_654_435).wrapping_add(id * 77_777) & 0x00ff_ffff
}

/// A picture of 64 by 48 of these pixels, as a portable pixmap.
fn pixmap(pixels: impl Iterator<Item = u32>) -> Vec<u8> {
    let head = format!("P6\n{WIDTH} {HEIGHT}\n255\n").into_bytes();
    head.into_iter()
        .chain(pixels.flat_map(|pixel| pixel.to_be_bytes().into_iter().skip(1)))
        .collect()
}

fn screendump(vm: &mut Vm, mut arguments: serde_json::Value) -> Result<Vec<u8>> {
    let path = vm.scratch().join("picture.ppm");
    arguments["filename"] = json!(path);
    vm.qmp().execute_with("screendump", arguments)?;
    Ok(std::fs::read(path)?)
}

#[test]
fn heads_show_what_they_are_given() -> Result<()> {
    let mut gpu = Gpu::start("max_outputs=2,xres=800,yres=600")?;
    expect("heads", gpu.vm.qtest().readl(BAR + 0x2008)?, 2)?;
    expect("monitors", gpu.ask(kind::DISPLAY_INFO, &[])?, kind::INFO)?;
    let monitor = gpu.vm.qtest().read(ANSWER + 24, 20)?;
    let words: Vec<u32> =
        monitor.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
    ensure!(words == [0, 0, 800, 600, 1], "{words:?}");

    gpu.make(1)?;
    gpu.make(2)?;
    for head in [0, 1] {
        gpu.order(kind::SHOW, &[&WHOLE[..], &[head, head + 1]].concat())?;
        gpu.order(kind::FLUSH, &[&WHOLE[..], &[head + 1, 0]].concat())?;
        let wanted = pixmap((0..WIDTH * HEIGHT).map(|n| pixel(head + 1, n)));
        ensure!(gpu.picture(head)? == wanted, "head {head}");
    }

    // What is transferred shows with the next flush, and only where it was.
    gpu.vm.qtest().memset(PIXELS, 4 * WIDTH as usize * 8, 0x55)?;
    let band = [0, 2, WIDTH, 4];
    let offset = 4 * WIDTH * 2;
    gpu.order(kind::TRANSFER, &[&band[..], &[offset, 0, 2, 0]].concat())?;
    gpu.order(kind::FLUSH, &[&band[..], &[2, 0]].concat())?;
    let wanted = (0..WIDTH * HEIGHT).map(|n| match n / WIDTH {
        2..6 => 0x55_5555,
        _ => pixel(2, n),
    });
    ensure!(gpu.picture(1)? == pixmap(wanted), "after the transfer");
    Ok(())
}

#[test]
fn what_is_not_there_is_refused() -> Result<()> {
    let mut gpu = Gpu::start("")?;
    gpu.make(1)?;
    let show = |head, id| [&WHOLE[..], &[head, id]].concat();
    expect("no such head", gpu.ask(kind::SHOW, &show(5, 1))?, kind::NO_HEAD)?;
    expect("no such resource", gpu.ask(kind::SHOW, &show(0, 9))?, kind::NO_RESOURCE)?;
    let flush = [&WHOLE[..], &[9, 0]].concat();
    expect("nothing to flush", gpu.ask(kind::FLUSH, &flush)?, kind::NO_RESOURCE)?;
    expect("twice the same", gpu.ask(kind::CREATE, &[1, BGRX, 8, 8])?, kind::NO_RESOURCE)
}

#[test]
fn ramfb_shows_what_its_file_says() -> Result<()> {
    const DMA: u16 = 0x514;
    const DIRECTORY: u16 = 0x19;
    const XR24: u32 = 0x3432_5258;
    let mut vm = machine_with_qmp(&["-device", "ramfb"])?;
    let test = vm.qtest();
    // The file's number: entries of 64 bytes behind their count.
    test.outw(0x510, DIRECTORY)?;
    let mut read =
        |count: usize| -> Result<Vec<u8>> { (0..count).map(|_| test.inb(0x511)).collect() };
    let count = u32::from_be_bytes(read(4)?.try_into().unwrap_or_default());
    let mut selector = None;
    for _ in 0..count {
        let entry = read(64)?;
        if entry[8..].starts_with(b"etc/ramfb\0") {
            selector = Some(u16::from_be_bytes([entry[4], entry[5]]));
        }
    }
    let Some(selector) = selector else { anyhow::bail!("there is no file") };

    let pixels: Vec<u8> = (0..WIDTH * HEIGHT).flat_map(|n| pixel(3, n).to_le_bytes()).collect();
    test.write(PIXELS, &pixels)?;
    let words = [XR24, 0, WIDTH, HEIGHT, 4 * WIDTH];
    let words = words.iter().flat_map(|word| word.to_be_bytes());
    let setup: Vec<u8> = PIXELS.to_be_bytes().into_iter().chain(words).collect();
    test.write(REQUEST, &setup)?;
    // Select, write; so many bytes; from there.
    let control = u32::from(selector) << 16 | 0x18;
    let access = [control.to_be_bytes(), (setup.len() as u32).to_be_bytes()].concat();
    test.write(ANSWER, &[&access[..], &REQUEST.to_be_bytes()].concat())?;
    test.outl(DMA, 0)?;
    test.outl(DMA + 4, (ANSWER as u32).swap_bytes())?;
    until("the end of the transfer", || Ok(test.readl(ANSWER)? == 0))?;
    let wanted = pixmap((0..WIDTH * HEIGHT).map(|n| pixel(3, n)));
    ensure!(screendump(&mut vm, json!({}))? == wanted, "another picture");
    Ok(())
}
