//! Which exits a transfer took, counted by the kernel's own histograms (`hist` triggers of trace events).
//!
//! They count in the kernel, for any VMM, and read no buffer; yet each event costs time, so a table of costs is made
//! without them. A VM's exits are not told apart from another's: nothing else may run one meanwhile. Source:
//! Documentation/trace/histogram.rst.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use coopvirt::account::msr;
use coopvirt::account::reason::{Isa, Reason};

const EVENTS: &str = "/sys/kernel/tracing/events/kvm";

/// Events with the fields that they are counted by: exits by reason, then what some of them were about, and which
/// interrupts the guest got.
const HISTOGRAMS: [(&str, &str); 4] = [
    ("kvm_exit", "isa,exit_reason"),
    ("kvm_msr", "write,ecx"),
    ("kvm_mmio", "type,gpa"),
    ("kvm_inj_virq", "vector,soft"),
];

/// `KVM_TRACE_MMIO_WRITE`, the value of `kvm_mmio`'s `type`.
const MMIO_WRITE: u64 = 2;

/// Counts from its making on.
pub(crate) struct Causes(());

impl Causes {
    pub(crate) fn start() -> Result<Self> {
        // What an earlier one has left, if it was killed.
        stop();
        let causes = Self(());
        for (event, keys) in HISTOGRAMS {
            let path = trigger(event);
            fs::write(&path, format!("hist:keys={keys}"))
                .with_context(|| format!("cannot count by {}", path.display()))?;
        }
        Ok(causes)
    }

    /// Names and counts, by event, the most frequent first.
    pub(crate) fn read(&self) -> Result<Vec<(String, u64)>> {
        let mut all = Vec::new();
        for (event, _) in HISTOGRAMS {
            let path = PathBuf::from(EVENTS).join(event).join("hist");
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let mut these: Vec<(String, u64)> = text.lines().filter_map(entry).collect();
            these.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
            all.extend(these);
        }
        Ok(all)
    }
}

impl Drop for Causes {
    fn drop(&mut self) {
        stop();
    }
}

fn trigger(event: &str) -> PathBuf {
    PathBuf::from(EVENTS).join(event).join("trigger")
}

fn stop() {
    for (event, keys) in HISTOGRAMS {
        // It fails where there is none.
        let _ = fs::write(trigger(event), format!("!hist:keys={keys}"));
    }
}

/// A line such as `{ isa:          2, exit_reason:        120 } hitcount:        341`, with its name.
fn entry(line: &str) -> Option<(String, u64)> {
    let (keys, count) = line.trim().strip_prefix('{')?.split_once("} hitcount:")?;
    let mut fields = keys.split(',').filter_map(|field| {
        let (name, value) = field.split_once(':')?;
        Some((name.trim(), value.trim().parse::<u64>().ok()?))
    });
    let (first, second) = (fields.next()?, fields.next()?);
    let name = match (first, second) {
        (("isa", isa), ("exit_reason", code)) => {
            let isa = Isa::from_tracepoint(isa)?;
            format!("exit {}", Reason::new(isa, code).name())
        }
        (("write", write), ("ecx", index)) => {
            let index = u32::try_from(index).ok()?;
            let way = if write == 0 { "read" } else { "write" };
            match msr::name(index) {
                Some(name) => format!("MSR {way} {name}"),
                None => format!("MSR {way} {index:#x}"),
            }
        }
        (("type", kind), ("gpa", address)) => {
            let way = if kind == MMIO_WRITE { "write" } else { "read" };
            format!("MMIO {way} {address:#x}")
        }
        (("vector", vector), ("soft", _)) => format!("interrupt {vector:#x}"),
        _ => return None,
    };
    Some((name, count.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_histograms_get_their_names() {
        let named = |line| entry(line).map(|(name, count)| format!("{name} {count}"));
        let halt = "{ isa:          2, exit_reason:        120 } hitcount:        341";
        assert_eq!(named(halt).as_deref(), Some("exit HLT 341"));
        let msr = "{ write:          1, ecx:       1760 } hitcount:          7";
        assert_eq!(named(msr).as_deref(), Some("MSR write TSC_DEADLINE 7"));
        let mmio = "{ type:          2, gpa: 3221225472 } hitcount:         12";
        assert_eq!(named(mmio).as_deref(), Some("MMIO write 0xc0000000 12"));
        let interrupt = "{ vector:         36, soft:          0 } hitcount:        150";
        assert_eq!(named(interrupt).as_deref(), Some("interrupt 0x24 150"));
        assert_eq!(named("# trigger info: hist:keys=isa,exit_reason"), None);
        assert_eq!(named("    Hits: 341"), None);
    }
}
