//! Loads that lie in two pages.

use super::*;

/// Where the second page begins.
const BOUNDARY: u64 = DATA + 0x1000;

/// Runs `load` with RDI so that `before` bytes lie in the first page, after a look at either page.
fn load_across(beds: &mut [Testbed; 2], load: &[u8], before: u64) {
    // mov al, [rdi-64]; mov al, [rdi+64]
    let mut code = vec![0x8a, 0x47, 0xc0, 0x8a, 0x47, 0x40];
    code.extend(load);
    code.push(0xf4);
    let bytes: Vec<u8> = (0..DATA_LEN).map(|at| (at * 7 + at / 251) as u8).collect();
    compare(beds, &code, |bed| {
        bed.ram.write(DATA, &bytes);
        bed.cpu.state.regs[gpr::RDI] = BOUNDARY - before;
        bed.cpu.state.regs[gpr::RSP] = BOUNDARY - before;
    });
}

fn brought_together(beds: &[Testbed; 2]) -> bool {
    beds[1].cpu.jit.as_ref().unwrap().processor.frame.astride.0.get() != [0; 8]
}

#[test]
fn loads_across_pages_agree() {
    let loads: [(&[u8], u64); 13] = [
        // movzx ecx, word [rdi]
        (&[0x0f, 0xb7, 0x0f], 2),
        // mov ecx, [rdi]
        (&[0x8b, 0x0f], 4),
        // add r10, [rdi]
        (&[0x4c, 0x03, 0x17], 8),
        // cmp rcx, [rdi]
        (&[0x48, 0x3b, 0x0f], 8),
        // adc rcx, [rdi]
        (&[0x48, 0x13, 0x0f], 8),
        // bt dword [rdi], 30
        (&[0x0f, 0xba, 0x27, 30], 4),
        // pop rcx
        (&[0x59], 8),
        // fld tword [rdi]
        (&[0xdb, 0x2f], 10),
        // movups xmm3, [rdi]
        (&[0x0f, 0x10, 0x1f], 16),
        // addsd xmm3, [rdi]
        (&[0xf2, 0x0f, 0x58, 0x1f], 8),
        // vmovups ymm3, [rdi]
        (&[0xc5, 0xfc, 0x10, 0x1f], 32),
        // vpaddd ymm9, ymm3, [rdi]
        (&[0xc5, 0x65, 0xfe, 0x0f], 32),
        // vinserti128 ymm3, ymm3, [rdi], 1
        (&[0xc4, 0xe3, 0x65, 0x38, 0x1f, 1], 16),
    ];
    for (load, size) in loads {
        for before in 1..size {
            let mut beds = pair();
            load_across(&mut beds, load, before);
            assert!(brought_together(&beds), "{load:02x?} after {before}");
        }
    }
}

#[test]
fn what_must_be_aligned_faults_across_pages() {
    // movaps xmm3, [rdi]; addps xmm3, [rdi]
    for load in [&[0x0f, 0x28, 0x1f], &[0x0f, 0x58, 0x1f]] {
        for before in 1..16 {
            load_across(&mut pair(), load, before);
        }
    }
}

#[test]
fn a_page_behind_that_is_not_there_faults() {
    // mov eax, [rdi]; mov rax, [rdi]
    for load in [&[0x8b, 0x07, 0xf4][..], &[0x48, 0x8b, 0x07, 0xf4]] {
        let mut beds = pair();
        let exit = compare(&mut beds, load, |bed| bed.cpu.state.regs[gpr::RDI] = END - 2);
        assert_eq!(exit, RunExit::Shutdown);
        assert_eq!(beds[1].cpu.state.cr2, END);
    }
}
