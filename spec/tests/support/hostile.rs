//! A guest that does anything: the body of the fuzzer, and of the test that runs it on kept and on
//! random inputs.
//!
//! The input is a script. Each step is an opcode byte and its operands; what is missing reads as
//! zero. The machine asserts its own rules; what is asserted here is that it stays within bounds.

use coopvirt_spec::mem::{Load, SharedMem, Store};
use coopvirt_spec::page::at;
use coopvirt_spec::version::Features;

use super::machine::{Machine, BUDGET, NR_PAGES, NR_VCPUS};

/// Runs one script.
pub(crate) fn run(script: &[u8]) {
    let mut input = Input(script);
    let mut machine = Machine::new(Features(u64::MAX));
    machine.register(0, 2);
    let mut steps = 0;
    while !input.0.is_empty() && steps < 512 {
        steps += 1;
        step(&mut machine, &mut input);
        check(&machine, steps);
    }
    // Whatever has happened: after a reset a well-behaved guest finds everything working.
    for cpu in 0..NR_VCPUS {
        machine.reset(cpu);
    }
    for word in machine.ram.iter() {
        word.store(0, std::sync::atomic::Ordering::Relaxed);
    }
    machine.register(1, 3);
    let call = coopvirt_spec::op::EchoArgs { value: 7 }.submission(1);
    let mem = machine.area(1).expect("registered");
    mem.write_words(1024, &call.to_words());
    mem.store_u32(at::SUBMISSION_TAIL, 1, Store::Release);
    machine.sync_bell(1);
    let mem = machine.area(1).expect("registered");
    assert_eq!(mem.load_u32(at::COMPLETION_TAIL, Load::Acquire), 1);
    assert_eq!(mem.load_u64(3072 + 16, Load::Relaxed), 7);
}

fn step(machine: &mut Machine, input: &mut Input<'_>) {
    let what = input.byte();
    let cpu = usize::from(input.byte()) % NR_VCPUS;
    match what % 16 {
        0 | 1 => {
            let offset = u32::from(input.byte() % 5);
            let value = input.word();
            machine.write_msr(cpu, offset, value);
        }
        // Registers a page that exists, with whatever was negotiated.
        2 => {
            machine.write_msr(cpu, 1, input.word());
            let page = u64::from(input.byte()) % (NR_PAGES + 2);
            machine.write_msr(cpu, 2, (page * 4096) | 1);
        }
        3 => machine.sync_bell(cpu),
        4 => machine.poll(),
        5 => machine.sleep(),
        6 => machine.advance(u64::from(input.byte()) * 97),
        7 => machine.rewrite_tsc(input.word()),
        8 => machine.reset(cpu),
        // Any word of memory.
        9 | 10 => {
            let offset = usize::try_from(input.word() % (NR_PAGES * 512)).expect("small") * 8;
            let value = input.word();
            machine.memory().store_u64(offset, value, Store::Relaxed);
        }
        // A word of the area's control lines.
        11 => poke(machine, cpu, input),
        // A call, well formed or not, and its tail.
        _ => submit(machine, cpu, what, input),
    }
}

fn poke(machine: &Machine, cpu: usize, input: &mut Input<'_>) {
    let Some(mem) = machine.area(cpu) else {
        return;
    };
    let offset = usize::from(input.byte()) * 4;
    let value = input.word().to_le_bytes();
    let low = u32::from_le_bytes([value[0], value[1], value[2], value[3]]);
    mem.store_u32(offset, low, Store::Relaxed);
}

fn submit(machine: &Machine, cpu: usize, what: u8, input: &mut Input<'_>) {
    let Some(mem) = machine.area(cpu) else {
        return;
    };
    let tail = mem.load_u32(at::SUBMISSION_TAIL, Load::Relaxed);
    let slot = 1024 + 64 * (tail % 32) as usize;
    let operations = coopvirt_spec::op::OPERATIONS;
    let opcode = operations[usize::from(input.byte()) % operations.len()]
        .opcode
        .0;
    mem.store_u64(
        slot,
        u64::from(opcode) | u64::from(what & 16) << 12,
        Store::Relaxed,
    );
    for word in 1..8 {
        let value = match input.byte() {
            0..=127 => 0,
            128..=191 => u64::from(input.byte()),
            192..=223 => u64::from(input.byte() % 20) * 4096,
            _ => input.word(),
        };
        mem.store_u64(slot + word * 8, value, Store::Relaxed);
    }
    mem.store_u32(at::SUBMISSION_TAIL, tail.wrapping_add(1), Store::Release);
}

/// Nothing that a guest does may cost more than its steps are worth.
fn check(machine: &Machine, steps: u64) {
    let looks = steps * NR_VCPUS as u64 * 2;
    assert!(machine.submissions_taken <= looks * u64::from(BUDGET));
    for vcpu in &machine.vcpus {
        assert_eq!(vcpu.ring.in_flight(), 0);
        let limit = looks * u64::from(BUDGET + 1);
        assert!(vcpu.interrupts.len() as u64 <= limit);
        assert!(vcpu.interrupts.iter().all(|vector| *vector >= 16));
    }
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                *byte
            }
            None => 0,
        }
    }

    fn word(&mut self) -> u64 {
        u64::from_le_bytes([(); 8].map(|()| self.byte()))
    }
}
