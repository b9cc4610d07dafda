//! A whole Debian with systemd, whose programs check the processor. Minutes each, so all but the
//! kernels run with `cargo xtask test --full` only.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use testbed::kernels::{self, Kernel};
use testbed::vm::{Launch, Vm};
use testbed::{assets, debian, is_reference, program, skip};

/// A way to run guests' code.
#[derive(Clone, Copy)]
enum Engine {
    Translator,
    Interpreter,
}

fn machine(engine: Engine) -> Launch {
    let accel = match engine {
        // QEMU does not know the property.
        _ if is_reference(&program()) => "tcg",
        Engine::Translator => "tcg,interp=off",
        Engine::Interpreter => "tcg,interp=on",
    };
    Launch::headless(program()).args(["-accel", accel, "-cpu", "max", "-smp", "2"])
}

/// Debian, on its way to the checks.
fn debian(engine: Engine, checks: &[&str]) -> Result<Vm> {
    let scripts = format!("{} systemd.show_status=error", checks.join(","));
    machine(engine)
        .args(["-m", "2048"])
        .kernel(&assets::get()?.cloud_kernel(), &debian::initrd()?, &scripts)
        .spawn()
}

/// Runs checks one after the other; returns what each printed.
fn check<const N: usize>(engine: Engine, checks: [&str; N]) -> Result<[String; N]> {
    let mut vm = debian(engine, &checks)?;
    let mut printed = [const { String::new() }; N];
    for (check, printed) in checks.iter().zip(&mut printed) {
        *printed = vm.expect(&format!(" - {check}\n"))?;
        let result = printed.lines().last().unwrap_or_default();
        ensure!(result.starts_with("ok "), "{check} failed:\n{printed}");
    }
    Ok(printed)
}

fn reaches_a_login_prompt(engine: Engine) -> Result<()> {
    let mut vm = debian(engine, &[])?;
    vm.expect("login: ")?;
    vm.send("root\n")?;
    vm.expect("# ")?;
    vm.send("systemctl is-system-running; nproc; systemctl --failed --no-legend\n")?;
    vm.expect("running\n2\n").context("a service has failed")?;
    vm.send("systemctl poweroff\n")?;
    let ended = vm.finish()?;
    for complaint in ["BUG:", "Call Trace:", "rcu: INFO", "segfault"] {
        ensure!(!ended.stdout.contains(complaint), "{complaint}\n{}", ended.stdout);
    }
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    Ok(())
}

#[test]
#[ignore = "a soak test"]
fn systemd_reaches_a_login_prompt() -> Result<()> {
    reaches_a_login_prompt(Engine::Translator)
}

#[test]
#[ignore = "a soak test"]
fn systemd_reaches_a_login_prompt_in_the_interpreter() -> Result<()> {
    reaches_a_login_prompt(Engine::Interpreter)
}

#[test]
#[ignore = "a soak test"]
fn stress_ng_finds_every_method_right() -> Result<()> {
    let [said] = check(Engine::Translator, ["stress-ng"])?;
    ensure!(said.contains("successful run completed"), "{said}");
    Ok(())
}

#[test]
#[ignore = "a soak test"]
fn stress_ng_finds_every_method_right_in_the_interpreter() -> Result<()> {
    let [said] = check(Engine::Interpreter, ["stress-ng"])?;
    ensure!(said.contains("successful run completed"), "{said}");
    Ok(())
}

/// The lines by which OpenSSL on two processors is compared.
fn answers(printed: &str) -> Vec<&str> {
    printed.lines().filter(|line| line.starts_with("rhea-openssl: ")).collect()
}

fn openssl_answers_as_on_the_host(engine: Engine) -> Result<()> {
    let host = Command::new("sh").args(["-c", debian::OPENSSL_ANSWERS]).output()?;
    let host = String::from_utf8_lossy(&host.stdout).into_owned();
    if !Command::new("openssl").arg("version").output().is_ok_and(|it| it.status.success()) {
        skip("the host has no openssl to compare with");
        return Ok(());
    }
    let [said, _] = check(engine, ["openssl", "openssl-keys"])?;
    ensure!(answers(&said) == answers(&host), "the guest:\n{said}\nthe host:\n{host}");
    ensure!(answers(&said).len() > 20, "too few answers:\n{said}");
    Ok(())
}

#[test]
#[ignore = "a soak test"]
fn openssl_answers_as_on_the_host_in_the_translator() -> Result<()> {
    openssl_answers_as_on_the_host(Engine::Translator)
}

#[test]
#[ignore = "a soak test"]
fn openssl_answers_as_on_the_host_in_the_interpreter() -> Result<()> {
    openssl_answers_as_on_the_host(Engine::Interpreter)
}

#[test]
#[ignore = "a soak test"]
fn openssl_runs_every_kernel_of_code() -> Result<()> {
    check(Engine::Translator, ["openssl-speed"]).map(drop)
}

#[test]
#[ignore = "a soak test"]
fn python_passes_its_own_tests_of_numbers() -> Result<()> {
    let [said] = check(Engine::Translator, ["python"])?;
    ensure!(said.contains("Tests result: SUCCESS"), "{said}");
    Ok(())
}

#[test]
#[ignore = "a soak test"]
fn the_dynamic_linker_finds_x86_64_v3() -> Result<()> {
    check(Engine::Translator, ["ld-so"]).map(drop)
}

/// Boots two processors, gives them work, and powers off.
fn survives_load(kernel: Result<Kernel>) -> Result<()> {
    let kernel = match kernel {
        Ok(kernel) => kernel,
        Err(error) => {
            skip(&format!("{error:#}"));
            return Ok(());
        }
    };
    let ended = machine(Engine::Translator)
        .kernel(&kernel.image, &kernel.initrd, "stress,poweroff")
        .run()?;
    ensure!(ended.stdout.contains("rhea-stress: all 2 cpus done"), "{}", ended.stdout);
    for complaint in ["BUG:", "rcu: INFO"] {
        ensure!(!ended.stdout.contains(complaint), "{complaint}\n{}", ended.stdout);
    }
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    Ok(())
}

#[test]
fn the_i386_kernel_with_pae_survives_load() -> Result<()> {
    survives_load(kernels::i386_pae())
}

#[test]
fn the_i386_kernel_without_pae_survives_load() -> Result<()> {
    survives_load(kernels::i386())
}

#[test]
fn the_backported_kernel_survives_load() -> Result<()> {
    survives_load(kernels::backported())
}
