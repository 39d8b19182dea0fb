//! Looks at this machine.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::path::Path;

use kvm_ioctls::Kvm;
use vhost::vhost_kern::net::Net;
use vhost::vhost_kern::vsock::Vsock;
use vhost::VhostBackend;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::capabilities::CAPABILITIES;
use super::findings::{Denied, Findings, Usable};
use crate::account::backend::{Backend, Inputs};
use crate::account::trace::kallsyms;
use crate::account::tracer::{Tracer, TracerOptions};

/// Parameters that matter for exits.
const PARAMETERS: [&str; 12] = [
    "kvm.halt_poll_ns",
    "kvm.halt_poll_ns_grow",
    "kvm.halt_poll_ns_shrink",
    "kvm.enable_pmu",
    "kvm_amd.npt",
    "kvm_amd.avic",
    "kvm_amd.vgif",
    "kvm_amd.nested",
    "kvm_intel.ept",
    "kvm_intel.enable_apicv",
    "kvm_intel.preemption_timer",
    "kvm_intel.nested",
];

/// A VHOST_GET_FEATURES bit that tells modern devices (VIRTIO_F_VERSION_1).
const VIRTIO_F_VERSION_1: u64 = 1 << 32;

/// Finds out everything.
pub fn probe() -> Findings {
    let backend_inputs = Inputs::probe();
    let kvm = open_device("/dev/kvm");
    let opened = kvm.as_ref().ok().and_then(|_| Kvm::new().ok());
    Findings {
        cpu_model: cpu_model(),
        nr_cpus: std::thread::available_parallelism().map_or(1, usize::from),
        kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
        backend: Backend::of(&backend_inputs),
        cpu_flags: backend_inputs.cpu_flags,
        kvm_api: opened.as_ref().map(Kvm::get_api_version),
        capabilities: opened.as_ref().and_then(capabilities),
        kvm,
        kvm_parameters: kvm_parameters(),
        tracing: tracing(),
        tick_attribution: kallsyms::timer_functions()
            .map(|functions| format!("callbacks found ({:#x})", functions.host_tick)),
        vhost_net: vhost_features(|mem| Net::new(mem)?.get_features()),
        vhost_vsock: vhost_features(|mem| Vsock::new(mem)?.get_features()),
        tun: open_device("/dev/net/tun"),
        thp: read("/sys/kernel/mm/transparent_hugepage/enabled").map(|modes| chosen(&modes)),
        huge_pages: huge_pages(),
        memory_available_mib: memory_available_mib(),
        clocksource: read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
    }
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_string())
}

fn open_device(path: &str) -> Usable {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Ok("opens".into()),
        Err(error) => Err(denied(&error)),
    }
}

fn denied(error: &std::io::Error) -> Denied {
    match error.kind() {
        ErrorKind::NotFound => Denied::Absent,
        ErrorKind::PermissionDenied => Denied::NoPermission,
        // A device node whose module is not there.
        _ if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) => Denied::Absent,
        _ => Denied::Other(error.to_string()),
    }
}

/// Some capabilities depend on the VM's type, so an empty VM is asked where one can be made.
fn capabilities(kvm: &Kvm) -> Option<BTreeMap<u32, i32>> {
    let vm = kvm.create_vm().ok();
    let ask = |number: u32| match &vm {
        Some(vm) => vm.check_extension_raw(number.into()),
        None => kvm.check_extension_raw(number.into()),
    };
    Some(
        CAPABILITIES
            .iter()
            .map(|c| (c.number, ask(c.number)))
            .collect(),
    )
}

fn kvm_parameters() -> BTreeMap<String, String> {
    let value = |name: &&str| {
        let (module, parameter) = name.split_once('.')?;
        let path = Path::new("/sys/module")
            .join(module)
            .join("parameters")
            .join(parameter);
        Some((name.to_string(), read(path)?))
    };
    PARAMETERS.iter().filter_map(value).collect()
}

/// The only sure way to know whether tracing works is to trace.
fn tracing() -> Result<String, String> {
    let options = TracerOptions {
        ring_bytes: 64 << 10,
        ..TracerOptions::default()
    };
    let tracer = Tracer::start(options).map_err(|error| with_sources(&error))?;
    tracer.finish().map_err(|error| with_sources(&error))?;
    Ok("exits can be traced on all CPUs".into())
}

/// An error and what it comes from, in one line.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

fn vhost_features<F>(features: F) -> Usable
where
    F: Fn(std::sync::Arc<GuestMemoryMmap>) -> vhost::Result<u64>,
{
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4096)])
        .map_err(|error| Denied::Other(error.to_string()))?;
    match features(std::sync::Arc::new(memory)) {
        Ok(bits) => {
            let modern = if bits & VIRTIO_F_VERSION_1 != 0 {
                "virtio 1"
            } else {
                "legacy only"
            };
            Ok(format!("opens, features {bits:#x} ({modern})"))
        }
        Err(vhost::Error::VhostOpen(error) | vhost::Error::IoctlError(error)) => {
            Err(denied(&error))
        }
        Err(error) => Err(Denied::Other(error.to_string())),
    }
}

fn cpu_model() -> String {
    let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let model = line
        .and_then(|line| line.split_once(':'))
        .map_or("unknown", |(_, model)| model);
    model.trim().to_string()
}

/// "always [madvise] never" says madvise.
fn chosen(modes: &str) -> String {
    let inside = modes
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    inside.map_or(modes, |(mode, _)| mode).to_string()
}

fn huge_pages() -> Option<(u64, u64)> {
    let pool = Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB");
    let number = |name: &str| read(pool.join(name))?.parse().ok();
    Some((number("nr_hugepages")?, number("free_hugepages")?))
}

fn memory_available_mib() -> Option<u64> {
    let meminfo = read("/proc/meminfo")?;
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_mode_stands_in_brackets() {
        assert_eq!(chosen("always [madvise] never"), "madvise");
        assert_eq!(chosen("odd"), "odd");
    }

    #[test]
    fn a_device_without_its_module_is_absent() {
        let error = std::io::Error::from_raw_os_error(libc::ENODEV);
        assert_eq!(denied(&error), Denied::Absent);
        let error = std::io::Error::from_raw_os_error(libc::EACCES);
        assert_eq!(denied(&error), Denied::NoPermission);
    }
}
