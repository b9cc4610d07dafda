//! The user-mode network: `hostfwd_add`, `hostfwd_remove` and `info usernet`.

use std::sync::Arc;

use net::user::User;

use super::command::{Context, Printed, silence};
use super::words::Arguments;

/// The number of the hub of those that are at none.
const NO_HUB: i64 = -1;

/// The user-mode networks, by id.
fn networks(context: &Context<'_>) -> Vec<(String, Arc<User>)> {
    let all = context.vm.networks().networks().list();
    all.iter().filter_map(|netdev| Some((netdev.id().into(), netdev.downcast()?))).collect()
}

/// The network that a command is about, the first one unless it names one, and the rule; or what is
/// wrong.
fn chosen<'a>(
    context: &Context<'_>,
    name: &str,
    arguments: &mut Arguments<'a>,
) -> Result<Result<(Arc<User>, &'a str), String>, String> {
    let first = arguments.word().ok_or(format!("{name}: string expected"))?;
    let second = arguments.word();
    arguments.end(name)?;
    let networks = networks(context);
    Ok(match second {
        Some(rule) => match networks.into_iter().find(|(id, _)| id == first) {
            Some((_, user)) => Ok((user, rule)),
            None => Err(format!("unrecognized netdev id '{first}'\n")),
        },
        None => match networks.into_iter().next() {
            Some((_, user)) => Ok((user, first)),
            None => Err("user mode network stack not in use\n".into()),
        },
    })
}

pub(super) fn hostfwd_add(context: &Context<'_>, arguments: &mut Arguments<'_>) -> Printed {
    match chosen(context, "hostfwd_add", arguments)? {
        Ok((user, rule)) => match user.add_forward(rule) {
            Ok(()) => silence(),
            Err(error) => Ok(format!("{error}\n")),
        },
        Err(text) => Ok(text),
    }
}

pub(super) fn hostfwd_remove(context: &Context<'_>, arguments: &mut Arguments<'_>) -> Printed {
    match chosen(context, "hostfwd_remove", arguments)? {
        Ok((user, rule)) => Ok(match user.remove_forward(rule) {
            Some(true) => format!("host forwarding rule for {rule} removed\n"),
            Some(false) => format!("host forwarding rule for {rule} not found\n"),
            None => "invalid format\n".into(),
        }),
        Err(text) => Ok(text),
    }
}

pub(super) fn info(context: &Context<'_>, _: &mut Arguments<'_>) -> Printed {
    let host = context.vm.networks();
    let mut text = String::new();
    for network in host.networks().list() {
        let Some(user) = network.downcast::<User>() else { continue };
        let hub = host.hub_of(&network).unwrap_or(NO_HUB);
        text += &format!("Hub {hub} ({}):\n{}", network.id(), user.connections());
    }
    Ok(text)
}
