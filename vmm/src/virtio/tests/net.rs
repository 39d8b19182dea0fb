//! The network device as the I/O thread serves it. A socket plays the tap: it keeps packets apart
//! too, and is full when nobody reads.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use super::rig::{Rig, BUFFERS, F_EVENT_IDX};
use crate::virtio::Net;

const F_MRG_RXBUF: u64 = 1 << 15;
const F_CTRL_VQ: u64 = 1 << 17;
const F_MQ: u64 = 1 << 22;
const HEADER: usize = 12;
const RECEIVE: usize = 0;
const SEND: usize = 1;
const CONTROL: usize = 2;

fn socket() -> (File, UnixDatagram) {
    let (tap, peer) = UnixDatagram::pair().unwrap();
    for socket in [&tap, &peer] {
        socket.set_nonblocking(true).unwrap();
    }
    (File::from(OwnedFd::from(tap)), peer)
}

fn net() -> (Rig, UnixDatagram) {
    let (tap, peer) = socket();
    (Rig::new(Net::stand_in(vec![tap])), peer)
}

/// A device whose tap has packets waiting; the peer has to stay.
pub(super) fn net_with_packets() -> (Net, UnixDatagram) {
    let (tap, peer) = socket();
    for size in 0..8 {
        peer.send(&packet(40 + size)).unwrap();
    }
    (Net::stand_in(vec![tap]), peer)
}

/// A packet of this size whose bytes differ, with an empty header.
fn packet(bytes: usize) -> Vec<u8> {
    let content = (HEADER..bytes).map(|at| (at % 251) as u8);
    [0; HEADER].into_iter().chain(content).collect()
}

/// What is in guest memory, of several pieces behind each other.
fn memory(rig: &Rig, pieces: &[(u64, usize)]) -> Vec<u8> {
    let mut all = Vec::new();
    for &(address, len) in pieces {
        all.extend((0..len as u64).map(|at| rig.get::<1>(address + at)[0]));
    }
    all
}

fn with_chains(mut packet: Vec<u8>, nr_chains: u8) -> Vec<u8> {
    packet[10] = nr_chains;
    packet
}

#[test]
fn configuration_has_address_link_and_pairs() {
    let (tap, _peer) = socket();
    let (tap2, _peer2) = socket();
    let rig = Rig::new(Net::stand_in(vec![tap, tap2]));
    let config: [u8; 8] = rig.read(rig.device(0));
    assert_eq!(config[0] & 3, 2, "locally administered, not a group");
    assert_eq!(config[6..], [1, 0]);
    assert_eq!(rig.read2(rig.device(8)), 2);
    assert_eq!(rig.read2(rig.common(0x12)), 5);
    assert_eq!(rig.offered_features() & F_MQ, F_MQ);
}

#[test]
fn packet_comes_in() {
    let (mut rig, peer) = net();
    rig.start(F_MRG_RXBUF, 16);
    rig.add(RECEIVE, &[(BUFFERS, 2048, true)]);
    rig.notify(0);
    assert_eq!(rig.take_used(RECEIVE), None);
    peer.send(&packet(100)).unwrap();
    rig.run();
    assert_eq!(rig.take_used(RECEIVE), Some((0, 100)));
    assert_eq!(memory(&rig, &[(BUFFERS, 100)]), with_chains(packet(100), 1));
    assert_eq!(rig.interrupts.take(1), 1);
}

#[test]
fn packets_that_came_before_the_driver_are_there() {
    let (net, _peer) = net_with_packets();
    let mut rig = Rig::new(net);
    rig.run();
    rig.start(F_MRG_RXBUF, 16);
    (0..16).for_each(|at| {
        rig.add(RECEIVE, &[(BUFFERS + at * 256, 256, true)]);
    });
    rig.notify(0);
    let used: Vec<_> = std::iter::from_fn(|| rig.take_used(RECEIVE)).collect();
    let expected: Vec<(u32, u32)> = (0..8).map(|at| (at, 40 + at)).collect();
    assert_eq!(used, expected);
}

#[test]
fn large_packet_takes_several_chains_and_waits_for_them() {
    for features in [0, F_EVENT_IDX] {
        let (mut rig, peer) = net();
        rig.start(features | F_MRG_RXBUF, 16);
        let pieces = [0, 1, 2].map(|at| (BUFFERS + at * 0x1000, 100));
        for (address, _) in &pieces[..2] {
            rig.add(RECEIVE, &[(*address, 100, true)]);
        }
        peer.send(&packet(250)).unwrap();
        // Gets idle, though there are chains and a packet.
        rig.notify(0);
        assert_eq!(rig.take_used(RECEIVE), None);
        assert_eq!(rig.interrupts.take(1), 0);
        rig.add(RECEIVE, &[(pieces[2].0, 100, true)]);
        rig.notify(0);
        assert_eq!(rig.take_used(RECEIVE), Some((0, 100)));
        assert_eq!(rig.take_used(RECEIVE), Some((1, 100)));
        assert_eq!(rig.take_used(RECEIVE), Some((2, 50)));
        let mut expected = with_chains(packet(250), 3);
        expected.resize(300, 0);
        assert_eq!(memory(&rig, &pieces), expected);
        assert_eq!(rig.interrupts.take(1), 1);
    }
}

