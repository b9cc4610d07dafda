use super::loader::execute;
use super::*;
use std::process::Command as Process;

const COM: [LegacyPort; 4] = [
    LegacyPort { number: 1, io_base: 0x3f8, irq: 4 },
    LegacyPort { number: 2, io_base: 0x2f8, irq: 3 },
    LegacyPort { number: 3, io_base: 0x3e8, irq: 4 },
    LegacyPort { number: 4, io_base: 0x2e8, irq: 3 },
];

fn isa() -> IsaDevices {
    IsaDevices {
        pvpanic: None,
        keyboard: true,
        floppy: Some([Some(FloppyDrive { kind: 5, geometry: (79, 48, 1) }), None]),
        parallel: vec![LegacyPort { number: 1, io_base: 0x378, irq: 7 }],
        serial: vec![],
        rtc: true,
    }
}

fn plain(devfn: u8, hotpluggable: bool) -> PciFunction {
    PciFunction { devfn, kind: PciKind::Plain, hotpluggable }
}

fn cpus(count: u32) -> Vec<Cpu> {
    (0..count)
        .map(|id| Cpu { apic_id: id, present: true, removable: id != 0, node: None })
        .collect()
}

/// The board with 512 MiB and no display, network card or serial port.
fn board(cpu_count: u32) -> Board {
    Board {
        oem: Oem::default(),
        cpus: cpus(cpu_count),
        power: PowerManagement::default(),
        pci_root_uid: 0,
        pci: PciBus {
            hotplug_number: Some(0),
            functions: vec![
                plain(0x00, false),
                PciFunction { devfn: 0x08, kind: PciKind::IsaBridge(isa()), hotpluggable: false },
                plain(0x09, false),
                plain(0x0b, false),
            ],
        },
        pci_window: (0x2000_0000, 0xfebf_ffff),
        pci_window64: Some((0x1_0000_0000, 0x1_7fff_ffff)),
        express: None,
        cpu_hotplug: Some(0xaf00),
        pci_hotplug: Some(0xae00),
        fw_cfg: Some(0x510),
        hpet: true,
        numa: None,
        generation_id: None,
    }
}

fn numa_board() -> Board {
    let mut board = board(4);
    for (index, cpu) in board.cpus.iter_mut().enumerate() {
        cpu.node = Some(index as u32 / 2);
    }
    board.pci_window = (0xc000_0000, 0xfebf_ffff);
    board.pci_window64 = Some((0x1_c000_0000, 0x2_3fff_ffff));
    board.numa = Some(Numa {
        nodes: 2,
        memory: numa_memory(&[2 << 30, 4 << 30], 3 << 30),
        distances: Some(vec![10, 25, 25, 10]),
    });
    board
}

fn bridge(devfn: u8, secondary: PciBus) -> PciFunction {
    PciFunction { devfn, kind: PciKind::Bridge(secondary), hotpluggable: false }
}

/// Two functions in one slot, and a bridge behind a bridge.
fn bridged_board() -> Board {
    let mut board = board(1);
    let inner = PciBus { hotplug_number: Some(2), functions: vec![] };
    let outer = PciBus { hotplug_number: Some(1), functions: vec![bridge(0x20, inner)] };
    board.pci.functions.extend([plain(0x28, true), plain(0x29, true), bridge(0x48, outer)]);
    board
}

/// Everything that can be left off, left off.
fn bare_board() -> Board {
    let mut board = board(1);
    board.power.s3 = false;
    board.power.s4 = None;
    board.pci.hotplug_number = None;
    board.pci_hotplug = None;
    board.hpet = false;
    if let PciKind::IsaBridge(isa) = &mut board.pci.functions[1].kind {
        isa.parallel.clear();
        isa.floppy = Some([None, None]);
    }
    board
}

/// Everything that is not on the plain board.
fn full_board() -> Board {
    let mut board = bridged_board();
    board.generation_id = Some([0x5a; 16]);
    board.express = Some(ExpressWindow { base: 0xe000_0000, last_bus: 0xff });
    board.cpus.push(Cpu { apic_id: 0x180, present: false, removable: true, node: None });
    board.pci.functions.push(PciFunction {
        devfn: 0x10,
        kind: PciKind::Display,
        hotpluggable: false,
    });
    if let PciKind::IsaBridge(isa) = &mut board.pci.functions[1].kind {
        isa.pvpanic = Some(0x505);
        isa.serial = COM.to_vec();
        isa.floppy = Some([Some(FloppyDrive { kind: 5, geometry: (79, 48, 1) }); 2]);
    }
    board
}

const TABLES_AT: u64 = 0x1ffe_0000;

fn placed(board: &Board) -> Image {
    place(&build(board), |_, _, zone| {
        Some(match zone {
            Zone::High => TABLES_AT,
            Zone::BiosSegment => 0xf_5250,
        })
    })
    .unwrap()
}

