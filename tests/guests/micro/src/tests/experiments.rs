//! Experiments of the tree (`spec/EXPERIMENTS.md`), each by a call or a few. The host's test offers
//! them and runs whatever is here.

use core::sync::atomic::Ordering::Relaxed;

use coopvirt_spec::code::Status;
use coopvirt_spec::entry::Submission;
use coopvirt_spec::op;
use coopvirt_spec::version::Features;

use crate::coop;
use crate::memory;
use crate::test::{guest_test, Ran};

/// What a session needs for experiments.
const WANTED: Features = Features(Features::RING.0 | Features::EXPERIMENTAL.0);

guest_test!("experiment_unknown", "[OP-6]", unknown);
fn unknown() -> Ran {
    coop::require_offer(WANTED)?;
    let mut session = coop::open(WANTED);
    // The last opcode is not for experiments that stay.
    let call = Submission::new(op::Opcode(0xffff), 0, [0; 6]);
    let done = coop::answer(&mut session, call);
    assert_eq!(done.status(), Status::UNKNOWN_OPCODE);
    session.close();
    Ok(())
}

guest_test!("experiment_working_set", "", working_set);
fn working_set() -> Ran {
    let mut session = coop::open(WANTED);
    let pages = memory::untouched_large(512);
    let mut resident = |nr_pages| {
        let first_gpa = pages.start();
        let args = op::WorkingSetArgs {
            first_gpa,
            nr_pages,
        };
        coop::answer(&mut session, args.submission(0)).result
    };
    assert_eq!(resident(512), 0);
    pages.words().iter().for_each(|word| word.store(1, Relaxed));
    assert_eq!((resident(1), resident(512)), (1, 512));
    Ok(())
}
