//! A few bytes of guest code whose exits are known beforehand, counted in every way there is.
//!
//! Needs a true KVM and the right to trace; elsewhere it says why it does not run.
#![expect(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]
// UNSAFETY: KVM's memory region takes an address that must stay mapped.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use coopvirt::account::backend::{kernel_release, Backend};
use coopvirt::account::identity::Verdict;
use coopvirt::account::report::{ExitReport, RunFacts};
use coopvirt::account::stats_fd::StatsFd;
use coopvirt::account::tracer::{Tracer, TracerOptions};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// Where the code lies.
const CODE: u64 = 0x1000;
const ROUNDS: u64 = 10_000;

/// Real mode: begin mark (work 5, seq 7), 10,000 times CPUID and one port write, end mark, HLT.
#[rustfmt::skip]
const GUEST: [u8; 38] = [
    0xba, 0x0c, 0x0d,                   // mov dx, 0xd0c
    0x66, 0xb8, 0x07, 0x00, 0x05, 0x01, // mov eax, 0x01050007
    0x66, 0xef,                         // out dx, eax
    0xbe, 0x10, 0x27,                   // mov si, 10000
    0x66, 0x31, 0xc0,                   // again: xor eax, eax
    0x0f, 0xa2,                         // cpuid
    0xba, 0xf8, 0x03,                   // mov dx, 0x3f8
    0xee,                               // out dx, al
    0x4e,                               // dec si
    0x75, 0xf4,                         // jnz again
    0xba, 0x0c, 0x0d,                   // mov dx, 0xd0c
    0x66, 0xb8, 0x07, 0x00, 0x05, 0x02, // mov eax, 0x02050007
    0x66, 0xef,                         // out dx, eax
    0xf4,                               // hlt
];

/// The tracer tells VMs apart by process, so only one test may run a VM at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs the guest under a tracer; `None`, with a reason printed, where that is not possible.
fn run_traced(ring_bytes: usize) -> Option<ExitReport> {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let backend = Backend::probe();
    if !backend.hardware_assisted {
        println!("SKIP: no hardware virtualization here ({})", backend.name);
        return None;
    }
    let tracer = match Tracer::start(TracerOptions {
        ring_bytes,
        ..TracerOptions::default()
    }) {
        Ok(tracer) => tracer,
        Err(error) => {
            println!("SKIP: {error}");
            return None;
        }
    };
    tracer.target(std::process::id());
    let (stats, userspace_exits) = run_guest();
    let facts = RunFacts {
        backend,
        kernel: kernel_release(),
        mode: "test".into(),
        vcpu_stats: Ok(vec![stats]),
        userspace_exits,
    };
    let report = ExitReport::new(facts, tracer.finish().map_err(|error| error.to_string()));
    println!("{}", report.to_text());
    Some(report)
}

fn run_guest() -> (coopvirt::account::stats_fd::Snapshot, BTreeMap<String, u64>) {
    let vm = Kvm::new().unwrap().create_vm().unwrap();
    let memory: GuestMemoryMmap =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(CODE), 0x1000)]).unwrap();
    memory.write_slice(&GUEST, GuestAddress(CODE)).unwrap();
    let host_address = memory.get_host_address(GuestAddress(CODE)).unwrap();
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: CODE,
        memory_size: 0x1000,
        userspace_addr: host_address as u64,
    };
    // SAFETY: `memory` maps that range until the end of this function, and the vCPU goes before.
    unsafe { vm.set_user_memory_region(region).unwrap() };
    let mut vcpu = vm.create_vcpu(0).unwrap();
    let mut sregs = vcpu.get_sregs().unwrap();
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs).unwrap();
    let mut regs = vcpu.get_regs().unwrap();
    (regs.rip, regs.rflags) = (CODE, 2);
    vcpu.set_regs(&regs).unwrap();

    let stats = StatsFd::new(&vcpu).unwrap();
    let mut kinds = BTreeMap::new();
    loop {
        let kind = match vcpu.run().unwrap() {
            VcpuExit::IoOut(port, _) => format!("io out {port:#x}"),
            VcpuExit::Hlt => "hlt".into(),
            other => panic!("the guest went astray: {other:?}"),
        };
        let is_over = kind == "hlt";
        *kinds.entry(kind).or_insert(0) += 1;
        if is_over {
            break;
        }
    }
    (stats.read().unwrap(), kinds)
}

#[test]
fn all_counts_agree_and_the_phase_holds_exactly_its_exits() {
    let Some(report) = run_traced(4 << 20) else {
        return;
    };
    assert_eq!(report.identity.verdict, Verdict::Agree);
    let [phase] = &report.phases[..] else {
        panic!("{} phases", report.phases.len())
    };
    assert_eq!((phase.work, phase.seq), (5, 7));
    assert_eq!(phase.counts.userspace, ROUNDS);
    assert_eq!(phase.counts.by_reason["CPUID"], ROUNDS);
    assert_eq!(phase.counts.by_cause["OUT 0x3f8 serial"], ROUNDS);
    assert!(
        !phase.counts.by_cause.contains_key("OUT 0xd0c mark"),
        "a mark is in no phase"
    );
    let whole = report.whole.expect("traced");
    assert_eq!(whole.by_cause["OUT 0xd0c mark"], 2);
    assert_eq!(whole.by_reason["HLT"], 1);
}

#[test]
fn a_ring_that_is_too_small_is_reported_not_hidden() {
    let Some(report) = run_traced(4096) else {
        return;
    };
    assert!(report.lost > 0);
    assert_eq!(report.identity.verdict, Verdict::Disagree);
}
