//! The library's vCPUs: pause, resume, kick and a look into them, on guests of a few instructions.

use std::num::NonZeroU8;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use coopvirt::config::{ConsoleKind, Kernel, MachineConfig, Mode};
use coopvirt::machine::{ConsoleEnds, Gauges, Machine};
use coopvirt::mark_log::MarkLog;
use coopvirt::mem::Backing;
use coopvirt::stop::StopReason;
use coopvirt::vcpu::tally::Kind;
use coopvirt::vcpu::VcpuEvent;
use coopvirt_spec::mark::Mark;
use coopvirt_tests::lab;
use kvm_bindings::kvm_regs;

const LOAD_ADDRESS: u64 = 0x10_0000;
/// Ports and memory that no device claims.
const PORT: u16 = 0x0d00;
const MMIO: u64 = 0xd000_0000;
/// Long for a loop, even under emulation.
const SHORT: Duration = Duration::from_millis(20);
const LIMIT: Duration = Duration::from_secs(30);
/// How often a pause is tried at an unforeseeable instruction.
const PAUSES: u32 = 100;

/// A machine with one vCPU that starts with this code, in 64-bit mode, paused.
fn machine(code: &[u8]) -> Machine {
    machine_seen_by(code, |gauges| Arc::new(MarkLog::new(gauges)))
}

fn machine_seen_by(code: &[u8], observer: impl FnOnce(&Gauges) -> Arc<dyn VcpuEvent>) -> Machine {
    lab::require_kvm();
    let config = MachineConfig {
        coop: Default::default(),
        kernel: Kernel::Code {
            pieces: vec![(LOAD_ADDRESS, code.to_vec())],
        },
        initrd: None,
        cmdline: String::new(),
        vcpus: NonZeroU8::MIN,
        memory_bytes: 16 << 20,
        backing: Backing {
            huge_pages: false,
            prefault: false,
            overcommit: false,
        },
        disks: Vec::new(),
        nets: Vec::new(),
        vsock: None,
        vhost_user_disks: Vec::new(),
        shares: Vec::new(),
        mode: Mode::Kvm,
        x2apic: true,
        kvm_features: 0,
        halt_poll_ns: None,
        disable_hlt_exits: false,
        console: ConsoleKind::Serial,
        pin: Vec::new(),
        debug_exit: true,
        balloon: false,
        pci_config_ports: false,
    };
    let console = ConsoleEnds {
        output: Box::new(std::io::sink()),
        stdin: false,
    };
    Machine::build(&config, console, observer).expect("a machine")
}

fn registers(machine: &Machine) -> kvm_regs {
    let vcpu = &machine.vcpus()[0];
    let registers = vcpu
        .on_thread(|fd| fd.get_regs())
        .expect("the vCPU is alive");
    registers.expect("its registers can be read")
}

/// Waits until `done`; panics when the time is over.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < LIMIT, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Counts in RCX for ever, without an exit: 1: inc rcx; jmp 1b
const COUNT: &[u8] = &[0x48, 0xff, 0xc1, 0xeb, 0xfb];

#[test]
fn a_machine_is_built_paused() {
    let machine = machine(COUNT);
    thread::sleep(SHORT);
    let registers = registers(&machine);
    assert_eq!((registers.rip, registers.rcx), (LOAD_ADDRESS, 0));
}

#[test]
fn pause_stops_the_guest_and_resume_continues_it() {
    let machine = machine(COUNT);
    let mut before = 0;
    for _ in 0..20 {
        machine.resume();
        wait_until("the guest does not count", || {
            registers(&machine).rcx > before + 1000
        });
        machine.pause();
        before = registers(&machine).rcx;
        thread::sleep(SHORT);
        assert_eq!(registers(&machine).rcx, before, "counted while paused");
    }
    // Pausing what is paused, and resuming what runs, changes nothing.
    machine.pause();
    machine.pause();
    assert_eq!(registers(&machine).rcx, before);
    machine.resume();
    machine.resume();
    wait_until("the guest does not count", || {
        registers(&machine).rcx > before
    });
    machine.shut_down();
}

#[test]
fn a_look_into_a_running_guest_does_not_stop_it() {
    let machine = machine(COUNT);
    machine.resume();
    let mut last = 0;
    for _ in 0..50 {
        wait_until("the guest does not count", || {
            registers(&machine).rcx > last
        });
        let registers = registers(&machine);
        assert!((LOAD_ADDRESS..LOAD_ADDRESS + 5).contains(&registers.rip));
        last = registers.rcx;
    }
}

#[test]
fn kicks_do_not_disturb_the_guest() {
    let machine = machine(COUNT);
    machine.resume();
    wait_until("the guest does not count", || registers(&machine).rcx > 0);
    for _ in 0..500 {
        machine.vcpus()[0].kick();
    }
    let before = registers(&machine).rcx;
    wait_until("the guest does not count", || {
        registers(&machine).rcx > before
    });
    assert_eq!(machine.wait(Some(SHORT)), None, "it has not ended either");
    // A paused guest stays paused.
    machine.pause();
    let paused = registers(&machine).rcx;
    machine.vcpus()[0].kick();
    thread::sleep(SHORT);
    assert_eq!(registers(&machine).rcx, paused);
}

