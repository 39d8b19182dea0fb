// SPDX-License-Identifier: GPL-2.0
//! Which host this machine has, as far as loading has to know.

use coopvirt_spec::discover::{
    Offer, HYPERVISOR_PRESENT, SCAN_END, SCAN_FIRST, SCAN_STEP, SIGNATURE,
};
use coopvirt_spec::version::Version;

use crate::flavour::{pr_err, Result, ENODEV};
use crate::platform::cpuid;

/// Finds the host's offer, or says in the log what is there instead.
pub(crate) fn find() -> Result<Offer> {
    if let Some(offer) = Offer::find(cpuid) {
        return Ok(offer);
    }
    if cpuid(1).ecx & HYPERVISOR_PRESENT == 0 {
        pr_err!("not loaded: this machine has no hypervisor\n");
    } else if let Some(version) = find_version() {
        pr_err!(
            "not loaded: the host speaks version {}, this module {}\n",
            version,
            Version::CURRENT
        );
    } else {
        pr_err!("not loaded: this machine's hypervisor is not Coopvirt, or not in mode coop\n");
    }
    Err(ENODEV)
}

/// The version of a block that has our signature, but not our layout.
fn find_version() -> Option<Version> {
    let mut bases = (SCAN_FIRST..SCAN_END).step_by(SCAN_STEP as usize);
    let base = bases.find(|&base| {
        let found = cpuid(base);
        let words = [found.ebx, found.ecx, found.edx].map(u32::to_le_bytes);
        SIGNATURE.iter().eq(words.iter().flatten())
    })?;
    Some(Version::decode(cpuid(base + 1).eax))
}