#[test]
fn interrupt_comes_if_the_event_index_is_in_the_middle_of_a_packet() {
    for (event, wanted) in [(0u16, 1), (1, 1), (2, 1), (3, 0), (0xffff, 0)] {
        let (mut rig, peer) = net();
        rig.start(F_EVENT_IDX | F_MRG_RXBUF, 16);
        rig.put(rig.queues[RECEIVE].avail + 4 + 32, &event.to_le_bytes());
        for at in 0..3 {
            rig.add(RECEIVE, &[(BUFFERS + at * 0x1000, 100, true)]);
        }
        peer.send(&packet(250)).unwrap();
        rig.run();
        rig.notify(0);
        assert_eq!(std::iter::from_fn(|| rig.take_used(RECEIVE)).count(), 3);
        assert_eq!(rig.interrupts.take(1), wanted, "event {event}");
    }
}

#[test]
fn packet_that_no_queue_can_hold_is_dropped_and_the_next_comes() {
    for (features, size) in [(F_MRG_RXBUF, 20), (0, 60)] {
        let (mut rig, peer) = net();
        rig.start(features, 16);
        for at in 0..16 {
            rig.add(RECEIVE, &[(BUFFERS + at * 0x100, size, true)]);
        }
        peer.send(&packet(1000)).unwrap();
        peer.send(&packet(20)).unwrap();
        rig.run();
        rig.notify(0);
        assert_eq!(rig.take_used(RECEIVE), Some((0, 20)));
        assert_eq!(rig.take_used(RECEIVE), None);
        assert_eq!(rig.status(), 15);
    }
}

#[test]
fn receiving_queue_holds_1024_buffers_and_others_256() {
    for features in [0, F_EVENT_IDX] {
        let (mut rig, peer) = net();
        rig.start(features | F_MRG_RXBUF, 1024);
        let sizes: Vec<u16> = rig.queues.iter().map(|ring| ring.size).collect();
        assert_eq!(sizes, [1024, 256, 256]);
        // All of them at once, and then twice around the ring.
        let place = |at: u32| (BUFFERS + u64::from(at % 1024) * 0x100, 0x100, true);
        (0..1024).for_each(|at| {
            rig.add(RECEIVE, &[place(at)]);
        });
        rig.notify(0);
        let pieces = |head: u32| [head, head + 1].map(|at| (place(at).0, 0x100));
        for at in 0..1500_u32 {
            let bytes = 300 + at as usize % 200;
            peer.send(&packet(bytes)).unwrap();
            rig.run();
            let head = 2 * at % 1024;
            assert_eq!(rig.take_used(RECEIVE), Some((head, 0x100)), "packet {at}");
            let rest = bytes as u32 - 0x100;
            assert_eq!(rig.take_used(RECEIVE), Some((head + 1, rest)));
            let content = memory(&rig, &pieces(head));
            assert_eq!(content[..bytes], with_chains(packet(bytes), 2));
            rig.add(RECEIVE, &[place(head)]);
            rig.add(RECEIVE, &[place(head + 1)]);
        }
        assert_eq!(rig.take_used(RECEIVE), None);
        assert_eq!(rig.status(), 15);
    }
}

#[test]
fn large_ring_is_filled_in_batches_and_no_packet_takes_more_than_one() {
    let (mut rig, peer) = net();
    rig.start(F_MRG_RXBUF, 1024);
    (0..1024).for_each(|at| {
        rig.add(RECEIVE, &[(BUFFERS + at * 0x100, 20, true)]);
    });
    // One more than a batch can hold, all of a batch, and another behind it.
    for bytes in [256 * 20 + 1, 256 * 20, 30] {
        peer.send(&packet(bytes)).unwrap();
    }
    rig.notify(0);
    let used: Vec<_> = std::iter::from_fn(|| rig.take_used(RECEIVE)).collect();
    assert_eq!(used.len(), 256 + 2);
    assert_eq!(used[255..], [(255, 20), (256, 20), (257, 10)]);
    assert_eq!(rig.get::<2>(BUFFERS + 10), 256_u16.to_le_bytes());
    assert_eq!(rig.interrupts.take(1), 2);
}

#[test]
fn chain_without_room_for_the_header_breaks_the_queue() {
    let (mut rig, peer) = net();
    rig.start(F_MRG_RXBUF, 16);
    rig.add(RECEIVE, &[(BUFFERS, 11, true)]);
    peer.send(&packet(100)).unwrap();
    rig.notify(0);
    assert_eq!(rig.status(), 15 | 0x40);
}

