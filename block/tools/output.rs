//! Where a tool writes: as C programs do, standard output is kept until there is a block of it, standard
//! error comes at once. Scripts that look at both together depend on the order.

use std::io::Write;

/// What the C library keeps of an output that is no terminal.
const BLOCK: usize = 4096;

pub(super) struct Output<'a> {
    program: &'static str,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    kept: Vec<u8>,
    terminal: bool,
}

impl<'a> Output<'a> {
    pub(super) fn new(
        program: &'static str,
        out: &'a mut dyn Write,
        err: &'a mut dyn Write,
        terminal: bool,
    ) -> Self {
        Self { program, out, err, kept: Vec::new(), terminal }
    }

    /// Whoever closed the pipe has read enough, so failures to write are no failures.
    pub(super) fn print(&mut self, text: &str) {
        self.kept.extend_from_slice(text.as_bytes());
        let ready = match self.terminal {
            true => self.kept.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1),
            false => self.kept.len() / BLOCK * BLOCK,
        };
        // A block that is just full waits for the next byte.
        let full = !self.terminal && ready == self.kept.len();
        let ready = if full { ready.saturating_sub(BLOCK) } else { ready };
        if ready > 0 {
            let _ = self.out.write_all(&self.kept[..ready]);
            self.kept.drain(..ready);
        }
        if self.terminal {
            let _ = self.out.flush();
        }
    }

    /// What is kept appears now.
    pub(super) fn flush(&mut self) {
        let _ = self.out.write_all(&self.kept);
        self.kept.clear();
        let _ = self.out.flush();
    }

    /// An error, with the program's name.
    pub(super) fn report(&mut self, text: &str) {
        let program = self.program;
        self.note(&format!("{program}: {text}"));
    }

    /// Whether a person looks at it.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// A line on standard error.
    pub(super) fn note(&mut self, line: &str) {
        let _ = writeln!(self.err, "{line}");
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}
