//! Works through a guest's list of ranges within an exit's budget: the spec's walk, bounded by time
//! as well (`[MMU-1]` to `[MMU-4]`).
//!
//! Pure: what is done with a piece of memory is the caller's; what memory there is, is asked.

use coopvirt_spec::code::Status;
use coopvirt_spec::op::Answer;
use coopvirt_spec::range::{self, Range, RangeList, RangeWork, PIECE_BYTES};

use super::budget::Budget;

/// What the walk needs to know about the machine.
pub trait Ground {
    /// Whether all these bytes are ordinary memory, in one piece.
    fn is_ram(&self, gpa: u64, len_bytes: u64) -> bool;
    /// Whether any of these bytes belongs to a registered area.
    fn overlaps_area(&self, gpa: u64, len_bytes: u64) -> bool;
    /// Fetches two words at an address that was checked; `None` if that fails.
    fn fetch(&self, gpa: u64) -> Option<[u64; 2]>;
}

/// Works through the list until it ends or the budget does; `act` does it to one piece, and each
/// byte of it weighs so much. At least one whole piece is done in each call.
pub fn walk(
    list: RangeList,
    max_items: u32,
    ground: &impl Ground,
    budget: &mut Budget,
    weight: u64,
    act: impl FnMut(u64, u64) -> Result<(), Status>,
) -> Answer {
    let mut work = Work {
        ground,
        budget,
        weight,
        act,
        is_first: true,
    };
    range::walk(&list, max_items, &mut work)
}

struct Work<'a, G, A> {
    ground: &'a G,
    budget: &'a mut Budget,
    weight: u64,
    act: A,
    /// No piece is done yet.
    is_first: bool,
}

