//! Queues that somebody else serves: what they are given, and that notifications and interrupts
//! pass this process by.

use std::sync::{Arc, Mutex};

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::rig::{Rig, RAM_BYTES};
use crate::virtio::{DeviceQueue, HandedQueue, Progress, QueueError, VirtioDevice};

const NEEDS_RESET: u8 = 0x40;

/// What the other server holds.
struct Given {
    index: usize,
    addresses: [u64; 3],
    kick: EventFd,
    call: EventFd,
}

/// Two queues, of which the second is served elsewhere.
#[derive(Default)]
struct Half {
    given: Arc<Mutex<Vec<Given>>>,
    refuses: bool,
    failure: Option<Arc<EventFd>>,
    has_failed: bool,
}

impl VirtioDevice for Half {
    fn device_type(&self) -> u16 {
        1
    }
    fn name(&self) -> &str {
        "half"
    }
    fn pci_class(&self) -> u32 {
        0x02_00_00
    }
    fn features(&self) -> u64 {
        0
    }
    fn queue_sizes(&self) -> Vec<u16> {
        vec![16; 2]
    }
    fn config_read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }
    fn process(
        &mut self,
        index: usize,
        _queue: &mut DeviceQueue,
        _ram: &GuestMemoryMmap<()>,
    ) -> Result<Progress, QueueError> {
        assert_eq!(index, 0, "the other queue is not ours");
        Ok(Progress::Drained)
    }
    fn is_served_elsewhere(&self, index: usize) -> bool {
        index == 1
    }
    fn host_event(&self) -> Option<Arc<EventFd>> {
        self.failure.clone()
    }
    fn host_event_came(&mut self) {
        self.has_failed = true;
    }
    fn has_failed_elsewhere(&self) -> bool {
        self.has_failed
    }
    fn hand_over(&mut self, _features: u64, queues: &[HandedQueue<'_>]) -> Result<(), QueueError> {
        if self.refuses {
            return Err(QueueError::Backend("no".into()));
        }
        let given = queues.iter().map(|queue| Given {
            index: queue.index,
            addresses: [queue.descriptors, queue.avail, queue.used],
            kick: queue.kick.try_clone().unwrap(),
            call: queue.call.try_clone().unwrap(),
        });
        self.given.lock().unwrap().extend(given);
        Ok(())
    }
}

fn started() -> (Rig, Given) {
    let device = Half::default();
    let given = device.given.clone();
    let mut rig = Rig::new(device);
    rig.start(0, 16);
    let mut given = given.lock().unwrap();
    assert_eq!(given.len(), 1);
    let given = given.remove(0);
    (rig, given)
}

#[test]
fn server_gets_the_ring_and_the_notifications() {
    let (mut rig, given) = started();
    let ring = rig.queues[1];
    assert_eq!(given.index, 1);
    assert_eq!(given.addresses, [ring.descriptors, ring.avail, ring.used]);
    // The one of the start: what came before needs no notification.
    assert_eq!(given.kick.read().unwrap(), 1);
    rig.notify(1);
    assert_eq!(given.kick.read().unwrap(), 1, "nobody else took it");
    // Which is all that can be counted of it.
    let counts = rig.counters.counts();
    assert_eq!((counts.queues_elsewhere, counts.notifies), (1, 0));
    rig.set_status(0);
    assert_eq!(rig.counters.counts().queues_elsewhere, 0);
}

#[test]
fn interrupts_of_the_server_wait_while_masked() {
    for by_function_mask in [false, true] {
        let (rig, given) = started();
        let set_mask = |masked: bool| {
            if by_function_mask {
                rig.set_config(rig.msix_cap + 3, &[if masked { 0xc0 } else { 0x80 }]);
            } else {
                rig.write(rig.msix_table + 32 + 12, &u32::from(masked).to_le_bytes());
            }
        };
        given.call.write(1).unwrap();
        assert_eq!(rig.interrupts.take(2), 1);
        let bound = rig.interrupts.nr_bound();
        set_mask(true);
        assert_eq!(rig.interrupts.nr_bound(), bound - 1);
        given.call.write(1).unwrap();
        assert_eq!(rig.interrupts.take(2), 0);
        set_mask(false);
        assert_eq!(rig.interrupts.nr_bound(), bound);
        assert_eq!(rig.interrupts.take(2), 1);
    }
}

#[test]
fn server_that_refuses_breaks_its_queues() {
    let mut rig = Rig::new(Half {
        refuses: true,
        ..Default::default()
    });
    rig.negotiate(1 << 32);
    rig.enable_msix();
    let ring = super::rig::Ring::new(1, 16);
    rig.set_up_queue(1, &ring);
    rig.set_status(15);
    assert_eq!(rig.status(), 15 | NEEDS_RESET);
}

#[test]
fn server_that_gives_up_later_needs_a_reset() {
    let failure = Arc::new(EventFd::new(0).unwrap());
    let mut rig = Rig::new(Half {
        failure: Some(failure.clone()),
        ..Default::default()
    });
    rig.start(0, 16);
    assert_eq!(rig.status(), 15);
    assert_eq!(rig.counters.counts().queues_elsewhere, 1);
    failure.write(1).unwrap();
    rig.run();
    assert_eq!(rig.status(), 15 | NEEDS_RESET);
    assert_eq!(rig.counters.counts().queues_elsewhere, 0);
    assert_eq!(rig.interrupts.take(0), 1);
}

#[test]
fn server_never_sees_a_ring_outside_of_memory() {
    let device = Half::default();
    let given = device.given.clone();
    let mut rig = Rig::new(device);
    let good = super::rig::Ring::new(1, 16);
    for outside in [RAM_BYTES - 16, RAM_BYTES, u64::MAX - 0xf] {
        for part in 0..3 {
            let mut ring = good;
            *[&mut ring.descriptors, &mut ring.avail, &mut ring.used][part] = outside;
            rig.negotiate(1 << 32);
            rig.set_up_queue(1, &ring);
            rig.set_status(15);
            assert_eq!(rig.status(), 15 | NEEDS_RESET, "{outside:#x} {part}");
        }
    }
    assert!(given.lock().unwrap().is_empty());
}
