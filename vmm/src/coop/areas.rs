//! Which guest memory belongs to registered areas, for everyone who must keep off it.
//!
//! A leaf lock: whoever holds it takes no other.

use std::sync::{Mutex, PoisonError};

/// The registered areas of all vCPUs.
#[derive(Debug, Default)]
pub struct Areas(Mutex<Vec<(u8, u64, u64)>>);

impl Areas {
    /// Enters the area of a vCPU unless it overlaps another one; says whether it did.
    pub fn enter(&self, vcpu: u8, gpa: u64, len_bytes: u64) -> bool {
        let mut areas = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if areas.iter().any(|area| overlap(area, gpa, len_bytes)) {
            return false;
        }
        areas.push((vcpu, gpa, len_bytes));
        true
    }

    /// Removes a vCPU's area.
    pub fn leave(&self, vcpu: u8) {
        let mut areas = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        areas.retain(|(owner, ..)| *owner != vcpu);
    }

    /// Whether any of these bytes belongs to an area.
    pub fn overlaps(&self, gpa: u64, len_bytes: u64) -> bool {
        let areas = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        areas.iter().any(|area| overlap(area, gpa, len_bytes))
    }
}

fn overlap(&(_, start, area_bytes): &(u8, u64, u64), gpa: u64, len_bytes: u64) -> bool {
    gpa < start.saturating_add(area_bytes) && start < gpa.saturating_add(len_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_vcpus_cannot_share_and_a_left_area_is_free() {
        let areas = Areas::default();
        assert!(areas.enter(0, 0x5000, 0x1000));
        assert!(!areas.enter(1, 0x5000, 0x1000));
        assert!(!areas.enter(1, 0x4000, 0x1001));
        assert!(areas.enter(1, 0x6000, 0x1000));
        assert!(areas.overlaps(0, u64::MAX) && areas.overlaps(0x5fff, 1));
        areas.leave(0);
        assert!(!areas.overlaps(0x5000, 0x1000));
        assert!(areas.enter(2, 0x5000, 0x1000));
    }
}
