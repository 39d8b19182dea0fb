//! How a host works through a list of ranges, a bounded piece per call (`[MMU-3]`, `[MMU-4]`).
//!
//! Pure: where items come from and what is done to memory is behind [`RangeWork`]. The same code
//! serves populate, release and whatever else takes a list.

use super::{Range, RangeList};
use crate::code::Status;
use crate::entry::Completion;
use crate::page::PAGE_BYTES;

/// What a walk needs from the machine.
pub trait RangeWork {
    /// Fetches one item from guest memory, each of its words once; `None` outside memory.
    fn fetch(&mut self, item_gpa: u64) -> Option<Range>;
    /// Says whether a well-formed range is ordinary memory that no area overlaps.
    fn is_allowed(&mut self, gpa: u64, len_bytes: u64) -> bool;
    /// Does the work for whole pages that were allowed.
    fn work(&mut self, gpa: u64, len_bytes: u64) -> Result<(), Status>;
}

/// How far a walk has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// `OK`, `PARTIAL`, or the error of the item that is not done.
    pub status: Status,
    /// Items done, counted from the start of the list.
    pub items_done: u32,
    /// Bytes done of the first item that is not.
    pub offset: u64,
}

impl Progress {
    /// The completion that says so.
    pub const fn completion(self, tag: u64) -> Completion {
        let mut done = Completion::new(tag, self.status, self.offset);
        done.items_done = self.items_done;
        done
    }
}

/// Works through a list that [`RangeList::check`] has accepted, at most `max_bytes` of it and at
/// least one page.
pub fn walk(list: &RangeList, max_bytes: u64, machine: &mut impl RangeWork) -> Progress {
    let mut left = max_bytes.max(PAGE_BYTES) & !(PAGE_BYTES - 1);
    let mut progress = Progress {
        status: Status::OK,
        items_done: list.first_item,
        offset: list.first_offset,
    };
    while let Some(item_gpa) = list.item_gpa(progress.items_done) {
        if let Err(status) = item(item_gpa, &mut progress.offset, &mut left, machine) {
            progress.status = status;
            return progress;
        }
        progress.items_done += 1;
        progress.offset = 0;
    }
    progress
}

/// Does the rest of one item; `Err(PARTIAL)` if `left` ends first.
fn item(
    item_gpa: u64,
    offset: &mut u64,
    left: &mut u64,
    machine: &mut impl RangeWork,
) -> Result<(), Status> {
    // Fetching costs too: without this, a list of bad or tiny items would be free.
    if *left == 0 {
        return Err(Status::PARTIAL);
    }
    let range = machine.fetch(item_gpa).ok_or(Status::BAD_ADDRESS)?;
    range.check()?;
    if *offset >= range.len_bytes || !machine.is_allowed(range.gpa, range.len_bytes) {
        return Err(Status::BAD_RANGE);
    }
    let rest = range.len_bytes - *offset;
    let len_bytes = rest.min(*left);
    machine.work(range.gpa + *offset, len_bytes)?;
    *left -= len_bytes;
    if len_bytes < rest {
        *offset += len_bytes;
        return Err(Status::PARTIAL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    /// 64 pages of memory, with an area in page 9, and a list at zero.
    struct Machine {
        items: Vec<Range>,
        fetched: Vec<u64>,
        worked: Vec<(u64, u64)>,
    }

    const PAGE: u64 = PAGE_BYTES;

    impl RangeWork for Machine {
        fn fetch(&mut self, item_gpa: u64) -> Option<Range> {
            self.fetched.push(item_gpa);
            let index = usize::try_from(item_gpa / 16).ok()?;
            self.items.get(index).copied()
        }
        fn is_allowed(&mut self, gpa: u64, len_bytes: u64) -> bool {
            let end = gpa + len_bytes;
            end <= 64 * PAGE && (end <= 9 * PAGE || gpa > 9 * PAGE)
        }
        fn work(&mut self, gpa: u64, len_bytes: u64) -> Result<(), Status> {
            self.worked.push((gpa / PAGE, len_bytes / PAGE));
            Ok(())
        }
    }

    fn machine(pages: &[(u64, u64)]) -> (Machine, RangeList) {
        let range = |&(gpa, len): &(u64, u64)| Range {
            gpa: gpa * PAGE,
            len_bytes: len * PAGE,
        };
        let machine = Machine {
            items: pages.iter().map(range).collect(),
            fetched: Vec::new(),
            worked: Vec::new(),
        };
        let list = RangeList {
            list_gpa: 0,
            nr_items: u32::try_from(pages.len()).unwrap(),
            first_item: 0,
            first_offset: 0,
        };
        (machine, list)
    }

    fn progress(status: Status, items_done: u32, pages: u64) -> Progress {
        Progress {
            status,
            items_done,
            offset: pages * PAGE,
        }
    }

    #[test]
    fn mmu_4_a_long_list_is_done_in_steps_and_exactly_once() {
        let (mut machine, mut list) = machine(&[(1, 3), (20, 10), (40, 1), (50, 4)]);
        let mut steps = Vec::new();
        loop {
            assert!(list.check(4).is_ok());
            let step = walk(&list, 4 * PAGE, &mut machine);
            steps.push(step);
            if step.status != Status::PARTIAL {
                break;
            }
            list.first_item = step.items_done;
            list.first_offset = step.offset;
        }
        let expected = [
            progress(Status::PARTIAL, 1, 1),
            progress(Status::PARTIAL, 1, 5),
            progress(Status::PARTIAL, 1, 9),
            progress(Status::PARTIAL, 3, 2),
            progress(Status::OK, 4, 0),
        ];
        assert_eq!(steps, expected);
        let done: u64 = machine.worked.iter().map(|(_, pages)| pages).sum();
        assert_eq!(done, 18);
        assert!(machine.worked.contains(&(29, 1)) && machine.worked.contains(&(50, 2)));
    }

    #[test]
    fn mmu_4_a_limit_below_a_page_still_makes_progress() {
        let (mut machine, list) = machine(&[(1, 2)]);
        assert_eq!(
            walk(&list, 0, &mut machine),
            progress(Status::PARTIAL, 0, 1)
        );
        let all = walk(&list, u64::MAX, &mut machine);
        assert_eq!(all, progress(Status::OK, 1, 0));
    }

    #[test]
    fn mmu_3_items_before_a_bad_one_are_done_and_counted_and_each_is_fetched_once() {
        for bad in [
            (9, 1),
            (8, 2),
            (63, 2),
            (5, 0),
            (1 << 51, 1),
            (1, (1 << 52) - 1),
        ] {
            let (mut machine, list) = machine(&[(1, 1), (2, 1), bad, (3, 1)]);
            let ended = walk(&list, 100 * PAGE, &mut machine);
            assert_eq!(ended, progress(Status::BAD_RANGE, 2, 0), "{bad:?}");
            assert_eq!(machine.worked, [(1, 1), (2, 1)]);
            assert_eq!(machine.fetched, [0, 16, 32]);
        }
    }

    #[test]
    fn mmu_4_an_offset_behind_the_item_is_refused() {
        let (mut machine, mut list) = machine(&[(1, 2)]);
        list.first_offset = 2 * PAGE;
        assert_eq!(walk(&list, PAGE, &mut machine).status, Status::BAD_RANGE);
        list.nr_items = 2;
        list.first_item = 1;
        assert_eq!(walk(&list, PAGE, &mut machine).status, Status::BAD_ADDRESS);
        assert!(machine.worked.is_empty());
    }
}
