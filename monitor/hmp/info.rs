//! `info`: what people can look at.

use cpu::dump::Dump;
use machine::run_state::RunState;

use super::block;
use super::command::{Command, Context, Printed, commands, refuse, silence};
use super::input;
use super::tree;
use super::user_net;
use super::vnc;
use super::words::Arguments;
use crate::paging::{Page, entry};
use crate::target::Target;

/// Most lines of page tables that are printed.
const MAX_PAGES: usize = 1 << 16;

pub(super) const INFO: &[Command] = commands! {
    "block" "[-n] [-v] [device]" "the drives (-n: all nodes; -v: and their images)" block::info;
    "blockstats" "" "what drives have done" block::stats;
    "chardev" "" "the character devices" |target, _| {
        let devices = target.chardevs.query();
        Ok(devices.iter().map(|d| format!("{}: filename={}\n", d.label, d.filename)).collect())
    };
    "cpus" "" "the processors and their threads" |context, _| {
        let threads = context.vm.vcpus().map(|vcpus| vcpus.thread_ids()).unwrap_or_default();
        let line = |(index, thread): (usize, &i32)| {
            let mark = if index == context.cpu.get() { '*' } else { ' ' };
            format!("{mark} CPU #{index}: thread_id={thread}\n")
        };
        Ok(threads.iter().enumerate().map(line).collect())
    };
    "hotpluggable-cpus" "" "the places for processors" hotpluggable_cpus;
    "iothreads" "" "the I/O threads" |_, _| silence();
    "irq" "" "how often interrupts were raised" |target, _| {
        Ok(target.machine_objects().iter().filter_map(|(_, object)| {
            let rises = object.inputs()?.rises();
            let lines = rises.iter().map(|(n, count)| format!("{n:2}: {count}\n"));
            let title = format!("IRQ statistics for {}:\n", object.type_name());
            (!rises.is_empty()).then(|| title + &lines.collect::<String>())
        }).collect())
    };
    "jit" "" "what the translator has made" |target, _| Ok(target.translations()?);
    "kvm" "" "whether the host's kernel runs the guest" |target, _| {
        Ok(format!("kvm support: {}\n", if target.is_kvm() { "enabled" } else { "disabled" }))
    };
    "lapic" "[apic-id]" "a local APIC" lapic;
    "mem" "" "what the page tables make accessible" |context, _| pages(context, protections);
    "memdev" "" "the memory backends" |target, _| {
        let backend = |m: &machine::objects::MemoryInfo| format!(
            "memory backend: {}\n  size:  {}\n  merge: {}\n  dump: {}\n  prealloc: {}\n  \
             share: {}\n  reserve: {}\n  policy: {}\n  host nodes: \n",
            m.id, m.size, m.merge, m.dump, m.props.prealloc, m.props.share.unwrap_or(false),
            m.props.reserve, m.props.policy.as_str(),
        );
        let backends = target.vm.user_objects().memory();
        Ok(backends.iter().map(backend).collect::<String>() + "\n")
    };
    "memory-devices" "" "the devices that add memory" |_, _| silence();
    "memory_size_summary" "" "how much memory there is" |target, _| {
        let base = target.vm.inventory().map_or(0, |inventory| inventory.ram);
        Ok(format!("base memory: {base}\nplugged memory: 0\n"))
    };
    "mice" "" "the mice, and which of them gets events" input::mice;
    "mtree" "[-f]" "the memory maps (-f: as they are seen)" |target, arguments| {
        let flat = arguments.flag('f').map_err(|option| format!("mtree: {option}"))?;
        arguments.end("mtree")?;
        let spaces = target.vm.board().map(|board| board.spaces()).unwrap_or_default();
        let text = if flat { base::memory::describe_flat(&spaces) } else {
            base::memory::describe(&spaces)
        };
        Ok(text + "\n")
    };
    "name" "" "the guest's name" |target, _| {
        Ok(target.identity.name.iter().map(|name| format!("{name}\n")).collect())
    };
    "network" "" "the networks and network cards" |target, _| Ok(target.vm.networks().info());
    "numa" "" "the NUMA nodes" numa;
    "pic" "" "the interrupt controllers" |target, _| {
        // The local APICs have a command of their own.
        let chips = target.machine_objects().into_iter().rev();
        let chips = chips.filter(|(path, _)| !path.ends_with("/lapic"));
        Ok(chips.filter_map(|(_, object)| object.report()).collect())
    };
    "qom-tree" "[path]" "the objects below a path" |target, arguments| {
        let path = arguments.word().unwrap_or("/machine");
        arguments.end("qom-tree")?;
        let (full, object) = target.object(path)?;
        Ok(tree::objects(&full, &object))
    };
    "qtree" "[-b]" "the devices (-b: briefly)" |target, arguments| {
        let brief = arguments.flag('b').map_err(|option| format!("qtree: {option}"))?;
        arguments.end("qtree")?;
        Ok(tree::devices(target, brief))
    };
    "registers" "[-a|vcpu]" "the processors' registers" registers;
    "snapshots" "" "the snapshots inside the disks" block::snapshots;
    "status" "" "whether the guest runs" |target, _| {
        Ok(match target.vm.state() {
            RunState::Running => "VM status: running\n".into(),
            RunState::Paused => "VM status: paused\n".into(),
            state => format!("VM status: paused ({})\n", state.name()),
        })
    };
    "tlb" "" "the pages that the page tables map" |context, _| pages(context, translations);
    "trace-events" "[name]" "the trace events" |_, arguments| {
        let pattern = arguments.word().unwrap_or("*");
        arguments.end("trace-events")?;
        let on = base::trace::enabled_names();
        let names = base::trace::names().into_iter();
        let names = names.filter(|name| base::trace::matches(pattern, name));
        Ok(names.map(|name| format!("{name} : state {}\n", u8::from(on.contains(&name)))).collect())
    };
    "usb" "" "the USB devices" |target, _| Ok(target.usb_report()?);
    "usernet" "" "what goes through the user-mode networks" user_net::info;
    "uuid" "" "the guest's UUID" |target, _| Ok(target.uuid() + "\n");
    "version" "" "the version of QEMU that this program stands for" |_, _| {
        let (number, package) = Target::version();
        Ok(format!("{number} ({package})\n"))
    };
    "vnc" "" "the VNC servers and who is connected" vnc::info;
};

