//! Limits on comparisons whose figures are chosen.

use super::*;
use crate::compare::model::ArmNote;
use crate::compare::summary::tests::{report, run};

/// Five runs of a stock arm and of both arms that have limits; every work has these exits for 100
/// operations, of which the host's own tick is 5.
fn comparison(stock: u64, coop: u64) -> Report {
    let mut report = report();
    let works: Vec<Work> = LIMITS.iter().map(|l| l.work).chain(READS).collect();
    report.params.works = works.iter().map(|work| work.name().to_string()).collect();
    let note = |name: &str, is_stock| ArmNote {
        name: name.into(),
        description: String::new(),
        is_stock,
        gap: None,
    };
    report.arms = vec![
        note("kvm", true),
        note("coop", false),
        note("coop+sidecore", false),
    ];
    report.runs.clear();
    for repetition in 0..5 {
        for (arm, exits) in [("kvm", stock), ("coop", coop), ("coop+sidecore", coop)] {
            let mut one = run(repetition, arm, exits + 5);
            let template = one.samples[1].clone();
            one.samples = works
                .iter()
                .map(|work| {
                    let mut sample = template.clone();
                    sample.work = work.name().into();
                    sample.ops = 100;
                    sample
                })
                .collect();
            report.runs.push(one);
        }
    }
    report
}

fn lines(report: &Report, arm: &str) -> Vec<Line> {
    judge(&summary::groups(report), arm)
}

#[test]
fn an_arm_without_exits_keeps_all_limits() {
    let report = comparison(100, 0);
    let lines = lines(&report, "coop+sidecore");
    assert!(lines.iter().all(|line| line.is_ok), "{lines:?}");
    // Capped: a hundred exits to none are 50 times fewer, not infinitely.
    assert!(lines.last().unwrap().text.contains("50.0, at least 5.00"));
    assert!(render(&report).ends_with("all limits are kept\n"));
}

#[test]
fn limits_are_told_apart_by_arm_and_row() {
    // 0.3 per operation, 0.3 of stock: refill is too many for both, pipe only for the adaptive arm.
    let report = comparison(100, 30);
    let failed = |arm| -> Vec<String> {
        let lines = lines(&report, arm).into_iter();
        lines.filter(|l| !l.is_ok).map(|l| l.text).collect()
    };
    let off = failed("coop");
    assert_eq!(off.len(), 2, "{off:?}");
    assert!(off[0].starts_with("refill: 0.300, at most 0.010; against kvm: exits 0.300 ["));
    assert!(off[1].starts_with("geometric mean"), "{off:?}");
    let adaptive = failed("coop+sidecore");
    assert!(adaptive[0].starts_with("pipe: 0.300, at most 0.200 of stock, at most 0.500; "));
    assert!(render(&report).contains("FAIL  pipe"));
    assert!(render(&report).ends_with("5 limits are not kept\n"));
}

#[test]
fn more_exits_than_stock_fail_in_any_work() {
    let mut report = comparison(100, 0);
    for run in report.runs.iter_mut().filter(|run| run.arm == "coop") {
        let read = run.samples.iter_mut().find(|s| s.work == "read1").unwrap();
        read.counts.total = 106;
    }
    let lines = lines(&report, "coop");
    let failed: Vec<_> = lines.iter().filter(|line| !line.is_ok).collect();
    assert_eq!(failed.len(), 1);
    assert!(failed[0]
        .text
        .starts_with("read1: more exits than stock; against kvm: exits 1.01 ["));
}

#[test]
fn two_rows_may_be_a_little_worse_and_none_much() {
    let with = |rows: usize, percent: u64| {
        let mut report = comparison(100, 0);
        for run in report.runs.iter_mut().filter(|run| run.arm == "coop") {
            for sample in run.samples.iter_mut().take(rows) {
                sample.cpu_ns = sample.cpu_ns * percent / 100;
            }
        }
        lines(&report, "coop").iter().filter(|l| !l.is_ok).count()
    };
    assert_eq!(with(9, 104), 0);
    assert_eq!(with(2, 120), 0);
    assert_eq!(with(3, 120), 1);
    assert_eq!(with(1, 130), 1);
}

#[test]
fn what_is_missing_is_no_pass() {
    let mut report = comparison(100, 0);
    report
        .runs
        .retain(|run| run.arm != "coop" || run.repetition < 4);
    let few = lines(&report, "coop");
    assert!(few[0].text.ends_with("4 runs, 5 are asked for"), "{few:?}");
    assert!(!few[0].is_ok);
    report.runs.retain(|run| run.arm != "coop");
    let none = lines(&report, "coop");
    assert!(none[..7].iter().all(|line| !line.is_ok));
    assert!(!none.last().unwrap().is_ok);
    report.runs.clear();
    assert!(render(&report).contains("FAIL  pipe: not measured"));
}
