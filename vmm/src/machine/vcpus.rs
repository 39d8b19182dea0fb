//! Creates a machine's vCPUs: CPUID, enforced features, machine-check banks, command line.

use coopvirt_spec::discover::Offer;
use kvm_bindings::CpuId;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use super::BuildError;
use crate::config::{MachineConfig, Mode};
use crate::kvm::cpuid::{self, CpuidConfig};
use crate::kvm::{features, mce, setup};

/// Creates the vCPUs with their CPUID; also gives the guest's TSC frequency in kHz (0: unknown).
pub(super) fn create(
    kvm: &Kvm,
    vm: &VmFd,
    config: &MachineConfig,
) -> Result<(Vec<VcpuFd>, u32), BuildError> {
    let failed = |what| move |source| BuildError::Kvm { what, source };
    let supported: CpuId = kvm
        .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
        .map_err(failed("ask KVM for its CPUID"))?;
    let mut fds = Vec::new();
    let mut tsc_khz = 0;
    for id in 0..config.vcpus.get() {
        let fd = vm.create_vcpu(id.into()).map_err(failed("create a vCPU"))?;
        // Not every host can tell; then the guest measures it.
        tsc_khz = fd.get_tsc_khz().unwrap_or(0);
        let cpuid_config = CpuidConfig {
            mode: config.mode,
            x2apic: config.x2apic,
            kvm_features: config.kvm_features,
            vcpus: config.vcpus.get(),
            tsc_khz,
            offer: (config.mode == Mode::Coop).then(|| Offer::new(config.coop_offered().offered())),
        };
        let entries = cpuid::for_vcpu(&supported, &cpuid_config, id);
        let cpuid = CpuId::from_entries(&entries).map_err(|_| BuildError::Kvm {
            what: "make a CPUID table",
            source: kvm_ioctls::Error::new(libc::E2BIG),
        })?;
        setup::enforce_pv_features(&fd)?;
        mce::set_banks(&fd).map_err(|source| BuildError::Io {
            what: "set up machine-check banks",
            source,
        })?;
        fd.set_cpuid2(&cpuid)
            .map_err(failed("set a vCPU's CPUID"))?;
        fds.push(fd);
    }
    Ok((fds, tsc_khz))
}

/// The command line that the guest gets: without kvmclock nothing but the command line can tell an
/// AMD guest its TSC frequency, and measuring it against the PIT takes long and goes wrong under
/// emulation.
pub(super) fn full_cmdline(config: &MachineConfig, tsc_khz: u32) -> String {
    let mut cmdline = config.cmdline.clone();
    let has_clock = config.mode == Mode::Kvm && config.kvm_features & features::CLOCKS != 0;
    if !has_clock && tsc_khz != 0 && !cmdline.contains("tsc_early_khz=") {
        cmdline.push_str(&format!(" tsc_early_khz={tsc_khz}"));
    }
    cmdline
}
