//! What people see of translations: the log's `in_asm`, `op` and `out_asm`, and a map of the code for
//! Linux's perf. All laid out as QEMU does.

use std::fs::File;
use std::io::{self, Write as _};
use std::sync::OnceLock;

use base::trace_event;
use parking_lot::Mutex;

use super::cache::Report;
use super::translate::{Source, Translation, describe};
use crate::disassembly::{disassemble, log_code};

/// The file of [`open_map`].
static MAP: OnceLock<Mutex<File>> = OnceLock::new();

/// From here on, tells perf where the code of each guest instruction lies (`-perfmap`): by
/// `/tmp/perf-PID.map`, as tools/perf/Documentation/jit-interface.txt of Linux has it.
pub fn open_map() -> io::Result<()> {
    let file = File::create(format!("/tmp/perf-{}.map", std::process::id()))?;
    MAP.get_or_init(|| Mutex::new(file));
    Ok(())
}

/// Names a piece of code, if there is a map. Nobody can be told that it cannot be written.
fn name(lines: impl FnOnce() -> String) {
    if let Some(file) = MAP.get() {
        drop(file.lock().write_all(lines().as_bytes()));
    }
}

/// Tells of the thunks.
pub fn thunks(code: &[u8], address: usize) {
    name(|| format!("{address:x} {:x} tcg-prologue-buffer\n", code.len()));
    if base::log::enabled(base::log::OUT_ASM) {
        let lines = host_lines(code, address);
        base::log::write(format_args!("PROLOGUE: [size={}]\n{lines}\n", code.len()));
    }
}

fn host_lines(code: &[u8], address: usize) -> String {
    disassemble(code, address as u64, 64, code.len()).0
}

/// Tells of a translation of the block at guest address `rip`, to be placed at `hot`, and where code is
/// seldom executed, at `cold`.
pub fn translated(
    source: &Source<'_>,
    translation: &Translation,
    [hot, cold]: [usize; 2],
    rip: u64,
) {
    trace_event!(translate_block, "tb:{hot:#x}, pc:{rip:#x}, tb_code:{hot:#x}");
    let page = rip & !0xfff;
    let (main, rest) = translation.code.split_at(translation.hot_len);
    let pieces = || {
        let marks = &translation.marks;
        let ends = marks.iter().skip(1).map(|(at, _)| *at).chain([main.len()]);
        // What stands before the first instruction's code belongs to it.
        let starts =
            marks.iter().enumerate().map(|(n, (at, ip))| (if n == 0 { 0 } else { *at }, *ip));
        starts.zip(ends).map(|((from, ip), to)| (from..to, ip))
    };
    name(|| {
        let lines = pieces().map(|(code, ip)| {
            format!("{:x} {:x} guest-{:#x}\n", hot + code.start, code.len(), page + ip)
        });
        let slow = format!("{cold:x} {:x} guest-{rip:#x}-slow\n", rest.len());
        lines.collect::<String>() + &slow
    });
    let wanted = [base::log::IN_ASM, base::log::OP, base::log::OUT_ASM];
    if !wanted.into_iter().any(base::log::enabled) || !base::log::in_filter(rip) {
        return;
    }
    let bits = source.variant.key.code_bits() as u8;
    for run in &translation.guest {
        let bytes = run.start as usize - usize::from(source.origin);
        let bytes = &source.bytes[bytes..bytes + run.len()];
        log_code(bytes, page + u64::from(run.start), bits, run.len());
    }
    if base::log::enabled(base::log::OP) {
        base::log::write(format_args!("OP:\n{}\n", describe(source)));
    }
    if base::log::enabled(base::log::OUT_ASM) {
        let mut text = format!("OUT: [size={}]\n", translation.code.len());
        for (n, (code, ip)) in pieces().enumerate() {
            let prologue = if n == 0 { " + tb prologue" } else { "" };
            text += &format!("  -- guest addr {ip:#018x}{prologue}\n");
            text += &host_lines(&main[code.clone()], hot + code.start);
        }
        text += "  -- tb slow paths + alignment\n";
        text += &host_lines(rest, cold);
        base::log::write(format_args!("{text}\n"));
    }
}

impl Report {
    /// What `info jit` says.
    pub fn text(&self, one_insn_per_tb: bool) -> String {
        let average = |sum: usize| sum.checked_div(self.blocks).unwrap_or(0);
        let share = |count: usize| (100 * count).checked_div(self.blocks).unwrap_or(0);
        let expansion = match self.guest_bytes {
            0 => 0.0,
            guest => self.host_bytes as f64 / guest as f64,
        };
        format!(
            "Accelerator settings:\n\
             one-insn-per-tb: {}\n\n\
             Translation buffer state:\n\
             gen code size       {}/{}\n\
             TB count            {}\n\
             TB avg target size  {} max={} bytes\n\
             TB avg host size    {} bytes (expansion ratio: {expansion:.1})\n\
             cross page TB count {} ({}%)\n\
             direct jump count   {} ({}%) (2 jumps={} {}%)\n\n\
             Statistics:\n\
             TB flush count      {}\n\
             TB invalidate count {}\n\
             TB translate count  {}\n\
             TB trace count      {}\n{}",
            if one_insn_per_tb { "on" } else { "off" },
            self.used,
            self.room,
            self.blocks,
            average(self.guest_bytes),
            self.longest,
            average(self.host_bytes),
            self.crossing,
            share(self.crossing),
            self.linked,
            share(self.linked),
            self.linked_twice,
            share(self.linked_twice),
            self.evictions,
            self.invalidated,
            self.translated,
            self.traces,
            match self.checked {
                [0, 0] => String::new(),
                [agreed, skipped] => format!("TB check count      {agreed} (skipped {skipped})\n"),
            },
        )
    }
}
