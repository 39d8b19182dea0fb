//! The entropy device.

use super::rig::{Rig, BUFFERS};
use crate::virtio::Rng;

#[test]
fn request_is_filled_with_bytes_that_differ() {
    let mut rig = Rig::new(Rng::new());
    rig.start(0, 16);
    rig.add(0, &[(BUFFERS, 32, true), (BUFFERS + 0x100, 32, true)]);
    rig.notify(0);
    assert_eq!(rig.take_used(0), Some((0, 64)));
    let [first, second]: [[u8; 32]; 2] = [rig.get(BUFFERS), rig.get(BUFFERS + 0x100)];
    assert_ne!(first, second);
    assert_ne!(first, [0; 32]);
    assert_eq!(rig.interrupts.take(1), 1);
}

#[test]
fn large_and_empty_requests_are_bounded() {
    let mut rig = Rig::new(Rng::new());
    rig.start(0, 16);
    rig.add(0, &[(BUFFERS, 1 << 20, true)]);
    rig.add(0, &[(BUFFERS, 0, true)]);
    rig.add(0, &[(BUFFERS, 16, false)]);
    rig.notify(0);
    assert_eq!(rig.take_used(0), Some((0, 64 << 10)));
    assert_eq!(rig.take_used(0), Some((1, 0)));
    assert_eq!(rig.take_used(0), Some((2, 0)));
    assert_eq!(rig.get::<4>(BUFFERS + (64 << 10)), [0; 4]);
    assert_eq!(rig.status(), 15);
}
