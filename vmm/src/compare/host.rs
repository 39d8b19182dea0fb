//! What is known of the host: its kernel, CPU, TSC frequency, backend, and the peer's version.
//!
//! Read once by [`super::session`]; whatever cannot be read is named "unknown", except the TSC
//! frequency, whose absence fails the arms that need it.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use kvm_bindings::{KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_HLT};
use kvm_ioctls::Kvm;

use super::model::Host;
use super::records;
use crate::account::backend::Backend;

/// Reads all of it. Call before any pinning: the CPUs counted are those this program may use.
pub fn read(qemu: Option<&Path>) -> Host {
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    let backend = Backend::probe();
    Host {
        is_emulated: backend.emulated || std::env::var_os("COOPVIRT_LAB").is_some(),
        backend: backend.name,
        kernel: kernel_release(),
        cpu: cpu_model(),
        cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
        peer: qemu.map(version_of),
    }
}

/// The running kernel's release, as `uname -r` says it.
pub fn kernel_release() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease");
    text.map_or_else(|_| "unknown".into(), |text| records::clean(&text))
}

/// Why this program cannot be run, if so.
pub fn program_problem(program: &Path) -> Option<String> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!(
            "{} --version ended with {}",
            program.display(),
            output.status
        )),
        Err(error) => Some(format!(
            "{} does not run: {error} (--qemu names another)",
            program.display()
        )),
    }
}

/// Whether KVM lets a guest halt without an exit; `None` without KVM.
pub fn can_halt_inside() -> Option<bool> {
    let can = Kvm::new()
        .ok()?
        .check_extension_raw(KVM_CAP_X86_DISABLE_EXITS.into());
    let halt = i32::try_from(KVM_X86_DISABLE_EXITS_HLT).ok()?;
    Some(can & halt != 0)
}

/// The frequency of the TSC that a new VM sees.
pub fn tsc_khz() -> Result<u32> {
    let kvm = Kvm::new().context("cannot open /dev/kvm")?;
    let vm = kvm.create_vm().context("cannot create a VM")?;
    let vcpu = vm.create_vcpu(0).context("cannot create a vCPU")?;
    vcpu.get_tsc_khz().context("cannot read the TSC frequency")
}

/// Size and FNV-1a hash of a file, to tell whether it is still the same.
pub fn file_id(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut buffer = vec![0; 1 << 20];
    let (mut size, mut hash) = (0u64, 0xcbf2_9ce4_8422_2325_u64);
    loop {
        let n = file
            .read(&mut buffer)
            .with_context(|| format!("cannot read {}", path.display()))?;
        if n == 0 {
            return Ok(format!("{size}-{hash:016x}"));
        }
        size += n as u64;
        for byte in &buffer[..n] {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or_else(|| "unknown".into(), |(_, name)| records::clean(name))
}

fn version_of(program: &Path) -> String {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    match text.as_deref().ok().and_then(|text| text.lines().next()) {
        Some(line) => records::clean(line),
        None => format!("{} does not run", program.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::disk::TempFolder;

    #[test]
    fn file_ids_have_size_and_hash() {
        let folder = TempFolder::new().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "a").unwrap();
        // The published FNV-1a value for "a".
        assert_eq!(file_id(&path).unwrap(), "1-af63dc4c8601ec8c");
        assert!(file_id(&folder.path().join("none")).is_err());
    }

    #[test]
    fn a_missing_peer_is_named() {
        assert!(version_of(Path::new("/nowhere/qemu")).contains("does not run"));
        let problem = program_problem(Path::new("/nowhere/qemu")).unwrap();
        assert!(problem.contains("--qemu names another"), "{problem}");
        assert_eq!(program_problem(Path::new("/bin/true")), None);
        assert!(program_problem(Path::new("/bin/false")).is_some());
    }
}
