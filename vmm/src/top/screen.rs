//! Draws one machine's rates. Pure: what is known in, cells out, whatever the size of the terminal.
//!
//! From 80 columns and 24 lines on there is room for all; on less, the lower right is cut off. Nothing
//! is told by colour alone.

use std::time::Duration;

use ratatui::buffer::Buffer;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::Paragraph;
use ratatui::Frame;

use super::rates::{Group, Rates};
use super::watch::{Trouble, Watched};
use crate::control::metrics::{CauseSource, ExitSource, Metrics};
use crate::coop::{CoopGauges, PollingState};
use crate::machine::RunState;

/// Devices that are shown, in the order of the bus, of those that have done something.
const MAX_DEVICES: usize = 4;
/// Lines for reasons and causes, at least, if there are so many.
const MIN_RANKED: usize = 4;

/// The counters of a feature, of the guest but for the last: elided, fallback, spurious, late.
struct Feature {
    name: &'static str,
    elided: &'static str,
    fallback: &'static str,
    spurious: &'static str,
    late: &'static str,
}

const FEATURES: [Feature; 3] = [
    Feature {
        name: "timer",
        elided: "deadline_elided",
        fallback: "deadline_fallback",
        spurious: "timer_spurious",
        late: "timer_late",
    },
    Feature {
        name: "ipi",
        elided: "ipi_elided",
        fallback: "ipi_fallback",
        spurious: "",
        late: "",
    },
    Feature {
        name: "idle",
        elided: "idle_polled",
        fallback: "idle_halted",
        spurious: "",
        late: "",
    },
];

/// What is drawn.
pub(super) struct View<'a> {
    pub(super) machines: &'a [Watched],
    /// The one that is shown.
    pub(super) chosen: usize,
    pub(super) every: Duration,
    /// Whether there are keys to tell of.
    pub(super) is_live: bool,
}

pub(super) fn draw(frame: &mut Frame<'_>, view: &View<'_>) {
    let area = frame.area();
    let Some(watched) = view.machines.get(view.chosen) else {
        return;
    };
    let coop = watched
        .sample
        .as_ref()
        .and_then(|sample| sample.metrics.coop.as_ref());
    let devices = device_lines(watched);
    let nr_vcpus = usize::from(watched.state.vcpus);
    let shown_vcpus = nr_vcpus.min(usize::from(area.height / 6).max(1));
    // In the order in which they matter: what comes last is the first that has no room.
    let mut left = area.height;
    let mut take = |rows: usize| {
        let rows = u16::try_from(rows).unwrap_or(u16::MAX).min(left);
        left -= rows;
        rows
    };
    let mut heights = [
        1,
        1,
        // Head, sum, and what is left out.
        shown_vcpus + 2 + usize::from(shown_vcpus < nr_vcpus),
        MIN_RANKED,
        if coop.is_some() {
            FEATURES.len() + 2
        } else {
            0
        },
        devices.len(),
        usize::from(view.is_live),
    ]
    .map(&mut take);
    heights[3] += left;
    let [head, trouble, vcpus, middle, features, below, keys] =
        Layout::vertical(heights.map(Constraint::Length)).areas(area);

    frame.render_widget(head_line(watched), head);
    let place = format!("machine {} of {} ", view.chosen + 1, view.machines.len());
    frame.render_widget(Paragraph::new(place).alignment(Alignment::Right), head);
    let (Some(rates), Some(sample)) = (&watched.rates, &watched.sample) else {
        let waiting = match trouble_text(watched) {
            Some(text) => text,
            None => format!(" looking for {:.1?}", view.every),
        };
        frame.render_widget(Line::from(waiting), trouble);
        draw_keys(frame, keys, view);
        return;
    };
    if let Some(text) = trouble_text(watched) {
        frame.render_widget(Line::from(text).bold().reversed(), trouble);
    } else if sample.metrics.state == RunState::Paused {
        frame.render_widget(Line::from(" the machine is paused").bold(), trouble);
    }
    draw_lines(frame, vcpus, vcpu_lines(watched, rates, shown_vcpus));
    let [left, right] =
        Layout::horizontal([Constraint::Length(32), Constraint::Min(20)]).areas(middle);
    draw_lines(
        frame,
        left,
        reason_lines(&sample.metrics, rates, left.height),
    );
    draw_lines(
        frame,
        right,
        cause_lines(&sample.metrics, rates, right.height),
    );
    if let Some(coop) = coop {
        draw_lines(frame, features, feature_lines(coop, rates));
    }
    draw_lines(frame, below, devices);
    draw_keys(frame, keys, view);
}

/// The first line is a head.
fn draw_lines(frame: &mut Frame<'_>, area: Rect, lines: Vec<String>) {
    let lines = lines
        .into_iter()
        .enumerate()
        .map(|(index, text)| match index {
            0 => Line::from(text).style(Style::new().bold().underlined()),
            _ => Line::from(text),
        });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), area);
}

