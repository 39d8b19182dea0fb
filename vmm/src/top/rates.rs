//! Counters flat, and what they grew by per second.
//!
//! One list of all counters serves the screen and the CSV, so both say the same.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::control::metrics::Metrics;

/// What kind of counter it is; the order is that of the CSV.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Group {
    /// All exits of a vCPU.
    Exits,
    /// Its exits by the reasons that KVM (or the VMM) tells apart.
    Reason,
    /// Its returns to userspace.
    Returns,
    /// The guest's counters of its area.
    Guest,
    /// The host's counters of its area.
    Host,
    /// Exits by hardware reason.
    HardwareReason,
    /// Exits by cause.
    Cause,
    /// Cooperative calls by operation.
    Call,
    /// CPU time of threads in nanoseconds.
    ThreadNs,
    /// What devices have done.
    Device,
}

impl Group {
    /// Its name in the CSV.
    pub(super) fn name(self) -> &'static str {
        match self {
            Group::Exits => "exits",
            Group::Reason => "reason",
            Group::Returns => "returns",
            Group::Guest => "coop-guest",
            Group::Host => "coop-host",
            Group::HardwareReason => "hardware-reason",
            Group::Cause => "cause",
            Group::Call => "coop-call",
            Group::ThreadNs => "thread-ns",
            Group::Device => "device",
        }
    }
}

/// Which counter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) group: Group,
    pub(super) vcpu: Option<usize>,
    pub(super) name: String,
}

/// The growth of all counters between two answers.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    /// Between them.
    pub(super) seconds: f64,
    /// Value at the end, and growth per second.
    pub(super) all: BTreeMap<Key, (u64, f64)>,
}

impl Rates {
    pub(super) fn new(before: &Metrics, now: &Metrics, between: Duration) -> Self {
        let (before, now) = (flat(before), flat(now));
        let seconds = between.as_secs_f64();
        let all = now.into_iter().map(|(key, value)| {
            // What was not there had not been counted yet. What has become less began anew (a driver
            // that came again): one interval is lost.
            let more = value.saturating_sub(before.get(&key).copied().unwrap_or(0));
            let rate = if seconds > 0.0 {
                more as f64 / seconds
            } else {
                0.0
            };
            (key, (value, rate))
        });
        Self {
            seconds,
            all: all.collect(),
        }
    }

    /// Of one counter of a vCPU, per second.
    pub(super) fn of(&self, group: Group, vcpu: usize, name: &str) -> f64 {
        let key = Key {
            group,
            vcpu: Some(vcpu),
            name: name.to_owned(),
        };
        self.all.get(&key).map_or(0.0, |(_, rate)| *rate)
    }

    /// Of a group by name, vCPUs together; the largest first, without those that stand still.
    pub(super) fn largest(&self, group: Group) -> Vec<(String, f64)> {
        let mut sums = BTreeMap::<&str, f64>::new();
        for (key, (_, rate)) in self.all.iter().filter(|(key, _)| key.group == group) {
            *sums.entry(&key.name).or_default() += rate;
        }
        let mut sums: Vec<_> = sums
            .into_iter()
            .filter(|(_, rate)| *rate > 0.0)
            .map(|(name, rate)| (name.to_owned(), rate))
            .collect();
        sums.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        sums
    }

    /// Of one name in a group, vCPUs together.
    pub(super) fn sum(&self, group: Group, name: &str) -> f64 {
        let named = |key: &Key| key.group == group && key.name == name;
        let found = self.all.iter().filter(|(key, _)| named(key));
        found.map(|(_, (_, rate))| rate).sum()
    }
}

/// All counters of a machine in one list.
fn flat(metrics: &Metrics) -> BTreeMap<Key, u64> {
    let mut list = BTreeMap::new();
    let mut add = |group, vcpu, name: &str, value| {
        let name = name.to_owned();
        list.insert(Key { group, vcpu, name }, value);
    };
    for vcpu in &metrics.vcpus {
        let id = Some(vcpu.vcpu);
        add(Group::Exits, id, "all", vcpu.exits);
        add(Group::Returns, id, "all", vcpu.returns);
        for (reason, count) in &vcpu.exits_by_reason {
            add(Group::Reason, id, reason, *count);
        }
    }
    let causes = &metrics.causes;
    for (group, map) in [
        (Group::HardwareReason, &causes.by_reason),
        (Group::Cause, &causes.by_cause),
        (Group::ThreadNs, &metrics.thread_cpu_ns),
    ] {
        map.iter()
            .for_each(|(name, count)| add(group, None, name, *count));
    }
    for device in &metrics.devices {
        let counts = device.counts;
        for (what, count) in [
            ("requests", counts.requests),
            ("bytes-from-guest", counts.bytes_from_guest),
            ("bytes-to-guest", counts.bytes_to_guest),
            ("notifies", counts.notifies),
            ("notifies-suppressed", counts.notifies_suppressed),
            ("notifies-served-by-vcpu", counts.notifies_served_by_vcpu),
            ("notifies-left-by-vcpu", counts.notifies_left_by_vcpu),
            ("interrupts", counts.interrupts),
            ("interrupts-suppressed", counts.interrupts_suppressed),
        ] {
            let name = format!("{} {} {what}", device.device, device.index);
            add(Group::Device, None, &name, count);
        }
    }
    let Some(coop) = &metrics.coop else {
        return list;
    };
    for area in &coop.areas {
        for (group, map) in [(Group::Guest, &area.guest), (Group::Host, &area.host)] {
            map.iter()
                .for_each(|(name, count)| add(group, Some(area.vcpu), name, *count));
        }
    }
    for (operation, count) in &coop.totals.operations {
        add(Group::Call, None, operation, *count);
    }
    list
}
