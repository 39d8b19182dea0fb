//! DISCARD, WRITE_ZEROES and what the configuration says of them and of the topology.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::blk_rig::{image, open, request, rigs, DATA, ENGINES};
use super::rig::Rig;
use crate::virtio::BlkAccess;

const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;
const UNMAP: u32 = 1;
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

/// One request for these ranges: sector, number, flags. Returns its status.
fn ranges(rig: &mut Rig, kind: u32, list: &[(u64, u32, u32)]) -> u8 {
    for (at, (sector, nr_sectors, flags)) in (DATA..).step_by(16).zip(list) {
        rig.put(at, &sector.to_le_bytes());
        rig.put(at + 8, &nr_sectors.to_le_bytes());
        rig.put(at + 12, &flags.to_le_bytes());
    }
    let len = u32::try_from(list.len() * 16).unwrap();
    request(rig, kind, 0, &[(DATA, len, false)]).0
}

#[test]
fn configuration_has_topology_and_limits() {
    let file = image(64);
    let rig = Rig::new(open(&file, BlkAccess::ReadWrite, 2, ENGINES[1]));
    let block_bytes = fs::metadata(file.as_path()).unwrap().blksize();
    assert_ne!(rig.offered_features() & 1 << 10, 0, "topology");
    let [exponent] = rig.read(rig.device(24));
    assert_eq!(512u64 << exponent, block_bytes);
    assert_eq!(u64::from(rig.read2(rig.device(26))) * 512, block_bytes);
    assert_ne!(rig.offered_features() & 1 << 14, 0, "write zeroes");
    assert_eq!(rig.read4(rig.device(48)), 1 << 17);
    assert_eq!(rig.read4(rig.device(52)), 1);
    let has_discard = rig.offered_features() & 1 << 13 != 0;
    let limits = [36, 40, 44].map(|offset| rig.read4(rig.device(offset)) > 0);
    assert_eq!(limits, [has_discard; 3]);
    let [may_unmap] = rig.read(rig.device(56));
    assert_eq!(may_unmap, u8::from(has_discard));
    // Behind the end of the configuration.
    assert_eq!(rig.read4(rig.device(60)), 0);
}

#[test]
fn read_only_disk_offers_and_does_neither() {
    for (mut rig, file) in rigs(16, BlkAccess::ReadOnly) {
        assert_eq!(rig.offered_features() & (1 << 13 | 1 << 14), 0);
        assert_eq!(rig.read::<20>(rig.device(36)), [0; 20]);
        for kind in [DISCARD, WRITE_ZEROES] {
            assert_eq!(ranges(&mut rig, kind, &[(8, 8, 0)]), IOERR);
        }
        let content = fs::read(file.as_path()).unwrap();
        assert_eq!(content[15 * 512..], [15; 512]);
    }
}

#[test]
fn discard_gives_blocks_of_the_file_back() {
    // 2 MiB, of which the middle and the end go.
    for (mut rig, file) in rigs(4096, BlkAccess::ReadWrite) {
        file.as_file().sync_all().unwrap();
        let before = fs::metadata(file.as_path()).unwrap();
        let list = [(1024, 1024, 0), (3072, 1024, 0), (0, 0, 0)];
        assert_eq!(ranges(&mut rig, DISCARD, &list), OK);
        let after = fs::metadata(file.as_path()).unwrap();
        assert_eq!(after.len(), before.len());
        assert!(
            after.blocks() + 1900 < before.blocks(),
            "{before:?} {after:?}"
        );
        let content = fs::read(file.as_path()).unwrap();
        let expected = |sector: usize| match sector {
            1024..2048 | 3072..4096 => 0,
            _ => u8::try_from(sector % 251).unwrap(),
        };
        for (sector, bytes) in content.chunks(512).enumerate() {
            assert_eq!(bytes, [expected(sector); 512], "sector {sector}");
        }
    }
}

