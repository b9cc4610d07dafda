//! The VGA: its ports, its window, and the pictures that come of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhea_fuzz::{Board, Place, Step};

const PLACES: &[Place] = &[
    Place::Ports(0x3c0, 16),
    Place::Ports(0x3d4, 7),
    Place::Ports(0x3b4, 7),
    Place::Ports(0x1ce, 4),
    Place::Memory(0xa_0000, 0x2_0000),
];

/// Steps between pictures.
const GLANCE: usize = 16;

fuzz_target!(|steps: Vec<Step>| {
    Board::with(|board| {
        for steps in steps.chunks(GLANCE) {
            steps.iter().for_each(|step| step.take(board, PLACES));
            for console in board.vm().consoles().all() {
                console.refresh(false);
                console.text();
            }
        }
    });
});
