//! Index arithmetic of the rings, and nothing else (`[RING-1]` to `[RING-3]`).
//!
//! Indices are free-running `u32` counters: they wrap at 2^32, a slot is the index modulo the
//! ring's size, and tail - head (wrapping) is the number of entries. Because sizes are powers of
//! two, 2^32 is a multiple of each and the slot sequence has no break at the wrap.

/// The number of entries of a ring: a power of two, at most [`RingSize::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSize(u32);

impl RingSize {
    /// The largest size. Far below 2^31, so that no distance is ambiguous.
    pub const MAX: u32 = 1 << 16;

    /// Checks a size.
    pub const fn new(entries: u32) -> Option<Self> {
        if entries.is_power_of_two() && entries <= Self::MAX {
            Some(Self(entries))
        } else {
            None
        }
    }

    /// The number of entries.
    pub const fn entries(self) -> u32 {
        self.0
    }

    /// The slot of an index.
    pub const fn slot(self, index: u32) -> u32 {
        index & (self.0 - 1)
    }

    /// How many entries lie between the indices; `None` if no ring of this size can say so.
    pub const fn used(self, head: u32, tail: u32) -> Option<u32> {
        let used = tail.wrapping_sub(head);
        if used <= self.0 {
            Some(used)
        } else {
            None
        }
    }

    /// Checks the tail that a consumer has fetched against what it knows (`[RING-5]`).
    ///
    /// `head` is the consumer's own, `known` the last tail it accepted. The new tail may not lie
    /// further than one ring ahead of the head, nor behind the known tail. Gives the entries that
    /// can be taken.
    pub const fn accept_tail(self, head: u32, known: u32, fetched: u32) -> Option<u32> {
        match self.used(head, fetched) {
            Some(used) if used >= known.wrapping_sub(head) => Some(used),
            _ => None,
        }
    }

    /// Checks the head that a producer has fetched against what it knows (`[RING-5]`).
    ///
    /// `tail` is the producer's own, `known` the last head it accepted. The new head may not lie
    /// ahead of the tail, nor behind the known head. Gives the entries that are free.
    pub const fn accept_head(self, known: u32, tail: u32, fetched: u32) -> Option<u32> {
        match self.used(fetched, tail) {
            Some(used) if used <= tail.wrapping_sub(known) => Some(self.0 - used),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_1_only_powers_of_two_are_sizes() {
        let sizes: [u32; 6] = [1, 2, 4, 32, 1024, RingSize::MAX];
        for entries in sizes {
            assert_eq!(RingSize::new(entries).map(RingSize::entries), Some(entries));
        }
        for entries in [0, 3, 6, 33, RingSize::MAX + 1, RingSize::MAX * 2, u32::MAX] {
            assert_eq!(RingSize::new(entries), None);
        }
    }

    #[test]
    fn ring_2_slots_follow_each_other_across_the_wrap() {
        for entries in [1, 2, 4, 8, 32] {
            let size = RingSize::new(entries).unwrap();
            let mut index = 0_u32.wrapping_sub(3 * entries);
            let mut slot = size.slot(index);
            for _ in 0..6 * entries {
                assert!(slot < entries);
                index = index.wrapping_add(1);
                let next = size.slot(index);
                assert_eq!(next, if slot + 1 == entries { 0 } else { slot + 1 });
                slot = next;
            }
        }
    }

    /// Every head, known and fetched tail within three rings of the wrap, against signed 64-bit
    /// arithmetic that cannot wrap.
    #[test]
    fn ring_5_accepting_an_index_is_exact_at_every_distance() {
        for entries in [1_i64, 2, 4, 8] {
            let size = RingSize::new(u32::try_from(entries).unwrap()).unwrap();
            let base = i64::from(u32::MAX) + 1;
            let wrap = |index: i64| u32::try_from(index.rem_euclid(base)).unwrap();
            for own in -12..=12_i64 {
                for known in 0..=entries {
                    for fetched in -24..=24_i64 {
                        let (head, tail) = (own, own + known);
                        let legal = fetched >= tail && fetched <= head + entries;
                        assert_eq!(
                            size.accept_tail(wrap(head), wrap(tail), wrap(fetched)),
                            legal.then(|| wrap(fetched - head)),
                        );
                        let (tail, head) = (own, own - known);
                        let legal = fetched >= head && fetched <= tail;
                        assert_eq!(
                            size.accept_head(wrap(head), wrap(tail), wrap(fetched)),
                            legal.then(|| wrap(entries - (tail - fetched))),
                        );
                    }
                }
            }
        }
    }
}
