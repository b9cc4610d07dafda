//! CPUID against what was observed on the reference emulator.

use super::*;

/// Features that the reference emulator offers and software execution here does not yet.
const LATER: &[&str] = &["mpx"];

/// The vector extensions among them. What CPUID says of these is compared all the same.
const LATER_VECTORS: &[&str] = &["3dnow", "3dnowext"];

/// Features that software execution here offers and the reference emulator does not.
const BEYOND: &[&str] = &[
    "vme",
    "pcid",
    "tsc-deadline",
    "tsc-adjust",
    "invpcid",
    "invtsc",
    "lam",
    "gfni",
    "vpclmulqdq",
    "avx-vnni",
    "lbrv",
    "nrip-save",
    "tsc-scale",
    "vmcb-clean",
    "flushbyasid",
    "decodeassists",
    "pause-filter",
    "pfthreshold",
    "v-vmsave-vmload",
    "vnmi",
    "waitpkg",
    "cldemote",
    "movdiri",
    "movdir64b",
    "serialize",
    "xsavec",
    "xsaves",
];

/// Software execution with the features of the reference emulator.
fn as_observed() -> Support {
    let mut support = Support::software();
    for name in LATER_VECTORS {
        let feature = feature::by_name(name).unwrap().feature;
        support.features.set(feature, true);
        support.silent.set(feature, false);
    }
    for name in BEYOND {
        let feature = feature::by_name(name).unwrap().feature;
        support.features.set(feature, false);
        support.silent.set(feature, true);
    }
    support
}

fn topology(smp: &str) -> Topology {
    let mut topology = Topology::default();
    let mut total = 1;
    let mut sized = false;
    for item in smp.split(',').filter(|item| !item.is_empty()) {
        match item.split_once('=') {
            None => total = item.parse().unwrap(),
            Some((key, count)) => {
                let count = count.parse().unwrap();
                sized = true;
                match key {
                    "sockets" => topology.sockets = count,
                    "dies" => topology.dies = count,
                    "cores" => topology.cores = count,
                    _ => topology.threads = count,
                }
            }
        }
    }
    if !sized {
        topology.cores = total;
    }
    topology
}

fn as_reset() -> Dynamic {
    Dynamic { osxsave: false, ospke: false, apic_enabled: true, long: false, xcr0: 1 }
}

#[test]
fn test_answers_are_those_observed() {
    let mut current = None;
    let mut compared = 0;
    for line in include_str!("observed.txt").lines().filter(|line| !line.starts_with('#')) {
        if !line.starts_with(' ') {
            let (name, smp) = line.split_once('@').unwrap_or((line, ""));
            let selection = select(name, &as_observed(), topology(smp)).unwrap();
            current = Some((line, selection.model));
            continue;
        }
        let (name, model) = current.as_ref().unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let (leaf, subleaf) = words[0].split_once('.').unwrap();
        let leaf = u32::from_str_radix(leaf, 16).unwrap();
        let hex = |text: &str| u32::from_str_radix(text, 16).unwrap();
        let expected = [hex(words[1]), hex(words[2]), hex(words[3]), hex(words[4])];
        let mut answer = model.cpuid(0, leaf, hex(subleaf), &as_reset());
        // The observed model has SVM: its bit, and its leaf.
        if leaf == 0x8000_0001 && expected[2] & 4 != 0 {
            answer[2] |= 4;
        }
        if leaf == 0x8000_000a && model.xlevel >= leaf && model.vendor() == Vendor::Amd {
            continue;
        }
        assert_eq!(answer, expected, "{name} leaf {leaf:#x}.{subleaf}");
        compared += 1;
    }
    assert!(compared > 1000);
}

#[test]
fn test_table_of_models_is_whole() {
    let text = include_str!("models.txt");
    let heads = text.lines().filter(|line| !line.starts_with(['#', ' ']) && !line.contains(" := "));
    assert_eq!(heads.count(), definitions().len());
    for line in text.lines().filter(|line| line.starts_with("    ") && !line.contains('|')) {
        for item in line.split_whitespace() {
            let name = item.trim_start_matches(['+', '-']);
            assert!(feature::by_name(name).is_some(), "{name}");
        }
    }
    for name in ["qemu64", "kvm32", "486", "EPYC", "Haswell-noTSX", "Skylake-Server-IBRS"] {
        assert!(find(name).is_some(), "{name}");
    }
}

