//! Whole comparisons with a launcher that answers at once.

use super::*;
use crate::compare::args::tests::parse;
use crate::compare::evaluate::tests::finished;
use crate::compare::launch::{End, Finished};

/// Runs nothing; remembers commands, and fails those that the closure names.
struct Fake<F> {
    commands: Vec<String>,
    answer: F,
}

impl<F: FnMut(&str, usize) -> Finished> Launcher for Fake<F> {
    fn launch(&mut self, job: &Job<'_>) -> Result<Finished> {
        let line = job.command.words().join(" ");
        let before = self.commands.iter().filter(|other| **other == line).count();
        let answer = (self.answer)(&line, before);
        self.commands.push(line);
        Ok(answer)
    }
}

fn compare(
    line: &str,
    old: Option<&Report>,
    answer: impl FnMut(&str, usize) -> Finished,
) -> (Report, Vec<String>, bool) {
    let folder = TempFolder::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    let file = file.display();
    let args = parse(&format!(
        "--kernel {file} --initrd {file} --works boot,pipe {line}"
    ));
    let choice = args.choose().unwrap();
    let inputs = Inputs::find(&args).unwrap();
    let mut setup = Setup::new(&args, &choice, &[], inputs, folder.path()).unwrap();
    setup.tsc_khz = Some(1000);
    let mut report = setup.report.clone();
    if let Some(old) = old {
        report.runs = old.runs.clone();
    }
    let mut fake = Fake {
        commands: Vec::new(),
        answer,
    };
    run_cells(
        &args,
        &choice,
        &setup,
        &mut report,
        None,
        &mut fake,
        Box::new(io::sink()),
    )
    .unwrap();
    let is_complete = is_complete(&report, &plan_of(&args, &choice));
    (report, fake.commands, is_complete)
}

fn hang() -> Finished {
    Finished {
        end: End::Timeout("too slow".into()),
        console: Vec::new(),
        ..finished()
    }
}

#[test]
fn all_cells_run_and_the_report_is_complete() {
    let (report, commands, is_complete) =
        compare("--arms kvm,qemu-pci -n 3", None, |_, _| finished());
    // Two arms with two more boots each.
    assert_eq!(commands.len(), 18);
    assert!(is_complete, "{:?}", report.runs);
    assert_eq!(report.counted_runs().count(), 18);
    assert!(table::render(&report).contains("boot (serial, kernel log)"));
}

#[test]
fn a_failed_run_is_repeated_once_and_the_rest_goes_on() {
    let (report, commands, is_complete) =
        compare("--arms kvm -n 1", None, |line, before| {
            match line.contains("quiet") && before == 0 {
                true => hang(),
                false => finished(),
            }
        });
    assert_eq!((commands.len(), report.runs.len()), (4, 4));
    assert!(is_complete);
    assert!(table::render(&report).contains("too slow"));
}

#[test]
fn an_arm_that_always_fails_is_given_up() {
    let (report, commands, is_complete) = compare(
        "--arms kvm,kvm+haltpoll+nohlt -n 5 --works pipe",
        None,
        |line, _| match line.contains("--disable-exits") {
            true => hang(),
            false => finished(),
        },
    );
    let failing = commands
        .iter()
        .filter(|line| line.contains("--disable-exits"))
        .count();
    assert_eq!(failing, 4);
    assert!(!is_complete);
    assert_eq!(
        report
            .counted_runs()
            .filter(|run| run.failure.is_none())
            .count(),
        15
    );
}

#[test]
fn a_wrong_platform_is_not_tried_again() {
    let (_, commands, is_complete) = compare("--arms hvm -n 5", None, |_, _| finished());
    assert_eq!(commands.len(), 1);
    assert!(!is_complete);
}

#[test]
fn a_resumed_comparison_runs_only_what_is_missing() {
    let (mut report, commands, _) = compare("--arms kvm -n 2", None, |_, _| finished());
    assert_eq!(commands.len(), 6);
    report.runs.truncate(1);
    let (report, commands, is_complete) =
        compare("--arms kvm -n 3", Some(&report), |_, _| finished());
    assert_eq!((commands.len(), report.runs.len()), (8, 9));
    assert!(is_complete);
}
