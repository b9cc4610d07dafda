//! The properties of filters, in the order in which QEMU lists them.

use base::prop_enum;
use base::props::{PropSpec, Props};

use crate::NetError;

/// The types.
pub const TYPES: [&str; 4] = ["filter-buffer", "filter-dump", "filter-mirror", "filter-redirector"];

prop_enum! {
    /// Which frames a filter sees, from where the back end stands.
    pub enum FilterQueue: "NetFilterDirection", "" {
        /// All.
        All = "all",
        /// What it receives, from the guest.
        Rx = "rx",
        /// What it sends to the guest.
        Tx = "tx",
    }
}

prop_enum! {
    /// Where to go, seen from the filter that the position names.
    pub enum InsertWhere: "string", "" {
        /// Behind it.
        Behind = "behind",
        /// Before it.
        Before = "before",
    }
}

/// What all filters have.
#[derive(Clone, Debug, Props)]
pub struct CommonProps {
    /// Which frames it sees.
    #[prop(hide_default)]
    pub queue: FilterQueue,
    /// The back end whose frames it sees.
    pub netdev: Option<String>,
    /// Where to go, seen from the filter that `position` names.
    #[prop(hide_default)]
    pub insert: InsertWhere,
    /// Whether it is at work: `on` or `off`.
    #[prop(default = "on".to_owned(), hide_default)]
    pub status: String,
    /// Where it goes: `head`, `tail`, or `id=` and another filter.
    #[prop(default = "tail".to_owned(), hide_default)]
    pub position: String,
}

/// `filter-buffer`.
#[derive(Clone, Debug, Props)]
pub struct BufferProps {
    /// What all have.
    #[prop(flatten)]
    pub common: CommonProps,
    /// Microseconds between deliveries.
    pub interval: Option<u32>,
}

/// `filter-dump`.
#[derive(Clone, Debug, Props)]
pub struct DumpProps {
    /// What all have.
    #[prop(flatten)]
    pub common: CommonProps,
    /// The most bytes of a frame that are stored.
    #[prop(default = 65536, hide_default)]
    pub maxlen: u32,
    /// Where.
    pub file: Option<String>,
}

/// `filter-mirror`.
#[derive(Clone, Debug, Props)]
pub struct MirrorProps {
    /// What all have.
    #[prop(flatten)]
    pub common: CommonProps,
    /// The character device that gets a copy.
    pub outdev: Option<String>,
    /// Whether the length of a virtio header goes before each frame.
    #[prop(hide_default)]
    pub vnet_hdr_support: bool,
}

/// `filter-redirector`.
#[derive(Clone, Debug, Props)]
pub struct RedirectorProps {
    /// What all have.
    #[prop(flatten)]
    pub common: CommonProps,
    /// The character device that frames go to.
    pub outdev: Option<String>,
    /// The one that they come from.
    pub indev: Option<String>,
    /// Whether the length of a virtio header goes before each frame.
    #[prop(hide_default)]
    pub vnet_hdr_support: bool,
}

/// A type of filters, and the properties of one.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum FilterKind {
    Buffer(BufferProps),
    Dump(DumpProps),
    Mirror(MirrorProps),
    Redirector(RedirectorProps),
}

/// A buffer that would never let go.
pub(super) fn no_interval() -> NetError {
    NetError::failed("Property 'filter-buffer.interval' requires a positive value")
}

impl FilterKind {
    /// The type of this name, with nothing set.
    pub fn new(type_name: &str) -> Option<FilterKind> {
        Some(match type_name {
            "filter-buffer" => FilterKind::Buffer(BufferProps::default()),
            "filter-dump" => FilterKind::Dump(DumpProps::default()),
            "filter-mirror" => FilterKind::Mirror(MirrorProps::default()),
            "filter-redirector" => FilterKind::Redirector(RedirectorProps::default()),
            _ => return None,
        })
    }

