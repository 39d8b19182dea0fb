//! What the unit tests of this module share: memory without KVM, and effects that only record.

use std::sync::{Arc, Mutex};

use coopvirt_spec::mark::Mark;

use super::effects::Effects;
use crate::mem::{ram, Backing, GuestRam};

/// 4 MiB of guest memory.
pub(crate) fn ram() -> GuestRam {
    let backing = Backing {
        huge_pages: false,
        prefault: false,
        overcommit: true,
    };
    ram::allocate(4 << 20, backing).expect("4 MiB fit anywhere")
}

/// What was done to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    Raised(u32, u8),
    Marked(u8, Mark),
    Logged(String),
}

/// Records instead of doing.
#[derive(Default)]
pub(crate) struct Recorder(pub(crate) Mutex<Vec<Done>>);

impl Recorder {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn done(&self) -> Vec<Done> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Effects for Recorder {
    fn raise(&self, apic_id: u32, vector: u8) -> bool {
        self.0.lock().unwrap().push(Done::Raised(apic_id, vector));
        true
    }
    fn mark(&self, vcpu: u8, mark: Mark) {
        self.0.lock().unwrap().push(Done::Marked(vcpu, mark));
    }
    fn log(&self, line: &str) {
        self.0.lock().unwrap().push(Done::Logged(line.to_owned()));
    }
}
