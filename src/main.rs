//! The `qemu-system-x86_64` program.

mod cli;
mod listings;
mod process;
mod run;

use std::io::Write;
use std::process::ExitCode;

use cli::{Command, Reporter};
use listings::Listings;

fn main() -> ExitCode {
    block::file::outlive_size_limits();
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let mut stderr = std::io::stderr();
    let mut reporter = Reporter::new(&mut stderr);
    match cli::parse(&args, &Listings, &mut reporter) {
        Ok(Command::Exit(exit)) => {
            // Whoever closed the pipe has read enough.
            let _ = std::io::stdout().write_all(exit.output.as_bytes());
            ExitCode::from(exit.status)
        }
        Ok(Command::Run(config)) => run::run(&config).unwrap_or_else(|error| {
            reporter.error(&error);
            ExitCode::FAILURE
        }),
        Err(error) => {
            reporter.error(&error);
            ExitCode::FAILURE
        }
    }
}