    /// The name of the type.
    pub fn type_name(&self) -> &'static str {
        match self {
            FilterKind::Buffer(_) => TYPES[0],
            FilterKind::Dump(_) => TYPES[1],
            FilterKind::Mirror(_) => TYPES[2],
            FilterKind::Redirector(_) => TYPES[3],
        }
    }

    /// The properties, to be set.
    pub fn props(&mut self) -> &mut dyn Props {
        match self {
            FilterKind::Buffer(props) => props,
            FilterKind::Dump(props) => props,
            FilterKind::Mirror(props) => props,
            FilterKind::Redirector(props) => props,
        }
    }

    /// The properties as listings have them.
    pub fn specs(&self) -> Vec<PropSpec> {
        let specs = match self {
            FilterKind::Buffer(_) => BufferProps::specs(),
            FilterKind::Dump(_) => DumpProps::specs(),
            FilterKind::Mirror(_) => MirrorProps::specs(),
            FilterKind::Redirector(_) => RedirectorProps::specs(),
        };
        let listed = |spec: &PropSpec| PropSpec {
            type_name: if spec.type_name == "str" { "string" } else { spec.type_name },
            default: None,
            help: "",
            ..spec.clone()
        };
        specs.iter().map(listed).collect()
    }

    pub(super) fn common(&self) -> &CommonProps {
        match self {
            FilterKind::Buffer(props) => &props.common,
            FilterKind::Dump(props) => &props.common,
            FilterKind::Mirror(props) => &props.common,
            FilterKind::Redirector(props) => &props.common,
        }
    }

    pub(super) fn common_mut(&mut self) -> &mut CommonProps {
        match self {
            FilterKind::Buffer(props) => &mut props.common,
            FilterKind::Dump(props) => &mut props.common,
            FilterKind::Mirror(props) => &mut props.common,
            FilterKind::Redirector(props) => &mut props.common,
        }
    }

    pub(super) fn interval(&self) -> Option<u32> {
        match self {
            FilterKind::Buffer(props) => props.interval,
            _ => None,
        }
    }

    pub(super) fn set_interval(&mut self, interval: u32) {
        if let FilterKind::Buffer(props) = self {
            props.interval = Some(interval);
        }
    }

    /// The properties that have to be set.
    pub fn required(&self) -> &'static [&'static str] {
        match self {
            FilterKind::Buffer(_) => &["netdev", "interval"],
            FilterKind::Dump(_) => &["netdev", "file"],
            FilterKind::Mirror(_) => &["netdev", "outdev"],
            FilterKind::Redirector(_) => &["netdev"],
        }
    }

    /// A property that has to be set, and is not.
    pub fn missing(&mut self) -> Option<&'static str> {
        let (required, props) = (self.required(), self.props());
        let unset = |name: &&&str| {
            let value = props.get(name).unwrap_or_default();
            value.is_null() || value.as_str().is_some_and(str::is_empty)
        };
        required.iter().find(unset).copied()
    }

    /// Values that make no sense.
    pub(super) fn check(&self) -> Result<(), NetError> {
        match self {
            FilterKind::Buffer(BufferProps { interval: None | Some(0), .. }) => Err(no_interval()),
            FilterKind::Dump(DumpProps { maxlen: 0, .. }) => {
                Err(NetError::failed("Property 'filter-dump.maxlen' doesn't take value '0'"))
            }
            FilterKind::Redirector(RedirectorProps { indev: None, outdev: None, .. }) => {
                Err(NetError::failed(
                    "filter redirector needs 'indev' or 'outdev' at least one property set",
                ))
            }
            FilterKind::Redirector(props) if props.indev == props.outdev => Err(NetError::failed(
                "'indev' and 'outdev' could not be same for filter redirector",
            )),
            _ => Ok(()),
        }
    }

    /// What `info network` shows of the properties.
    pub(super) fn info(&self) -> String {
        let mut kind = self.clone();
        let specs = kind.specs();
        let props = kind.props();
        let shown = specs.iter().rev().map(|spec| {
            let value = match props.get(spec.name).unwrap_or_default() {
                serde_json::Value::Null => String::new(),
                serde_json::Value::String(text) => text,
                other => other.to_string(),
            };
            format!(",{}={value}", spec.name)
        });
        shown.collect()
    }
}
