use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use serde_json::json;

use super::*;

#[derive(Clone, Debug, PartialEq, State)]
enum Phase {
    Idle,
    Command { opcode: u8, left: u32 },
    Data(Vec<u8>, bool),
}

#[derive(Clone, Debug, PartialEq, Default, State)]
struct Pair(u8, u16);

#[derive(Clone, Debug, PartialEq, Default, State)]
struct Newtype(u32);

#[derive(Clone, Debug, PartialEq, State)]
#[state(version = 3, check)]
struct Device {
    flag: bool,
    regs: [u32; 4],
    bytes: [u8; 3],
    fifo: VecDeque<u8>,
    queue: VecDeque<u64>,
    name: String,
    phase: Phase,
    maybe: Option<Pair>,
    tuple: (i8, i64, u128),
    map: BTreeMap<u16, Newtype>,
    nested: Vec<Option<Vec<u16>>>,
    level: usize,
}

impl Device {
    fn check(&self) -> Result<(), StateError> {
        if self.fifo.len() > 16 {
            return Err(StateError::invalid("the FIFO holds 16 bytes"));
        }
        Ok(())
    }
}

fn bytes_of(state: &impl State) -> Vec<u8> {
    let mut writer = Writer::new();
    state.encode(&mut writer);
    writer.into_bytes()
}

fn read<T: State>(bytes: &[u8]) -> Result<T, String> {
    let mut reader = Reader::new(bytes);
    let value = T::decode(&mut reader).map_err(|error| error.to_string())?;
    reader.finish().map_err(|error| error.to_string())?;
    Ok(value)
}

fn phase() -> impl Strategy<Value = Phase> {
    prop_oneof![
        Just(Phase::Idle),
        any::<(u8, u32)>().prop_map(|(opcode, left)| Phase::Command { opcode, left }),
        any::<(Vec<u8>, bool)>().prop_map(|(bytes, flag)| Phase::Data(bytes, flag)),
    ]
}

fn device() -> impl Strategy<Value = Device> {
    let simple =
        (any::<bool>(), any::<[u32; 4]>(), any::<[u8; 3]>(), any::<String>(), any::<usize>());
    let lists = (
        prop::collection::vec_deque(any::<u8>(), 0..=16),
        any::<VecDeque<u64>>(),
        any::<Vec<Option<Vec<u16>>>>(),
    );
    let rest = (
        phase(),
        any::<Option<(u8, u16)>>(),
        any::<(i8, i64, u128)>(),
        any::<BTreeMap<u16, u32>>(),
    );
    (simple, lists, rest).prop_map(
        |((flag, regs, bytes, name, level), (fifo, queue, nested), (phase, maybe, tuple, map))| {
            Device {
                flag,
                regs,
                bytes,
                fifo,
                queue,
                name,
                phase,
                maybe: maybe.map(|(a, b)| Pair(a, b)),
                tuple,
                map: map.into_iter().map(|(key, value)| (key, Newtype(value))).collect(),
                nested,
                level,
            }
        },
    )
}

proptest! {
    #[test]
    fn what_is_saved_loads(device in device()) {
        prop_assert_eq!(read::<Device>(&bytes_of(&device)), Ok(device));
    }

    #[test]
    fn hostile_bytes_are_refused_without_harm(bytes: Vec<u8>) {
        let _ = read::<Device>(&bytes);
        let _ = describe(&mut Reader::new(&bytes));
        prop_assert!(Sections::new(&bytes).count() <= bytes.len());
    }

    /// Any byte changed, any prefix: an error or another valid value, never a panic; and a refused
    /// load changes nothing.
    #[test]
    fn damaged_saves_leave_the_device_alone(device in device(), at: prop::sample::Index, byte: u8) {
        let mut bytes = bytes_of(&device);
        let at = at.index(bytes.len());
        prop_assert!(read::<Device>(&bytes[..at]).is_err());
        bytes[at] = byte;
        let mut target = device.clone();
        if target.load(&bytes).is_err() {
            prop_assert_eq!(target, device);
        } else {
            target.check().map_err(|error| TestCaseError::fail(error.to_string()))?;
        }
    }
}

#[test]
fn a_list_does_not_claim_more_memory_than_it_brings() {
    let mut writer = Writer::new();
    writer.list(u32::MAX as usize);
    assert_eq!(read::<Vec<u64>>(&writer.into_bytes()), Err("the saved state ends early".into()));
}

#[test]
fn a_check_refuses_impossible_states() {
    #[derive(State)]
    #[state(version = 3)]
    struct Queue {
        fifo: Vec<u8>,
    }
    #[derive(Debug, PartialEq, State)]
    #[state(version = 3, check)]
    struct Checked {
        fifo: Vec<u8>,
    }
    impl Checked {
        fn check(&self) -> Result<(), StateError> {
            if self.fifo.len() > 2 { Err(StateError::invalid("two bytes at most")) } else { Ok(()) }
        }
    }
    assert_eq!(
        read::<Checked>(&bytes_of(&Queue { fifo: vec![1, 2, 3] })),
        Err("two bytes at most".into())
    );
    assert_eq!(read::<Checked>(&bytes_of(&Queue { fifo: vec![1] })), Ok(Checked { fifo: vec![1] }));
}

