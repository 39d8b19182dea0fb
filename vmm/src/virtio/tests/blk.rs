//! The block device.

use std::fs;

use super::blk_rig::{image, open, put_header, request, rigs, DATA, ENGINES, HEADER, STATUS};
use super::rig::{Rig, F_EVENT_IDX};
use crate::virtio::{Blk, BlkAccess};

#[test]
fn configuration_shows_capacity_block_size_and_queues() {
    let file = image(10);
    let rig = Rig::new(Blk::open(file.as_path(), BlkAccess::ReadOnly, 3).unwrap());
    assert_eq!(u64::from_le_bytes(rig.read(rig.device(0))), 10);
    assert_eq!(rig.read4(rig.device(20)), 512);
    assert_eq!(rig.read2(rig.device(34)), 3);
    assert_eq!(rig.read2(rig.common(0x12)), 3);
    let features = rig.offered_features();
    assert_ne!(features & 1 << 5, 0, "read-only");
    assert_ne!(features & 1 << 12, 0, "multi-queue");
    assert_eq!(rig.config4(0), 0x1042_1af4);
}

#[test]
fn read_and_write_move_whole_sectors() {
    for (mut rig, file) in rigs(16, BlkAccess::ReadWrite) {
        let (status, len) = request(
            &mut rig,
            0,
            3,
            &[(DATA, 512, true), (DATA + 0x1000, 1024, true)],
        );
        assert_eq!((status, len), (0, 1537));
        assert_eq!(rig.get::<512>(DATA), [3; 512]);
        assert_eq!(rig.get::<512>(DATA + 0x1000), [4; 512]);
        assert_eq!(rig.get::<512>(DATA + 0x1200), [5; 512]);

        rig.put(DATA, &[0xab; 1024]);
        assert_eq!(request(&mut rig, 1, 14, &[(DATA, 1024, false)]), (0, 1));
        let content = fs::read(file.as_path()).unwrap();
        assert_eq!(content.len(), 16 * 512);
        assert_eq!(content[13 * 512..14 * 512], [13; 512]);
        assert_eq!(content[14 * 512..], [0xab; 1024]);
        assert_eq!(request(&mut rig, 4, 0, &[]), (0, 1));
    }
}

#[test]
fn sectors_past_the_end_and_partial_sectors_give_ioerr() {
    for (mut rig, file) in rigs(16, BlkAccess::ReadWrite) {
        for (kind, is_written) in [(0, true), (1, false)] {
            for sector in [15, 16, 17, u64::MAX / 512, u64::MAX - 1, u64::MAX] {
                assert_eq!(
                    request(&mut rig, kind, sector, &[(DATA, 1024, is_written)]).0,
                    1
                );
            }
            for len in [1, 511, 513] {
                assert_eq!(request(&mut rig, kind, 0, &[(DATA, len, is_written)]).0, 1);
            }
        }
        assert_eq!(fs::metadata(file.as_path()).unwrap().len(), 16 * 512);
        assert_eq!(rig.status(), 15);
    }
}

#[test]
fn unknown_requests_give_unsupp_and_short_headers_ioerr() {
    for (mut rig, _file) in rigs(16, BlkAccess::ReadWrite) {
        for kind in [2, 3, 9, 12, 14, u32::MAX] {
            assert_eq!(request(&mut rig, kind, 0, &[]).0, 2);
        }
        rig.put(STATUS, &[0xee]);
        rig.add(0, &[(HEADER, 15, false), (STATUS, 1, true)]);
        rig.add(0, &[(STATUS + 1, 1, true)]);
        rig.notify(0);
        assert_eq!(rig.get::<2>(STATUS), [1, 1]);
        assert_eq!(rig.status(), 15);
    }
}

