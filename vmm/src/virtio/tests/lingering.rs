//! Queues that the I/O thread lingers at: drivers need not notify, and nothing is lost, called for without end or touched
//! too late when it stops, when they are reset, and beside a polling thread. Sockets play the taps.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::rig::{Rig, BUFFERS, F_EVENT_IDX};
use crate::virtio::Net;

const F_MRG_RXBUF: u64 = 1 << 15;
const RECEIVE: usize = 0;
const SEND: usize = 1;
/// As long as any test.
const LONG: Duration = Duration::from_secs(1000);
const PACKET_BYTES: u32 = 60;

fn net(features: u64) -> (Rig, UnixDatagram) {
    let (tap, peer) = UnixDatagram::pair().unwrap();
    for socket in [&tap, &peer] {
        socket.set_nonblocking(true).unwrap();
    }
    let tap = File::from(OwnedFd::from(tap));
    let mut rig = Rig::new(Net::stand_in_lingering(vec![tap], LONG));
    rig.start(features | F_MRG_RXBUF, 16);
    // What starting it took is over.
    rig.end_lingering();
    (rig, peer)
}

/// Publishes a packet, without a notification.
fn send(rig: &mut Rig) {
    rig.add(SEND, &[(BUFFERS + 0x1000, PACKET_BYTES, false)]);
}

/// How many packets have come out since this was last asked.
fn sent(peer: &UnixDatagram) -> usize {
    let mut buffer = [0; 256];
    std::iter::from_fn(|| peer.recv(&mut buffer).ok()).count()
}

#[test]
fn answer_to_a_packet_and_what_follows_it_need_no_notification() {
    for features in [0, F_EVENT_IDX] {
        let (mut rig, peer) = net(features);
        assert!(!rig.linger(), "nothing has happened");
        rig.add(RECEIVE, &[(BUFFERS, 2048, true)]);
        peer.send(&[0; 100]).unwrap();
        assert!(rig.linger());
        assert!(rig.take_used(RECEIVE).is_some());
        for _ in 0..40 {
            send(&mut rig);
            assert!(!rig.would_notify(SEND, features));
            assert!(rig.linger());
            assert_eq!(sent(&peer), 1);
            assert!(rig.take_used(SEND).is_some());
        }
        rig.end_lingering();
        send(&mut rig);
        assert!(rig.would_notify(SEND, features), "nobody looks any more");
        assert_eq!(rig.counters.counts().notifies, 0);
        rig.notify(SEND as u16);
        assert_eq!(sent(&peer), 1);
        assert!(rig.linger(), "a notification is work as well");
        let counts = rig.counters.counts();
        assert_eq!((counts.notifies, counts.requests), (1, 42));
        // The peer that takes a packet makes the socket writable, which is an event: that finds the others.
        assert!(counts.polled_finds > 0);
        assert_eq!((counts.take_overs, counts.hand_backs), (0, 0));
    }
}

#[test]
fn what_comes_as_it_stops_is_found() {
    for features in [0, F_EVENT_IDX] {
        let (mut rig, peer) = net(features);
        rig.notify(SEND as u16);
        assert!(rig.linger());
        send(&mut rig);
        assert!(!rig.would_notify(SEND, features));
        rig.end_lingering();
        assert_eq!(sent(&peer), 1);
        assert_eq!(rig.counters.counts().notifies, 1);
    }
}

#[test]
fn packets_that_wait_for_a_full_tap_do_not_keep_it_awake_and_go_out_when_there_is_room() {
    let (mut rig, peer) = net(F_EVENT_IDX);
    rig.notify(SEND as u16);
    let mut published = 0;
    while rig.linger() && published < 10_000 {
        send(&mut rig);
        published += 1;
        rig.linger();
        if rig.take_used(SEND).is_none() {
            break;
        }
    }
    assert!(published < 10_000, "the socket is never full");
    rig.end_lingering();
    assert!(!rig.linger(), "it would call itself again and again");
    assert_eq!(rig.take_used(SEND), None);
    assert_eq!(sent(&peer), published - 1);
    rig.run();
    assert!(rig.take_used(SEND).is_some());
    assert_eq!(sent(&peer), 1);
}

#[test]
fn after_a_reset_nothing_is_touched_and_the_next_driver_is_lingered_for() {
    let (mut rig, peer) = net(F_EVENT_IDX);
    rig.notify(SEND as u16);
    assert!(rig.linger());
    send(&mut rig);
    rig.set_status(0);
    assert!(rig.linger(), "the time is not over");
    rig.end_lingering();
    assert_eq!((rig.take_used(SEND), sent(&peer)), (None, 0));
    rig.start(F_EVENT_IDX, 16);
    rig.notify(SEND as u16);
    assert!(rig.linger());
    send(&mut rig);
    rig.linger();
    assert_eq!(sent(&peer), 1);
}

#[test]
fn polling_thread_goes_on_where_it_lingers_and_is_left_alone_where_it_owns() {
    let (mut rig, peer) = net(F_EVENT_IDX);
    rig.notify(SEND as u16);
    assert!(rig.linger());
    send(&mut rig);
    assert!(rig.look(), "whoever comes first");
    assert!(!rig.hand_back(), "it is not its own");
    rig.end_lingering();
    assert!(!rig.look(), "from now on it is");
    rig.notify(SEND as u16);
    assert!(!rig.linger(), "no two for one queue");
    send(&mut rig);
    assert!(!rig.would_notify(SEND, F_EVENT_IDX));
    assert!(rig.look());
    rig.hand_back();
    send(&mut rig);
    assert!(rig.would_notify(SEND, F_EVENT_IDX));
    assert_eq!(sent(&peer), 2);
}

#[test]
fn notifications_of_a_device_that_is_lingered_for_do_not_make_its_queues_hot() {
    let (mut rig, _peer) = net(F_EVENT_IDX);
    let polled = rig.polled.clone().expect("it can be polled");
    polled.connect(std::sync::Arc::new(Nobody));
    for _ in 0..10 {
        rig.notify(SEND as u16);
    }
    assert!(!polled.is_hot());
}

struct Nobody;

impl crate::virtio::Kicked for Nobody {
    fn kicked(&self) {
        panic!("the polling thread is not to be called");
    }
}