/// The same device in three builds.
mod builds {
    use crate::state::State;

    #[derive(Debug, Default, PartialEq, State)]
    #[state(version = 1)]
    pub struct Old {
        pub a: u8,
    }
    #[derive(Debug, Default, PartialEq, State)]
    #[state(version = 2)]
    pub struct New {
        pub a: u8,
        #[state(since = 2, default = 7)]
        pub b: u32,
        #[state(skip = "a cache")]
        pub cache: Option<u64>,
    }
    #[derive(Debug, Default, PartialEq, State)]
    #[state(version = 2)]
    pub struct Forgetful {
        pub a: u8,
        pub c: u32,
    }
    #[derive(Debug, Default, PartialEq, State)]
    #[state(version = 2)]
    pub struct Retyped {
        pub a: u16,
        pub b: u32,
    }
}

#[test]
fn versions() {
    use builds::{Forgetful, New, Old, Retyped};

    let new = New { a: 1, b: 2, cache: Some(3) };
    assert_eq!(read(&bytes_of(&Old { a: 5 })), Ok(New { a: 5, b: 7, cache: None }));
    assert_eq!(read(&bytes_of(&new)), Ok(New { cache: None, ..new }));

    let new = bytes_of(&new);
    assert_eq!(
        read::<Old>(&new),
        Err("saved in version 2, but versions up to 1 are supported".into())
    );
    assert_eq!(read::<Forgetful>(&new), Err("field 'c' is missing".into()));
    assert_eq!(read::<New>(&bytes_of(&Forgetful::default())), Err("field 'b' is missing".into()));
    assert_eq!(read::<Retyped>(&new), Err("a: expected u16, found u8".into()));
}

#[test]
fn reset_values() {
    #[derive(Debug, PartialEq, State)]
    #[state(reset)]
    struct Uart {
        #[state(reset = 0x60)]
        lsr: u8,
        ier: u8,
    }
    assert_eq!(Uart::default(), Uart { lsr: 0x60, ier: 0 });
}

#[test]
fn dump_shows_the_tree() {
    let device = Device {
        flag: true,
        regs: [1, 2, 3, 4],
        bytes: [0xde, 0xad, 0],
        fifo: [1, 2].into(),
        queue: [1 << 40].into(),
        name: "uart".into(),
        phase: Phase::Command { opcode: 0x9f, left: 3 },
        maybe: Some(Pair(1, 2)),
        tuple: (-1, -2, 1),
        map: [(1, Newtype(2))].into(),
        nested: vec![None, Some(vec![9])],
        level: 3,
    };
    let expected = json!({
        "flag": true,
        "regs": [1, 2, 3, 4],
        "bytes": "dead00",
        "fifo": "0102",
        "queue": [1_099_511_627_776_u64],
        "name": "uart",
        "phase": {"Command": {"opcode": 0x9f, "left": 3}},
        "maybe": {"0": 1, "1": 2},
        "tuple": [-1, -2, "0x00000000000000000000000000000001"],
        "map": [[1, 2]],
        "nested": [null, [9]],
        "level": 3,
    });
    assert_eq!(device.dump(), expected);
    assert_eq!(Phase::Idle.dump(), json!("Idle"));
}

#[test]
fn sections_find_their_device() {
    use builds::{New, Old};

    let mut writer = Writer::new();
    writer.section("pit", 0, &Old { a: 1 });
    writer.section("uart", 1, &New { a: 2, b: 3, cache: None });
    let bytes = writer.into_bytes();

    let sections: Vec<_> = Sections::new(&bytes).collect::<Result<_, _>>().unwrap();
    let heads: Vec<_> = sections.iter().map(|s| (s.name, s.instance, s.version)).collect();
    assert_eq!(heads, [("pit", 0, 1), ("uart", 1, 2)]);

    let mut pit = Old::default();
    sections[0].load_into(&mut pit).unwrap();
    assert_eq!(pit, Old { a: 1 });
    assert_eq!(sections[1].dump().unwrap(), json!({"a": 2, "b": 3}));

    let error = sections[1].load_into(&mut pit).unwrap_err();
    assert_eq!(error.to_string(), "uart: saved in version 2, but versions up to 1 are supported");
    assert_eq!(pit, Old { a: 1 });

    let mut cut = Sections::new(&bytes[..bytes.len() - 1]);
    assert!(cut.next().unwrap().is_ok());
    assert!(cut.next().unwrap().is_err());
    assert!(cut.next().is_none());
}
