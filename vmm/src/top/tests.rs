//! The screen and the CSV from answers of real machines (`testdata/`, taken a second apart in the lab).

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use ratatui::backend::TestBackend;
use ratatui::Terminal;

use super::find::Found;
use super::rates::Group;
use super::screen::{draw, plain, View};
use super::watch::{Sample, Trouble, Watched};
use crate::control::metrics::{CauseSource, Metrics};
use crate::control::State;
use crate::machine::RunState;

const COOP: [&str; 2] = [
    include_str!("testdata/coop-1.json"),
    include_str!("testdata/coop-2.json"),
];
const TRACED: [&str; 2] = [
    include_str!("testdata/traced-1.json"),
    include_str!("testdata/traced-2.json"),
];

fn metrics(text: &str) -> Metrics {
    serde_json::from_str(text).unwrap()
}

fn watched(mode: &str, answers: [&str; 2]) -> Watched {
    let [before, now] = answers.map(metrics);
    watched_with(mode, before, now)
}

/// A machine that gave these two answers half a second apart.
fn watched_with(mode: &str, before: Metrics, now: Metrics) -> Watched {
    let mut watched = Watched::new(Found {
        path: PathBuf::from("/run/coopvirt/1234.sock"),
        state: State {
            state: RunState::Running,
            mode: mode.into(),
            vcpus: u8::try_from(now.vcpus.len()).unwrap(),
            memory_bytes: 256 << 20,
            pid: 1234,
            version: "0".into(),
        },
    });
    let at = Instant::now();
    for (at, metrics) in [(at, before), (at + Duration::from_millis(500), now)] {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        watched.take(Ok(Sample { at, time, metrics }));
    }
    watched
}

fn screen(machines: &[Watched], chosen: usize, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let view = View {
        machines,
        chosen,
        every: Duration::from_secs(1),
        is_live: true,
    };
    terminal.draw(|frame| draw(frame, &view)).unwrap();
    plain(terminal.backend().buffer())
}

/// The words of the line that begins so.
fn line<'a>(screen: &'a str, begin: &str) -> Vec<&'a str> {
    let mut lines = screen
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let found = lines.find(|words| words.first() == Some(&begin));
    found.unwrap_or_else(|| panic!("no line {begin:?}:\n{screen}"))
}

fn exits(metrics: &Metrics) -> u64 {
    metrics.vcpus.iter().map(|vcpu| vcpu.exits).sum()
}

#[test]
fn a_terminal_of_80_by_24_has_room_for_all_of_a_cooperative_machine() {
    let screen = screen(&[watched("coop", COOP)], 0, 80, 24);
    println!("{screen}");
    assert_eq!(screen.lines().count(), 24);
    let [before, now] = COOP.map(metrics);
    let per_second = (exits(&now) - exits(&before)) * 2;
    assert_eq!(line(&screen, "all")[1], per_second.to_string());
    let [before, now] = [before, now].map(|metrics| metrics.coop.unwrap());
    for (feature, elided, fallback) in [
        ("timer", "deadline_elided", "deadline_fallback"),
        ("ipi", "ipi_elided", "ipi_fallback"),
    ] {
        let wanted = [elided, fallback].map(|name| {
            let per_second = (now.totals.guest[name] - before.totals.guest[name]) * 2;
            per_second as f64
        });
        let words = line(&screen, feature);
        let found = [words[1], words[2]].map(|word| word.parse::<f64>().unwrap());
        assert_eq!(found, wanted, "{feature}");
    }
    for text in [
        "process 1234, coop, 2 vCPUs, 256 MiB",
        "machine 1 of 1",
        "by KVM's counters, all exits",
        "to userspace alone (all: run --exits)",
        "sidecore",
        "2 of 2 vCPUs have an area",
        "q: quit",
    ] {
        assert!(screen.contains(text), "{text}:\n{screen}");
    }
}

#[test]
fn a_traced_machine_says_the_causes_of_all_exits() {
    let watched = watched("kvm", TRACED);
    let screen = screen(&[watched], 0, 80, 24);
    println!("{screen}");
    let [before, now] = TRACED.map(metrics);
    assert_eq!(now.causes.source, CauseSource::Tracepoints);
    assert!(screen.contains("by hardware reason, all exits"), "{screen}");
    assert!(screen.contains("by cause, all exits"), "{screen}");
    let (name, per_second) = now
        .causes
        .by_reason
        .iter()
        .map(|(name, count)| {
            (
                name,
                (count - before.causes.by_reason.get(name).unwrap_or(&0)) * 2,
            )
        })
        .max_by_key(|(_, rate)| *rate)
        .unwrap();
    assert_eq!(line(&screen, name)[1], per_second.to_string());
    assert!(!screen.contains("sidecore"), "{screen}");
}