fn number(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// All tables that an operating system finds, by signature.
fn found(image: &Image) -> Vec<(String, Vec<u8>)> {
    let tables = &image.files.iter().find(|(name, ..)| name == TABLES_FILE).unwrap().2;
    let rsdp = &image.files.iter().find(|(name, ..)| name == RSDP_FILE).unwrap().2;
    let table = |address: usize| {
        let start = address - image.address(TABLES_FILE).unwrap() as usize;
        let length = number(tables, start + 4);
        let bytes = tables[start..start + length].to_vec();
        (String::from_utf8(bytes[..4].to_vec()).unwrap(), bytes)
    };
    let (_, rsdt) = table(number(rsdp, 16));
    let mut out: Vec<_> = (36..rsdt.len()).step_by(4).map(|at| table(number(&rsdt, at))).collect();
    let fadt = out[0].1.clone();
    out.push(table(number(&fadt, 36)));
    out.push(table(number(&fadt, 40)));
    out.push(("RSDT".into(), rsdt));
    out
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn lengths_and_checksums(board: &Board) -> Vec<(String, usize, u8)> {
    let tables = found(&placed(board)).into_iter();
    tables.map(|(signature, bytes)| (signature, bytes.len(), bytes[9])).collect()
}

/// What the reference emulator's board of the same shape shows, placed at the same address.
#[test]
fn plain_board_equals_the_recorded_one() {
    let expected = [
        ("FACP", 116, 0xc1),
        ("APIC", 120, 0x88),
        ("HPET", 56, 0xb4),
        ("WAET", 40, 0x39),
        ("FACS", 64, 0),
        ("DSDT", 8621, 0x8f),
        ("RSDT", 52, 0xef),
    ];
    let expected =
        expected.map(|(signature, length, checksum)| (signature.to_string(), length, checksum));
    assert_eq!(lengths_and_checksums(&board(1)), expected);
}

/// The same for other shapes: more CPUs, nodes, bridges, and as little as possible.
#[test]
fn other_boards_equal_the_recorded_ones() {
    let shown = |board: Board, signature: &str| {
        let (_, length, checksum) =
            lengths_and_checksums(&board).into_iter().find(|(name, ..)| name == signature).unwrap();
        (length, checksum)
    };
    for (board, dsdt) in [
        (board(4), (8876, 0xab)),
        (numa_board(), (8900, 0x85)),
        (bridged_board(), (15571, 0xd8)),
        (bare_board(), (4565, 0x21)),
    ] {
        assert_eq!(shown(board, "DSDT"), dsdt);
    }
    assert_eq!(shown(numa_board(), "SRAT"), (272, 0x48));
    assert_eq!(shown(numa_board(), "SLIT"), (48, 0xe0));
}

#[test]
fn every_table_sums_to_zero() {
    for board in [board(4), numa_board(), bridged_board(), bare_board(), full_board()] {
        let image = placed(&board);
        for (signature, bytes) in found(&image).iter().filter(|(signature, _)| signature != "FACS")
        {
            assert_eq!(sum(bytes), 0, "{signature}");
        }
        let rsdp = &image.files.iter().find(|(name, ..)| name == RSDP_FILE).unwrap().2;
        assert_eq!(sum(rsdp), 0);
    }
}

/// Firmware sees the script only as bytes: running what it decodes gives the same image as running ours.
#[test]
fn direct_placement_equals_what_firmware_does() {
    let files = build(&full_board());
    let decoded = Script::decode(&files.loader_file()).unwrap();
    let mut inputs = files.files();
    inputs.push((GENERATION_ID_ADDRESS_FILE, vec![0; 8]));
    let mut next = TABLES_AT;
    let allocate = |size: u64, align: u64, _| {
        let address = next.next_multiple_of(align);
        next = address + size;
        Some(address)
    };
    let by_firmware = execute(&decoded, inputs, allocate).unwrap();
    let ours = place(&files, |_, _, zone| {
        Some(match zone {
            Zone::BiosSegment => by_firmware.address(RSDP_FILE)?,
            Zone::High => by_firmware.files[by_firmware.files.len() - 1].1,
        })
    });
    // The page of the generation identifier comes first in the high zone, so that one address would not do.
    assert!(ours.is_ok());
    assert_eq!(
        by_firmware.reports[0].1,
        (by_firmware.address(GENERATION_ID_FILE).unwrap() + 0x28).to_le_bytes()
    );
    let ssdt =
        found(&by_firmware).into_iter().find(|(signature, _)| signature == "SSDT").unwrap().1;
    assert_eq!(number(&ssdt, 0x2a) as u64, by_firmware.address(GENERATION_ID_FILE).unwrap());
}

#[test]
fn memory_of_nodes_avoids_the_holes() {
    let entry = |node, base, length| NumaMemory { node, base, length };
    assert_eq!(
        numa_memory(&[2 << 30, 4 << 30], 3 << 30),
        [
            entry(0, 0, 0xa_0000),
            entry(0, 0x10_0000, 0x7ff0_0000),
            entry(1, 0x8000_0000, 0x4000_0000),
            entry(1, 0x1_0000_0000, 0xc000_0000),
        ]
    );
}

/// Disassembles every table and compiles the result again; both must go without an error.
#[test]
fn the_reference_compiler_accepts_every_table() {
    if Process::new("iasl").arg("-v").output().is_err() {
        println!("skipped: iasl is not installed");
        return;
    }
    let boards = [
        ("plain", board(2)),
        ("numa", numa_board()),
        ("bare", bare_board()),
        ("full", full_board()),
    ];
    for (title, board) in boards {
        let dir = std::env::temp_dir().join(format!("acpi-{}-{title}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        for (signature, bytes) in found(&placed(&board)) {
            if signature == "RSDT" {
                continue;
            }
            // The generation identifier's published name is not of the form that the compiler asks for.
            let commands: &[[&str; 2]] = match signature.as_str() {
                "SSDT" => &[["-d", "aml"]],
                _ => &[["-d", "aml"], ["-p", "out"]],
            };
            std::fs::write(dir.join(format!("{signature}.aml")), bytes).unwrap();
            for [option, extra] in commands {
                let mut iasl = Process::new("iasl");
                match *option {
                    "-d" => iasl.arg("-d").arg(format!("{signature}.{extra}")),
                    _ => iasl.args([option, extra]).arg(format!("{signature}.dsl")),
                };
                let output = iasl.current_dir(&dir).output().unwrap();
                let text = [output.stdout, output.stderr].concat();
                let text = String::from_utf8_lossy(&text);
                assert!(output.status.success(), "{title} {signature} {option}\n{text}");
            }
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
