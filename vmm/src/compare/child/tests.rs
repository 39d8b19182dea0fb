//! The launcher with shell scripts in place of VMMs.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::account::model::Trace;
use crate::compare::disk::TempFolder;
use crate::compare::launch::{RunningTrace, VmCommand};

/// A tracer that notes which program the process was when it was attached.
#[derive(Clone, Default)]
struct Notes(Rc<RefCell<Vec<String>>>);

impl TraceSource for Notes {
    fn start(&self, pid: u32) -> Result<Box<dyn RunningTrace>> {
        let name = fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
        self.0.borrow_mut().push(name);
        Ok(Box::new(self.clone()))
    }
}

impl RunningTrace for Notes {
    fn finish(self: Box<Self>, _exits: Option<&[u8]>) -> Result<Trace> {
        Ok(Trace {
            lost: 7,
            ..Trace::default()
        })
    }
}

fn run(script: &str, boot_ms: u64, work_ms: u64) -> (Finished, Notes) {
    let folder = TempFolder::new().unwrap();
    let notes = Notes::default();
    let mut launcher = ChildLauncher::new(folder.path(), Box::new(notes.clone()));
    let command = VmCommand {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into(), "a vmm".into()],
    };
    let job = Job {
        command: &command,
        pinning: Pinning::Pinned {
            cpus: 1,
            sidecore: 0,
        },
        exits_file: None,
        has_huge_pages: false,
        boot_timeout: Duration::from_millis(boot_ms),
        work_timeout: Duration::from_millis(work_ms),
    };
    (launcher.launch(&job).unwrap(), notes)
}

#[test]
fn output_status_and_trace_come_back() {
    let (finished, notes) = run("cat; echo out; echo err >&2", 60_000, 60_000);
    assert_eq!(finished.console, b"out\n");
    assert_eq!(finished.messages, b"err\n");
    assert_eq!(finished.end, End::Success);
    assert_eq!(finished.trace.lost, 7);
    // The tracer was there while the process was still the gate.
    assert!(notes.0.borrow()[0].contains("read -r gate"));
}

#[test]
fn huge_pages_are_forbidden_to_the_vmm_itself() {
    let (finished, _) = run("grep THP_enabled /proc/self/status", 60_000, 60_000);
    assert_eq!(finished.console, b"THP_enabled:\t0\n");
}

#[test]
fn a_failing_vmm_has_its_status() {
    let (finished, _) = run("exit 3", 60_000, 60_000);
    assert_eq!(finished.end, End::Status("exit status: 3".into()));
}

#[test]
fn a_hang_before_and_after_the_first_record_is_told_apart_and_killed() {
    let (finished, _) = run("echo noise; exec sleep 600", 300, 60_000);
    let End::Timeout(reason) = finished.end else {
        panic!("{:?}", finished.end)
    };
    assert!(reason.contains("did not reach its init"), "{reason}");
    assert_eq!(finished.threads, []);
    let (finished, _) = run("echo '@coopvirt {}'; exec sleep 600", 60_000, 300);
    assert_eq!(finished.threads[0].name, "sleep");
    let End::Timeout(reason) = finished.end else {
        panic!("{:?}", finished.end)
    };
    assert!(reason.contains("sent nothing more"), "{reason}");
}
