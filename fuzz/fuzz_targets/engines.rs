//! Arbitrary bytes as guest code, in each mode, by the translator and the interpreter in lock-step: they
//! agree about every block.
#![no_main]

use cpu::interp::RunExit;
use cpu::testbed::Testbed;
use libfuzzer_sys::fuzz_target;
use rhea_fuzz::Code;

fuzz_target!(|code: Code<'_>| {
    let mut bed = Testbed::new().expect("memory");
    bed.check().expect("a translator");
    code.run(&mut bed, |bed, exit| {
        let failure = bed.cpu.failure.as_deref().unwrap_or_default();
        assert_ne!(exit, RunExit::Failed, "{failure}");
    });
});
