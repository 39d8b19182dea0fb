//! Families of the cooperative interface.

use super::page::Page;
use super::{map, Labelled};
use crate::coop::{AreaCounts, CoopGauges, PollingState};

pub(super) fn families(page: &mut Page, machines: &[Labelled<'_>]) {
    let with_coop: Vec<(&str, &CoopGauges)> = machines
        .iter()
        .filter_map(|(pid, metrics)| Some((&**pid, metrics.coop.as_ref()?)))
        .collect();
    let help = "1 while the polling thread polls, 0 while it sleeps or never polls.";
    page.head("sidecore_polling", "gauge", help);
    for (pid, coop) in &with_coop {
        let polls = u64::from(coop.polling == PollingState::Polling);
        page.line(&[("pid", pid)], polls);
    }
    let help = "The guest's counters of a vCPU's area, as the guest says, since it registered.";
    areas(page, &with_coop, "coop_guest_total", help, |area| {
        &area.guest
    });
    let help = "The host's counters of a vCPU's area, since it was registered.";
    areas(page, &with_coop, "coop_host_total", help, |area| &area.host);
    page.head("coop_calls_total", "counter", "Calls by operation.");
    for (pid, coop) in &with_coop {
        map(page, pid, "operation", &coop.totals.operations);
    }
    let help = "What else the host counts of the interface; longest_turn_us only grows.";
    page.head("coop_events_total", "counter", help);
    for (pid, coop) in &with_coop {
        map(page, pid, "event", &coop.totals.events);
    }
}

fn areas(
    page: &mut Page,
    machines: &[(&str, &CoopGauges)],
    name: &str,
    help: &str,
    counts: fn(&AreaCounts) -> &std::collections::BTreeMap<String, u64>,
) {
    page.head(name, "counter", help);
    for (pid, coop) in machines {
        for area in &coop.areas {
            let vcpu = area.vcpu.to_string();
            for (counter, count) in counts(area) {
                page.line(
                    &[("pid", pid), ("vcpu", &vcpu), ("counter", counter)],
                    count,
                );
            }
        }
    }
}
