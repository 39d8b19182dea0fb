//! Measurement marks (`[MARK-1]`), numbered.

use coopvirt_spec::mark::{Mark, MarkKind};

use crate::platform::Platform;

/// Makes marks and numbers them.
#[derive(Debug)]
pub struct Marker<P> {
    platform: P,
    seq: u16,
}

impl<P: Platform> Marker<P> {
    /// Starts with sequence number zero.
    pub fn new(platform: P) -> Self {
        Self { platform, seq: 0 }
    }

    /// Marks a point in time.
    pub fn point(&mut self, work: u8) {
        self.write(MarkKind::Point, work);
        self.seq = self.seq.wrapping_add(1);
    }

    /// Runs `work` between a begin and an end mark of the same sequence number (`[MARK-3]`).
    pub fn phase<T>(&mut self, work: u8, body: impl FnOnce() -> T) -> T {
        self.write(MarkKind::Begin, work);
        let result = body();
        self.write(MarkKind::End, work);
        self.seq = self.seq.wrapping_add(1);
        result
    }

    fn write(&mut self, kind: MarkKind, work: u8) {
        let mark = Mark {
            kind,
            work,
            seq: self.seq,
        };
        self.platform.write_mark_port(mark.encode());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Recorder<'a>(&'a mut [u32; 8], usize);

    impl Platform for Recorder<'_> {
        fn write_mark_port(&mut self, value: u32) {
            self.0[self.1] = value;
            self.1 += 1;
        }
    }

    #[test]
    fn mark_3_a_phase_has_two_marks_with_one_sequence_number() {
        let mut written = [0; 8];
        let mut marker = Marker::new(Recorder(&mut written, 0));
        marker.point(1);
        assert_eq!(marker.phase(4, || 42), 42);
        marker.phase(4, || ());
        assert_eq!(
            written,
            [
                0x0301_0000,
                0x0104_0001,
                0x0204_0001,
                0x0104_0002,
                0x0204_0002,
                0,
                0,
                0
            ]
        );
    }
}
