//! Tries tracer, marks, stats fd and identity on a VM of our own with a few bytes of code.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]
use std::collections::BTreeMap;

use coopvirt::account::backend::Backend;
use coopvirt::account::names::PcNames;
use coopvirt::account::report::{ExitReport, RunFacts};
use coopvirt::account::stats_fd::StatsFd;
use coopvirt::account::tracer::{Tracer, TracerOptions};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit};

fn main() -> anyhow::Result<()> {
    let tracer = Tracer::start(TracerOptions {
        ring_bytes: std::env::var("RING").map_or(4 << 20, |r| r.parse().unwrap()),
        names: std::sync::Arc::new(PcNames),
        ..Default::default()
    })?;
    tracer.target(std::process::id());
    let kvm = Kvm::new()?;
    let vm = kvm.create_vm()?;
    #[rustfmt::skip]
    let code: &[u8] = &[
        0xba, 0x0c, 0x0d,                          // mov dx, 0xd0c
        0x66, 0xb8, 0x07, 0x00, 0x05, 0x01,        // mov eax, begin work 5 seq 7
        0x66, 0xef,                                // out dx, eax
        0xbe, 0x10, 0x27,                          // mov si, 10000
        0x66, 0x31, 0xc0,                          // l: xor eax, eax
        0x0f, 0xa2,                                // cpuid
        0xba, 0xf8, 0x03,                          // mov dx, 0x3f8
        0xee,                                      // out dx, al
        0x4e,                                      // dec si
        0x75, 0xf4,                                // jnz l
        0xba, 0x0c, 0x0d,                          // mov dx, 0xd0c
        0x66, 0xb8, 0x07, 0x00, 0x05, 0x02,        // mov eax, end
        0x66, 0xef,                                // out dx, eax
        0xf4,                                      // hlt
    ];
    let mut mem = vm_memory::MmapRegion::<()>::new(0x1000)?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0x1000,
        memory_size: 0x1000,
        userspace_addr: mem.as_ptr() as u64,
    };
    unsafe {
        std::ptr::copy_nonoverlapping(code.as_ptr(), mem.as_ptr(), code.len());
        vm.set_user_memory_region(region)?;
    }
    let _ = &mut mem;
    let mut vcpu = vm.create_vcpu(0)?;
    let mut sregs = vcpu.get_sregs()?;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.get_regs()?;
    regs.rip = 0x1000;
    regs.rflags = 2;
    vcpu.set_regs(&regs)?;
    let stats = StatsFd::new(&vcpu)?;
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    let mut returns = 0u64;
    loop {
        let exit = vcpu.run()?;
        returns += 1;
        let kind = match exit {
            VcpuExit::IoOut(port, _) => format!("io out {port:#x}"),
            VcpuExit::Hlt => "hlt".into(),
            other => format!("{other:?}"),
        };
        let end = kind == "hlt"
            || kind.starts_with("Shut")
            || kind.starts_with("Fail")
            || kind.starts_with("Int");
        *kinds.entry(kind).or_default() += 1;
        if end {
            break;
        }
    }
    let snapshot = stats.read()?;
    println!(
        "{:?}",
        snapshot
            .values
            .iter()
            .filter(|(_, v)| **v > 0)
            .collect::<Vec<_>>()
    );
    let trace = tracer.finish()?;
    for phase in &trace.phases {
        println!(
            "phase {} {} {} ns cpu {} ns: {:?}",
            phase.work, phase.seq, phase.elapsed_ns, phase.cpu_ns, phase.counts
        );
    }
    let report = ExitReport::new(
        RunFacts {
            backend: Backend::probe(),
            kernel: "?".into(),
            mode: "own".into(),
            vcpu_stats: Ok(vec![snapshot]),
            userspace_exits: kinds,
        },
        Ok(trace),
    );
    let _ = returns;
    println!("{}", report.to_text());
    Ok(())
}
