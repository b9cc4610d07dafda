//! The PC without a processor, as the test protocol drives it.

use std::cell::RefCell;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::{Arc, OnceLock};

use base::clock::Clocks;
use base::event_loop::EventLoop;
use base::fdset::FdSets;
use block::schema::Form;
use machine::config::{
    AccelConfig, BlockdevConfig, DeviceConfig, Identity, Located, MachineConfig, NetworkConfig,
    OnShutdown, Origin, PropList,
};
use machine::launch::{Host, Launched, launch};
use machine::run_state::Cause;
use machine::vm;
use monitor::Target;
use serde_json::json;

/// Bytes of RAM.
const RAM: u64 = 2 << 20;
/// The part of it that inputs begin with empty: what they reach most easily.
const CLEARED: usize = 0x1_0000;

/// Of devices whose ROMs nobody runs here.
const WITHOUT_ROM: &[(&str, &str)] = &[("romfile", "")];

/// Every device that can be added, with what it needs, but for the one that ends the program.
const DEVICES: &[(&str, &[(&str, &str)])] = &[
    ("edu", &[]),
    ("pci-testdev", &[]),
    ("pci-serial", &[("chardev", "ring")]),
    ("pvpanic-pci", &[]),
    ("pvpanic", &[]),
    ("isa-debugcon", &[("chardev", "console")]),
    ("vmgenid", &[("guid", "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87")]),
    ("vmcoreinfo", &[]),
    ("virtio-blk-pci", &[("drive", DISK), ("packed", "on")]),
    ("virtio-keyboard-pci", &[]),
    // Each controller has a hub with something behind it.
    ("piix3-usb-uhci", &[]),
    ("usb-tablet", &[]),
    ("usb-hub", &[]),
    ("usb-mouse", &[("port", "2.1")]),
    ("qemu-xhci", &[]),
    ("usb-kbd", &[]),
    ("usb-hub", &[]),
    ("usb-tablet", &[("port", "2.1")]),
    ("e1000", WITHOUT_ROM),
    ("virtio-net-pci", WITHOUT_ROM),
    ("rtl8139", WITHOUT_ROM),
    ("ne2k_pci", WITHOUT_ROM),
    ("pcnet", WITHOUT_ROM),
];

/// The display adapter, unless a target is about another.
const ADAPTER: &str = "VGA";

/// Configuration space: where an address goes, and where what is there appears.
const ADDRESS: u64 = 0xcf8;
const DATA: u64 = 0xcfc;
const ENABLE: u64 = 1 << 31;
/// Decodes ports and memory, and is a master.
const COMMAND: (u8, u64) = (4, 7);

/// Name of the disk.
const DISK: &str = "disk";

/// A machine, and the loop that serves it.
pub struct Board {
    // Dropped first: its threads and watches end while the loop still exists.
    launched: Launched,
    target: Arc<Target>,
    clocks: Clocks,
    main_loop: EventLoop,
}

thread_local! {
    static BOARD: RefCell<Option<Board>> = const { RefCell::new(None) };
}

impl Board {
    /// Does `work` with a running board `pc` that has every device there is and a virtual clock
    /// that is stepped.
    ///
    /// It is reset before each use, but made only once: that takes longer than most inputs. What
    /// survives a reset (the contents of CMOS RAM, say) survives from one input to the next.
    pub fn with<R>(work: impl FnOnce(&mut Board) -> R) -> R {
        Self::with_adapter(ADAPTER, work)
    }

    /// The same with this display adapter. A process keeps to one.
    pub fn with_adapter<R>(adapter: &str, work: impl FnOnce(&mut Board) -> R) -> R {
        BOARD.with_borrow_mut(|slot| {
            let board = slot.get_or_insert_with(|| Board::new(adapter));
            board.restart();
            work(board)
        })
    }

    fn new(adapter: &str) -> Self {
        let main_loop = EventLoop::new().expect("an event loop");
        let clocks = Clocks::new();
        let host = Host {
            main_loop: main_loop.handle(),
            clocks: clocks.clone(),
            fd_sets: Arc::new(FdSets::default()),
        };
        let launched = launch(&configuration(adapter), &host, |_| Ok(())).expect("a machine");
        let vm = launched.vm.clone();
        let (chardevs, identity) = (launched.chardevs.clone(), Identity::default());
        let target = Target::new(vm, chardevs, host.fd_sets, identity, Vec::new());
        launched.vm.power_up();
        Board { launched, target, clocks, main_loop }
    }

