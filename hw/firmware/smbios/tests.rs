use super::*;

fn hardware() -> Hardware {
    Hardware {
        entry_point: EntryPoint::Bits32,
        manufacturer: "QEMU".into(),
        product: "Standard PC (i440FX + PIIX, 1996)".into(),
        version: "pc-i440fx-10.0".into(),
        uuid: Uuid::default(),
        processor_id: (0x0006_0fb1, 0x078b_fbfd),
        sockets: 1,
        cores_per_socket: 1,
        threads_per_socket: 1,
        memory: (512 << 20, 0),
        largest_module: 2 << 40,
    }
}

/// Structures as (type, handle, formatted area, strings).
fn parse(mut tables: &[u8]) -> Vec<(u8, u16, Vec<u8>, Vec<String>)> {
    let mut out = vec![];
    while let [kind, length, low, high, ..] = *tables {
        let (area, rest) = tables.split_at(usize::from(length));
        let end = rest.windows(2).position(|pair| pair == [0, 0]).unwrap();
        let strings = rest[..end].split(|byte| *byte == 0).filter(|text| !text.is_empty());
        let strings = strings.map(|text| String::from_utf8(text.to_vec()).unwrap()).collect();
        out.push((kind, u16::from_le_bytes([low, high]), area.to_vec(), strings));
        tables = &rest[end + 2..];
    }
    out
}

#[test]
fn default_board_has_the_recorded_structures() {
    let files = Config::default().build(&hardware());
    // Length, largest structure and count as the reference emulator shows them for this board.
    assert_eq!(files.tables.len(), 324);
    assert_eq!(
        files.anchor,
        b"_SM_\0\x1f\x02\x08\x52\0\0\0\0\0\0\0_DMI_\0\x44\x01\0\0\0\0\x08\0\x28"
    );
    let kinds: Vec<u8> = parse(&files.tables).iter().map(|structure| structure.0).collect();
    assert_eq!(kinds, [1, 3, 4, 16, 17, 19, 32, 127]);
}

#[test]
fn sixty_four_bit_entry_point_counts_cores_in_words() {
    let mut hardware = hardware();
    hardware.entry_point = EntryPoint::Bits64;
    hardware.cores_per_socket = 300;
    let files = Config::default().build(&hardware);
    assert_eq!(files.anchor[..12], *b"_SM3_\0\x18\x03\0\0\x01\0");
    let processor = &parse(&files.tables)[2];
    assert_eq!(processor.2.len(), 0x30);
    assert_eq!(processor.2[0x23], 0xff);
    assert_eq!(processor.2[0x2a..0x2c], 300u16.to_le_bytes());
}

#[test]
fn anchors_sum_to_zero() {
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    let mut hardware = hardware();
    let anchor = Config::default().build(&hardware).anchor_at(0xf_1234).unwrap();
    assert_eq!((sum(&anchor), sum(&anchor[16..])), (0, 0));
    assert_eq!(anchor[24..28], 0xf_1234u32.to_le_bytes());
    assert!(Config::default().build(&hardware).anchor_at(1 << 32).is_none());
    hardware.entry_point = EntryPoint::Bits64;
    let anchor = Config::default().build(&hardware).anchor_at(1 << 33).unwrap();
    assert_eq!(sum(&anchor), 0);
}

fn set(config: &mut Config, kind: u64, fields: &[(&str, &str)]) -> Result<(), SmbiosError> {
    let section = config.open(kind)?;
    fields.iter().try_for_each(|(key, value)| section.apply(key, value))
}