impl<G: Ground, A: FnMut(u64, u64) -> Result<(), Status>> RangeWork for Work<'_, G, A> {
    fn fetch(&mut self, item_gpa: u64) -> Option<Range> {
        let [gpa, len_bytes] = self.ground.fetch(item_gpa)?;
        Some(Range { gpa, len_bytes })
    }

    fn is_allowed(&mut self, gpa: u64, len_bytes: u64) -> bool {
        self.ground.is_ram(gpa, len_bytes) && !self.ground.overlaps_area(gpa, len_bytes)
    }

    fn allowance(&mut self) -> u64 {
        match self.budget.bytes_left(self.weight) {
            // One piece is bounded by its size, however late it is.
            0 if self.is_first => PIECE_BYTES,
            left => left,
        }
    }

    fn work(&mut self, gpa: u64, len_bytes: u64) -> Result<(), Status> {
        self.is_first = false;
        (self.act)(gpa, len_bytes)?;
        self.budget.spend(len_bytes, self.weight);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// 16 MiB of RAM, an area at 0x5000, a list at 0x1000.
    struct Fake(Vec<[u64; 2]>);

    impl Ground for Fake {
        fn is_ram(&self, gpa: u64, len_bytes: u64) -> bool {
            gpa.checked_add(len_bytes)
                .is_some_and(|end| end <= 16 << 20)
        }
        fn overlaps_area(&self, gpa: u64, len_bytes: u64) -> bool {
            gpa < 0x6000 && gpa + len_bytes > 0x5000
        }
        fn fetch(&self, gpa: u64) -> Option<[u64; 2]> {
            let item = usize::try_from((gpa - 0x1000) / 16).ok()?;
            self.0.get(item).copied()
        }
    }

    fn list(nr_items: u32) -> RangeList {
        RangeList {
            list_gpa: 0x1000,
            nr_items,
            first_item: 0,
            first_offset: 0,
        }
    }

    fn plenty() -> Budget {
        Budget::new(32, u64::MAX, Duration::from_secs(60))
    }

    fn status_of(item: [u64; 2]) -> Status {
        walk(list(1), 512, &Fake(vec![item]), &mut plenty(), 1, |_, _| {
            Ok(())
        })
        .status
    }

    #[test]
    fn mmu_1_bad_ranges_are_refused_before_anything_is_done() {
        for item in [
            [0, 0],
            [0x800, 0x1000],
            [0x5000, 0x1000],
            [0x4000, 0x4000],
            [16 << 20, 0x1000],
            [0xfee0_0000, 0x1000],
            [!0xfff, 0x1000],
            [0x1000, !0xfff],
        ] {
            assert_eq!(status_of(item), Status::BAD_RANGE, "{item:x?}");
        }
        assert_eq!(status_of([0x10_0000, 0x1000]), Status::OK);
    }

    #[test]
    fn mmu_2_bad_lists_are_refused() {
        let fake = Fake(vec![[0x10_0000, 0x1000]; 4]);
        let status = |list| walk(list, 4, &fake, &mut plenty(), 1, |_, _| Ok(())).status;
        assert_eq!(status(list(0)), Status::BAD_LIST);
        assert_eq!(status(list(5)), Status::BAD_LIST);
        assert_eq!(status(list(u32::MAX)), Status::BAD_LIST);
        for list_gpa in [0x4ff8, 0x5008, (16 << 20) - 8, 0xfee0_0000, 0x1004] {
            let list = RangeList {
                list_gpa,
                ..list(1)
            };
            assert_eq!(status(list), Status::BAD_ADDRESS, "{list_gpa:#x}");
        }
        let behind = RangeList {
            first_offset: 0x1000,
            ..list(1)
        };
        assert_eq!(status(behind), Status::BAD_RANGE);
    }

    #[test]
    fn mmu_4_a_long_list_is_done_in_steps_each_byte_once() {
        let items = vec![
            [0x20_0000, 0x30_0000],
            [0x60_0000, 0x1000],
            [0x80_1000, 0x20_0000],
        ];
        let total: u64 = items.iter().map(|item| item[1]).sum();
        let fake = Fake(items);
        let (mut call, mut seen, mut calls) = (list(3), Vec::new(), 0);
        loop {
            let mut budget = Budget::new(32, 0x18_0000, Duration::from_secs(60));
            let done = walk(call, 512, &fake, &mut budget, 1, |gpa, len| {
                seen.push((gpa, len));
                Ok(())
            });
            calls += 1;
            match done.status {
                Status::OK => break,
                status => assert_eq!(status, Status::PARTIAL),
            }
            call.first_item = done.items_done;
            call.first_offset = done.result;
            assert!(calls < 20);
        }
        assert_eq!(seen.iter().map(|(_, len)| len).sum::<u64>(), total);
        assert!(seen
            .windows(2)
            .all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
        let pieces = |gpa| gpa / PIECE_BYTES;
        assert!(seen
            .iter()
            .all(|(gpa, len)| pieces(*gpa) == pieces(gpa + len - 1)));
        assert!(calls >= 3, "{calls}");
    }

    #[test]
    fn mmu_4_what_is_given_back_in_one_call_is_backed_in_several() {
        let fake = Fake(vec![[0x20_0000, 0xe0_0000]]);
        let call = |weight| {
            let mut budget = Budget::new(32, 32 << 20, Duration::from_secs(60));
            walk(list(1), 512, &fake, &mut budget, weight, |_, _| Ok(()))
        };
        assert_eq!(call(1).status, Status::OK);
        let backed = call(16);
        assert_eq!((backed.status, backed.result), (Status::PARTIAL, 2 << 20));
        assert_eq!(Budget::exit().bytes_left(Budget::BACKING_WEIGHT), 2 << 20);
    }

    #[test]
    fn mmu_4_a_used_up_budget_still_makes_progress() {
        let fake = Fake(vec![[0x20_0000, 0x40_0000]]);
        let mut budget = Budget::new(1, 0, Duration::ZERO);
        let done = walk(list(1), 512, &fake, &mut budget, 1, |_, _| Ok(()));
        assert_eq!((done.status, done.result), (Status::PARTIAL, PIECE_BYTES));
    }

    #[test]
    fn mmu_3_what_fails_says_how_far_it_came() {
        let fake = Fake(vec![[0x20_0000, 0x1000], [0, 0]]);
        let done = walk(list(2), 512, &fake, &mut plenty(), 1, |_, _| Ok(()));
        assert_eq!((done.status, done.items_done), (Status::BAD_RANGE, 1));
        let done = walk(list(2), 512, &fake, &mut plenty(), 1, |_, _| {
            Err(Status::HOST_FAILED)
        });
        assert_eq!((done.status, done.items_done), (Status::HOST_FAILED, 0));
    }
}