    fn restart(&mut self) {
        self.serve();
        self.vm().reset(Cause::HostQmpSystemReset);
        self.vm().resume();
        self.wired().memory().write(0, &[0; CLEARED]);
    }

    /// The clocks.
    pub fn clocks(&self) -> &Clocks {
        &self.clocks
    }

    /// The board itself.
    pub fn wired(&self) -> &Arc<dyn vm::Board> {
        self.launched.vm.board().expect("an assembled machine")
    }

    /// Finds a function by its vendor and device, puts its BARs somewhere and switches it on.
    pub fn place(&self, id: u32, bars: &[(u8, u64)]) {
        let ports = self.wired().ports();
        let select = |devfn: u64, offset: u8| {
            ports.write_uint(ADDRESS, 4, ENABLE | devfn << 8 | u64::from(offset));
        };
        let found = (0..=255).find(|&devfn| {
            select(devfn, 0);
            ports.read_uint(DATA, 4) == u64::from(id)
        });
        let devfn = found.expect("the board has this device");
        for &(offset, value) in bars.iter().chain([&COMMAND]) {
            select(devfn, offset);
            ports.write_uint(DATA, 4, value);
        }
    }

    /// What the operator does.
    pub fn vm(&self) -> &vm::Vm {
        &self.launched.vm
    }

    /// What monitors act upon.
    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// Lets the main loop do what waits.
    pub fn serve(&mut self) {
        self.main_loop.run_once(&self.clocks, false).expect("a round of the main loop");
    }
}

fn nowhere<T>(value: T) -> Located<T> {
    Located::new(value, &Origin::None)
}

fn configuration(adapter: &str) -> MachineConfig {
    let chardev = |id: &str| {
        let backend = [("backend".to_owned(), "ringbuf".to_owned())];
        let mut chardev = base::options::Opts { id: Some(id.into()), ..Default::default() };
        chardev.entries.extend(backend);
        nowhere(chardev)
    };
    let device = |&(driver, props): &(&str, &[(&str, &str)])| {
        let props = props.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()));
        nowhere(DeviceConfig {
            driver: driver.to_owned(),
            id: None,
            bus: None,
            props: PropList::Text(props.collect()),
        })
    };
    let mut config = MachineConfig {
        accels: vec![nowhere(AccelConfig { name: "qtest".into(), props: Vec::new() })],
        firmware: Some(blank_firmware()),
        chardevs: ["ring", "console"].map(chardev).into(),
        devices: [&(adapter, WITHOUT_ROM)].into_iter().chain(DEVICES).map(device).collect(),
        serials: ["null", "null"].map(|text| nowhere(text.to_owned())).into(),
        parallels: vec![nowhere("null".to_owned())],
        blockdevs: vec![nowhere(disk())],
        no_defaults: true,
        networks: NetworkConfig { given: true, ..NetworkConfig::default() },
        ..MachineConfig::default()
    };
    config.memory.size = Some(RAM);
    // Powered off it waits for the next input.
    config.actions.shutdown = OnShutdown::Pause;
    config
}

/// A disk that keeps nothing.
fn disk() -> BlockdevConfig {
    let tree =
        json!({"driver": "null-co", "node-name": DISK, "size": 1 << 20, "read-zeroes": true});
    let serde_json::Value::Object(tree) = tree else { unreachable!("an object was written") };
    BlockdevConfig { tree, form: Form::Json }
}

/// The path of a BIOS image that no distribution needs to install.
fn blank_firmware() -> String {
    static IMAGE: OnceLock<File> = OnceLock::new();
    let image = IMAGE.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("rhea-fuzz-{}", std::process::id()));
        let mut file = File::create(&path).expect("a temporary file");
        file.write_all(&[0xf4; 64 << 10]).expect("room for it");
        // Its descriptor keeps it.
        std::fs::remove_file(&path).expect("a file that was just made");
        file
    });
    format!("/proc/self/fd/{}", image.as_raw_fd())
}