#[test]
fn test_names_of_features_are_unique() {
    let names = feature::names();
    for (i, named) in names.iter().enumerate() {
        let twin = names[..i]
            .iter()
            .find(|other| other.name == named.name || other.feature == named.feature);
        assert!(twin.is_none(), "{}", named.name);
    }
    assert_eq!(feature::by_name("sse4_1").unwrap().feature, feature::SSE41);
    assert_eq!(feature::by_name("invpcid").unwrap().feature, feature::INVPCID);
    assert_eq!(feature::by_name("la57").unwrap().feature, feature::LA57);
    for name in LATER.iter().chain(LATER_VECTORS) {
        assert_eq!(feature::by_name(name).unwrap().software, feature::Software::Later);
    }
}

fn refused(spec: &str) -> String {
    select(spec, &Support::software(), Topology::default()).unwrap_err().to_string()
}

fn warned(spec: &str) -> Vec<String> {
    select(spec, &Support::software(), Topology::default()).unwrap().warnings
}

#[test]
fn the_shape_of_leaves_can_be_told() {
    let leaf = |spec: &str, leaf, subleaf| {
        let selected = select(spec, &Support::software(), Topology::default()).unwrap();
        selected.model.cpuid(0, leaf, subleaf, &Dynamic::default())
    };
    assert_ne!(leaf("Skylake-Server", 4, 3), [0; 4]);
    assert_eq!(leaf("Skylake-Server,l3-cache=off", 4, 3), [0; 4]);
    assert_eq!(leaf("max,l3-cache=off", 0x8000_0006, 0)[3], 0);
    assert_eq!(leaf("max,cpuid-0xb=off", 0xb, 0), [0; 4]);
    assert_eq!(leaf("max,guest-phys-bits=39", 0x8000_0008, 0)[0] >> 16, 39);
    // There is no host whose width could be taken.
    let bits = leaf("max,host-phys-bits=on,host-phys-bits-limit=38", 0x8000_0008, 0)[0];
    assert_eq!(bits & 0xff, 40);
}

#[test]
fn test_messages() {
    assert_eq!(refused("foo"), "unable to find CPU model 'foo'");
    assert_eq!(refused("host"), "CPU model 'host' requires KVM or HVF");
    assert_eq!(refused("qemu64,+foo"), "Property 'qemu64-x86_64-cpu.foo' not found");
    assert_eq!(
        refused("qemu64,foo=on"),
        "can't apply global qemu64-x86_64-cpu.foo=on: Property 'qemu64-x86_64-cpu.foo' not found"
    );
    assert_eq!(
        refused("qemu64,avx=maybe"),
        "can't apply global qemu64-x86_64-cpu.avx=maybe: Parameter 'avx' expects 'on' or 'off'"
    );
    assert_eq!(
        refused("qemu64,vendor=abc"),
        "can't apply global qemu64-x86_64-cpu.vendor=abc: value of property 'vendor' must consist \
         of exactly 12 characters"
    );
    assert_eq!(
        refused("qemu64,phys-bits=60"),
        "phys-bits should be between 32 and 52  (but is 60)"
    );
    assert_eq!(refused("qemu64,enforce,+avx512f"), "TCG doesn't support requested features");
    assert_eq!(
        warned("qemu64,+avx512f"),
        ["TCG doesn't support requested feature: CPUID.07H:EBX.avx512f [bit 16]"]
    );
    assert_eq!(
        warned("qemu64,+vmx"),
        ["TCG doesn't support requested feature: CPUID.01H:ECX.vmx [bit 5]"]
    );
    assert!(warned("qemu64,+avx512f,check=off").is_empty());
    assert!(warned("qemu64").is_empty());
    assert_eq!(
        warned("Haswell"),
        [
            "TCG doesn't support requested feature: CPUID.07H:EBX.hle [bit 4]",
            "TCG doesn't support requested feature: CPUID.07H:EBX.rtm [bit 11]"
        ]
    );
    assert_eq!(warned("qemu64,-avx,avx=on").len(), 2);
}

