//! Rings whose other side answers in any order, too much, or what nobody asked.

use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::mem::shared;
use crate::virtio::vhost_user::request::{Piece, Request};
use crate::virtio::vhost_user::ring::{Ring, RingError, RINGS_GPA, RING_BYTES};
use crate::virtio::vhost_user::{blk, fs};

/// A ring, and its memory as the back end sees it.
struct Bench {
    memory: Arc<GuestMemoryMmap<()>>,
    ring: Ring,
}

const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;

impl Bench {
    fn new() -> Self {
        let memory = Arc::new(shared::map(RINGS_GPA, RING_BYTES).unwrap());
        let ring = Ring::new(&memory, 0).unwrap();
        Self { memory, ring }
    }

    fn submit(&mut self, head: u16) {
        self.ring
            .submit(request(head, &[(0, 16, false), (64, 8, true)]))
            .unwrap();
    }

    fn read<T: vm_memory::ByteValued>(&self, offset: u64) -> T {
        let at = GuestAddress(RINGS_GPA.0 + offset);
        self.memory.read_obj(at).unwrap()
    }

    fn write<T: vm_memory::ByteValued>(&self, offset: u64, value: T) {
        let at = GuestAddress(RINGS_GPA.0 + offset);
        self.memory.write_obj(value, at).unwrap();
    }

    /// Descriptors that have been made available, in order.
    fn offered(&self) -> Vec<u16> {
        let count: u16 = self.read(AVAIL + 2);
        (0..u64::from(count))
            .map(|index| self.read(AVAIL + 4 + index * 2))
            .collect()
    }

    fn answer(&self, place: u16, id: u32, len: u32) {
        self.write(USED + 4 + u64::from(place) * 8, [id, len]);
        self.write(USED + 2, place + 1);
    }

    fn answered(&mut self) -> Vec<(u16, u32)> {
        std::iter::from_fn(|| self.ring.take_answered()).collect()
    }
}

fn request(head: u16, pieces: &[(u64, u32, bool)]) -> Request {
    let pieces = pieces.iter().map(|&(gpa, len_bytes, is_written)| Piece {
        gpa,
        len_bytes,
        is_written,
    });
    Request::from_pieces(head, pieces.collect())
}

#[test]
fn a_request_is_one_descriptor_with_a_table_of_the_guests_buffers() {
    let mut bench = Bench::new();
    bench.submit(77);
    let id = u64::from(bench.offered()[0]);
    let (table, len, flags): (u64, u32, u16) = (
        bench.read(id * 16),
        bench.read(id * 16 + 8),
        bench.read(id * 16 + 12),
    );
    assert_eq!((len, flags), (32, 4), "indirect, two entries");
    let entries: [u64; 4] = bench.read(table - RINGS_GPA.0);
    let word = |len: u64, flags: u64, next: u64| len | flags << 32 | next << 48;
    assert_eq!(entries, [0, word(16, 1, 1), 64, word(8, 2, 2)]);
}

#[test]
fn answers_come_in_any_order_and_the_rest_is_made_again_in_its_own() {
    let mut bench = Bench::new();
    (0..6).for_each(|head| bench.submit(100 + head));
    let ids = bench.offered();
    bench.answer(0, ids[4].into(), 8);
    // More than there is room for.
    bench.answer(1, ids[1].into(), 4096);
    bench.ring.collect().unwrap();
    bench.submit(106);
    bench.ring.begin().unwrap();
    // What was answered before the end of the first back end stays so.
    assert_eq!(bench.answered(), [(104, 8), (101, 8)]);
    assert_eq!(bench.ring.nr_in_flight(), 5);
    let again = bench.offered();
    (0u16..)
        .zip(&again)
        .for_each(|(place, &id)| bench.answer(place, id.into(), 1));
    bench.ring.collect().unwrap();
    let heads: Vec<u16> = bench.answered().into_iter().map(|(head, _)| head).collect();
    assert_eq!(heads, [100, 102, 103, 105, 106]);
    assert_eq!(bench.ring.nr_in_flight(), 0);
}

#[test]
fn a_full_ring_is_emptied_and_filled_again() {
    let mut bench = Bench::new();
    for round in 0..3u16 {
        while !bench.ring.is_full() {
            bench.submit(1);
        }
        for index in 0..256u16 {
            let place = round.wrapping_mul(256).wrapping_add(index);
            let id: u16 = bench.read(AVAIL + 4 + u64::from(place % 256) * 2);
            bench.write(USED + 4 + u64::from(place % 256) * 8, [u32::from(id), 0]);
            bench.write(USED + 2, place.wrapping_add(1));
        }
        bench.ring.collect().unwrap();
        assert_eq!(bench.answered().len(), 256);
    }
}

#[test]
fn answers_to_nothing_are_errors_and_lose_no_request() {
    let mut bench = Bench::new();
    bench.submit(5);
    let id = u32::from(bench.offered()[0]);
    for wrong in [id ^ 1, 256, u32::MAX] {
        bench.answer(0, wrong, 0);
        assert!(matches!(bench.ring.collect(), Err(RingError::Answer(w)) if w == wrong));
    }
    for index in [2u16, 0x8000, u16::MAX] {
        bench.write(USED + 2, index);
        assert!(matches!(bench.ring.collect(), Err(RingError::Index { .. })));
    }
    assert_eq!(bench.ring.nr_in_flight(), 1);
    // The same answer twice.
    bench.submit(6);
    bench.answer(0, id, 0);
    bench.answer(1, id, 0);
    assert!(matches!(bench.ring.collect(), Err(RingError::Answer(_))));
    assert_eq!(bench.answered(), [(5, 0)]);
    assert_eq!(bench.ring.nr_in_flight(), 1);
}

#[test]
fn a_disk_fails_with_an_io_error_and_a_folder_with_its_own() {
    let ram = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
    let disk = request(0, &[(0, 16, false), (0x100, 512, true), (0x500, 1, true)]);
    assert_eq!(blk::fail(&disk, &ram), 1);
    assert_eq!(ram.read_obj::<u8>(GuestAddress(0x500)).unwrap(), 1);
    assert_eq!(blk::fail(&request(0, &[(0, 16, false)]), &ram), 0);

    ram.write_obj(0x1234_5678_9abc_def0_u64, GuestAddress(0x608))
        .unwrap();
    // An answer's header in two pieces.
    let folder = request(
        0,
        &[(0x600, 40, false), (0x700, 10, true), (0x800, 64, true)],
    );
    assert_eq!(fs::fail(&folder, &ram), 16);
    let mut answer = [0; 16];
    ram.read_slice(&mut answer[..10], GuestAddress(0x700))
        .unwrap();
    ram.read_slice(&mut answer[10..], GuestAddress(0x800))
        .unwrap();
    assert_eq!(answer[..4], 16u32.to_le_bytes());
    assert_eq!(answer[4..8], (-107i32).to_le_bytes());
    assert_eq!(answer[8..], 0x1234_5678_9abc_def0_u64.to_le_bytes());
    let without_room: [&[(u64, u32, bool)]; 4] = [
        &[(0x600, 40, false)],
        &[(0x700, 16, true)],
        &[(0x600, 8, false), (0x700, 16, true)],
        &[(0x600, 40, false), (0x700, 15, true)],
    ];
    for none in without_room {
        assert_eq!(fs::fail(&request(0, none), &ram), 0);
    }
}
