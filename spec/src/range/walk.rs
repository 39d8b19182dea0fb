//! How a host works through a list of ranges, a bounded piece per call (`[MMU-2]` to `[MMU-4]`).
//!
//! Pure: where items come from, what is done to memory and how much of it may be done is behind
//! [`RangeWork`]. The same code serves populate, release and whatever else takes a list.

use super::{Range, RangeList};
use crate::code::Status;
use crate::op::Answer;
use crate::page::PAGE_BYTES;

/// Most bytes of one piece of work. A piece ends at a multiple of it: one huge page, so that none
/// is split where the range covers it.
pub const PIECE_BYTES: u64 = 2 << 20;

/// What a walk needs from the machine.
pub trait RangeWork {
    /// Fetches one item from guest memory, each of its words once; `None` outside memory.
    fn fetch(&mut self, item_gpa: u64) -> Option<Range>;
    /// Says whether these bytes are ordinary memory that no area overlaps.
    fn is_allowed(&mut self, gpa: u64, len_bytes: u64) -> bool;
    /// Says how many bytes may be worked on from now on, by whatever bounds the call: none ends the
    /// walk. Asked before each piece, and before each item, as fetching costs too; the first piece
    /// has one page at least, so that a guest that goes on where a call ended gets to the end.
    fn allowance(&mut self) -> u64;
    /// Does the work for whole pages that were allowed, [`PIECE_BYTES`] at most.
    fn work(&mut self, gpa: u64, len_bytes: u64) -> Result<(), Status>;
}

/// Works through a list of at most `max_items` until it ends, an item is bad, or no more may be
/// done. The answer says how far it has come: items from the start of the list, and as its result
/// the bytes done of the first item that is not.
pub fn walk(list: &RangeList, max_items: u32, machine: &mut impl RangeWork) -> Answer {
    let mut answer = Answer {
        status: Status::OK,
        items_done: 0,
        result: 0,
    };
    if let Err(status) = check(list, max_items, machine) {
        answer.status = status;
        return answer;
    }
    answer.items_done = list.first_item;
    answer.result = list.first_offset;
    let mut least_bytes = PAGE_BYTES;
    while let Some(item_gpa) = list.item_gpa(answer.items_done) {
        if let Err(status) = item(item_gpa, &mut answer.result, &mut least_bytes, machine) {
            answer.status = status;
            return answer;
        }
        answer.items_done += 1;
        answer.result = 0;
    }
    answer
}

/// Checks the list as a piece of memory (`[MMU-2]`).
fn check(list: &RangeList, max_items: u32, machine: &mut impl RangeWork) -> Result<(), Status> {
    let end = list.check(max_items)?;
    if !machine.is_allowed(list.list_gpa, end - list.list_gpa) {
        return Err(Status::BAD_ADDRESS);
    }
    Ok(())
}

/// Does the rest of one item; `Err(PARTIAL)` if no more may be done before its end.
fn item(
    item_gpa: u64,
    offset: &mut u64,
    least_bytes: &mut u64,
    machine: &mut impl RangeWork,
) -> Result<(), Status> {
    let mut left = next_allowance(least_bytes, machine)?;
    // Fetched once; what is checked is what is used.
    let range = machine.fetch(item_gpa).ok_or(Status::BAD_ADDRESS)?;
    range.check()?;
    if *offset >= range.len_bytes || !machine.is_allowed(range.gpa, range.len_bytes) {
        return Err(Status::BAD_RANGE);
    }
    loop {
        let at = range.gpa + *offset;
        let to_boundary = PIECE_BYTES - at % PIECE_BYTES;
        let piece = (range.len_bytes - *offset).min(left).min(to_boundary);
        machine.work(at, piece)?;
        *least_bytes = 0;
        *offset += piece;
        if *offset == range.len_bytes {
            return Ok(());
        }
        left = next_allowance(least_bytes, machine)?;
    }
}

/// Whole pages that may be worked on, at least `least_bytes`; `Err(PARTIAL)` if there are none.
fn next_allowance(least_bytes: &u64, machine: &mut impl RangeWork) -> Result<u64, Status> {
    match machine.allowance().max(*least_bytes) & !(PAGE_BYTES - 1) {
        0 => Err(Status::PARTIAL),
        bytes => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    /// 64 pages of memory, with an area in page 9, and a list at zero.
    struct Machine {
        items: Vec<Range>,
        left: u64,
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
        fn allowance(&mut self) -> u64 {
            self.left
        }
        fn work(&mut self, gpa: u64, len_bytes: u64) -> Result<(), Status> {
            self.left = self.left.saturating_sub(len_bytes);
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
            left: 0,
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

    fn progress(status: Status, items_done: u32, pages: u64) -> Answer {
        Answer {
            status,
            items_done,
            result: pages * PAGE,
        }
    }

    /// One call that may do so many bytes.
    fn call(list: &RangeList, max_bytes: u64, machine: &mut Machine) -> Answer {
        machine.left = max_bytes;
        walk(list, 4, machine)
    }

    #[test]
    fn mmu_4_a_long_list_is_done_in_steps_and_exactly_once() {
        let (mut machine, mut list) = machine(&[(1, 3), (20, 10), (40, 1), (50, 4)]);
        let mut steps = Vec::new();
        loop {
            let step = call(&list, 4 * PAGE, &mut machine);
            steps.push(step);
            if step.status != Status::PARTIAL {
                break;
            }
            list.first_item = step.items_done;
            list.first_offset = step.result;
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
            call(&list, 0, &mut machine),
            progress(Status::PARTIAL, 0, 1)
        );
        let all = call(&list, u64::MAX, &mut machine);
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
            let ended = call(&list, 100 * PAGE, &mut machine);
            assert_eq!(ended, progress(Status::BAD_RANGE, 2, 0), "{bad:?}");
            assert_eq!(machine.worked, [(1, 1), (2, 1)]);
            assert_eq!(machine.fetched, [0, 16, 32]);
        }
    }

    #[test]
    fn mmu_4_an_offset_behind_the_item_is_refused() {
        let (mut machine, mut list) = machine(&[(1, 2)]);
        list.first_offset = 2 * PAGE;
        assert_eq!(call(&list, PAGE, &mut machine).status, Status::BAD_RANGE);
        list.nr_items = 2;
        list.first_item = 1;
        assert_eq!(call(&list, PAGE, &mut machine).status, Status::BAD_ADDRESS);
        assert!(machine.worked.is_empty());
    }
}