fn draw_keys(frame: &mut Frame<'_>, area: Rect, view: &View<'_>) {
    if !view.is_live {
        return;
    }
    let others = match view.machines.len() {
        1 => "",
        _ => "   Tab, arrows: other machines",
    };
    let keys = format!(" q: quit{others}   every {:.1?}", view.every);
    frame.render_widget(Line::from(keys).dim(), area);
}

fn head_line(watched: &Watched) -> Line<'static> {
    let state = &watched.state;
    let plural = if state.vcpus == 1 { "" } else { "s" };
    let text = format!(
        " coopvirt top: process {}, {}, {} vCPU{plural}, {} MiB",
        state.pid,
        state.mode,
        state.vcpus,
        state.memory_bytes >> 20
    );
    Line::from(text).bold()
}

fn trouble_text(watched: &Watched) -> Option<String> {
    Some(match watched.trouble.as_ref()? {
        Trouble::Gone if watched.rates.is_some() => {
            " the machine is gone; these are its last figures".into()
        }
        Trouble::Gone => " the machine is gone".into(),
        Trouble::Odd(what) => format!(" no news: {what}"),
    })
}

fn vcpu_lines(watched: &Watched, rates: &Rates, shown: usize) -> Vec<String> {
    let has_coop = watched
        .sample
        .as_ref()
        .is_some_and(|sample| sample.metrics.coop.is_some());
    let row = |name: &str, cells: [f64; 5], mostly: &str| {
        let [exits, returns, elided, fallback, cpu] = cells.map(number);
        let coop = |cell: String| if has_coop { cell } else { "-".into() };
        let (elided, fallback) = (coop(elided), coop(fallback));
        format!("{name:>5} {exits:>9} {returns:>10} {elided:>10} {fallback:>10} {cpu:>6}  {mostly}")
    };
    let mut lines = vec![format!(
        "{:>5} {:>9} {:>10} {:>10} {:>10} {:>6}  {}",
        "vCPU", "exits/s", "to user/s", "elided/s", "fallback/s", "CPU %", "mostly"
    )];
    let mut all = [0.0; 5];
    for vcpu in 0..usize::from(watched.state.vcpus) {
        let features = |counter: fn(&Feature) -> &'static str| {
            let each = FEATURES
                .iter()
                .map(|feature| rates.of(Group::Guest, vcpu, counter(feature)));
            each.sum::<f64>()
        };
        let cells = [
            rates.of(Group::Exits, vcpu, "all"),
            rates.of(Group::Returns, vcpu, "all"),
            features(|feature| feature.elided),
            features(|feature| feature.fallback),
            cpu_percent(rates, &format!("vcpu{vcpu}")),
        ];
        all.iter_mut()
            .zip(cells)
            .for_each(|(all, cell)| *all += cell);
        if vcpu < shown {
            lines.push(row(&vcpu.to_string(), cells, &mostly(rates, vcpu)));
        }
    }
    let hidden = usize::from(watched.state.vcpus).saturating_sub(shown);
    if hidden > 0 {
        lines.push(format!("      and {hidden} more"));
    }
    // First, so that it is the last to be cut off.
    lines.insert(1, row("all", all, ""));
    lines
}

/// The two most frequent reasons of a vCPU.
fn mostly(rates: &Rates, vcpu: usize) -> String {
    let of_this = |key: &super::rates::Key| key.group == Group::Reason && key.vcpu == Some(vcpu);
    let mut reasons: Vec<_> = rates
        .all
        .iter()
        .filter(|(key, (_, rate))| of_this(key) && *rate > 0.0)
        .map(|(key, (_, rate))| (&key.name, *rate))
        .collect();
    reasons.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    let texts = reasons
        .iter()
        .take(2)
        .map(|(name, rate)| format!("{name} {}", number(*rate)));
    texts.collect::<Vec<_>>().join(", ")
}

fn reason_lines(metrics: &Metrics, rates: &Rates, height: u16) -> Vec<String> {
    let is_kvms = metrics
        .vcpus
        .iter()
        .all(|vcpu| vcpu.source == ExitSource::KvmStats);
    let (head, group) = match (metrics.causes.source, is_kvms) {
        (CauseSource::Tracepoints, _) => ("by hardware reason, all exits", Group::HardwareReason),
        (CauseSource::Vmm, true) => ("by KVM's counters, all exits", Group::Reason),
        (CauseSource::Vmm, false) => ("exits to userspace alone", Group::Reason),
    };
    ranked(head, rates, group, height, 20)
}

fn cause_lines(metrics: &Metrics, rates: &Rates, height: u16) -> Vec<String> {
    let head = match metrics.causes.source {
        CauseSource::Tracepoints => "by cause, all exits",
        CauseSource::Vmm => "by cause, to userspace alone (all: run --exits)",
    };
    ranked(head, rates, Group::Cause, height, 34)
}

