//! Commands that move data.

use std::sync::Arc;
use std::time::Instant;

use super::command::{Command, Done, Failed, Given};
use super::text::{self, Transfer};
use super::{Completion, Session};
use crate::driver::{VmState, ZeroFlags};
use crate::engine::{block_on, spawn};
use crate::node::Node;
use crate::vector::Vector;
use crate::{Error, Result};

/// The largest request, a whole number of sectors.
const MAX_REQUEST: u64 = 0x7fff_fe00;
/// What is written when nothing else is said.
const DEFAULT_PATTERN: u8 = 0xcd;
const SECTOR: u64 = 512;

const READ_HELP: &str = "
 reads a range of bytes from the given offset

 Example:
 'read -v 512 1k' - dumps 1 kilobyte read from 512 bytes into the file

 Reads a segment of the currently open file, optionally dumping it to the
 standard output stream (with -v option) for subsequent inspection.
 -b, -- read from the VM state rather than the virtual disk
 -C, -- report statistics in a machine parsable format
 -l, -- length for pattern verification (only with -P)
 -p, -- ignored for backwards compatibility
 -P, -- use a pattern to verify read data
 -q, -- quiet mode, do not show I/O statistics
 -r, -- register I/O buffer
 -s, -- start offset for pattern verification (only with -P)
 -v, -- dump buffer to standard output

";

const READV_HELP: &str = "
 reads a range of bytes from the given offset into multiple buffers

 Example:
 'readv -v 512 1k 1k ' - dumps 2 kilobytes read from 512 bytes into the file

 Reads a segment of the currently open file, optionally dumping it to the
 standard output stream (with -v option) for subsequent inspection.
 Uses multiple iovec buffers if more than one byte range is specified.
 -C, -- report statistics in a machine parsable format
 -P, -- use a pattern to verify read data
 -q, -- quiet mode, do not show I/O statistics
 -r, -- register I/O buffer
 -v, -- dump buffer to standard output

";

const AIO_READ_HELP: &str = "
 asynchronously reads a range of bytes from the given offset

 Example:
 'aio_read -v 512 1k 1k ' - dumps 2 kilobytes read from 512 bytes into the file

 Reads a segment of the currently open file, optionally dumping it to the
 standard output stream (with -v option) for subsequent inspection.
 The read is performed asynchronously and the aio_flush command must be
 used to ensure all outstanding aio requests have been completed.
 Note that due to its asynchronous nature, this command will be
 considered successful once the request is submitted, independently
 of potential I/O errors or pattern mismatches.
 -C, -- report statistics in a machine parsable format
 -i, -- treat request as invalid, for exercising stats
 -P, -- use a pattern to verify read data
 -q, -- quiet mode, do not show I/O statistics
 -r, -- register I/O buffer
 -v, -- dump buffer to standard output

";

const WRITE_HELP: &str = "
 writes a range of bytes from the given offset

 Example:
 'write 512 1k' - writes 1 kilobyte at 512 bytes into the open file

 Writes into a segment of the currently open file, using a buffer
 filled with a set pattern (0xcdcdcdcd).
 -b, -- write to the VM state rather than the virtual disk
 -c, -- write compressed data with blk_write_compressed
 -C, -- report statistics in a machine parsable format
 -f, -- use Force Unit Access semantics
 -n, -- with -z, don't allow slow fallback
 -p, -- ignored for backwards compatibility
 -P, -- use different pattern to fill file
 -q, -- quiet mode, do not show I/O statistics
 -r, -- register I/O buffer
 -s, -- use a pattern file to fill the write buffer
 -u, -- with -z, allow unmapping
 -z, -- write zeroes using blk_pwrite_zeroes

";

const WRITEV_HELP: &str = "
 writes a range of bytes from the given offset source from multiple buffers

 Example:
 'writev 512 1k 1k' - writes 2 kilobytes at 512 bytes into the open file

 Writes into a segment of the currently open file, using a buffer
 filled with a set pattern (0xcdcdcdcd).
 -C, -- report statistics in a machine parsable format
 -f, -- use Force Unit Access semantics
 -P, -- use different pattern to fill file
 -q, -- quiet mode, do not show I/O statistics
 -r, -- register I/O buffer

";

