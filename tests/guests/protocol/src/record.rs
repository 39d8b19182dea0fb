//! The records: what the guest can say.

use crate::frame::{split, FrameError, Reader, Writer, MAX_FRAME_BYTES};

/// One thing that the guest says.
///
/// Each test gives `Begin`, any number of `Value`, then one of `Pass`, `Fail` and `Skip`. `Done`
/// ends the run; a panic ends it with `Fail` and without `Done`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A test begins.
    Begin {
        /// Its name.
        name: &'a str,
        /// The clauses of the specification that it shows, or nothing.
        clauses: &'a str,
    },
    /// The test that began last has passed.
    Pass,
    /// It has failed.
    Fail {
        /// Source file.
        file: &'a str,
        /// Line in it.
        line: u32,
        /// What was wrong.
        text: &'a str,
    },
    /// It cannot run here.
    Skip {
        /// Why.
        reason: &'a str,
    },
    /// A figure that it measured.
    Value {
        /// Name, with its unit.
        name: &'a str,
        /// The figure.
        value: u64,
    },
    /// Every test that was asked for has ended.
    Done {
        /// Their number.
        count: u32,
    },
}

// Zero is no kind.
const BEGIN: u8 = 1;
const PASS: u8 = 2;
const FAIL: u8 = 3;
const SKIP: u8 = 4;
const VALUE: u8 = 5;
const DONE: u8 = 6;

impl Record<'_> {
    /// Writes the record's frame into `buffer` and gives the part that it takes.
    pub fn encode<'b>(&self, buffer: &'b mut [u8; MAX_FRAME_BYTES]) -> &'b [u8] {
        let mut writer = Writer::new(
            buffer,
            match self {
                Self::Begin { .. } => BEGIN,
                Self::Pass => PASS,
                Self::Fail { .. } => FAIL,
                Self::Skip { .. } => SKIP,
                Self::Value { .. } => VALUE,
                Self::Done { .. } => DONE,
            },
        );
        match *self {
            Self::Begin { name, clauses } => {
                writer.text(name, 2);
                writer.text(clauses, 0);
            }
            Self::Pass => {}
            Self::Fail { file, line, text } => {
                writer.u32(line);
                writer.text(file, 2);
                writer.text(text, 0);
            }
            Self::Skip { reason } => writer.text(reason, 0),
            Self::Value { name, value } => {
                writer.u64(value);
                writer.text(name, 0);
            }
            Self::Done { count } => writer.u32(count),
        }
        writer.finish()
    }
}

/// Takes the first record off `bytes`; also gives what follows it.
pub fn decode(bytes: &[u8]) -> Result<(Record<'_>, &[u8]), FrameError> {
    let (kind, payload, rest) = split(bytes)?;
    let mut reader = Reader(payload);
    if !(BEGIN..=DONE).contains(&kind) {
        return Err(FrameError::Kind(kind));
    }
    let record = read(kind, &mut reader).filter(|_| reader.0.is_empty());
    let record = record.ok_or(FrameError::Payload(kind))?;
    Ok((record, rest))
}

fn read<'a>(kind: u8, reader: &mut Reader<'a>) -> Option<Record<'a>> {
    Some(match kind {
        BEGIN => Record::Begin {
            name: reader.text()?,
            clauses: reader.text()?,
        },
        PASS => Record::Pass,
        FAIL => Record::Fail {
            line: reader.u32()?,
            file: reader.text()?,
            text: reader.text()?,
        },
        SKIP => Record::Skip {
            reason: reader.text()?,
        },
        VALUE => Record::Value {
            value: reader.u64()?,
            name: reader.text()?,
        },
        DONE => Record::Done {
            count: reader.u32()?,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::String;
    use std::vec::Vec;

    use super::*;

    const ALL: [Record<'_>; 6] = [
        Record::Begin {
            name: "marks",
            clauses: "[MARK-1]",
        },
        Record::Value {
            name: "cycles",
            value: u64::MAX - 1,
        },
        Record::Pass,
        Record::Fail {
            file: "a.rs",
            line: 7,
            text: "Ünlucky",
        },
        Record::Skip { reason: "" },
        Record::Done { count: 3 },
    ];

    #[test]
    fn records_that_follow_each_other_survive_a_round_trip() {
        let mut buffer = [0; MAX_FRAME_BYTES];
        let mut bytes = Vec::new();
        for record in ALL {
            bytes.extend_from_slice(record.encode(&mut buffer));
        }
        let mut rest = &bytes[..];
        for record in ALL {
            let (found, after) = decode(rest).expect("a record");
            assert_eq!(found, record);
            rest = after;
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn every_damaged_byte_and_every_cut_is_noticed() {
        let mut buffer = [0; MAX_FRAME_BYTES];
        for record in ALL {
            let good = record.encode(&mut buffer).to_vec();
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 0x20;
                assert!(decode(&bad).is_err(), "{record:?} damaged at {at}");
                assert_eq!(decode(&good[..at]), Err(FrameError::CutOff));
            }
        }
    }

    #[test]
    fn long_texts_are_cut_between_characters_and_never_squeeze_others_out() {
        let long: String = "ß".repeat(MAX_FRAME_BYTES);
        let mut buffer = [0; MAX_FRAME_BYTES];
        let fail = Record::Fail {
            file: &long,
            line: 1,
            text: &long,
        };
        let (record, rest) = decode(fail.encode(&mut buffer)).expect("a record");
        let Record::Fail { file, text, .. } = record else {
            panic!("{record:?}");
        };
        assert!(!file.is_empty() && file.len() > 900, "{}", file.len());
        assert!(text.len() <= 2 && rest.is_empty());
    }

    #[test]
    fn an_unknown_kind_and_a_wrong_payload_are_told_apart() {
        let mut buffer = [0; MAX_FRAME_BYTES];
        let unknown = Writer::new(&mut buffer, 99).finish().to_vec();
        assert_eq!(decode(&unknown), Err(FrameError::Kind(99)));
        let mut writer = Writer::new(&mut buffer, PASS);
        writer.u32(0);
        assert_eq!(decode(writer.finish()), Err(FrameError::Payload(PASS)));
    }
}
