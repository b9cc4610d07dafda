//! `-netdev`, `-nic` and `-net`.

use base::options::{OptionError, Opts, is_help};
use base::props::MacAddr;
use machine::config::{LegacyNet, Located, NetdevConfig, NicConfig, NicNetwork, Origin};
use net::netdev;
use serde_json::{Map, Value};

use super::table::CliOption;
use super::{Builder, Done, Stop, fault, groups};

pub(super) const OPTIONS: &[CliOption] = &[
    CliOption::text(
        &["netdev"],
        "type,id=id[,prop=value[,...]]",
        "make a network that cards can be connected to ('-netdev help' lists types)",
        netdev,
    )
    .with_group(&groups::NETDEV),
    CliOption::text(
        &["nic"],
        "none|[type][,model=type][,mac=addr][,id=id][,prop=value[,...]]",
        "make a network and a card at it ('-nic model=help' lists cards)",
        nic,
    )
    .with_group(&groups::NIC),
    CliOption::text(
        &["net"],
        "none|nic[,model=type][,macaddr=addr][,netdev=id][,vectors=n]|type[,...]",
        "connect a card or a network to a hub that all of them share",
        net,
    )
    .with_group(&groups::NET),
];

fn netdev(builder: &mut Builder<'_, '_>, text: &str, origin: &Origin) -> Done {
    if is_help(text) || is_help(text.strip_prefix("type=").unwrap_or(text)) {
        builder.list(netdev::help_text());
        return Ok(());
    }
    builder.config.networks.add_netdev(NetdevConfig::Argument(text.into()), origin)?;
    Ok(())
}

/// The keys of a back end; some belong to the card.
fn keys(text: &str, origin: &Origin) -> Result<Map<String, Value>, Stop> {
    netdev::read_keys(text).or_else(|error| fault(origin, error))
}

fn take(keys: &mut Map<String, Value>, name: &str) -> Option<String> {
    match keys.shift_remove(name)? {
        Value::String(text) => Some(text),
        // Of a key that is repeated, the last one counts.
        Value::Array(list) => list.last().and_then(Value::as_str).map(str::to_owned),
        _ => None,
    }
}

fn nic(builder: &mut Builder<'_, '_>, text: &str, origin: &Origin) -> Done {
    let networks = &mut builder.config.networks;
    networks.given = true;
    if matches!(text.split(',').next(), Some("none" | "type=none")) {
        return Ok(());
    }
    if is_help(text) {
        let text = netdev::help_text() + "\n" + &builder.catalog.nic_models(false);
        builder.list(text);
        return Ok(());
    }
    let mut keys = keys(text, origin)?;
    let model = take(&mut keys, "model");
    if model.as_deref().is_some_and(is_help) {
        let text = builder.catalog.nic_models(true);
        builder.list(text);
        return Ok(());
    }
    let mac = take(&mut keys, "mac").map(|mac| parse_mac(&mac, origin)).transpose()?;
    let id = keys.get("id").and_then(Value::as_str).map(str::to_owned);
    let networks = &mut builder.config.networks;
    if id.is_some() && networks.nics.iter().any(|nic| nic.value.id == id) {
        return fault(origin, format!("Duplicate ID '{}' for nic", id.unwrap_or_default()));
    }
    keys.entry("type").or_insert_with(|| "user".into());
    check(&keys, origin)?;
    let network = Some(NicNetwork::Own(keys));
    // QEMU's -nic gives no vectors, -net does.
    let nic = NicConfig { model, mac, id, network, vectors: Some(0) };
    networks.nics.push(Located::new(nic, origin));
    Ok(())
}

/// Refuses what no back end is made of.
fn check(keys: &Map<String, Value>, origin: &Origin) -> Done {
    match netdev::NetdevSpec::from_tree_as(keys, "made-up") {
        Ok(_) => Ok(()),
        Err(error) => fault(origin, error),
    }
}

fn net(builder: &mut Builder<'_, '_>, text: &str, origin: &Origin) -> Done {
    builder.config.networks.given = true;
    match text.split(',').next() {
        Some("none" | "type=none") => Ok(()),
        Some("nic" | "type=nic") => {
            // Of a card there is no list of options.
            if let Some(word) = text.split(',').find(|word| is_help(word)) {
                return fault(origin, OptionError::InvalidParameter(word.into()));
            }
            let opts = builder.parse_group(&groups::NET_NIC, text, origin)?;
            legacy_nic(builder, &opts, origin)
        }
        _ => {
            let keys = keys(text, origin)?;
            check(&keys, origin)?;
            if keys.get("type").is_some_and(|kind| kind == "hubport") {
                let words = "network backend 'hubport' is only supported with -netdev/-nic";
                return fault(origin, words);
            }
            let netdev = LegacyNet::Netdev(keys);
            builder.config.networks.legacy.push(Located::new(netdev, origin));
            Ok(())
        }
    }
}

fn legacy_nic(builder: &mut Builder<'_, '_>, opts: &Opts, origin: &Origin) -> Done {
    let text = |key: &str| opts.get(key).map(str::to_owned);
    let model = text("model");
    if model.as_deref().is_some_and(is_help) {
        let text = builder.catalog.nic_models(true);
        builder.list(text);
        return Ok(());
    }
    let mac = text("macaddr").map(|mac| parse_mac(&mac, origin)).transpose()?;
    // A place (`addr=`) is taken, and made nothing of, as by QEMU 10.0.
    let vectors = opts.number("vectors").or_else(|error| fault(origin, error))?;
    let nic = NicConfig {
        model,
        mac,
        vectors: vectors.and_then(|vectors| u32::try_from(vectors).ok()),
        id: opts.id.clone(),
        network: text("netdev").map(NicNetwork::Named),
    };
    builder.config.networks.legacy.push(Located::new(LegacyNet::Nic(nic), origin));
    Ok(())
}

/// An address of six bytes, or a number for its last ones.
fn parse_mac(text: &str, origin: &Origin) -> Result<MacAddr, Stop> {
    const LAST: usize = 3;
    let number = base::options::number::parse_int(text).and_then(|n| u32::try_from(n).ok());
    let mac = match number {
        Some(number) => {
            let mut mac = [0; 6];
            mac[LAST..].copy_from_slice(&number.to_be_bytes()[1..]);
            Some(mac)
        }
        None => {
            let pair = |part: &str| u8::from_str_radix(part, 16).ok();
            let parts: Option<Vec<u8>> = text.split([':', '-']).map(pair).collect();
            parts.and_then(|parts| parts.try_into().ok())
        }
    };
    match mac {
        None => fault(origin, "invalid syntax for ethernet address"),
        Some([first, ..]) if first & 1 != 0 => {
            fault(origin, "NIC cannot have multicast MAC address")
        }
        Some(mac) => Ok(MacAddr(mac)),
    }
}
