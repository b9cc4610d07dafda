//! Accelerators by name, their properties, and which of several is taken.

use base::prop_enum;
use base::props::{PropError, PropInput, Props};

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
use crate::kvm::{Irqchip, Kvm, KvmError};

/// What `-accel help` lists. (`qtest` is for tests.)
pub const LISTED: &[&str] = &["tcg", "kvm"];

prop_enum! {
    /// Where the interrupt controllers are.
    pub enum KernelIrqchip: "OnOffSplit", "on/off/split" {
        /// In the kernel.
        On = "on",
        /// The local APICs in the kernel, the rest outside.
        Split = "split",
        /// Outside.
        Off = "off",
    }
}

/// Properties of `-accel tcg`.
#[derive(Clone, Debug, PartialEq, Props)]
pub struct TcgProps {
    /// `single` or `multi`: whether processors take turns or run at the same time.
    #[prop(default = "multi".into(), help = "one thread for all processors or one for each")]
    pub thread: String,
    /// Size of the translation cache in MiB; 0 for the default.
    #[prop(name = "tb-size", help = "TCG translation block cache size")]
    pub tb_size: u32,
    /// Whether translations are written and executed through separate mappings.
    #[prop(name = "split-wx", help = "Map jit pages into separate RW and RX regions")]
    pub split_wx: bool,
    /// Whether a translation holds one instruction only.
    #[prop(name = "one-insn-per-tb", help = "Only put one guest insn in each translation block")]
    pub one_insn_per_tb: bool,
    /// Whether guest code is interpreted where it could be translated.
    #[prop(help = "interpret guest code instead of translating it")]
    pub interp: bool,
    /// Whether blocks are executed by the translator and the interpreter, and compared.
    #[prop(help = "execute every block by translator and interpreter, and compare")]
    pub check: bool,
}

/// Properties of `-accel kvm`.
#[derive(Clone, Debug, PartialEq, Props)]
pub struct KvmProps {
    /// Where the interrupt controllers are.
    #[prop(name = "kernel-irqchip", help = "Configure KVM in-kernel irqchip")]
    pub kernel_irqchip: KernelIrqchip,
    /// The device to open.
    #[prop(default = "/dev/kvm".into(), help = "Path to the device node to use")]
    pub device: String,
}

/// An accelerator, ready to make a machine with.
pub enum Accel {
    /// Software.
    Tcg(TcgProps),
    /// The kernel's hypervisor.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    Kvm(KvmProps, Kvm),
    /// Nobody executes guest code.
    Qtest,
}

impl Accel {
    /// The name in "falling back to ...".
    fn label(&self) -> &'static str {
        match self {
            Accel::Tcg(_) => "tcg",
            #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
            Accel::Kvm(..) => "KVM",
            Accel::Qtest => "QTest",
        }
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
impl From<KernelIrqchip> for Irqchip {
    fn from(place: KernelIrqchip) -> Self {
        match place {
            KernelIrqchip::On => Irqchip::Kernel,
            KernelIrqchip::Split => Irqchip::Split,
            KernelIrqchip::Off => Irqchip::User,
        }
    }
}

/// Why an accelerator cannot be used. The texts are what scripts match on.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum AccelError {
    #[error("invalid accelerator {0}")]
    Unknown(String),
    #[error(transparent)]
    Property(#[from] PropError),
    #[error("Invalid 'thread' setting {0}")]
    Thread(String),
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    #[error("{error}")]
    Kvm { error: KvmError, device: String },
}

impl AccelError {
    /// Whether the next accelerator is tried.
    fn tries_next(&self) -> bool {
        !matches!(self, AccelError::Property(_) | AccelError::Thread(_))
    }