#[test]
fn write_zeroes_zeroes_exactly_its_range() {
    for flags in [0, UNMAP] {
        for (mut rig, file) in rigs(512, BlkAccess::ReadWrite) {
            assert_eq!(ranges(&mut rig, WRITE_ZEROES, &[(3, 300, flags)]), OK);
            assert_eq!(ranges(&mut rig, WRITE_ZEROES, &[(511, 1, flags)]), OK);
            assert_eq!(ranges(&mut rig, WRITE_ZEROES, &[(400, 0, flags)]), OK);
            let content = fs::read(file.as_path()).unwrap();
            assert_eq!(content.len(), 512 * 512);
            for (sector, bytes) in content.chunks(512).enumerate() {
                let is_zeroed = (3..303).contains(&sector) || sector == 511;
                let expected = if is_zeroed { 0 } else { sector % 251 };
                assert_eq!(bytes, [u8::try_from(expected).unwrap(); 512], "{sector}");
            }
        }
    }
}

#[test]
fn ranges_beyond_the_end_or_the_limits_change_nothing() {
    for (mut rig, file) in rigs(64, BlkAccess::ReadWrite) {
        for kind in [DISCARD, WRITE_ZEROES] {
            for (sector, nr_sectors) in [
                (64, 1),
                (63, 2),
                (0, 65),
                (0, u32::MAX),
                (1, (1 << 21) + 1),
                (u64::MAX, 1),
                (u64::MAX, u32::MAX),
                (u64::MAX / 512, 512),
                (1 << 55, 1),
            ] {
                let status = ranges(&mut rig, kind, &[(sector, nr_sectors, 0)]);
                assert_eq!(status, IOERR, "{kind} {sector} {nr_sectors}");
            }
            // One good range does not save the others, nor is it carried out.
            assert_ne!(ranges(&mut rig, kind, &[(0, 8, 0), (64, 8, 0)]), OK);
            // More than the limit, none, and parts of one.
            assert_eq!(ranges(&mut rig, kind, &[(0, 1, 0); 33]), IOERR);
            assert_eq!(request(&mut rig, kind, 0, &[]).0, IOERR);
            for len in [1, 15, 17, 31, 512] {
                rig.put(DATA, &[0; 512]);
                rig.put(DATA + 8, &[8]);
                let len = if len == 512 { 33 * 16 } else { len };
                assert_eq!(request(&mut rig, kind, 0, &[(DATA, len, false)]).0, IOERR);
            }
            // In a buffer that the device writes there is no list.
            assert_eq!(request(&mut rig, kind, 0, &[(DATA, 16, true)]).0, IOERR);
        }
        assert_eq!(ranges(&mut rig, WRITE_ZEROES, &[(0, 1, 0); 2]), IOERR);
        let content = fs::read(file.as_path()).unwrap();
        for (sector, bytes) in content.chunks(512).enumerate() {
            assert_eq!(bytes, [u8::try_from(sector).unwrap(); 512]);
        }
        assert_eq!(rig.status(), 15);
    }
}

#[test]
fn flags_that_are_not_defined_are_not_supported() {
    for (mut rig, file) in rigs(64, BlkAccess::ReadWrite) {
        for flags in [UNMAP, 2, 1 << 31, u32::MAX] {
            assert_eq!(ranges(&mut rig, DISCARD, &[(8, 8, flags)]), UNSUPP);
        }
        for flags in [2, 3, 1 << 31, u32::MAX] {
            assert_eq!(ranges(&mut rig, WRITE_ZEROES, &[(8, 8, flags)]), UNSUPP);
        }
        assert_eq!(
            fs::read(file.as_path()).unwrap()[8 * 512..9 * 512],
            [8; 512]
        );
    }
}

#[test]
fn list_in_pieces_is_one_list() {
    for (mut rig, file) in rigs(64, BlkAccess::ReadWrite) {
        rig.put(DATA, &8u64.to_le_bytes());
        rig.put(DATA + 0x800, &[4, 0, 0, 0, 0, 0, 0, 0]);
        let pieces = [
            (DATA, 7, false),
            (DATA + 7, 1, false),
            (DATA + 0x800, 8, false),
        ];
        assert_eq!(request(&mut rig, WRITE_ZEROES, 0, &pieces).0, OK);
        let content = fs::read(file.as_path()).unwrap();
        assert_eq!(content[7 * 512..8 * 512], [7; 512]);
        assert_eq!(content[8 * 512..12 * 512], [0; 4 * 512]);
        assert_eq!(content[12 * 512..13 * 512], [12; 512]);
    }
}
