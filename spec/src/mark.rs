//! Measurement marks (`[MARK-1]` to `[MARK-4]`): one port write that a VMM and a tracer both see.
//!
//! A mark costs exactly one exit, to userspace. Every VMM ignores a write to a port that nobody
//! claims, so the same guest can be cut at the same places under a peer VMM.

/// The I/O port that carries marks. 32-bit writes only (`[MARK-1]`).
///
/// Nothing in the PC architecture, in our machine or in QEMU's `microvm` and `q35` claims it.
pub const MARK_PORT: u16 = 0x0d0c;

/// The MSR that carries the same marks where the host filters MSRs (`[MARK-2]`).
///
/// It lies outside the ranges that Intel, AMD, KVM, Xen and Hyper-V use. A host that does not
/// listen answers with #GP, so a guest needs a fault handler to try it.
pub const MARK_MSR: u32 = 0x4356_0000;

/// What a mark says (`[MARK-3]`). Zero is no mark at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum MarkKind {
    /// The work starts now.
    Begin = 1,
    /// The work has ended.
    End = 2,
    /// A point in time with no end, such as "init has been reached".
    Point = 3,
}

/// One decoded mark: kind, work and sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    /// What happens at this mark.
    pub kind: MarkKind,
    /// Which work, as a [`crate::work::Work`] code or a number of the guest's own choice.
    pub work: u8,
    /// Tells repetitions of one work apart.
    pub seq: u16,
}

impl Mark {
    /// Encodes the mark: kind in bits 31-24, work in bits 23-16, sequence in bits 15-0
    /// (`[MARK-3]`).
    pub const fn encode(self) -> u32 {
        ((self.kind as u32) << 24) | ((self.work as u32) << 16) | self.seq as u32
    }

    /// Decodes a value written by a guest; `None` if its kind is unknown (`[MARK-4]`).
    pub const fn decode(value: u32) -> Option<Mark> {
        let [s0, s1, work, kind] = value.to_le_bytes();
        let kind = match kind {
            1 => MarkKind::Begin,
            2 => MarkKind::End,
            3 => MarkKind::Point,
            _ => return None,
        };
        Some(Mark {
            kind,
            work,
            seq: u16::from_le_bytes([s0, s1]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mark_3_every_known_kind_survives_a_round_trip() {
        for kind in [MarkKind::Begin, MarkKind::End, MarkKind::Point] {
            let mark = Mark {
                kind,
                work: 0xa5,
                seq: 0x1234,
            };
            assert_eq!(Mark::decode(mark.encode()), Some(mark));
        }
        let golden = Mark {
            kind: MarkKind::Begin,
            work: 3,
            seq: 7,
        }
        .encode();
        assert_eq!(golden, 0x0103_0007);
    }

    #[test]
    fn mark_4_unknown_kinds_are_no_marks() {
        for kind in (0..=255u32).filter(|k| !(1..=3).contains(k)) {
            assert_eq!(Mark::decode(kind << 24 | 0x00ff_ffff), None);
        }
    }
}
