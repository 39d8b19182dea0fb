//! What devices count: exactly what the driver did.

use super::blk_rig::{request, rigs, DATA};
use super::rig::{Rig, BUFFERS};
use crate::virtio::{Blk, BlkAccess, Console, DeviceCounts, Rng};

fn ask(rig: &mut Rig) {
    rig.add(0, &[(BUFFERS, 16, true)]);
}

#[test]
fn requests_notifies_and_interrupts_are_counted_once_each() {
    let mut rig = Rig::new(Rng::new());
    rig.start(0, 16);
    // The VMM rings every doorbell itself when a driver starts.
    assert_eq!(rig.counters.counts(), DeviceCounts::default());
    ask(&mut rig);
    rig.notify(0);
    let mut wanted = DeviceCounts {
        requests: 1,
        bytes_to_guest: 16,
        notifies: 1,
        interrupts: 1,
        ..Default::default()
    };
    assert_eq!(rig.counters.counts(), wanted);

    // Three requests for one notify.
    (0..3).for_each(|_| ask(&mut rig));
    rig.notify(0);
    wanted.requests += 3;
    wanted.bytes_to_guest += 48;
    wanted.notifies += 1;
    wanted.notifies_suppressed += 2;
    wanted.interrupts += 1;
    assert_eq!(rig.counters.counts(), wanted);

    // Two notifies before the device looks, for nothing.
    let gpa = rig.notify_gpa(0);
    assert!(rig.doorbells.ring(gpa) && rig.doorbells.ring(gpa));
    rig.run();
    wanted.notifies += 2;
    wanted.notifies_suppressed = 0;
    assert_eq!(rig.counters.counts(), wanted);

    // A driver that wants no interrupt: VIRTQ_AVAIL_F_NO_INTERRUPT.
    rig.put(rig.queues[0].avail, &1_u16.to_le_bytes());
    ask(&mut rig);
    rig.notify(0);
    wanted.requests += 1;
    wanted.bytes_to_guest += 16;
    wanted.notifies += 1;
    wanted.interrupts_suppressed += 1;
    assert_eq!(rig.counters.counts(), wanted);

    // They go on over a reset.
    rig.start(0, 16);
    assert_eq!(rig.counters.counts(), wanted);
}

#[test]
fn bytes_of_a_buffer_that_is_put_back_count_when_it_is_taken_again() {
    let (device, _input, output) = Console::new(Box::new(std::io::sink())).unwrap();
    let mut rig = Rig::new(device);
    rig.start(0, 16);
    // More than the console holds for its writer, so that some are put back.
    for _ in 0..8 {
        rig.add(1, &[(BUFFERS, 64 << 10, false)]);
    }
    rig.notify(1);
    while rig.counters.counts().requests < 8 {
        rig.run_blocking();
    }
    assert!(output.finish(std::time::Duration::from_secs(5)));
    let counts = rig.counters.counts();
    assert_eq!(counts.bytes_from_guest, 8 * (64 << 10));
    assert_eq!((counts.requests, counts.notifies), (8, 1));
}

#[test]
fn what_the_kernel_finishes_is_no_notify() {
    for (mut rig, _file) in rigs(64, BlkAccess::ReadWrite) {
        // Without FLUSH, so that each write goes to the medium: the ring finishes it later.
        for sector in 0..40 {
            let (status, _) = request(&mut rig, 1, sector, &[(DATA, 512, false)]);
            assert_eq!(status, 0);
        }
        rig.run();
        let counts = rig.counters.counts();
        assert_eq!((counts.requests, counts.notifies), (40, 40));
        // Two notifies before the device looks, beside requests that are finished meanwhile.
        let gpa = rig.notify_gpa(0);
        assert!(rig.doorbells.ring(gpa) && rig.doorbells.ring(gpa));
        rig.run();
        assert_eq!(rig.counters.counts().notifies, 42);
    }
}

#[test]
fn each_request_of_a_disk_is_timed_and_other_devices_are_not() {
    let file = vmm_sys_util::tempfile::TempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let blk = Blk::open(file.as_path(), BlkAccess::ReadWrite, 1).unwrap();
    let mut rig = Rig::new(blk);
    assert_eq!(rig.counters.latency(), None);
    rig.start(0, 16);
    for sector in 0..20_u64 {
        rig.put(BUFFERS, &[0; 16]);
        rig.put(BUFFERS + 8, &sector.to_le_bytes());
        let status = BUFFERS + 0x2000;
        rig.add(
            0,
            &[
                (BUFFERS, 16, false),
                (BUFFERS + 0x1000, 512, true),
                (status, 1, true),
            ],
        );
        rig.notify(0);
        assert!(rig.take_used(0).is_some());
    }
    let latency = rig.counters.latency().unwrap();
    assert_eq!((latency.count(), latency.longer), (20, 0));
    assert!(latency.sum_ns > 0);
    // They go on over a reset.
    rig.start(0, 16);
    assert_eq!(rig.counters.latency(), Some(latency));

    let mut rig = Rig::new(Rng::new());
    rig.start(0, 16);
    ask(&mut rig);
    rig.notify(0);
    assert_eq!(rig.counters.latency(), None);
}