fn hotpluggable_cpus(context: &Context<'_>, _: &mut Arguments<'_>) -> Printed {
    let inventory = context.vm.inventory();
    let Some((inventory, type_name)) = inventory.and_then(|i| Some((i, i.cpu_type.as_ref()?)))
    else {
        return refuse("machine does not support hot-plugging CPUs");
    };
    let mut text = "Hotpluggable CPUs:\n".to_owned();
    for slot in inventory.cpus.iter().rev() {
        text += &format!("  type: \"{type_name}\"\n  vcpus_count: \"1\"\n");
        if let Some(path) = &slot.path {
            text += &format!("  qom_path: \"{path}\"\n");
        }
        text += "  CPUInstance Properties:\n";
        let place = &slot.place;
        for (name, value) in [
            ("node-id", slot.node),
            ("socket-id", Some(place.socket)),
            ("die-id", slot.has_dies.then_some(place.die)),
            ("module-id", slot.has_modules.then_some(place.module)),
            ("core-id", Some(place.core)),
            ("thread-id", Some(place.thread)),
        ] {
            if let Some(value) = value {
                text += &format!("    {name}: \"{value}\"\n");
            }
        }
    }
    Ok(text)
}

fn lapic(context: &Context<'_>, arguments: &mut Arguments<'_>) -> Printed {
    let wanted = match arguments.at_end() {
        true => None,
        false => Some(arguments.expression()?),
    };
    arguments.end("lapic")?;
    let slots = context.vm.inventory().map(|inventory| inventory.cpus.as_slice());
    let mut slots = slots.unwrap_or_default().iter().enumerate();
    let found = slots.find(|(index, slot)| match wanted {
        Some(id) => u64::from(slot.place.apic_id) == id,
        None => *index == context.cpu.get(),
    });
    let Some((index, path)) = found.and_then(|(n, slot)| Some((n, slot.path.as_ref()?))) else {
        return Ok("No CPU available\n".into());
    };
    let (_, apic) = context.object(&format!("{path}/lapic"))?;
    match apic.report() {
        Some(report) => Ok(format!("dumping local APIC state for CPU {index} \n\n{report}")),
        None => Ok("The local APICs are in the kernel\n".into()),
    }
}