#[test]
fn packet_goes_out_in_one_piece() {
    let (mut rig, peer) = net();
    rig.start(0, 16);
    rig.put(BUFFERS, &packet(300));
    rig.add(
        SEND,
        &[
            (BUFFERS, 12, false),
            (BUFFERS + 12, 88, false),
            (BUFFERS + 100, 200, false),
        ],
    );
    rig.notify(1);
    let mut buffer = [0; 512];
    assert_eq!(peer.recv(&mut buffer).unwrap(), 300);
    assert_eq!(buffer[..300], packet(300));
    assert_eq!(rig.take_used(SEND), Some((0, 0)));
    assert_eq!(rig.interrupts.take(2), 1);
}

#[test]
fn full_tap_leaves_packets_in_the_queue_and_loses_none() {
    let (mut rig, peer) = net();
    rig.start(F_EVENT_IDX, 128);
    rig.put(BUFFERS, &packet(60_000));
    let sent = 100;
    for at in 0..sent {
        rig.add(SEND, &[(BUFFERS, 59_000 + at, false)]);
    }
    rig.notify(1);
    let early = std::iter::from_fn(|| rig.take_used(SEND)).count();
    assert!((1..100).contains(&early), "{early}");
    let mut buffer = vec![0; 70_000];
    for at in 0..sent {
        assert_eq!(peer.recv(&mut buffer).unwrap(), 59_000 + at as usize);
        rig.run();
    }
    let late = std::iter::from_fn(|| rig.take_used(SEND)).count();
    assert_eq!(early + late, 100);
}

#[test]
fn overlong_empty_and_refused_packets_are_given_back() {
    let (mut rig, peer) = net();
    rig.start(0, 16);
    rig.add(SEND, &[(BUFFERS, 2 << 20, false)]);
    rig.add(SEND, &[(BUFFERS, 0, false)]);
    rig.add(SEND, &[(BUFFERS, 100, true)]);
    rig.notify(1);
    for head in 0..3 {
        assert_eq!(rig.take_used(SEND), Some((head, 0)));
    }
    drop(peer);
    rig.add(SEND, &[(BUFFERS, 100, false)]);
    rig.notify(1);
    assert_eq!(rig.take_used(SEND), Some((3, 0)));
    assert_eq!(rig.status(), 15);
}

/// Sends a command; returns its answer.
fn command(rig: &mut Rig, queue: usize, bytes: &[u8]) -> u8 {
    rig.put(BUFFERS, bytes);
    rig.put(BUFFERS + 0x100, &[0xee]);
    let len = bytes.len() as u32;
    let head = rig.add(queue, &[(BUFFERS, len, false), (BUFFERS + 0x100, 1, true)]);
    rig.notify(queue as u16);
    assert_eq!(rig.take_used(queue), Some((u32::from(head), 1)));
    rig.get::<1>(BUFFERS + 0x100)[0]
}

#[test]
fn pairs_are_used_when_the_driver_asks_for_them() {
    let (tap, _peer) = socket();
    let (tap2, peer2) = socket();
    let mut rig = Rig::new(Net::stand_in(vec![tap, tap2]));
    rig.start(F_CTRL_VQ | F_MQ, 16);
    let control = 4;
    rig.add(2, &[(BUFFERS + 0x1000, 2048, true)]);
    rig.notify(2);
    peer2.send(&packet(50)).unwrap();
    rig.run();
    assert_eq!(rig.take_used(2), None, "not asked for yet");
    for bad in [
        &[4, 0, 0, 0][..],
        &[4, 0, 3, 0],
        &[4, 0, 2, 1],
        &[4, 0, 2],
        &[4, 1, 2, 0],
        &[3, 0, 2, 0],
        &[],
    ] {
        assert_eq!(command(&mut rig, control, bad), 1, "{bad:?}");
    }
    assert_eq!(command(&mut rig, control, &[4, 0, 2, 0]), 0);
    peer2.send(&packet(51)).unwrap();
    rig.run();
    assert_eq!(rig.take_used(2), Some((0, 50)));
    // Back to one, as after a reset.
    assert_eq!(command(&mut rig, control, &[4, 0, 1, 0]), 0);
    rig.add(2, &[(BUFFERS + 0x1000, 2048, true)]);
    rig.notify(2);
    assert_eq!(rig.take_used(2), None);
}

#[test]
fn control_queue_of_a_driver_that_knows_one_pair_is_the_third() {
    let (tap, _peer) = socket();
    let (tap2, _peer2) = socket();
    let mut rig = Rig::new(Net::stand_in(vec![tap, tap2]));
    rig.start(F_CTRL_VQ, 16);
    assert_eq!(command(&mut rig, CONTROL, &[4, 0, 2, 0]), 1);
    assert_eq!(command(&mut rig, CONTROL, &[4, 0, 1, 0]), 1);
}
