//! Finds tracepoints in tracefs: their numbers and where their fields lie.
//!
//! Offsets are read from the event's `format` file, because they differ between kernels.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::error::TraceError;

/// Where tracefs may be mounted.
const MOUNT_POINTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// The kernel's tracefs.
#[derive(Clone, Debug)]
pub struct Tracefs {
    root: PathBuf,
}

/// One tracepoint: its number and its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracepoint {
    /// System and name, as `kvm:kvm_exit`.
    pub name: String,
    /// The number that records carry and perf_event_open takes.
    pub id: u16,
    fields: Vec<(String, Field)>,
}

/// Where a field lies in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    offset_bytes: usize,
    size_bytes: usize,
}

impl Tracefs {
    /// Finds the mounted tracefs.
    pub fn find() -> Result<Tracefs, TraceError> {
        for root in MOUNT_POINTS {
            let events = Path::new(root).join("events");
            match fs::read_dir(&events) {
                Ok(_) => return Ok(Tracefs { root: root.into() }),
                Err(source) if source.kind() == ErrorKind::PermissionDenied => {
                    return Err(TraceError::TracefsUnreadable {
                        path: events,
                        source,
                    });
                }
                Err(_) => {}
            }
        }
        Err(TraceError::TracefsMissing)
    }

    /// Where it is mounted.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Reads a tracepoint given as `system:event`.
    pub fn tracepoint(&self, name: &str) -> Result<Tracepoint, TraceError> {
        let path = self
            .root
            .join("events")
            .join(name.replace(':', "/"))
            .join("format");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let remedy = match name.starts_with("kvm:") {
                    true => "load the kvm_amd or kvm_intel module",
                    false => "this kernel is built without it",
                };
                return Err(TraceError::EventMissing {
                    event: name.into(),
                    remedy,
                });
            }
            Err(source) => return Err(TraceError::TracefsUnreadable { path, source }),
        };
        parse_format(name, &text).ok_or(TraceError::FormatUnknown { path })
    }
}

impl Tracepoint {
    /// The field with this name.
    pub fn field(&self, name: &str) -> Result<Field, TraceError> {
        let found = self
            .fields
            .iter()
            .find(|(field, _)| field == name)
            .map(|(_, field)| *field);
        found
            .filter(|field| matches!(field.size_bytes, 1 | 2 | 4 | 8))
            .ok_or_else(|| TraceError::FieldMissing {
                event: self.name.clone(),
                field: name.into(),
            })
    }
}

impl Field {
    /// The field's value in a record, zero-extended; `None` if the record is too short.
    pub fn read(self, record: &[u8]) -> Option<u64> {
        let end = self.offset_bytes.checked_add(self.size_bytes)?;
        let bytes = record.get(self.offset_bytes..end)?;
        let mut word = [0; 8];
        word.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(u64::from_le_bytes(word))
    }
}

/// Parses a `format` file: an `ID:` line and `field:TYPE NAME; offset:N; size:N; signed:N;` lines.
fn parse_format(name: &str, text: &str) -> Option<Tracepoint> {
    let mut id = None;
    let mut fields = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(number) = line.strip_prefix("ID:") {
            id = number.trim().parse().ok();
        } else if let Some(declaration) = line.strip_prefix("field:") {
            fields.push(parse_field(declaration)?);
        }
    }
    Some(Tracepoint {
        name: name.into(),
        id: id?,
        fields,
    })
}

fn parse_field(text: &str) -> Option<(String, Field)> {
    let mut parts = text.split(';').map(str::trim);
    let declaration = parts.next()?;
    let mut offset_bytes = None;
    let mut size_bytes = None;
    for part in parts {
        if let Some(number) = part.strip_prefix("offset:") {
            offset_bytes = number.parse().ok();
        } else if let Some(number) = part.strip_prefix("size:") {
            size_bytes = number.parse().ok();
        }
    }
    let name = declaration.rsplit([' ', '*']).next()?;
    let name = name.split('[').next()?.to_string();
    Some((
        name,
        Field {
            offset_bytes: offset_bytes?,
            size_bytes: size_bytes?,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: &str = "name: hrtimer_expire_entry\nID: 412\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
        \tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;\n\n\
        \tfield:void * hrtimer;\toffset:8;\tsize:8;\tsigned:0;\n\
        \tfield:s64 now;\toffset:16;\tsize:8;\tsigned:1;\n\
        \tfield:void *function;\toffset:24;\tsize:8;\tsigned:0;\n\
        \tfield:char comm[16];\toffset:32;\tsize:16;\tsigned:0;\n\n\
        print fmt: \"hrtimer=%p\", REC->hrtimer\n";

    #[test]
    fn a_format_file_gives_number_and_fields() {
        let point = parse_format("timer:hrtimer_expire_entry", FORMAT).unwrap();
        assert_eq!(point.id, 412);
        let function = point.field("function").unwrap();
        assert_eq!(
            function,
            Field {
                offset_bytes: 24,
                size_bytes: 8
            }
        );
        assert!(point.field("comm").is_err(), "an array is not a number");
        assert!(point.field("nothing").is_err());
    }

    #[test]
    fn a_short_record_has_no_value() {
        let field = Field {
            offset_bytes: 2,
            size_bytes: 2,
        };
        assert_eq!(field.read(&[0, 0, 0x34, 0x12]), Some(0x1234));
        assert_eq!(field.read(&[0, 0, 0x34]), None);
    }

    #[test]
    fn a_file_without_an_id_is_not_understood() {
        assert_eq!(parse_format("x:y", "name: y\n"), None);
    }
}
