//! KVM's paravirtual features by name, and the sets that the command line selects.
//!
//! Source: Linux `Documentation/virt/kvm/x86/cpuid.rst` and `asm/kvm_para.h`.

/// One bit of CPUID leaf 0x4000_0001, EAX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Bit number in EAX.
    pub bit: u32,
    /// Name on the command line.
    pub name: &'static str,
    /// What it spares the guest.
    pub purpose: &'static str,
}

const fn feature(bit: u32, name: &'static str, purpose: &'static str) -> Feature {
    Feature { bit, name, purpose }
}

/// kvmclock at its old or its new MSRs: either tells the guest its TSC frequency.
pub const CLOCKS: u32 = 1 << 0 | 1 << 3;

/// Every feature this VMM can show.
pub const ALL: [Feature; 14] = [
    feature(0, "clock-old", "kvmclock at its first MSRs"),
    feature(1, "nop-io-delay", "no delay after port I/O"),
    feature(3, "clock", "kvmclock: time without exits"),
    feature(4, "async-pf", "asynchronous page faults"),
    feature(5, "steal-time", "stolen time; base of the preempted flag"),
    feature(6, "pv-eoi", "end of interrupt without exit"),
    feature(7, "pv-unhalt", "spinlock waiters halt and are kicked"),
    feature(9, "pv-tlb-flush", "no shootdown IPI to preempted vCPUs"),
    feature(
        10,
        "async-pf-vmexit",
        "asynchronous page faults as nested exits",
    ),
    feature(11, "pv-send-ipi", "many IPI targets in one hypercall"),
    feature(
        12,
        "poll-control",
        "the guest can switch host halt polling off",
    ),
    feature(13, "pv-sched-yield", "yield to a preempted IPI target"),
    feature(14, "async-pf-int", "page-ready events by interrupt"),
    feature(24, "clock-stable", "kvmclock is stable across vCPUs"),
];

/// Why a feature list is not understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum FeatureListError {
    #[error("unknown KVM feature {0:?}; known: all, none, {known}", known = known())]
    Unknown(String),
    #[error("the list is empty; say all, none or names")]
    Empty,
    #[error("{0} takes from nothing; say all,{0}")]
    FromNothing(String),
}

fn known() -> String {
    ALL.map(|feature| feature.name).join(", ")
}

/// Reads a list such as `all`, `none`, `clock,pv-eoi` or `all,-pv-eoi` into a bit mask.
pub fn parse(list: &str) -> Result<u32, FeatureListError> {
    let every = ALL.iter().fold(0, |mask, feature| mask | 1 << feature.bit);
    let mut mask = 0;
    let items = list.split(',').map(str::trim);
    let items: Vec<&str> = items.filter(|item| !item.is_empty()).collect();
    // Both would be "none", which is hardly meant and not seen afterwards.
    let first = items.first().ok_or(FeatureListError::Empty)?;
    if first.starts_with('-') {
        return Err(FeatureListError::FromNothing((*first).to_owned()));
    }
    for item in items {
        let (name, remove) = match item.strip_prefix('-') {
            Some(name) => (name, true),
            None => (item, false),
        };
        let bits = match name {
            "all" => every,
            "none" => 0,
            _ => match ALL.iter().find(|feature| feature.name == name) {
                Some(feature) => 1 << feature.bit,
                None => return Err(FeatureListError::Unknown(name.to_owned())),
            },
        };
        if remove {
            mask &= !bits;
        } else {
            mask |= bits;
        }
    }
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_add_and_remove() {
        assert_eq!(parse("none"), Ok(0));
        assert_eq!(parse("clock, pv-eoi"), Ok(1 << 3 | 1 << 6));
        let all = parse("all").unwrap();
        assert_eq!(parse("all,-pv-eoi"), Ok(all & !(1 << 6)));
        assert_eq!(all & 1 << 24, 1 << 24);
    }

    #[test]
    fn a_list_that_is_none_by_mistake_is_refused() {
        for list in ["", " ", ","] {
            assert_eq!(parse(list), Err(FeatureListError::Empty), "{list:?}");
        }
        let message = parse("-pv-eoi").unwrap_err().to_string();
        assert_eq!(message, "-pv-eoi takes from nothing; say all,-pv-eoi");
    }

    #[test]
    fn an_unknown_name_is_named_with_the_known_ones() {
        let message = parse("clock,warp").unwrap_err().to_string();
        assert!(
            message.contains("\"warp\"") && message.contains("pv-send-ipi"),
            "{message}"
        );
    }
}
