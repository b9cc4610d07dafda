//! Measures how long a running processor takes to notice that somebody wants attention, as for an
//! interrupt, a timer or a stop request: half of the times, nine tenths, and the worst.

use std::hint::spin_loop;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cpu::interp::RunExit;
use cpu::signals::request;
use cpu::state::gpr;
use cpu::testbed::Testbed;

const CODE: u64 = 0x1000;
const DATA: u64 = 0x20_0000;
const TIMES: usize = 2_000;

/// Endless loops.
const LOOPS: &[(&str, &[u8])] = &[
    ("jmp to itself", &[0xeb, 0xfe]),
    // dec rcx; jnz; jmp
    ("flags that must be kept", &[0x48, 0xff, 0xc9, 0x75, 0xfb, 0xeb, 0xf9]),
    // mov [rdi+rcx*8], rax; add rcx, 1; and ecx, 0xfff; jmp
    (
        "stores",
        &[0x48, 0x89, 0x04, 0xcf, 0x48, 0x83, 0xc1, 1, 0x81, 0xe1, 0xff, 0xf, 0, 0, 0xeb, 0xf0],
    ),
    // L: call F; jmp L; F: ret
    ("calls and returns", &[0xe8, 2, 0, 0, 0, 0xeb, 0xf9, 0xc3]),
    // lea rax, [rip]; jmp rax
    ("indirect jumps", &[0x48, 0x8d, 0x05, 0, 0, 0, 0, 0xff, 0xe0]),
    // mov ecx, 0x1000; lea rsi, [rdi+0x8000]; push rdi; rep movsb; pop rdi; jmp
    (
        "repeated strings",
        &[0xb9, 0, 0x10, 0, 0, 0x48, 0x8d, 0xb7, 0, 0x80, 0, 0, 0x57, 0xf3, 0xa4, 0x5f, 0xeb, 0xee],
    ),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for (name, code) in LOOPS {
        let mut bed = Testbed::new()?;
        bed.translate()?;
        bed.ram.write(CODE, code);
        bed.cpu.state.regs[gpr::RSP] = DATA;
        bed.cpu.state.regs[gpr::RDI] = DATA + 0x1_0000;
        let signals = bed.cpu.signals.clone();
        let (begin, begun) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let poster = std::thread::spawn(move || {
            while let Ok(at) = begun.recv() {
                let at: Instant = at;
                while Instant::now() < at {
                    spin_loop();
                }
                let now = Instant::now();
                signals.post(request::STOP);
                if tell.send(now).is_err() {
                    break;
                }
            }
        });
        let mut times = Vec::with_capacity(TIMES);
        for _ in 0..TIMES {
            begin.send(Instant::now() + Duration::from_micros(200))?;
            assert_eq!(bed.run(CODE), RunExit::Signal);
            let end = Instant::now();
            times.push(end.duration_since(told.recv()?));
            bed.cpu.signals.take(request::STOP);
        }
        drop(begin);
        let _ = poster.join();
        times.sort();
        let [half, most] = [times[TIMES / 2], times[TIMES * 9 / 10]];
        println!("{name:24} {half:>10.1?} {most:>10.1?} {:>10.1?}", times[TIMES - 1]);
    }
    Ok(())
}