#[test]
fn test_options_change_the_model() {
    let spec = "qemu64,+avx2,-sse3,family=6,model=0x55,stepping=4,vendor=GenuineIntel,model-id=A b";
    let model = select(spec, &as_observed(), Topology::default()).unwrap().model;
    assert!(model.has(feature::AVX2) && !model.has(feature::SSE3));
    assert_eq!(model.signature(), 0x0005_0654);
    assert_eq!(model.vendor(), Vendor::Intel);
    assert_eq!(model.cpuid(0, 0x8000_0002, 0, &as_reset())[0], u32::from_le_bytes(*b"A b\0"));
    // With a value, or where one could be, underscores are dashes.
    assert!(refused("qemu64,foo_bar").contains("Property 'qemu64-x86_64-cpu.foo-bar' not found"));
    assert!(select("max,hv_vpindex", &as_observed(), Topology::default()).is_ok());
    // The sign wins over the word.
    let model = select("qemu64,+avx,avx=off", &as_observed(), Topology::default()).unwrap();
    assert!(model.model.has(feature::AVX));
}

#[test]
fn test_apic_ids_have_gaps_where_counts_are_no_powers_of_two() {
    let topology = Topology { sockets: 2, cores: 3, threads: 2, ..Topology::default() };
    let ids: Vec<u32> = (0..12).map(|index| topology.apic_id(index)).collect();
    assert_eq!(ids, [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]);
}

#[test]
fn test_state_changes_show() {
    let model = select("max", &as_observed(), Topology::default()).unwrap().model;
    let now = Dynamic { osxsave: true, ospke: true, apic_enabled: false, long: true, xcr0: 7 };
    assert_ne!(model.cpuid(0, 1, 0, &now)[2] & 1 << 27, 0);
    assert_eq!(model.cpuid(0, 1, 0, &now)[3] & 1 << 9, 0);
    assert_ne!(model.cpuid(0, 7, 0, &now)[2] & 1 << 4, 0);
    assert_eq!(model.cpuid(0, 0xd, 0, &now)[1], 0x340);
}

#[test]
fn test_table_lists_what_cpuid_answers() {
    let model = select("Haswell", &as_observed(), Topology::default()).unwrap().model;
    let table = model.table(0, &as_reset());
    for (leaf, subleaf, answer) in &table {
        assert_eq!(*answer, model.cpuid(0, *leaf, subleaf.unwrap_or(0), &as_reset()));
    }
    let leaves = |leaf| table.iter().filter(|entry| entry.0 == leaf).count();
    assert_eq!((leaves(0), leaves(4), leaves(0xd), leaves(0x8000_0008)), (1, 4, 3, 1));
    // Absurd levels do not make it endless.
    let spec = "qemu64,level=0xffffffff,xlevel=0xffffffff,xlevel2=0xffffffff";
    let model = select(spec, &as_observed(), Topology::default()).unwrap().model;
    assert!(model.table(0, &as_reset()).len() < 1000);
}

#[test]
fn test_the_size_of_the_compacted_format_is_that_of_what_is_enabled() {
    let model = select("max", &Support::software(), Topology::default()).unwrap().model;
    let with = |xcr0| model.cpuid(0, 0xd, 1, &Dynamic { xcr0, ..as_reset() })[1];
    assert_eq!((with(1), with(3), with(7)), (0x240, 0x240, 0x340));
    assert_eq!(with(0x207), 0x348);
    // None of the components is the supervisor's, and none is aligned.
    assert_eq!(model.cpuid(0, 0xd, 2, &as_reset()), [0x100, 0x240, 0, 0]);
    assert_eq!(model.cpuid(0, 0xd, 9, &as_reset()), [8, 0xa80, 0, 0]);
    assert_eq!(model.cpuid(0, 0xd, 5, &as_reset()), [0; 4]);
}
