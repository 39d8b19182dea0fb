//! Random sequences of operations on the ring, against a queue that cannot be wrong.
//!
//! The same properties run on memory with a defect and have to fail there, so that a property that
//! has become empty is noticed.

mod support;

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;

use coopvirt_spec::mem::{AtomicWords, Defect, Load, SharedMem, Store};
use coopvirt_spec::ring::{Consumer, Drained, Geometry, Producer, PushError, RingSize};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestCaseResult, TestRunner};

const W: usize = 2;

/// Memory that shows the defect with this number.
struct Defective<'a, const D: u8>(AtomicWords<'a>);

const SLOT_MASK: u8 = 1;
const FULL_OFF_BY_ONE: u8 = 2;

impl<const D: u8> SharedMem for Defective<'_, D> {
    const DEFECT: Defect = match D {
        SLOT_MASK => Defect::SlotMask,
        FULL_OFF_BY_ONE => Defect::FullOffByOne,
        _ => Defect::None,
    };

    fn load_u32(&self, offset: usize, order: Load) -> u32 {
        self.0.load_u32(offset, order)
    }
    fn store_u32(&self, offset: usize, value: u32, order: Store) {
        self.0.store_u32(offset, value, order);
    }
    fn load_u64(&self, offset: usize, order: Load) -> u64 {
        self.0.load_u64(offset, order)
    }
    fn store_u64(&self, offset: usize, value: u64, order: Store) {
        self.0.store_u64(offset, value, order);
    }
    fn fence_full(&self) {
        self.0.fence_full();
    }
}

#[derive(Clone, Debug)]
enum Step {
    Stage(u64),
    Publish,
    Push(u64),
    Pop,
    Take,
    Release,
    Drain(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any::<u64>().prop_map(Step::Stage),
        2 => Just(Step::Publish),
        4 => any::<u64>().prop_map(Step::Push),
        3 => Just(Step::Pop),
        2 => Just(Step::Take),
        2 => Just(Step::Release),
        1 => (0..6_u32).prop_map(Step::Drain),
    ]
}

fn geometry(entries: u32) -> Geometry {
    Geometry {
        tail: 0,
        head: 4,
        entries: 64,
        size: RingSize::new(entries).expect("a power of two"),
    }
}

/// What a ring should be: entries staged, published, taken but not released.
#[derive(Default)]
struct Queue {
    staged: VecDeque<u64>,
    published: VecDeque<u64>,
    unreleased: u32,
}

impl Queue {
    fn used(&self) -> u32 {
        u32::try_from(self.staged.len() + self.published.len()).expect("small") + self.unreleased
    }

    fn publish(&mut self) {
        self.published.append(&mut self.staged);
    }
}

fn same<T: PartialEq + Copy + std::fmt::Debug>(ring: T, queue: T) -> TestCaseResult {
    if ring == queue {
        Ok(())
    } else {
        let text = format!("the ring says {ring:?}, the queue {queue:?}");
        Err(TestCaseError::fail(text))
    }
}

fn behaves<const D: u8>(log2: u32, start: u32, steps: &[Step]) -> TestCaseResult {
    let entries = 1 << log2;
    let memory: Vec<AtomicU64> = support::words(8 + entries as usize * W);
    let mem = &Defective::<D>(AtomicWords(&memory));
    mem.store_u32(0, start, Store::Relaxed);
    mem.store_u32(4, start, Store::Relaxed);
    let mut producer = Producer::<W>::new(geometry(entries), start);
    let mut consumer = Consumer::<W>::new(geometry(entries), start);
    let mut queue = Queue::default();
    for step in steps {
        match *step {
            Step::Stage(value) | Step::Push(value) => {
                let full = queue.used() == entries;
                let expected = if full { Err(PushError::Full) } else { Ok(()) };
                same(producer.stage(mem, &[value, !value]), expected)?;
                if !full {
                    queue.staged.push_back(value);
                }
                if matches!(step, Step::Push(_)) {
                    producer.publish(mem);
                    queue.publish();
                }
            }
            Step::Publish => {
                producer.publish(mem);
                queue.publish();
            }
            Step::Take | Step::Pop => {
                let expected = queue.published.pop_front();
                same(
                    consumer.take(mem),
                    Ok(expected.map(|value| [value, !value])),
                )?;
                queue.unreleased += u32::from(expected.is_some());
                if matches!(step, Step::Pop) {
                    consumer.release(mem);
                    queue.unreleased = 0;
                }
            }
            Step::Release => {
                consumer.release(mem);
                queue.unreleased = 0;
            }
            Step::Drain(budget) => {
                let there = u32::try_from(queue.published.len()).expect("small");
                let mut wrong = None;
                let drained = consumer.drain(mem, budget, |words| {
                    let expected = queue.published.pop_front();
                    if expected.map(|value| [value, !value]) != Some(words) {
                        wrong = Some(words);
                    }
                });
                same(wrong, None)?;
                let taken = there.min(budget);
                let has_more = there > taken;
                same(drained, Ok(Drained { taken, has_more }))?;
                queue.unreleased = 0;
            }
        }
    }
    Ok(())
}

/// Runs a property on random rings and steps; sizes 1 to 8, indices around the wrap.
fn run<const D: u8>(cases: u32) -> Result<(), String> {
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: if D == 0 { 4096 } else { 0 },
        rng_seed: proptest::test_runner::RngSeed::Fixed(20_241_117),
        ..Config::default()
    };
    let start = (0..40_u32).prop_map(|back| 20_u32.wrapping_sub(back));
    let inputs = (0..4_u32, start, proptest::collection::vec(step(), 1..80));
    TestRunner::new(config)
        .run(&inputs, |(log2, start, steps)| {
            behaves::<D>(log2, start, &steps)
        })
        .map_err(|error| error.to_string())
}

// [RING-7]: a drain looks once and takes no more than its budget.
#[test]
fn ring_1_a_ring_behaves_like_a_queue() {
    assert_eq!(run::<0>(1000), Ok(()));
}

#[test]
fn ring_1_the_property_fails_with_a_wrong_slot() {
    assert!(run::<SLOT_MASK>(200).is_err());
}

#[test]
fn ring_2_the_property_fails_with_one_entry_too_many() {
    assert!(run::<FULL_OFF_BY_ONE>(200).is_err());
}

/// All ways to fill and empty small rings in up to ten steps, from before the wrap of the index.
#[test]
fn ring_3_every_short_sequence_of_pushes_and_pops_is_right() {
    for log2 in 0..3 {
        for start in [0_u32.wrapping_sub(3), 0] {
            for choice in 0..1_u32 << 10 {
                let steps: Vec<Step> = (0..10_u32)
                    .map(|bit| match choice >> bit & 1 {
                        0 => Step::Push(u64::from(bit)),
                        _ => Step::Pop,
                    })
                    .collect();
                behaves::<0>(log2, start, &steps).expect("like a queue");
            }
        }
    }
}
