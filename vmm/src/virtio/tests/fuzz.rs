//! A fuzzer of each device: bytes are what a guest and the world around it do, step by step. Kept inputs first, then
//! others for some seconds, as the fuzzer of the specification does it (`spec/tests/hostile.rs`).
//!
//! `COOPVIRT_FUZZ_SECONDS` says how long for each device (1 otherwise), `COOPVIRT_FUZZ_SEED` with which scripts: a run that
//! failed has printed its seed. What did harm is kept in `vmm/fuzz/corpus/DEVICE`, where every later run finds it.
//!
//! Harm is a panic (of the device, or of the rig when the I/O thread never gets idle), an image that grows, a device that a
//! reset and a proper driver do not bring back, and a script that takes longer than [`SOON`].

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use vm_memory::{Bytes, GuestAddress};

use self::scripts::{fuzz, read_kept, Plan};
use super::machines::{Kind, Machine, IMAGE_BYTES};
use super::rig::{Ring, BUFFERS, F_EVENT_IDX, MMIO_BASE, NEXT, RAM_BYTES, WRITE};

#[path = "../../../../spec/tests/support/fuzz.rs"]
mod scripts;
#[path = "../../../../spec/tests/support/mod.rs"]
mod support;

const SECONDS: u64 = 1;
/// A script has at most so many steps, each of them one turn of the I/O thread at most.
const MAX_STEPS: usize = 400;
/// Generous: debug builds on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// Bytes that are read once; zeros behind their end.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        let [first, rest @ ..] = self.0 else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn below(&mut self, end: u64) -> u64 {
        u64::from(self.byte()) % end
    }

    fn word<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.word())
    }

    fn size(&mut self) -> u16 {
        [16, 1, 2, 4, 64, 256, 16, 1024][self.below(8) as usize]
    }

    /// A length: often a small one, at times any.
    fn len(&mut self) -> u32 {
        match self.below(4) {
            0 => u32::from_le_bytes(self.word()),
            1 => 512 * u32::from(self.byte()),
            2 => u32::from(self.u16()),
            _ => u32::from(self.byte()),
        }
    }

    /// An address: mostly in memory, at times in a ring or at a limit.
    fn address(&mut self, ring: &Ring) -> u64 {
        match self.below(8) {
            0 => u64::from_le_bytes(self.word()),
            1 => RAM_BYTES - u64::from(self.byte()),
            2 => ring.descriptors + 16 * self.below(0x100),
            3 => [ring.avail, ring.used, 0, MMIO_BASE][self.below(4) as usize],
            4 => BUFFERS + 0x1000 * self.below(64),
            _ => BUFFERS + 0x100 * self.below(16),
        }
    }
}

/// One script against a new machine.
fn run(kind: Kind, script: &[u8]) {
    let started = Instant::now();
    let mut machine = Machine::new(kind);
    machine.rig.start(0, 16);
    let mut script = Script(script);
    for _ in 0..MAX_STEPS {
        if script.0.is_empty() {
            break;
        }
        step(&mut machine, &mut script);
    }
    machine.assert_recovers();
    if let Some(image) = &machine.image {
        assert_eq!(image.as_file().metadata().unwrap().len(), IMAGE_BYTES);
    }
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
}

fn step(machine: &mut Machine, script: &mut Script) {
    let queue = script.below(machine.rig.queues.len() as u64) as usize;
    match script.byte() % 16 {
        0 => start(machine, script),
        // Registers.
        1 => write(machine, script, 0, 0x40),
        2 => write(machine, script, 0x4000, 0x100),
        3 => write(machine, script, 0x2000, 0x80),
        4 => write(machine, script, 0, 0x8000),
        5 => {
            let (offset, value) = (script.byte(), script.word::<4>());
            let len = [1, 2, 4][script.below(3) as usize];
            machine.rig.set_config(offset.into(), &value[..len]);
        }
        // Rings.
        6 | 7 => {
            let ring = machine.rig.queues[queue];
            let index = script.byte() % ring.size.min(255) as u8;
            let flags = [0, NEXT, WRITE, NEXT | WRITE, 4, 7, 4 | WRITE, 0xfff8];
            let flags = flags[script.below(8) as usize];
            let (address, len) = (script.address(&ring), script.len());
            let next = u16::from(script.byte());
            ring.describe(&machine.rig.ram, index.into(), (address, len, flags, next));
        }
        8 => {
            let ram = machine.rig.ram.clone();
            machine.rig.queues[queue].offer(&ram, u16::from(script.byte()));
        }
        9 => {
            let ring = machine.rig.queues[queue];
            let place = [ring.avail, ring.avail + 2, ring.used, ring.used + 2];
            let at = place[script.below(4) as usize];
            machine.rig.put(at, &script.word::<2>());
        }
        // Memory, such as a request's header.
        10 | 11 => {
            let at = GuestAddress(BUFFERS + 0x100 * script.below(16));
            let bytes = script.word::<16>();
            machine.rig.ram.write_slice(&bytes, at).unwrap();
        }
        // A chain as a driver makes it.
        12 | 13 => {
            let ring = machine.rig.queues[queue];
            let count = 1 + script.below(u64::from(ring.size).min(4));
            let buffers: Vec<_> = (0..count)
                .map(|_| (script.address(&ring), script.len(), script.below(2) == 1))
                .collect();
            machine.rig.add(queue, &buffers);
            ring_bell(machine, queue);
        }
        14 => ring_bell(machine, queue),
        _ => outside(machine, script),
    }
}