#[test]
fn every_type_can_be_set() {
    let mut config = Config::default();
    for (kind, fields) in [
        (0, &[("vendor", "V"), ("release", "5.6"), ("uefi", "on")][..]),
        (1, &[("serial", "S"), ("uuid", "12345678-9abc-def0-1122-334455667788")]),
        (2, &[("serial", "BS"), ("location", "BL")]),
        (3, &[("sku", "CK")]),
        (4, &[("sock_pfx", "SK"), ("max-speed", "3000"), ("processor-id", "0x1234567890")]),
        (8, &[("internal_reference", "IR"), ("connector_type", "1")]),
        (8, &[("port_type", "4")]),
        (9, &[("slot_designation", "SD"), ("slot_type", "0xa"), ("slot_id", "7")]),
        (11, &[("value", "one"), ("value", "two")]),
        (17, &[("loc_pfx", "LP"), ("speed", "3200")]),
        (41, &[("designation", "DG"), ("kind", "ethernet"), ("instance", "1")]),
    ] {
        set(&mut config, kind, fields).unwrap();
    }
    let made = parse(&config.build(&hardware()).tables);
    let kinds: Vec<u8> = made.iter().map(|structure| structure.0).collect();
    assert_eq!(kinds, [0, 1, 2, 3, 4, 8, 8, 9, 11, 16, 17, 19, 32, 41, 127]);
    let area = |kind| &made.iter().find(|structure| structure.0 == kind).unwrap().2;
    let strings = |kind| &made.iter().find(|structure| structure.0 == kind).unwrap().3;
    assert_eq!(area(0)[0x13..], [0x1c, 5, 6, 0xff, 0xff]);
    assert_eq!(area(1)[8..12], [0x78, 0x56, 0x34, 0x12]);
    assert_eq!(
        strings(2),
        &["QEMU", "Standard PC (i440FX + PIIX, 1996)", "pc-i440fx-10.0", "BS", "BL"]
    );
    assert_eq!(strings(4)[0], "SK 0");
    assert_eq!(area(4)[0x14..0x16], 3000u16.to_le_bytes());
    assert_eq!(area(9)[4..], [1, 0xa, 0, 0, 0, 7, 0, 0, 0, 0xff, 0, 0xff, 0xff]);
    assert_eq!(strings(11), &["one", "two"]);
    assert_eq!(strings(17)[0], "LP 0");
    assert_eq!(area(41)[4..], [1, 0x85, 1, 0, 0, 0, 0]);
}

#[test]
fn mistakes_are_named() {
    let mut config = Config::default();
    let mut message = |kind, key: &str, value: &str| {
        set(&mut config, kind, &[(key, value)]).unwrap_err().to_string()
    };
    assert_eq!(message(7, "", ""), "Don't know how to build fields for SMBIOS type 7");
    assert_eq!(message(3, "foo", "1"), "Invalid parameter 'foo'");
    assert_eq!(message(0, "release", "1"), "Invalid release");
    assert_eq!(message(0, "uefi", "maybe"), "Parameter 'uefi' expects 'on' or 'off'");
    assert_eq!(message(1, "uuid", "zz"), "Invalid UUID");
    assert_eq!(message(4, "max-speed", "1K"), "Parameter 'max-speed' expects a number");
    assert_eq!(message(4, "max-speed", "70000"), "SMBIOS CPU speed is too large (> 65535)");
    assert_eq!(message(41, "kind", "zzz"), "invalid parameter value: zzz");
}

#[test]
fn a_file_replaces_our_structure_and_excludes_fields() {
    let mut config = Config::default();
    let structure = b"\x01\x04\x00\x01M\0\0".to_vec();
    config.add_structure(structure.clone()).unwrap();
    assert_eq!(set(&mut config, 1, &[]), Err(SmbiosError::AlreadyLoaded));
    set(&mut config, 3, &[("sku", "x")]).unwrap();
    assert_eq!(
        config.add_structure(b"\x03\x04\x00\x03\0\0".to_vec()),
        Err(SmbiosError::AlreadySpecified(3))
    );
    let files = config.build(&hardware());
    assert!(files.tables.starts_with(&structure));
    assert_eq!(parse(&files.tables).iter().filter(|made| made.0 == 1).count(), 1);
}

#[test]
fn large_memory_uses_the_extended_fields() {
    let mut hardware = hardware();
    hardware.memory = (3 << 30, 5 << 40);
    let made = parse(&Config::default().build(&hardware).tables);
    let modules: Vec<_> = made.iter().filter(|structure| structure.0 == 17).collect();
    assert_eq!(modules.len(), 3);
    assert_eq!(modules[0].2[0x0c..0x0e], 0x7fffu16.to_le_bytes());
    assert_eq!(modules[0].2[0x1c..0x20], (2u32 << 20).to_le_bytes());
    let ranges: Vec<_> = made.iter().filter(|structure| structure.0 == 19).collect();
    assert_eq!(ranges[1].2[4..12], [0xff; 8]);
    assert_eq!(ranges[1].2[0x0f..0x17], (4u64 << 30).to_le_bytes());
}
