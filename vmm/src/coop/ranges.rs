//! Walks a guest's list of ranges in bounded, restartable steps (`[MMU-1]` to `[MMU-4]`).
//!
//! Pure: what is done with a piece of memory is the caller's; what memory there is, is asked.

use coopvirt_spec::code::Status;
use coopvirt_spec::entry::Completion;
use coopvirt_spec::range::{Range, RangeList};

use super::budget::Budget;

/// Bytes that are worked on between two looks at the clock. One huge page, so that none is split.
pub const PIECE_BYTES: u64 = 2 << 20;

/// What the walk needs to know about the machine.
pub trait Ground {
    /// Whether all these bytes are ordinary memory, in one piece.
    fn is_ram(&self, gpa: u64, len_bytes: u64) -> bool;
    /// Whether any of these bytes belongs to a registered area.
    fn overlaps_area(&self, gpa: u64, len_bytes: u64) -> bool;
    /// Fetches two words at an address that was checked; `None` if that fails.
    fn fetch(&self, gpa: u64) -> Option<[u64; 2]>;
}

/// How far a walk has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How it ended.
    pub status: Status,
    /// Items done, from the start of the list.
    pub items_done: u32,
    /// Bytes done of the first item that is not.
    pub bytes_done: u64,
}

impl Progress {
    /// The completion that says so.
    pub fn completion(self, tag: u64) -> Completion {
        Completion {
            items_done: self.items_done,
            ..Completion::new(tag, self.status, self.bytes_done)
        }
    }
}

/// Walks the list until it ends or the budget does. At least one piece is done in each call, so a
/// guest that goes on where the last call stopped gets to the end.
///
/// `act` works on one piece and says how many bytes of it are done.
pub fn walk(
    list: RangeList,
    max_items: u32,
    ground: &impl Ground,
    budget: &mut Budget,
    mut act: impl FnMut(u64, u64) -> Result<u64, Status>,
) -> Progress {
    let mut done = Progress {
        status: Status::OK,
        items_done: 0,
        bytes_done: 0,
    };
    let stop = |done: Progress, status| Progress { status, ..done };
    let end = match list.check(max_items) {
        Ok(end) => end,
        Err(status) => return stop(done, status),
    };
    let list_bytes = end - list.list_gpa;
    if !ground.is_ram(list.list_gpa, list_bytes) || ground.overlaps_area(list.list_gpa, list_bytes)
    {
        return stop(done, Status::BAD_ADDRESS);
    }
    done.items_done = list.first_item;
    done.bytes_done = list.first_offset;
    let mut is_first_piece = true;
    for item in list.first_item..list.nr_items {
        // Fetched once; what is checked is what is used (`[MMU-3]`).
        let fetched = list.item_gpa(item).and_then(|gpa| ground.fetch(gpa));
        let Some([gpa, len_bytes]) = fetched else {
            return stop(done, Status::BAD_ADDRESS);
        };
        if let Err(status) = check(Range { gpa, len_bytes }, ground) {
            return stop(done, status);
        }
        if done.bytes_done >= len_bytes {
            return stop(done, Status::BAD_RANGE);
        }
        while done.bytes_done < len_bytes {
            let left = match budget.bytes_left() {
                // One piece is bounded by its size, however late it is.
                0 if is_first_piece => PIECE_BYTES,
                0 => return stop(done, Status::PARTIAL),
                left => left & !0xfff,
            };
            is_first_piece = false;
            // Pieces end at multiples of their size, whole huge pages where the range allows.
            let at = gpa + done.bytes_done;
            let to_boundary = PIECE_BYTES - at % PIECE_BYTES;
            let piece = (len_bytes - done.bytes_done)
                .min(to_boundary)
                .min(left.max(4096));
            match act(at, piece) {
                Ok(bytes) => {
                    let bytes = bytes.min(piece) & !0xfff;
                    budget.spend(piece);
                    done.bytes_done += bytes;
                    if bytes < piece {
                        return stop(done, Status::PARTIAL);
                    }
                }
                Err(status) => return stop(done, status),
            }
        }
        done.items_done += 1;
        done.bytes_done = 0;
    }
    done
}

fn check(range: Range, ground: &impl Ground) -> Result<(), Status> {
    range.check()?;
    if !ground.is_ram(range.gpa, range.len_bytes)
        || ground.overlaps_area(range.gpa, range.len_bytes)
    {
        return Err(Status::BAD_RANGE);
    }
    Ok(())
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
        walk(list(1), 512, &Fake(vec![item]), &mut plenty(), |_, len| {
            Ok(len)
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
        let status = |list| walk(list, 4, &fake, &mut plenty(), |_, len| Ok(len)).status;
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
            let done = walk(call, 512, &fake, &mut budget, |gpa, len| {
                seen.push((gpa, len));
                Ok(len)
            });
            calls += 1;
            match done.status {
                Status::OK => break,
                status => assert_eq!(status, Status::PARTIAL),
            }
            call.first_item = done.items_done;
            call.first_offset = done.bytes_done;
            assert!(calls < 20);
        }
        assert_eq!(seen.iter().map(|(_, len)| len).sum::<u64>(), total);
        assert!(seen
            .windows(2)
            .all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
        assert!(calls >= 3, "{calls}");
    }

    #[test]
    fn mmu_4_a_used_up_budget_still_makes_progress() {
        let fake = Fake(vec![[0x20_0000, 0x40_0000]]);
        let mut budget = Budget::new(1, 0, Duration::ZERO);
        let done = walk(list(1), 512, &fake, &mut budget, |_, len| Ok(len));
        assert_eq!(
            (done.status, done.bytes_done),
            (Status::PARTIAL, PIECE_BYTES)
        );
    }

    #[test]
    fn mmu_3_what_fails_says_how_far_it_came() {
        let fake = Fake(vec![[0x20_0000, 0x1000], [0, 0]]);
        let done = walk(list(2), 512, &fake, &mut plenty(), |_, len| Ok(len));
        assert_eq!((done.status, done.items_done), (Status::BAD_RANGE, 1));
        let done = walk(list(2), 512, &fake, &mut plenty(), |_, _| {
            Err(Status::HOST_FAILED)
        });
        assert_eq!((done.status, done.items_done), (Status::HOST_FAILED, 0));
    }
}
