//! Chains that are longer than their queue, by an indirect table.

use super::rig::{put_descriptor, Rig, BUFFERS};
use crate::virtio::vhost_user::tests::scripted;
use crate::virtio::Rng;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const TABLE: u64 = BUFFERS + 0x1000;
const NEEDS_RESET: u8 = 0x40;

/// Whether a device breaks its queue over a chain of so many buffers, all but the first for an answer.
fn breaks(mut rig: Rig, nr_buffers: u16) -> bool {
    rig.start(0, 256);
    for index in 0..nr_buffers {
        let more = if index + 1 < nr_buffers { NEXT } else { 0 };
        let written = if index > 0 { WRITE } else { 0 };
        let at = TABLE + u64::from(index) * 16;
        put_descriptor(&rig.ram, at, (BUFFERS, 16, more | written, index + 1));
    }
    let ring = &mut rig.queues[0];
    let len_bytes = u32::from(nr_buffers) * 16;
    ring.describe(&rig.ram, 0, (TABLE, len_bytes, INDIRECT, 0));
    ring.offer(&rig.ram, 0);
    rig.notify(0);
    rig.status() & NEEDS_RESET != 0
}

#[test]
fn a_queue_is_the_limit_of_a_chain() {
    assert!(!breaks(Rig::new(Rng::new()), 256));
    assert!(breaks(Rig::new(Rng::new()), 257));
}

/// A mebibyte by virtio-fs of Linux before 5.13: 256 pages, and headers.
#[test]
fn back_ends_get_the_pages_of_a_mebibyte_with_their_headers() {
    assert!(!breaks(Rig::new(scripted::disk(false)), 260));
    assert!(breaks(Rig::new(scripted::disk(false)), 265));
}
