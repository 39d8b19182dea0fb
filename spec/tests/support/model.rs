//! Shared memory for the loom models: each word of a list is an atomic of its own.
//!
//! [ORDER-1]: a word is always accessed with one width, as the layout has it, so 32-bit and 64-bit words are
//! kept apart. Memory outside the list is an error of the model.

use coopvirt_spec::mem::{Defect, Load, SharedMem, Store};
use loom::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};

/// Memory whose algorithms show defect number `D` of [`DEFECTS`].
pub(crate) struct Model<const D: usize> {
    narrow: Vec<(usize, AtomicU32)>,
    wide: Vec<(usize, AtomicU64)>,
}

/// The defects by number.
pub(crate) const DEFECTS: [Defect; 18] = [
    Defect::None,
    Defect::TailBeforeEntry,
    Defect::TailRelaxed,
    Defect::FullOffByOne,
    Defect::HeadBeforeCopy,
    Defect::TailLoadRelaxed,
    Defect::FetchTwice,
    Defect::ForgetCorrupt,
    Defect::SlotMask,
    Defect::LeaseReadOnce,
    Defect::PublishNoFence,
    Defect::RevokeNoFence,
    Defect::TimerKeepsArmed,
    Defect::TimerNoFence,
    Defect::TimerIgnoresServed,
    Defect::PostNoFence,
    Defect::PostLoadsOnce,
    Defect::EndNoFence,
];

/// The number of a defect, for a type.
pub(crate) const fn number(defect: Defect) -> usize {
    let mut at = 0;
    while DEFECTS[at] as usize != defect as usize {
        at += 1;
    }
    at
}

impl<const D: usize> Model<D> {
    /// Zeroed words at these offsets.
    pub(crate) fn new(narrow: &[usize], wide: &[usize]) -> Self {
        Self {
            narrow: narrow.iter().map(|at| (*at, AtomicU32::new(0))).collect(),
            wide: wide.iter().map(|at| (*at, AtomicU64::new(0))).collect(),
        }
    }

    fn narrow(&self, offset: usize) -> &AtomicU32 {
        let found = self.narrow.iter().find(|(at, _)| *at == offset);
        &found.expect("a 32-bit word of the model").1
    }

    fn wide(&self, offset: usize) -> &AtomicU64 {
        let found = self.wide.iter().find(|(at, _)| *at == offset);
        &found.expect("a 64-bit word of the model").1
    }
}

impl<const D: usize> SharedMem for Model<D> {
    const DEFECT: Defect = DEFECTS[D];

    fn load_u32(&self, offset: usize, order: Load) -> u32 {
        self.narrow(offset).load(order.ordering())
    }
    fn store_u32(&self, offset: usize, value: u32, order: Store) {
        self.narrow(offset).store(value, order.ordering());
    }
    fn load_u64(&self, offset: usize, order: Load) -> u64 {
        self.wide(offset).load(order.ordering())
    }
    fn store_u64(&self, offset: usize, value: u64, order: Store) {
        self.wide(offset).store(value, order.ordering());
    }
    fn fence_full(&self) {
        fence(Ordering::SeqCst);
    }
}

/// Explores all interleavings of `body`; what the first failing one said, if any fails.
fn explore(body: fn()) -> Result<(), String> {
    let run = move || {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(body);
    };
    std::thread::spawn(run).join().map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        text.or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default()
    })
}

/// Requires every interleaving to pass.
pub(crate) fn assert_holds(body: fn()) {
    assert_eq!(explore(body), Ok(()));
}

/// Requires an interleaving to fail, by an assertion that says `why`: a model that falls over for
/// another reason shows nothing.
pub(crate) fn assert_fails(body: fn(), why: &str) {
    let said = explore(body).expect_err("the model does not see this defect");
    assert!(said.contains(why), "failed for another reason: {said}");
}
