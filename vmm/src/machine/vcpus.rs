//! Creates a machine's vCPUs: CPUID, enforced features, machine-check banks, command line.

use coopvirt_spec::discover::Offer;
use kvm_bindings::CpuId;
use kvm_ioctls::{VcpuFd, VmFd};

use super::BuildError;
use crate::config::{MachineConfig, Mode};
use crate::kvm::cpuid::{self, CpuidConfig};
use crate::kvm::{features, mce, setup};

/// Creates the vCPUs with their CPUID; also gives the guest's TSC frequency in kHz (0: unknown).
pub(super) fn create(
    supported: &CpuId,
    vm: &VmFd,
    config: &MachineConfig,
) -> Result<(Vec<VcpuFd>, u32), BuildError> {
    let failed = |what| move |source| BuildError::Kvm { what, source };
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
        let entries = cpuid::for_vcpu(supported, &cpuid_config, id);
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
    let kernels = &config.cmdline[..kernels_part(&config.cmdline)];
    let has_clock = config.mode == Mode::Kvm && config.kvm_features & features::CLOCKS != 0;
    if has_clock || tsc_khz == 0 || kernels.contains("tsc_early_khz=") {
        return config.cmdline.clone();
    }
    with_parameter(&config.cmdline, &format!("tsc_early_khz={tsc_khz}"))
}

fn with_parameter(cmdline: &str, parameter: &str) -> String {
    let (kernels, inits) = cmdline.split_at(kernels_part(cmdline));
    let parts = [kernels.trim_end(), parameter, inits];
    let parts = parts.iter().filter(|part| !part.is_empty());
    parts.copied().collect::<Vec<_>>().join(" ")
}

/// Where the words begin that the kernel leaves to init: at the first `--` that stands alone outside of
/// quotes (`parse_args`, kernel/params.c).
fn kernels_part(cmdline: &str) -> usize {
    let (mut in_quotes, mut word_at) = (false, 0);
    for (at, character) in cmdline.char_indices().chain([(cmdline.len(), ' ')]) {
        if character == '"' {
            in_quotes = !in_quotes;
        } else if character.is_ascii_whitespace() && !in_quotes {
            if &cmdline[word_at..at] == "--" {
                return word_at;
            }
            word_at = at + 1;
        }
    }
    cmdline.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_goes_to_the_kernel_and_not_to_init() {
        for (cmdline, expected) in [
            ("", "x=1"),
            ("quiet", "quiet x=1"),
            ("quiet -- /run.sh -- a", "quiet x=1 -- /run.sh -- a"),
            ("quiet  --", "quiet x=1 --"),
            ("-- /run.sh", "x=1 -- /run.sh"),
            ("a=\"b -- c\" d", "a=\"b -- c\" d x=1"),
            ("a=\"b -- c\" -- d", "a=\"b -- c\" x=1 -- d"),
            ("a--b --c", "a--b --c x=1"),
        ] {
            assert_eq!(with_parameter(cmdline, "x=1"), expected);
        }
    }
}