#[test]
fn no_size_is_too_small_or_too_large() {
    let machines = [watched("coop", COOP)];
    for width in [1, 2, 7, 20, 33, 79, 80, 81, 200] {
        for height in [1, 2, 3, 5, 8, 13, 23, 24, 25, 60] {
            let screen = screen(&machines, 0, width, height);
            let is_cut = |line: &str| line.chars().count() <= usize::from(width);
            assert!(screen.lines().all(is_cut), "{width}x{height}");
        }
    }
    // What matters most is what is left.
    assert!(screen(&machines, 0, 60, 8).contains("exits/s"));
}

#[test]
fn a_machine_that_goes_away_is_told_of_and_its_last_figures_stay() {
    let mut machines = [watched("coop", COOP), watched("kvm", TRACED)];
    let before = screen(&machines, 0, 80, 24);
    machines[0].take(Err(Trouble::Odd("it did not answer".into())));
    assert!(screen(&machines, 0, 80, 24).contains("no news: it did not answer"));
    machines[0].take(Err(Trouble::Gone));
    let after = screen(&machines, 0, 80, 24);
    assert!(after.contains("the machine is gone; these are its last figures"));
    assert_eq!(line(&before, "all"), line(&after, "all"));
    // The other one is not.
    let other = screen(&machines, 1, 80, 24);
    assert!(
        other.contains("machine 2 of 2") && other.contains("Tab"),
        "{other}"
    );
    assert!(!other.contains("gone"), "{other}");
    // Nor is there anything to draw of one that is not there, or has not answered yet.
    screen(&machines, 2, 80, 24);
    machines[0].rates = None;
    assert!(screen(&machines, 0, 80, 24).contains("the machine is gone"));
}

#[test]
fn a_paused_machine_stands_still() {
    let [_, now] = COOP.map(metrics);
    let mut paused = now.clone();
    paused.state = RunState::Paused;
    let screen = screen(&[watched_with("coop", now, paused)], 0, 80, 24);
    assert!(screen.contains("the machine is paused"), "{screen}");
    assert_eq!(line(&screen, "all")[1..6], ["0"; 5]);
    assert!(screen.contains(" none"), "{screen}");
}

#[test]
fn many_vcpus_are_summed_up() {
    let [mut before, mut now] = COOP.map(metrics);
    for metrics in [&mut before, &mut now] {
        let first = metrics.vcpus[0].clone();
        metrics.vcpus = (0..64)
            .map(|vcpu| crate::control::metrics::VcpuMetrics {
                vcpu,
                ..first.clone()
            })
            .collect();
    }
    let per_second = (exits(&now) - exits(&before)) * 2;
    let screen = screen(&[watched_with("coop", before, now)], 0, 80, 24);
    assert!(screen.contains("and 60 more"), "{screen}");
    assert_eq!(line(&screen, "all")[1], per_second.to_string());
    assert!(screen.contains("by KVM's counters"), "{screen}");
}

#[test]
fn counters_that_begin_anew_lose_an_interval_and_nothing_else() {
    let [before, now] = COOP.map(metrics);
    let watched = watched_with("coop", now, before);
    let rates = watched.rates.as_ref().unwrap();
    assert!(rates.all.values().all(|(_, rate)| *rate == 0.0));
    assert!(screen(&[watched], 0, 80, 24).contains("exits/s"));
}

#[test]
fn rows_say_totals_and_what_they_grew_by() {
    let watched = watched("coop", COOP);
    let text = super::csv::rows(&watched);
    let [before, now] = COOP.map(metrics);
    let nr_columns = super::csv::HEADER.split(',').count();
    for line in text.lines() {
        assert_eq!(line.split(',').count(), nr_columns, "{line}");
    }
    for (before, now) in before.vcpus.iter().zip(&now.vcpus) {
        let begin = format!(
            "1000000.000,0.500000,1234,{},exits,all,{},",
            now.vcpu, now.exits
        );
        let row = text.lines().find_map(|line| line.strip_prefix(&begin));
        let rate: f64 = row.unwrap().parse().unwrap();
        assert_eq!(rate * 0.5, (now.exits - before.exits) as f64);
    }
    assert!(text.contains(",coop-guest,deadline_published,"), "{text}");
    assert!(
        text.contains(",,device,virtio-console 0 requests,"),
        "{text}"
    );
    let rates = watched.rates.unwrap();
    assert!(rates.sum(Group::ThreadNs, "vcpu0") > 0.0);
}
