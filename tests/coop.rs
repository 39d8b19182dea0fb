//! The cooperative interface (`spec/SPEC.md`), as a guest without operating system uses it.
//!
//! The tests themselves are in `guests/micro/src/tests/coop_*.rs`; here is on which machines they
//! run, and what only the host can see: which exits there were, and how much memory is in use.

use coopvirt_tests::MicroGuest;

fn guest() -> MicroGuest {
    MicroGuest::new().arguments(["--mode", "coop"])
}

#[test]
fn set_up() {
    for sidecore in ["off", "adaptive"] {
        let guest = guest().cpus(2).arguments(["--sidecore", sidecore]);
        guest.run("coop_discovery,coop_negotiation,coop_bad_*,coop_register_*,coop_smp_*");
    }
}