const AIO_WRITE_HELP: &str = "
 asynchronously writes a range of bytes from the given offset source
 from multiple buffers

 Example:
 'aio_write 512 1k 1k' - writes 2 kilobytes at 512 bytes into the open file

 Writes into a segment of the currently open file, using a buffer
 filled with a set pattern (0xcdcdcdcd).
 The write is performed asynchronously and the aio_flush command must be
 used to ensure all outstanding aio requests have been completed.
 Note that due to its asynchronous nature, this command will be
 considered successful once the request is submitted, independently
 of potential I/O errors or pattern mismatches.
 -C, -- report statistics in a machine parsable format
 -f, -- use Force Unit Access semantics
 -i, -- treat request as invalid, for exercising stats
 -P, -- use different pattern to fill file
 -q, -- quiet mode, do not show I/O statistics
 -r, -- register I/O buffer
 -u, -- with -z, allow unmapping
 -z, -- write zeroes using blk_aio_pwrite_zeroes

";

const DISCARD_HELP: &str = "
 discards a range of bytes from the given offset

 Example:
 'discard 512 1k' - discards 1 kilobyte from 512 bytes into the file

 Discards a segment of the currently open file.
 -C, -- report statistics in a machine parsable format
 -q, -- quiet mode, do not show I/O statistics

";

const fn transfer(
    name: &'static str,
    run: fn(&mut Session<'_>, &Command, &Given) -> Done,
) -> Command {
    Command {
        name,
        short: None,
        no_file: false,
        opens: false,
        never_waits: false,
        min: 2,
        max: None,
        args: "",
        about: "reads a number of bytes at a specified offset",
        help: "",
        options: "",
        run,
    }
}

pub(super) const READ: Command = Command {
    short: Some("r"),
    args: "[-abCqrv] [-P pattern [-s off] [-l len]] off len",
    help: READ_HELP,
    options: "bCl:pP:qrs:v",
    ..transfer("read", read)
};

pub(super) const READV: Command = Command {
    args: "[-Cqrv] [-P pattern] off len [len..]",
    help: READV_HELP,
    options: "CP:qrv",
    ..transfer("readv", readv)
};

pub(super) const AIO_READ: Command = Command {
    never_waits: true,
    args: "[-Ciqrv] [-P pattern] off len [len..]",
    about: "asynchronously reads a number of bytes",
    help: AIO_READ_HELP,
    options: "CP:iqrv",
    ..transfer("aio_read", aio_read)
};

pub(super) const WRITE: Command = Command {
    short: Some("w"),
    args: "[-bcCfnqruz] [-P pattern | -s source_file] off len",
    about: "writes a number of bytes at a specified offset",
    help: WRITE_HELP,
    options: "bcCfnpP:qrs:uz",
    ..transfer("write", write)
};

pub(super) const WRITEV: Command = Command {
    args: "[-Cfqr] [-P pattern] off len [len..]",
    about: "writes a number of bytes at a specified offset",
    help: WRITEV_HELP,
    options: "CfqrP:",
    ..transfer("writev", writev)
};

pub(super) const AIO_WRITE: Command = Command {
    never_waits: true,
    args: "[-Cfiqruz] [-P pattern] off len [len..]",
    about: "asynchronously writes a number of bytes",
    help: AIO_WRITE_HELP,
    options: "CfiP:qruz",
    ..transfer("aio_write", aio_write)
};

pub(super) const AIO_FLUSH: Command = Command {
    min: 0,
    max: Some(0),
    about: "completes all outstanding aio requests",
    ..transfer("aio_flush", |session, _, _| {
        session.complete_all();
        Ok(())
    })
};

pub(super) const DISCARD: Command = Command {
    short: Some("d"),
    args: "[-Cq] off len",
    about: "discards a number of bytes at a specified offset",
    help: DISCARD_HELP,
    options: "Cq",
    ..transfer("discard", discard)
};

impl Session<'_> {
    /// Ends a command with a line about it.
    pub(super) fn fail<T>(&mut self, line: &str) -> std::result::Result<T, Failed> {
        self.output.print(&format!("{line}\n"));
        Err(Failed)
    }

    pub(super) fn or_fail<T>(
        &mut self,
        result: std::result::Result<T, String>,
    ) -> std::result::Result<T, Failed> {
        result.or_else(|line| self.fail(&line))
    }

    fn usage<T>(&mut self, command: &Command) -> std::result::Result<T, Failed> {
        let usage = command.usage(command.name);
        self.output.print(&usage);
        Err(Failed)
    }

    /// The offset and the length of a plain request.
    fn range(
        &mut self,
        command: &Command,
        given: &Given,
    ) -> std::result::Result<(u64, u64), Failed> {
        let [at, len] = given.operands.as_slice() else { return self.usage(command) };
        let at = self.or_fail(text::bytes(at))?;
        Ok((at, self.or_fail(text::bytes(len))?))
    }

    fn too_long<T>(&mut self, given: &Given, unless: &str) -> std::result::Result<T, Failed> {
        let len = given.operands.last().map_or("", String::as_str);
        self.fail(&format!("length cannot exceed {MAX_REQUEST}{unless}, given {len}"))
    }

    /// The offset and the total length of a request with many buffers.
    fn vector(
        &mut self,
        command: &Command,
        given: &Given,
    ) -> std::result::Result<(u64, u64), Failed> {
        let Some((at, lens)) = given.operands.split_first().filter(|(_, lens)| !lens.is_empty())
        else {
            return self.usage(command);
        };
        let at = self.or_fail(text::bytes(at))?;
        let mut total = 0;
        for arg in lens {
            let len = self.or_fail(text::bytes(arg))?;
            if len > MAX_REQUEST {
                return self.fail(&format!("Argument '{arg}' exceeds maximum size {MAX_REQUEST}"));
            }
            total += len;
            if total > MAX_REQUEST {
                let line = "The total number of bytes exceed the maximum size";
                return self.fail(&format!("{line} {MAX_REQUEST}"));
            }
        }
        Ok((at, total))
    }

    fn pattern(&mut self, given: &Given) -> std::result::Result<Option<u8>, Failed> {
        given.get('P').map(|arg| self.or_fail(text::pattern(arg))).transpose()
    }

    fn aligned(&mut self, at: u64, len: u64) -> Done {
        for (value, name) in [(at, "offset"), (len, "count")] {
            if value % SECTOR != 0 {
                let line = format!("{value} is not a sector-aligned value for '{name}'");
                return self.fail(&line);
            }
        }
        Ok(())
    }

    /// The open file, which may be written.
    pub(super) fn writable(&mut self) -> std::result::Result<Arc<Node>, Failed> {
        let node = self.node()?;
        if node.is_read_only() {
            self.output.report("Block node is read-only");
            return Err(Failed);
        }
        Ok(node)
    }

    fn finish_read(
        &mut self,
        given: &Given,
        transfer: &Transfer,
        compared: &Compared,
        at: Instant,
    ) -> Done {
        let took = at.elapsed();
        let outcome = match compared.mismatch() {
            Some(line) => self.fail(&line),
            None => Ok(()),
        };
        if !given.has('q') {
            if given.has('v') {
                self.output.print(&text::dump(&compared.data.to_vec(), transfer.at));
            }
            self.output.print(&transfer.report(took));
        }
        outcome
    }

    fn finish_write(
        &mut self,
        name: &str,
        given: &Given,
        transfer: &Transfer,
        result: Result<()>,
        at: Instant,
    ) -> Done {
        let took = at.elapsed();
        if let Err(error) = result {
            return self.fail(&format!("{name} failed: {}", strerror(&error)));
        }
        if !given.has('q') {
            self.output.print(&transfer.report(took));
        }
        Ok(())
    }
}

