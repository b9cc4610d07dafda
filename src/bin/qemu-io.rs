//! The `qemu-io` program.

use std::io::IsTerminal;
use std::process::ExitCode;

fn main() -> ExitCode {
    base::report::set_program("qemu-io");
    block::file::outlive_size_limits();
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let (mut stdout, mut stderr) = (std::io::stdout(), std::io::stderr());
    let terminal = stdout.is_terminal();
    let mut input = std::io::stdin().lock();
    ExitCode::from(block::tools::io::run(&args, &mut input, &mut stdout, &mut stderr, terminal))
}
