//! Developer commands; each sets up what it needs.

mod bench;
mod check;
mod demo;
mod fuzz;
mod process;
mod record;
mod test;
mod web;

use anyhow::{Result, bail};
use testbed::kernels;

const HELP: &str = "\
Usage: cargo xtask COMMAND

  demo [ARG...]     boot Debian's cloud kernel to a shell in Rhea; ARGs go to Rhea
  test [--full]     static checks, then every test; --full adds soak tests and fuzzing
  check             the static checks alone: format, lints, house rules
  bench [OPTION...] [ROW...]
                    Rhea, QEMU and the host side by side; `bench help` says more
  fuzz [TARGET...] [--time SECONDS]
                    run fuzz targets, each for so long (60 unless said)
  assets [--all]    fetch the guests' kernels, firmware and tools; --all adds what only
                    soak tests need: a Debian with systemd, and more kernels
  record            record tests/golden from the installed QEMU
  browser           install the browser that tests of the web console drive
  web               fetch and bundle what the web console's page takes from npm

Environment:
  RHEA_CACHE   where the guest assets are kept (~/.cache/rhea)
  RHEA_BIN     the program to test, instead of the one just built
  RHEA_QEMU    QEMU to compare with (/usr/bin/qemu-system-x86_64)
";

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    match command.as_str() {
        "" | "help" | "-h" | "--help" => {
            print!("{HELP}");
            Ok(())
        }
        "assets" => assets(&rest),
        "bench" if rest == ["help"] => {
            print!("{}", bench::HELP);
            Ok(())
        }
        "bench" => bench::run(&rest),
        "browser" => {
            no_more(&rest)?;
            testbed::browser::install()
        }
        "check" => {
            no_more(&rest)?;
            check::run()
        }
        "demo" => demo::run(&rest),
        "fuzz" => fuzz::run(&rest),
        "record" => {
            no_more(&rest)?;
            record::run()
        }
        "test" => test::run(&rest),
        "web" => {
            no_more(&rest)?;
            web::run()
        }
        other => bail!("unknown command {other:?}; `cargo xtask` lists them"),
    }
}

fn assets(args: &[String]) -> Result<()> {
    let (all, rest) = match args.split_first() {
        Some((first, rest)) if first == "--all" => (true, rest),
        _ => (false, args),
    };
    no_more(rest)?;
    let assets = testbed::assets::get()?;
    for path in [
        assets.cloud_kernel(),
        assets.generic_kernel(),
        assets.initrd(),
        assets.initrd_with_tools(),
        assets.memtest(),
        assets.seabios(),
        assets.ovmf(),
        assets.iasl(),
    ] {
        println!("{}", path.display());
    }
    if all {
        println!("{}", testbed::debian::initrd()?.display());
        for kernel in [kernels::backported(), kernels::i386_pae(), kernels::i386()] {
            match kernel {
                Ok(kernel) => println!("{}", kernel.image.display()),
                Err(error) => eprintln!("no kernel: {error:#}"),
            }
        }
    }
    install_python();
    Ok(())
}

/// Tests that need the Python client skip themselves without it.
fn install_python() {
    match testbed::python::install() {
        Ok(path) => println!("{}", path.display()),
        Err(error) => eprintln!("no Python with qemu.qmp: {error:#}"),
    }
}

fn no_more(args: &[String]) -> Result<()> {
    match args.first() {
        None => Ok(()),
        Some(arg) => bail!("unexpected argument {arg:?}; `cargo xtask` lists the commands"),
    }
}
