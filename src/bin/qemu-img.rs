//! The `qemu-img` program.

use std::io::IsTerminal;
use std::process::ExitCode;

fn main() -> ExitCode {
    base::report::set_program("qemu-img");
    block::file::outlive_size_limits();
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let (mut stdout, mut stderr) = (std::io::stdout(), std::io::stderr());
    let terminal = stdout.is_terminal();
    ExitCode::from(block::tools::run(&args, &mut stdout, &mut stderr, terminal))
}