fn numa(context: &Context<'_>, _: &mut Arguments<'_>) -> Printed {
    let Some(inventory) = context.vm.inventory() else { return silence() };
    let mut text = format!("{} nodes\n", inventory.node_sizes.len());
    for (node, size) in inventory.node_sizes.iter().enumerate() {
        let cpus = inventory.cpus.iter().enumerate();
        let cpus = cpus.filter(|(_, cpu)| cpu.path.is_some() && cpu.node == Some(node as u32));
        let cpus: String = cpus.map(|(index, _)| format!(" {index}")).collect();
        text += &format!("node {node} cpus:{cpus}\nnode {node} size: {} MB\n", size >> 20);
        text += &format!("node {node} plugged: 0 MB\n");
    }
    Ok(text)
}

fn registers(context: &Context<'_>, arguments: &mut Arguments<'_>) -> Printed {
    let count = context.vm.vcpus().map_or(0, |vcpus| vcpus.count());
    let which = match arguments.word() {
        Some("-a") => 0..count,
        Some(word) => match word.parse::<usize>().ok().filter(|&index| index < count) {
            Some(index) => index..index + 1,
            None => return Ok(format!("CPU#{word} not available\n")),
        },
        None if count == 0 => return Ok("No CPU available\n".into()),
        None => context.cpu.get()..context.cpu.get() + 1,
    };
    let dump = |index| {
        let state = context.cpu_state(index);
        let text = state
            .map(|state| Dump::new(&state).floating_point(true).to_string())
            .unwrap_or_default();
        format!("\nCPU#{index}\n{text}")
    };
    Ok(which.map(dump).collect())
}

/// Prints something about the pages that the current processor sees.
fn pages(context: &Context<'_>, print: fn(&[Page]) -> String) -> Printed {
    let Some(memory) = context.virtual_memory(context.cpu.get()) else {
        return Ok("No CPU available\n".into());
    };
    if !memory.is_paged() {
        return Ok("PG disabled\n".into());
    }
    let mut pages = Vec::new();
    memory.pages(&mut |page| {
        pages.push(page);
        pages.len() < MAX_PAGES
    });
    Ok(print(&pages))
}

fn translations(pages: &[Page]) -> String {
    const FLAGS: [(u64, char); 9] = [
        (entry::NO_EXECUTE, 'X'),
        (entry::GLOBAL, 'G'),
        (entry::LARGE, 'P'),
        (entry::DIRTY, 'D'),
        (entry::ACCESSED, 'A'),
        (entry::CACHE_DISABLE, 'C'),
        (entry::WRITE_THROUGH, 'T'),
        (entry::USER, 'U'),
        (entry::WRITABLE, 'W'),
    ];
    let line = |page: &Page| {
        // In the entry of a small page the bit that means large elsewhere is about caching.
        let set = |bit| page.entry & bit != 0 && (bit != entry::LARGE || page.size > 4096);
        let flags: String =
            FLAGS.iter().map(|&(bit, letter)| if set(bit) { letter } else { '-' }).collect();
        format!("{:016x}: {:016x} {flags}\n", page.linear, page.physical)
    };
    pages.iter().map(line).collect()
}

fn protections(pages: &[Page]) -> String {
    let mut runs: Vec<(u64, u64, u64)> = Vec::new();
    for page in pages {
        let protection = page.entry & (entry::USER | entry::WRITABLE);
        let end = page.linear.wrapping_add(page.size);
        match runs.last_mut() {
            Some((_, last, same)) if *last == page.linear && *same == protection => *last = end,
            _ => runs.push((page.linear, end, protection)),
        }
    }
    let line = |&(start, end, protection): &(u64, u64, u64)| {
        let user = if protection & entry::USER != 0 { 'u' } else { '-' };
        let write = if protection & entry::WRITABLE != 0 { 'w' } else { '-' };
        let size = end.wrapping_sub(start);
        format!("{start:016x}-{end:016x} {size:016x} {user}r{write}\n")
    };
    runs.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_equal_protection_are_one_run() {
        let page = |linear, entry| Page { linear, size: 4096, physical: 0x5000, entry };
        let all = [
            page(0x1000, entry::WRITABLE | entry::DIRTY),
            page(0x2000, entry::WRITABLE),
            page(0x3000, entry::USER | entry::LARGE),
        ];
        assert_eq!(
            protections(&all),
            "0000000000001000-0000000000003000 0000000000002000 -rw\n\
             0000000000003000-0000000000004000 0000000000001000 ur-\n"
        );
        let text = translations(&all);
        assert!(text.starts_with("0000000000001000: 0000000000005000 ---D----W\n"), "{text}");
        assert!(text.ends_with("0000000000003000: 0000000000005000 -------U-\n"), "{text}");
    }
}