/// What was read, and what should have been.
struct Compared {
    data: Vector,
    pattern: Option<u8>,
    /// Which part.
    from: usize,
    len: usize,
    at: u64,
}

impl Compared {
    fn mismatch(&self) -> Option<String> {
        let pattern = self.pattern?;
        let part = self.data.slice(self.from, self.len).to_vec();
        if part.iter().all(|&byte| byte == pattern) {
            return None;
        }
        let at = self.at + self.from as u64;
        Some(format!("Pattern verification failed at offset {at}, {} bytes", self.len))
    }
}

/// The C library's text: of errors below, only the number matters here.
fn strerror(error: &Error) -> String {
    Error::from_errno(error.errno()).to_string()
}

/// What a block device checks before its driver sees a request.
fn check(node: &Node, at: u64, len: u64) -> Result<()> {
    match at.checked_add(len) {
        Some(end) if end <= node.len()? && len <= i64::MAX as u64 => Ok(()),
        _ => Err(Error::from_errno(libc::EIO)),
    }
}

fn filled(len: u64, byte: u8) -> Vector {
    let data = Vector::zeroed(len as usize);
    data.fill(byte);
    data
}

fn read(session: &mut Session<'_>, command: &Command, given: &Given) -> Done {
    let len = given.get('l').map(|arg| session.or_fail(text::bytes(arg))).transpose()?;
    let pattern = session.pattern(given)?;
    let from = given.get('s').map(|arg| session.or_fail(text::bytes(arg))).transpose()?;
    if pattern.is_none() && (len.is_some() || from.is_some()) {
        return session.usage(command);
    }
    let (at, count) = session.range(command, given)?;
    if count > MAX_REQUEST {
        return session.too_long(given, "");
    }
    let from = from.unwrap_or(0);
    let len = len.unwrap_or_else(|| count.saturating_sub(from));
    if from > count || len > count - from || (len == 0 && from == count && count > 0) {
        return session.fail("pattern verification range exceeds end of read data");
    }
    let state = given.has('b');
    if state {
        session.aligned(at, count)?;
    }
    let node = session.node()?;
    let began = Instant::now();
    let data = filled(count, 0xab);
    let result = match state {
        true => vm_state(&node).and_then(|state| block_on(state.load(at, data.clone()))),
        false => check(&node, at, count).and_then(|()| block_on(node.read(at, data.clone()))),
    };
    let data = match result.map(|()| data) {
        Ok(data) => data,
        Err(error) => return session.fail(&format!("read failed: {}", strerror(&error))),
    };
    let compared = Compared { data, pattern, from: from as usize, len: len as usize, at };
    let transfer =
        Transfer { verb: "read", at, bytes: count, operations: 1, terse: given.has('C') };
    session.finish_read(given, &transfer, &compared, began)
}

