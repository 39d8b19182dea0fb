//! Block devices to be tested, one with each back end, and the driver's requests to them.

use std::io::Write;

use vmm_sys_util::tempfile::TempFile;

use super::rig::{Rig, BUFFERS};
use crate::virtio::{Blk, BlkAccess};

pub(super) const HEADER: u64 = BUFFERS;
pub(super) const STATUS: u64 = BUFFERS + 0x100;
pub(super) const DATA: u64 = BUFFERS + 0x1000;

pub(super) fn image(nr_sectors: usize) -> TempFile {
    let file = TempFile::new().unwrap();
    let content: Vec<u8> = (0..nr_sectors)
        .flat_map(|sector| [u8::try_from(sector % 251).unwrap(); 512])
        .collect();
    file.as_file().write_all(&content).unwrap();
    file
}

/// How requests are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    Sync,
    Uring,
}

pub(super) const ENGINES: [Engine; 2] = [Engine::Sync, Engine::Uring];

pub(super) fn open(file: &TempFile, access: BlkAccess, nr_queues: u16, engine: Engine) -> Blk {
    let mut blk = Blk::open(file.as_path(), access, nr_queues).unwrap();
    if engine == Engine::Uring {
        blk.use_uring()
            .expect("the tests need io_uring; see /proc/sys/kernel/io_uring_disabled");
    }
    blk
}

/// A machine with a disk of its own for each engine, started without features.
pub(super) fn rigs(nr_sectors: usize, access: BlkAccess) -> [(Rig, TempFile); 2] {
    ENGINES.map(|engine| {
        let file = image(nr_sectors);
        let mut rig = Rig::new(open(&file, access, 1, engine));
        rig.start(0, 64);
        (rig, file)
    })
}

pub(super) fn put_header(rig: &Rig, at: u64, kind: u32, sector: u64) {
    rig.put(at, &kind.to_le_bytes());
    rig.put(at + 4, &[0; 4]);
    rig.put(at + 8, &sector.to_le_bytes());
}

/// One request with a data buffer. Returns its status and the length in the used ring.
pub(super) fn request(
    rig: &mut Rig,
    kind: u32,
    sector: u64,
    data: &[(u64, u32, bool)],
) -> (u8, u32) {
    put_header(rig, HEADER, kind, sector);
    rig.put(STATUS, &[0xee]);
    let mut chain = vec![(HEADER, 16, false)];
    chain.extend(data);
    chain.push((STATUS, 1, true));
    rig.add(0, &chain);
    rig.notify(0);
    let (_, len) = rig.wait_used(0);
    let [status] = rig.get(STATUS);
    (status, len)
}