fn ranked(head: &str, rates: &Rates, group: Group, height: u16, width: usize) -> Vec<String> {
    let mut lines = vec![format!(" {head}")];
    let found = rates.largest(group);
    if found.is_empty() {
        lines.push(" none".into());
    }
    let room = usize::from(height).saturating_sub(1);
    for (name, rate) in found.iter().take(room) {
        let name: String = name.chars().take(width).collect();
        lines.push(format!(" {name:<width$} {:>8}", number(*rate)));
    }
    lines
}

fn feature_lines(coop: &CoopGauges, rates: &Rates) -> Vec<String> {
    let sidecore = match coop.polling {
        PollingState::Off => "off",
        PollingState::Polling => "polls",
        PollingState::Asleep => "sleeps",
    };
    let cpu = number(cpu_percent(rates, "coop-poll"));
    let mut lines = vec![format!(
        "{:>8} {:>10} {:>10} {:>10} {:>8}   sidecore {sidecore}, CPU {cpu} %",
        "feature", "elided/s", "fallback/s", "spurious/s", "late/s"
    )];
    for feature in FEATURES {
        let guest = |name| number(rates.sum(Group::Guest, name));
        let has = |name: &str, text: String| if name.is_empty() { "-".into() } else { text };
        let spurious = has(feature.spurious, guest(feature.spurious));
        let late = has(feature.late, number(rates.sum(Group::Host, feature.late)));
        lines.push(format!(
            "{:>8} {:>10} {:>10} {spurious:>10} {late:>8}",
            feature.name,
            guest(feature.elided),
            guest(feature.fallback),
        ));
    }
    let registered = coop.areas.iter().filter(|area| area.is_registered).count();
    let calls = rates.sum(Group::Guest, "submitted");
    let bells = rates.sum(Group::Guest, "async_bell") + rates.sum(Group::Guest, "sync_bell");
    lines.push(match registered {
        0 => "         no vCPU has an area: the guest does not cooperate (is its module loaded?)"
            .into(),
        _ => format!(
            "   calls {:>10} {:>10} (doorbells)   {registered} of {} vCPUs have an area",
            number(calls),
            number(bells),
            coop.areas.len()
        ),
    });
    lines
}

fn device_lines(watched: &Watched) -> Vec<String> {
    let (Some(sample), Some(rates)) = (&watched.sample, &watched.rates) else {
        return Vec::new();
    };
    let has_worked = |device: &&crate::control::metrics::DeviceMetrics| {
        device.counts.requests > 0 || device.counts.queues_elsewhere > 0
    };
    let devices: Vec<_> = sample.metrics.devices.iter().filter(has_worked).collect();
    if devices.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![format!(
        " {:<18} {:>10} {:>10} {:>10} {:>10} {:>12}",
        "device", "requests/s", "MiB/s", "notifies/s", "irqs/s", "99 % below"
    )];
    for device in devices.into_iter().take(MAX_DEVICES) {
        let name = format!("{} {}", device.device, device.index);
        let rate = |what: &str| rates.sum(Group::Device, &format!("{name} {what}"));
        let mib = (rate("bytes-from-guest") + rate("bytes-to-guest")) / f64::from(1 << 20);
        let latency = device
            .latency
            .as_ref()
            .and_then(|latency| latency.percentile_below_us(99));
        let latency = latency.map_or_else(String::new, |bound| {
            format!("{:?}", Duration::from_micros(bound))
        });
        let elsewhere = match device.counts.queues_elsewhere {
            0 => String::new(),
            queues => format!("  {queues} queues elsewhere"),
        };
        lines.push(format!(
            " {name:<18} {:>10} {:>10} {:>10} {:>10} {latency:>12}{elsewhere}",
            number(rate("requests")),
            number(mib),
            number(rate("notifies")),
            number(rate("interrupts")),
        ));
    }
    lines
}

fn cpu_percent(rates: &Rates, thread: &str) -> f64 {
    rates.sum(Group::ThreadNs, thread) / 1e7
}

/// In at most seven characters.
fn number(rate: f64) -> String {
    match rate {
        rate if rate <= 0.0 => "0".into(),
        rate if rate < 9.95 => format!("{rate:.1}"),
        rate if rate < 999_999.5 => format!("{rate:.0}"),
        rate if rate < 999_999_500.0 => format!("{:.1}M", rate / 1e6),
        rate => format!("{:.1}G", rate / 1e9),
    }
}

/// Cells as text, without what is blank behind lines, or lines that are blank at the end.
pub(super) fn plain(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width).max(1);
    let lines = buffer.content.chunks(width).map(|cells| {
        let line: String = cells.iter().map(|cell| cell.symbol()).collect();
        format!("{}\n", line.trim_end())
    });
    let text: String = lines.collect();
    format!("{}\n", text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let numbers = [0.0, -1.0, 0.04, 9.94, 9.96, 123_456.7, 1.0e6, 2.5e9];
        let wanted = ["0", "0", "0.0", "9.9", "10", "123457", "1.0M", "2.5G"];
        assert_eq!(numbers.map(number), wanted);
    }
}
