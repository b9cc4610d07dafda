//! Measures how many guest instructions a second the translator (or, with the argument `interp`, the
//! interpreter) executes. Other arguments select loops by name.

use std::time::Instant;

use cpu::interp::RunExit;
use cpu::state::gpr;
use cpu::testbed::Testbed;

/// A loop: its name, how many instructions a turn takes, and its code. RCX counts turns; the code
/// ends with HLT.
struct Loop {
    name: &'static str,
    instructions: u64,
    turns: u64,
    code: &'static [u8],
}

const LOOPS: &[Loop] = &[
    Loop {
        name: "add, xor, shift in registers",
        instructions: 8,
        turns: 20_000_000,
        code: &[
            0x48, 0x01, 0xd8, // add rax, rbx
            0x48, 0x31, 0xc2, // xor rdx, rax
            0x48, 0xc1, 0xe0, 0x03, // shl rax, 3
            0x48, 0x8d, 0x34, 0x10, // lea rsi, [rax+rdx]
            0x81, 0xe6, 0xff, 0xff, 0x00, 0x00, // and esi, 0xffff
            0x48, 0x83, 0xc3, 0x05, // add rbx, 5
            0x48, 0xff, 0xc9, // dec rcx
            0x75, 0xe3, // jnz
            0xf4,
        ],
    },
    Loop {
        name: "load, add, store",
        instructions: 6,
        turns: 20_000_000,
        code: &[
            0x48, 0x8b, 0x44, 0xcf, 0x08, // mov rax, [rdi+rcx*8+8]
            0x48, 0x83, 0xc0, 0x01, // add rax, 1
            0x48, 0x89, 0x07, // mov [rdi], rax
            0x03, 0x57, 0x10, // add edx, [rdi+16]
            0xff, 0xc9, // dec ecx
            0x75, 0xed, // jnz
            0xf4,
        ],
    },
    Loop {
        name: "call, push, pop, ret",
        instructions: 6,
        turns: 10_000_000,
        code: &[
            0xe8, 0x06, 0x00, 0x00, 0x00, // call +6
            0x48, 0xff, 0xc9, // dec rcx
            0x75, 0xf6, // jnz
            0xf4, 0x50, // push rax
            0x58, // pop rax
            0xc3, // ret
        ],
    },
    Loop {
        name: "compare and branch",
        instructions: 7,
        turns: 20_000_000,
        code: &[
            0x89, 0xc8, // mov eax, ecx
            0x83, 0xe0, 0x07, // and eax, 7
            0x83, 0xf8, 0x03, // cmp eax, 3
            0x77, 0x02, // ja +2
            0xff, 0xc2, // inc edx
            0xff, 0xc9, // dec ecx
            0x75, 0xf0, // jnz
            0xf4,
        ],
    },
    Loop {
        name: "rep movsq of 4 KiB (elements)",
        instructions: 512,
        turns: 500_000,
        code: &[
            0x51, // push rcx
            0xb9, 0x00, 0x02, 0x00, 0x00, // mov ecx, 512
            0xbe, 0x00, 0x00, 0x20, 0x00, // mov esi, 0x200000
            0xbf, 0x00, 0x00, 0x30, 0x00, // mov edi, 0x300000
            0xf3, 0x48, 0xa5, // rep movsq
            0x59, // pop rcx
            0xff, 0xc9, // dec ecx
            0x75, 0xe8, // jnz
            0xf4,
        ],
    },
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let interpret = std::env::args().any(|arg| arg == "interp");
    let only = std::env::args().skip(1).find(|arg| arg != "interp");
    for case in LOOPS.iter().filter(|case| only.as_ref().is_none_or(|o| case.name.contains(o))) {
        let mut bed = Testbed::new()?;
        if !interpret {
            bed.translate()?;
        }
        bed.ram.write(0x1000, case.code);
        bed.cpu.state.regs[gpr::RCX] = case.turns;
        bed.cpu.state.regs[gpr::RSP] = 0x10_0000;
        bed.cpu.state.regs[gpr::RDI] = 0x20_0000;
        // Keeps the loop that indexes by its counter within RAM.
        let turns = if case.name.starts_with("load") { 1_000_000 } else { case.turns };
        let start = Instant::now();
        let mut done = 0;
        while done < case.turns {
            bed.cpu.state.regs[gpr::RCX] = turns;
            let exit = bed.run(0x1000);
            if exit != RunExit::Halted {
                return Err(format!("{}: {exit:?}", case.name).into());
            }
            done += turns;
        }
        let seconds = start.elapsed().as_secs_f64();
        let mips = (done * case.instructions) as f64 / seconds / 1e6;
        println!("{:32} {mips:8.1} MIPS", case.name);
    }
    Ok(())
}
