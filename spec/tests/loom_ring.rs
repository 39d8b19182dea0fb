//! Models of the ring: every interleaving and every stale load that the memory model allows.
//!
//! One side is a thread that fills, the other a thread that empties, over a ring of two entries of
//! two words. Each property is also run on memory with a defect, and has to fail there.

#[path = "support/model.rs"]
mod model;

use coopvirt_spec::mem::Defect;
use coopvirt_spec::ring::{Consumer, Geometry, Producer, PushError, RingSize};
use loom::sync::Arc;
use loom::thread;
use model::{assert_fails, assert_holds, number, Model};

const W: usize = 2;
const TAIL: usize = 0;
const HEAD: usize = 4;
const ENTRIES: usize = 64;

fn geometry() -> Geometry {
    Geometry {
        tail: TAIL,
        head: HEAD,
        entries: ENTRIES,
        size: RingSize::new(2).expect("a power of two"),
    }
}

fn memory<const D: usize>() -> Arc<Model<D>> {
    Arc::new(Model::new(&[TAIL, HEAD], &[64, 72, 80, 88]))
}

/// Three entries through a ring of two: both the wait for room and the reuse of a slot occur. What
/// comes out is a prefix of what went in, and no entry is torn.
fn stream<const D: usize>() {
    let mem = memory::<D>();
    let peer = mem.clone();
    // Just before the wrap of the index, which must not show.
    let start = u32::MAX;
    let mem_of_producer = mem.clone();
    for word in [TAIL, HEAD] {
        use coopvirt_spec::mem::{SharedMem, Store};
        mem.store_u32(word, start, Store::Relaxed);
    }
    let filler = thread::spawn(move || {
        let mut producer = Producer::<W>::new(geometry(), start);
        let mut sent = 0;
        for value in 1..=3_u64 {
            match producer.push(&*mem_of_producer, &[value, value]) {
                Ok(()) => sent = value,
                Err(PushError::Full) => break,
                Err(PushError::Corrupt(corrupt)) => panic!("{corrupt}"),
            }
        }
        sent
    });
    let mut consumer = Consumer::<W>::new(geometry(), start);
    let mut last = 0;
    let mut take = |consumer: &mut Consumer<W>| match consumer.pop(&*peer) {
        Ok(Some([a, b])) => {
            assert_eq!(a, b, "torn entry");
            assert_eq!(a, last + 1, "entry lost, repeated or stale");
            last = a;
        }
        Ok(None) => {}
        Err(corrupt) => panic!("{corrupt}"),
    };
    take(&mut consumer);
    take(&mut consumer);
    let sent = filler.join().expect("the producer ends");
    for _ in 0..3 {
        take(&mut consumer);
    }
    assert_eq!(last, sent, "entry lost");
}

#[test]
fn ring_4_no_entry_is_torn_lost_or_repeated() {
    assert_holds(stream::<0>);
}

#[test]
fn ring_6_the_model_fails_when_the_tail_comes_before_the_entry() {
    assert_fails(stream::<{ number(Defect::TailBeforeEntry) }>, "entry");
}

#[test]
fn order_2_the_model_fails_without_release_of_the_tail() {
    assert_fails(stream::<{ number(Defect::TailRelaxed) }>, "entry");
}

#[test]
fn order_2_the_model_fails_without_acquire_of_the_tail() {
    assert_fails(stream::<{ number(Defect::TailLoadRelaxed) }>, "entry");
}

#[test]
fn order_3_the_model_fails_when_a_slot_is_given_back_before_the_copy() {
    assert_fails(stream::<{ number(Defect::HeadBeforeCopy) }>, "entry");
}

#[test]
fn ring_2_the_model_fails_when_the_ring_counts_one_entry_too_many() {
    assert_fails(stream::<{ number(Defect::FullOffByOne) }>, "impossible");
}

#[test]
fn ring_2_the_model_fails_when_slots_are_masked_wrongly() {
    assert_fails(stream::<{ number(Defect::SlotMask) }>, "entry");
}
