//! Experiments of the tree (`spec/EXPERIMENTS.md`), each by a call or a few. The host's test offers
//! them and runs whatever is here.

use coopvirt_spec::code::Status;
use coopvirt_spec::entry::Submission;
use coopvirt_spec::op;
use coopvirt_spec::version::Features;

use crate::coop;
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
