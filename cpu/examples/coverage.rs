//! Tells which instructions of a program the translator leaves to the interpreter. The argument is
//! a file with nothing but 64-bit code, as in
//! `objcopy -O binary --only-section=.text PROGRAM FILE`. Instructions are taken one after the other,
//! so that data among the code counts, too.

use cpu::cpuid::{Support, Topology, select};
use cpu::jit::coverage::handled;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("wants a file with code")?;
    let model = select("max", &Support::software(), Topology::default())?.model;
    let (counts, total) = handled(&std::fs::read(path)?, &model);
    println!("{total:8} instructions");
    for (code, count) in counts {
        println!("{count:8} {code:?}");
    }
    Ok(())
}
