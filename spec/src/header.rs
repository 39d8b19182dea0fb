//! The header of an area as a value (`[PAGE-3]`): written by the host, checked by the guest.

use crate::page::{AreaLayout, Header, MAGIC};
use crate::version::{Features, Version};

impl Header {
    /// The header that a host writes for an area.
    pub fn for_area(layout: AreaLayout, features: Features, apic_id: u32) -> Header {
        Header {
            magic: MAGIC,
            area_bytes: narrow(layout.area_bytes()),
            major: Version::CURRENT.major,
            minor: Version::CURRENT.minor,
            features: features.0,
            ring_entries: layout.ring_entries(),
            submissions_at: narrow(layout.submissions().entries),
            completions_at: narrow(layout.completions().entries),
            apic_id,
            _reserved: [0; 3],
        }
    }

    /// Accepts the header if it is one of a version that we understand and describes the layout
    /// that its own ring size gives.
    pub fn check(self) -> Option<Header> {
        let version = Version {
            major: self.major,
            minor: self.minor,
        };
        let layout = AreaLayout::new(self.ring_entries)?;
        let ours = Header::for_area(layout, Features(self.features), self.apic_id);
        let is_ours = self.magic == MAGIC
            && Version::CURRENT.understands(version)
            && self.area_bytes == ours.area_bytes
            && self.submissions_at == ours.submissions_at
            && self.completions_at == ours.completions_at;
        is_ours.then_some(self)
    }

    /// The words of the header.
    pub const fn to_words(self) -> [u64; 8] {
        [
            self.magic,
            self.area_bytes as u64 | (self.major as u64) << 32 | (self.minor as u64) << 48,
            self.features,
            pair(self.ring_entries, self.submissions_at),
            pair(self.completions_at, self.apic_id),
            self._reserved[0],
            self._reserved[1],
            self._reserved[2],
        ]
    }

    /// A header from its words.
    pub const fn from_words(words: &[u64; 8]) -> Header {
        let (area_bytes, version) = unpair(words[1]);
        let [m0, m1, n0, n1] = version.to_le_bytes();
        let (ring_entries, submissions_at) = unpair(words[3]);
        let (completions_at, apic_id) = unpair(words[4]);
        Header {
            magic: words[0],
            area_bytes,
            major: u16::from_le_bytes([m0, m1]),
            minor: u16::from_le_bytes([n0, n1]),
            features: words[2],
            ring_entries,
            submissions_at,
            completions_at,
            apic_id,
            _reserved: [words[5], words[6], words[7]],
        }
    }
}

/// An offset inside an area, which is far below 4 GiB by [`crate::page::MAX_RING_ENTRIES`].
fn narrow(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}

const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

const fn unpair(word: u64) -> (u32, u32) {
    let [l0, l1, l2, l3, h0, h1, h2, h3] = word.to_le_bytes();
    (
        u32::from_le_bytes([l0, l1, l2, l3]),
        u32::from_le_bytes([h0, h1, h2, h3]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_3_a_header_survives_its_words_and_its_check() {
        let header = Header::for_area(AreaLayout::DEFAULT, Features(5), 3);
        assert_eq!(Header::from_words(&header.to_words()), header);
        assert_eq!(header.check(), Some(header));
        assert_eq!(header.area_bytes, 4096);
    }

    #[test]
    fn page_3_a_header_of_another_layout_is_refused() {
        let good = Header::for_area(AreaLayout::DEFAULT, Features(5), 3);
        let wrong: [fn(&mut Header); 6] = [
            |header| header.magic ^= 1,
            |header| header.major = 2,
            |header| header.area_bytes = 8192,
            |header| header.ring_entries = 33,
            |header| header.submissions_at = 64,
            |header| header.completions_at += 32,
        ];
        for change in wrong {
            let mut header = good;
            change(&mut header);
            assert_eq!(header.check(), None);
        }
        let mut newer = good;
        newer.minor = 9;
        assert_eq!(newer.check(), Some(newer));
    }
}