fn readv(session: &mut Session<'_>, command: &Command, given: &Given) -> Done {
    let pattern = session.pattern(given)?;
    let (at, total) = session.vector(command, given)?;
    let node = session.node()?;
    let began = Instant::now();
    let data = match check(&node, at, total).and_then(|()| {
        let data = filled(total, 0xab);
        block_on(node.read(at, data.clone())).map(|()| data)
    }) {
        Ok(data) => data,
        Err(error) => return session.fail(&format!("readv failed: {}", strerror(&error))),
    };
    let compared = Compared { data, pattern, from: 0, len: total as usize, at };
    let transfer =
        Transfer { verb: "read", at, bytes: total, operations: 1, terse: given.has('C') };
    session.finish_read(given, &transfer, &compared, began)
}

/// Where an image keeps the state of a machine.
fn vm_state(node: &Node) -> Result<&dyn VmState> {
    node.vm_state().ok_or_else(|| Error::from_errno(libc::ENOTSUP))
}

/// Writes, and with `fua` sees to it that it lasts.
async fn store(node: &Node, at: u64, data: Vector, fua: bool) -> Result<()> {
    node.write(at, data).await?;
    if fua { node.flush().await } else { Ok(()) }
}

async fn zero(node: &Node, at: u64, len: u64, unmap: bool, fua: bool) -> Result<()> {
    node.write_zeroes(at, len, ZeroFlags { unmap }).await?;
    if fua { node.flush().await } else { Ok(()) }
}

fn write(session: &mut Session<'_>, command: &Command, given: &Given) -> Done {
    let has = |letter| given.has(letter);
    let pattern = session.pattern(given)?;
    if has('b') && has('z') {
        return session.fail("-b and -z cannot be specified at the same time");
    }
    if has('f') && (has('b') || has('c')) {
        return session.fail("-f and -b or -c cannot be specified at the same time");
    }
    if has('n') && !has('z') {
        return session.fail("-n requires -z to be specified");
    }
    if has('u') && !has('z') {
        return session.fail("-u requires -z to be specified");
    }
    if u32::from(has('z')) + u32::from(has('P')) + u32::from(has('s')) > 1 {
        return session.fail("Only one of -z, -P, and -s can be specified at the same time");
    }
    let (at, count) = session.range(command, given)?;
    if count > MAX_REQUEST && !has('n') {
        return session.too_long(given, " without -n");
    }
    if has('b') || has('c') {
        session.aligned(at, count)?;
    }
    let data = match given.get('s') {
        _ if has('z') => Vector::zeroed(0),
        None => filled(count, pattern.unwrap_or(DEFAULT_PATTERN)),
        Some(file) => {
            let bytes = match std::fs::read(file).map_err(Error::from) {
                Ok(bytes) => bytes,
                Err(error) => {
                    session.output.note(&format!("{file}: {error}"));
                    return Err(Failed);
                }
            };
            if bytes.is_empty() {
                session.output.note(&format!("{file}: file is empty"));
                return Err(Failed);
            }
            let repeated: Vec<u8> = bytes.into_iter().cycle().take(count as usize).collect();
            Vector::from(&repeated[..])
        }
    };
    let node = session.writable()?;
    let fua = has('f') || session.writes_through();
    let began = Instant::now();
    let result = match has('b') {
        true => vm_state(&node).and_then(|state| {
            block_on(async {
                state.save(at, data).await?;
                if fua { node.flush().await } else { Ok(()) }
            })
        }),
        false => check(&node, at, count).and_then(|()| match (has('z'), has('c')) {
            (true, _) => block_on(zero(&node, at, count, has('u'), fua)),
            (_, true) => block_on(node.write_compressed(at, data)),
            _ => block_on(store(&node, at, data, fua)),
        }),
    };
    let transfer = Transfer { verb: "wrote", at, bytes: count, operations: 1, terse: has('C') };
    session.finish_write("write", given, &transfer, result, began)
}