    /// Everything there is to say, a message each.
    pub fn messages(&self) -> Vec<String> {
        let mut messages = vec![self.to_string()];
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        if let AccelError::Kvm { error, device } = self {
            messages.push(error.summary());
            messages.extend(error.remedy(device.as_ref()));
        }
        messages
    }
}

/// An accelerator by name, with its properties.
pub fn open(name: &str, props: &[(String, String)]) -> Result<Accel, AccelError> {
    match name {
        "tcg" => {
            let props: TcgProps = parse("tcg-accel", props)?;
            if !matches!(props.thread.as_str(), "single" | "multi") {
                return Err(AccelError::Thread(props.thread));
            }
            Ok(Accel::Tcg(props))
        }
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        "kvm" => {
            let props: KvmProps = parse("kvm-accel", props)?;
            match Kvm::open(props.device.as_ref()) {
                Ok(kvm) => Ok(Accel::Kvm(props, kvm)),
                Err(error) => Err(AccelError::Kvm { error, device: props.device }),
            }
        }
        "qtest" => match props.first() {
            None => Ok(Accel::Qtest),
            Some((name, _)) => Err(PropError::not_found("qtest-accel", name).into()),
        },
        _ => Err(AccelError::Unknown(name.to_owned())),
    }
}

fn parse<P: Props + Default>(owner: &str, given: &[(String, String)]) -> Result<P, PropError> {
    let mut props = P::default();
    for (name, value) in given {
        props.set(owner, name, PropInput::Text(value))?;
    }
    Ok(props)
}

/// The first of several accelerators (name, properties) that works. `report` gets each message with
/// the number of the accelerator it is about; the last one, that another is taken, is about none.
pub fn open_first(
    candidates: &[(&str, &[(String, String)])],
    mut report: impl FnMut(Option<usize>, &str),
) -> Option<Accel> {
    let mut failed = false;
    for (n, (name, props)) in candidates.iter().enumerate() {
        match open(name, props) {
            Ok(accel) => {
                if failed {
                    report(None, &format!("falling back to {}", accel.label()));
                }
                return Some(accel);
            }
            Err(error) => {
                error.messages().iter().for_each(|message| report(Some(n), message));
                if !error.tries_next() {
                    return None;
                }
                failed = true;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(candidates: &[(&str, &[(&str, &str)])]) -> (Option<Accel>, Vec<String>) {
        let owned: Vec<(&str, Vec<(String, String)>)> = candidates
            .iter()
            .map(|(name, props)| {
                let props = props.iter().map(|(k, v)| (k.to_string(), v.to_string()));
                (*name, props.collect())
            })
            .collect();
        let borrowed: Vec<_> = owned.iter().map(|(name, props)| (*name, &props[..])).collect();
        let mut log = Vec::new();
        let accel = open_first(&borrowed, |about, message| {
            log.push(about.map_or(message.to_owned(), |n| format!("{n}: {message}")));
        });
        (accel, log)
    }

    #[test]
    fn properties_are_checked_in_qemus_words() {
        for (name, key, value, expected) in [
            ("tcg", "foo", "1", "Property 'tcg-accel.foo' not found"),
            ("tcg", "thread", "foo", "Invalid 'thread' setting foo"),
            ("tcg", "split-wx", "2", "Parameter 'split-wx' expects 'on' or 'off'"),
            ("kvm", "thread", "multi", "Property 'kvm-accel.thread' not found"),
            (
                "kvm",
                "kernel-irqchip",
                "foo",
                "Parameter 'kernel-irqchip' does not accept value 'foo'",
            ),
        ] {
            let (accel, log) = messages(&[(name, &[(key, value)]), ("tcg", &[])]);
            assert!(accel.is_none(), "a wrong property is final");
            assert_eq!(log, [format!("0: {expected}")]);
        }
    }

    #[test]
    fn the_next_one_is_taken() {
        let (accel, log) = messages(&[("foo", &[]), ("tcg", &[("thread", "single")])]);
        assert!(matches!(accel, Some(Accel::Tcg(props)) if props.thread == "single"));
        assert_eq!(log, ["0: invalid accelerator foo", "falling back to tcg"]);
    }

    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    #[test]
    fn without_the_device_a_remedy_is_named() {
        let (accel, log) = messages(&[("kvm", &[("device", "/nonexistent")]), ("tcg", &[])]);
        assert!(matches!(accel, Some(Accel::Tcg(_))));
        assert_eq!(
            log[..2],
            [
                "0: Could not access KVM kernel module: No such file or directory",
                "0: failed to initialize kvm: No such file or directory"
            ]
        );
        assert!(log[2].contains("modprobe"), "{}", log[2]);
        assert_eq!(log[3], "falling back to tcg");
    }
}