/// The whole way of a driver, whatever was before.
fn start(machine: &mut Machine, script: &mut Script) {
    machine.put_back();
    let rig = &mut machine.rig;
    let features = [0, F_EVENT_IDX, u64::MAX][script.below(3) as usize];
    let size = script.size();
    let offered = rig.offered_features();
    rig.start(features & offered, size);
}

/// A write to some register of the BAR's structure at `page`, then a read.
fn write(machine: &mut Machine, script: &mut Script, page: u64, len_bytes: u64) {
    let offset = page + u64::from(script.u16()) % len_bytes;
    let value = script.word::<8>();
    let len = [1, 2, 4, 8][script.below(4) as usize];
    let root = &machine.rig.root;
    root.mmio_write(MMIO_BASE + offset, &value[..len]);
    root.mmio_read(MMIO_BASE + offset, &mut [0; 8][..len]);
    machine.rig.run();
}

/// A notification, by whichever way it comes.
fn ring_bell(machine: &mut Machine, queue: usize) {
    let gpa = MMIO_BASE + 0x3000 + 4 * queue as u64;
    let rig = &mut machine.rig;
    if !rig.doorbells.ring(gpa) {
        rig.root.mmio_write(gpa, &(queue as u16).to_le_bytes());
    }
    rig.run();
}

/// What happens on the host's side: somebody types, a packet comes or is taken, a program connects or ends.
fn outside(machine: &mut Machine, script: &mut Script) {
    if let Some(input) = &machine.input {
        input.push(&script.word::<32>());
    }
    if let Some(peer) = &machine.peer {
        let packet = script.word::<96>();
        let len = 12 + script.below(84) as usize;
        // Full or empty: then nothing happens.
        let _ = peer.send(&packet[..len]);
        let _ = peer.recv(&mut [0; 256]);
    }
    if let Some(sockets) = &mut machine.sockets {
        sockets.stir(script.byte());
    }
    machine.rig.run();
}

fn number_from(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name)
}

fn fuzz_device(kind: Kind, name: &str) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs());
    let plan = Plan {
        seed: number_from("COOPVIRT_FUZZ_SEED").unwrap_or(now),
        time: Duration::from_secs(number_from("COOPVIRT_FUZZ_SECONDS").unwrap_or(SECONDS)),
        keep_in: corpus(name),
    };
    let kept = read_kept(&plan.keep_in);
    assert!(!kept.is_empty(), "the corpus is empty");
    for (path, input) in &kept {
        eprintln!("{}", path.display());
        run(kind, input);
    }
    let kept: Vec<_> = kept.into_iter().map(|(_, input)| input).collect();
    eprintln!("{name}: COOPVIRT_FUZZ_SEED={}", plan.seed);
    let count = fuzz(&plan, &kept, |script| run(kind, script));
    eprintln!(
        "{name}: {count} scripts in {} s did no harm",
        plan.time.as_secs()
    );
    assert!(count > 0 || plan.time.is_zero());
}

#[test]
fn fuzz_blk_sync() {
    fuzz_device(Kind::BlkSync, "blk");
}

#[test]
fn fuzz_blk_uring() {
    fuzz_device(Kind::BlkUring, "blk");
}

#[test]
fn fuzz_blk_served() {
    fuzz_device(Kind::BlkServed, "blk");
}

#[test]
fn fuzz_blk_lost() {
    fuzz_device(Kind::BlkLost, "blk");
}

#[test]
fn fuzz_console() {
    fuzz_device(Kind::Console, "console");
}

#[test]
fn fuzz_rng() {
    fuzz_device(Kind::Rng, "rng");
}

#[test]
fn fuzz_net() {
    fuzz_device(Kind::Net, "net");
}

#[test]
fn fuzz_balloon() {
    fuzz_device(Kind::Balloon, "balloon");
}

#[test]
fn fuzz_vsock() {
    fuzz_device(Kind::Vsock, "vsock");
}

#[test]
fn fuzz_vsock_unix() {
    fuzz_device(Kind::VsockUnix, "vsock-unix");
}

/// The kept inputs do reach the devices' own work: without this, a fuzzer of refused chains would pass too.
#[test]
fn kept_inputs_are_served() {
    for (kind, name) in [
        (Kind::BlkSync, "blk"),
        (Kind::BlkUring, "blk"),
        (Kind::BlkLost, "blk"),
        (Kind::Console, "console"),
        (Kind::Rng, "rng"),
        (Kind::Net, "net"),
        (Kind::Balloon, "balloon"),
        (Kind::VsockUnix, "vsock-unix"),
    ] {
        let (_, input) = read_kept(&corpus(name)).swap_remove(0);
        let mut machine = Machine::new(kind);
        machine.rig.start(0, 16);
        let mut script = Script(&input);
        while !script.0.is_empty() {
            step(&mut machine, &mut script);
        }
        let rig = &mut machine.rig;
        let answered = (0..rig.queues.len()).filter(|&queue| rig.take_used(queue).is_some());
        assert!(answered.count() > 0, "{kind:?}: nothing was given back");
        assert_eq!(rig.status(), 15, "{kind:?}");
    }
}
