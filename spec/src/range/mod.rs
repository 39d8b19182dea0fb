//! Guest-physical ranges and lists of them (`[MMU-1]` to `[MMU-4]`).

mod walk;

pub use walk::{walk, RangeWork, PIECE_BYTES};

use crate::code::Status;
use crate::describe::shared_struct;
use crate::page::PAGE_BYTES;

shared_struct! {
    /// A range of guest-physical memory, an item of a list.
    pub struct Range: 16 {
        /// First byte; a multiple of 4096.
        0 => gpa: u64,
        /// Bytes; a multiple of 4096, not zero.
        8 => len_bytes: u64,
    }
}

impl Range {
    /// Checks everything about a range that does not need a memory map; gives its end.
    pub const fn check(&self) -> Result<u64, Status> {
        let mask = PAGE_BYTES - 1;
        if self.gpa & mask != 0 || self.len_bytes & mask != 0 || self.len_bytes == 0 {
            return Err(Status::BAD_RANGE);
        }
        match self.gpa.checked_add(self.len_bytes) {
            Some(end) => Ok(end),
            None => Err(Status::BAD_RANGE),
        }
    }
}

/// A list of ranges in guest memory, and where to begin in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeList {
    /// Guest-physical address of the first item; a multiple of 8.
    pub list_gpa: u64,
    /// Items in the list.
    pub nr_items: u32,
    /// The item to begin with, for a call that goes on where another ended.
    pub first_item: u32,
    /// Bytes of that item that are done already; a multiple of 4096.
    pub first_offset: u64,
}

impl RangeList {
    /// Checks everything about a list that does not need a memory map; gives the address behind
    /// its last item.
    pub const fn check(&self, max_items: u32) -> Result<u64, Status> {
        if self.nr_items == 0 || self.nr_items > max_items || self.first_item >= self.nr_items {
            return Err(Status::BAD_LIST);
        }
        if self.first_offset & (PAGE_BYTES - 1) != 0 {
            return Err(Status::BAD_RANGE);
        }
        if self.list_gpa & 7 != 0 {
            return Err(Status::BAD_ADDRESS);
        }
        match self.list_gpa.checked_add(self.nr_items as u64 * ITEM_BYTES) {
            Some(end) => Ok(end),
            None => Err(Status::BAD_ADDRESS),
        }
    }

    /// The address of an item of a list that was checked; `None` behind the end.
    pub const fn item_gpa(&self, item: u32) -> Option<u64> {
        if item >= self.nr_items {
            return None;
        }
        self.list_gpa.checked_add(item as u64 * ITEM_BYTES)
    }
}

const ITEM_BYTES: u64 = core::mem::size_of::<Range>() as u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mmu_1_a_range_is_whole_pages_and_does_not_wrap() {
        let range = |gpa, len_bytes| Range { gpa, len_bytes }.check();
        assert_eq!(range(0x1000, 0x2000), Ok(0x3000));
        for (gpa, len_bytes) in [
            (0x1001, 0x1000),
            (0x1000, 0x1001),
            (0x1000, 0),
            (!0xfff, 0x1000),
            (0x1000, !0xfff),
        ] {
            assert_eq!(range(gpa, len_bytes), Err(Status::BAD_RANGE));
        }
    }

    #[test]
    fn mmu_2_a_list_is_not_empty_not_huge_and_does_not_wrap() {
        let good = RangeList {
            list_gpa: 0x1000,
            nr_items: 4,
            first_item: 3,
            first_offset: 0,
        };
        assert_eq!(good.check(4), Ok(0x1040));
        assert_eq!(good.item_gpa(3), Some(0x1030));
        assert_eq!(good.item_gpa(4), None);
        let check = |change: fn(&mut RangeList)| {
            let mut list = good;
            change(&mut list);
            list.check(4)
        };
        assert_eq!(check(|list| list.nr_items = 0), Err(Status::BAD_LIST));
        assert_eq!(check(|list| list.nr_items = 5), Err(Status::BAD_LIST));
        assert_eq!(
            check(|list| list.nr_items = u32::MAX),
            Err(Status::BAD_LIST)
        );
        assert_eq!(check(|list| list.first_item = 4), Err(Status::BAD_LIST));
        assert_eq!(check(|list| list.first_offset = 1), Err(Status::BAD_RANGE));
        assert_eq!(check(|list| list.list_gpa = 1), Err(Status::BAD_ADDRESS));
        assert_eq!(
            check(|list| list.list_gpa = u64::MAX - 7),
            Err(Status::BAD_ADDRESS)
        );
    }
}
