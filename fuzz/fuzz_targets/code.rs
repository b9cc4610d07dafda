//! Arbitrary bytes as guest code, in each mode. The interpreter neither panics nor runs on without
//! looking at its mailbox.
#![no_main]

use cpu::testbed::Testbed;
use libfuzzer_sys::fuzz_target;
use rhea_fuzz::Code;

fuzz_target!(|code: Code<'_>| {
    let mut bed = Testbed::new().expect("memory");
    code.run(&mut bed, |_, _| ());
});