#[test]
fn status_is_the_last_byte_even_inside_a_data_buffer() {
    for (mut rig, _file) in rigs(16, BlkAccess::ReadWrite) {
        put_header(&rig, HEADER, 0, 7);
        rig.put(DATA, &[0xee; 513]);
        rig.add(
            0,
            &[
                (HEADER, 8, false),
                (HEADER + 8, 8, false),
                (DATA, 513, true),
            ],
        );
        rig.notify(0);
        assert_eq!(rig.wait_used(0), (0, 513));
        assert_eq!(rig.get::<512>(DATA), [7; 512]);
        assert_eq!(rig.get::<1>(DATA + 512), [0]);
    }
}

#[test]
fn write_to_a_read_only_disk_gives_ioerr_and_changes_nothing() {
    for (mut rig, file) in rigs(16, BlkAccess::ReadOnly) {
        rig.put(DATA, &[0xab; 512]);
        assert_eq!(request(&mut rig, 1, 0, &[(DATA, 512, false)]).0, 1);
        assert_eq!(request(&mut rig, 4, 0, &[]).0, 0);
        assert_eq!(fs::read(file.as_path()).unwrap()[..512], [0; 512]);
    }
}

#[test]
fn image_that_was_cut_short_gives_ioerr() {
    for (mut rig, file) in rigs(16, BlkAccess::ReadWrite) {
        file.as_file().set_len(512).unwrap();
        assert_eq!(request(&mut rig, 0, 8, &[(DATA, 512, true)]).0, 1);
        assert_eq!(request(&mut rig, 0, 0, &[(DATA, 512, true)]).0, 0);
    }
}

#[test]
fn serial_is_given_and_cut_to_the_buffer() {
    for (mut rig, _file) in rigs(16, BlkAccess::ReadWrite) {
        rig.put(DATA, &[0xee; 32]);
        assert_eq!(request(&mut rig, 8, 0, &[(DATA, 20, true)]), (0, 21));
        assert_eq!(&rig.get::<9>(DATA), b"coopvirt\0");
        assert_eq!(rig.get::<1>(DATA + 20), [0xee]);
        assert_eq!(request(&mut rig, 8, 0, &[(DATA, 4, true)]), (0, 5));
    }
}

#[test]
fn many_requests_in_flight_get_one_interrupt() {
    for (features, engine) in [0, F_EVENT_IDX]
        .into_iter()
        .flat_map(|features| ENGINES.map(|engine| (features, engine)))
    {
        let file = image(64);
        let mut rig = Rig::new(open(&file, BlkAccess::ReadWrite, 1, engine));
        rig.start(features, 128);
        for index in 0..32 {
            put_header(&rig, HEADER + index * 32, 0, index);
            let data = (DATA + index * 512, 512, true);
            rig.add(
                0,
                &[
                    (HEADER + index * 32, 16, false),
                    data,
                    (STATUS + 0xe00, 1, true),
                ],
            );
        }
        rig.notify(0);
        (0..32).for_each(|_| _ = rig.wait_used(0));
        assert_eq!(rig.take_used(0), None);
        // The image is in the page cache, so all came back at once.
        assert_eq!(rig.interrupts.take(1), 1, "{engine:?}");
        assert_eq!(rig.get::<512>(DATA + 31 * 512), [31; 512]);
    }
}

#[test]
fn queues_are_served_and_interrupt_on_their_own() {
    for engine in ENGINES {
        let file = image(16);
        let mut rig = Rig::new(open(&file, BlkAccess::ReadWrite, 4, engine));
        rig.start(1 << 12, 16);
        for queue in 0..4 {
            put_header(&rig, HEADER, 0, u64::from(queue));
            rig.add(
                queue.into(),
                &[(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)],
            );
            rig.notify(queue);
            let (_, len) = rig.wait_used(queue.into());
            assert_eq!(len, 513);
            let raised: Vec<u64> = (0..5).map(|vector| rig.interrupts.take(vector)).collect();
            let expected: Vec<u64> = (0..5)
                .map(|v| u64::from(v == u32::from(queue) + 1))
                .collect();
            assert_eq!(raised, expected, "{engine:?}");
        }
    }
}