fn writev(session: &mut Session<'_>, command: &Command, given: &Given) -> Done {
    let pattern = session.pattern(given)?.unwrap_or(DEFAULT_PATTERN);
    let (at, total) = session.vector(command, given)?;
    let node = session.writable()?;
    let fua = given.has('f') || session.writes_through();
    let began = Instant::now();
    let result = check(&node, at, total)
        .and_then(|()| block_on(store(&node, at, filled(total, pattern), fua)));
    let transfer =
        Transfer { verb: "wrote", at, bytes: total, operations: 1, terse: given.has('C') };
    session.finish_write("writev", given, &transfer, result, began)
}

fn discard(session: &mut Session<'_>, command: &Command, given: &Given) -> Done {
    let (at, count) = session.range(command, given)?;
    if count > MAX_REQUEST {
        return session.too_long(given, "");
    }
    let node = session.writable()?;
    let began = Instant::now();
    let result = check(&node, at, count).and_then(|()| block_on(node.discard(at, count)));
    let transfer =
        Transfer { verb: "discard", at, bytes: count, operations: 1, terse: given.has('C') };
    session.finish_write("discard", given, &transfer, result, began)
}

fn aio_read(session: &mut Session<'_>, command: &Command, given: &Given) -> Done {
    let pattern = session.pattern(given)?;
    if given.has('i') {
        return invalid_request(session, "read");
    }
    let (at, total) = session.vector(command, given)?;
    let node = session.node()?;
    let data = filled(total, 0xab);
    let (into, began) = (data.clone(), Instant::now());
    let (quiet, dump, terse) = (given.has('q'), given.has('v'), given.has('C'));
    let request = async move {
        check(&node, at, total)?;
        node.read(at, into).await
    };
    let describe = move |result: Result<()>| {
        if let Err(error) = result {
            return format!("readv failed: {}\n", strerror(&error));
        }
        let took = began.elapsed();
        let compared = Compared { data, pattern, from: 0, len: total as usize, at };
        let mut out = compared.mismatch().map(|line| line + "\n").unwrap_or_default();
        if !quiet {
            if dump {
                out += &text::dump(&compared.data.to_vec(), at);
            }
            out += &Transfer { verb: "read", at, bytes: total, operations: 1, terse }.report(took);
        }
        out
    };
    submit(session, request, describe);
    Ok(())
}

fn aio_write(session: &mut Session<'_>, command: &Command, given: &Given) -> Done {
    let pattern = session.pattern(given)?.unwrap_or(DEFAULT_PATTERN);
    if given.has('i') {
        return invalid_request(session, "write");
    }
    let has = |letter| given.has(letter);
    if given.operands.len() < 2 {
        return session.usage(command);
    }
    if has('z') && given.operands.len() != 2 {
        return session.fail("-z supports only a single length parameter");
    }
    if has('u') && !has('z') {
        return session.fail("-u requires -z to be specified");
    }
    let (at, total) = match has('z') {
        true => session.range(command, given)?,
        false => session.vector(command, given)?,
    };
    let node = session.writable()?;
    let began = Instant::now();
    let fua = has('f') || session.writes_through();
    let (zeroes, unmap, quiet, terse) = (has('z'), has('u'), has('q'), has('C'));
    let request = async move {
        check(&node, at, total)?;
        match zeroes {
            true => zero(&node, at, total, unmap, fua).await,
            false => store(&node, at, filled(total, pattern), fua).await,
        }
    };
    let describe = move |result: Result<()>| match result {
        Err(error) => format!("aio_write failed: {}\n", strerror(&error)),
        Ok(()) if quiet => String::new(),
        Ok(()) => Transfer { verb: "wrote", at, bytes: total, operations: 1, terse }
            .report(began.elapsed()),
    };
    submit(session, request, describe);
    Ok(())
}

fn invalid_request(session: &mut Session<'_>, what: &str) -> Done {
    session.output.print(&format!("injecting invalid {what} request\n"));
    Ok(())
}

/// Starts a request; what is to be said of it is said when it has ended.
fn submit(
    session: &mut Session<'_>,
    request: impl Future<Output = Result<()>> + Send + 'static,
    describe: impl FnOnce(Result<()>) -> String + Send + 'static,
) {
    let completions = session.completions.0.clone();
    session.in_flight += 1;
    spawn(request, move |result| {
        // Nobody listens any more when the program has ended.
        let _ = completions.send(Completion(describe(result)));
    });
}