/// Pauses a loop of "one exit, then inc rcx" again and again. `after` is the offset behind the
/// instruction that exits: there, one more exit has been counted than RCX says; elsewhere, as
/// many. An exit that was not completed would have been counted with RIP still before it.
fn is_never_between(code: &[u8], after: u64, kind: Kind, answer: Option<u64>) {
    let machine = machine(code);
    let mut nr_after = 0;
    let mut last = 0;
    for _ in 0..PAUSES {
        machine.resume();
        wait_until("the guest makes no exits", || {
            machine.gauges().tallies[0].total() > last
        });
        machine.pause();
        last = machine.gauges().tallies[0].total();
        let counted = machine.gauges().tallies[0]
            .kinds()
            .get(&kind)
            .copied()
            .unwrap_or(0);
        let registers = registers(&machine);
        let is_after = registers.rip == LOAD_ADDRESS + after;
        let expected = registers.rcx + u64::from(is_after);
        assert_eq!(counted, expected, "paused at {:#x}", registers.rip);
        if is_after {
            nr_after += 1;
            if let Some(answer) = answer {
                assert_eq!(registers.rax, answer, "the answer has reached the guest");
            }
        }
    }
    assert!(
        nr_after > 0,
        "no pause came upon an exit: the test has shown nothing"
    );
}

#[test]
fn a_pause_completes_a_port_write() {
    // mov edx, PORT; 1: out dx, al; inc rcx; jmp 1b
    let mut code = vec![0xba];
    code.extend(u32::from(PORT).to_le_bytes());
    code.extend([0xee, 0x48, 0xff, 0xc1, 0xeb, 0xfa]);
    is_never_between(&code, 6, Kind::PortOut(PORT), None);
}

#[test]
fn a_pause_completes_a_port_read() {
    // mov edx, PORT; 1: xor eax, eax; in al, dx; inc rcx; jmp 1b
    let mut code = vec![0xba];
    code.extend(u32::from(PORT).to_le_bytes());
    code.extend([0x31, 0xc0, 0xec, 0x48, 0xff, 0xc1, 0xeb, 0xf8]);
    is_never_between(&code, 8, Kind::PortIn(PORT), Some(0xff));
}

#[test]
fn a_pause_completes_an_mmio_read() {
    // mov ebx, MMIO; 1: xor eax, eax; mov eax, [rbx]; inc rcx; jmp 1b
    let mut code = vec![0xbb];
    code.extend(u32::try_from(MMIO).expect("below 4 GiB").to_le_bytes());
    code.extend([0x31, 0xc0, 0x8b, 0x03, 0x48, 0xff, 0xc1, 0xeb, 0xf7]);
    is_never_between(&code, 9, Kind::MmioRead(MMIO), Some(0xffff_ffff));
}

#[test]
fn a_guest_ends_with_its_own_code() {
    // mov al, 7; out 0xf4, al; 1: hlt; jmp 1b
    let machine = machine(&[0xb0, 7, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd]);
    machine.resume();
    assert_eq!(machine.wait(Some(LIMIT)), Some(StopReason::GuestExit(7)));
    machine.shut_down();
}

#[test]
fn a_halted_guest_can_be_paused_and_stopped() {
    // cli; 1: hlt; jmp 1b
    let machine = machine(&[0xfa, 0xf4, 0xeb, 0xfd]);
    machine.resume();
    thread::sleep(SHORT);
    machine.pause();
    assert_eq!(machine.wait(Some(SHORT)), None);
    machine.resume();
    machine.shut_down();
}

/// Holds up whoever makes a mark.
struct Holdup {
    reached: Sender<()>,
    release: Mutex<Receiver<()>>,
}

impl VcpuEvent for Holdup {
    fn mark(&self, _vcpu: u8, _mark: Mark) {
        let _ = self.reached.send(());
        let _ = self.release.lock().map(|release| release.recv());
    }
}

#[test]
fn a_vcpu_that_does_not_come_back_from_its_exit_does_not_keep_the_machine() {
    // mov dx, 0xd0c; mov eax, 0x01000001; out dx, eax; 1: hlt; jmp 1b
    let code = [
        0x66, 0xba, 0x0c, 0x0d, 0xb8, 0x01, 0x00, 0x00, 0x01, 0xef, 0xf4, 0xeb, 0xfd,
    ];
    let (reached, is_reached) = channel();
    let (_hold, release) = channel();
    let release = Mutex::new(release);
    let machine = machine_seen_by(&code, |_| Arc::new(Holdup { reached, release }));
    machine.resume();
    is_reached.recv_timeout(LIMIT).expect("the guest's mark");
    let started = Instant::now();
    machine.end();
    machine.shut_down();
    let took = started.elapsed();
    assert!(took < Duration::from_secs(60), "{took:?}");
}
