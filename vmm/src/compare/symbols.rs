//! Places in the guest's kernel: the same in every boot, and with names where a System.map is given.
//!
//! A kernel lies elsewhere in each boot, and says where in its platform record. [`relative`] makes
//! the tracer's addresses offsets from there, which runs and arms share; [`Symbols`] makes names of
//! offsets when a report is shown. Guests' words are only ever numbers here. Pure but for reading
//! the file; called by [`super::evaluate`], [`super::session`] and `coopvirt report`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{ensure, Context, Result};

use super::model::Report;

/// What [`relative`] writes before an offset.
const TEXT: &str = "_text+0x";
/// A kernel's image ends before this, and modules begin (`MODULES_VADDR`).
const IMAGE_END: u64 = 0xffff_ffff_c000_0000;
/// Linux gives user space addresses below this.
const USER_END: u64 = 1 << 47;

/// Makes places ("MSR 0xffffffff9ae51e54") relative to where the kernel's text begins (in
/// hexadecimal, as the guest has said it): "MSR _text+0x51e54".
pub fn relative(places: &BTreeMap<String, u64>, text: Option<&str>) -> BTreeMap<String, u64> {
    let text = text.and_then(parse_hex);
    let mut result = BTreeMap::new();
    for (place, count) in places {
        let place = match (place.rsplit_once(' '), text) {
            (Some((reason, rip)), Some(text)) => match parse_hex(rip) {
                Some(rip) => format!("{reason} {}", relative_place(rip, text)),
                None => place.clone(),
            },
            _ => place.clone(),
        };
        *result.entry(place).or_insert(0) += count;
    }
    result
}

fn relative_place(rip: u64, text: u64) -> String {
    match rip.checked_sub(text) {
        Some(offset) if rip < IMAGE_END => format!("{TEXT}{offset:x}"),
        _ if rip < USER_END => "below the kernel".into(),
        _ => "in a module".into(),
    }
}

fn parse_hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// The functions of one kernel.
#[derive(Clone, Debug, Default)]
pub struct Symbols {
    /// Offset from `_text` and name, in the order of offsets.
    functions: Vec<(u64, String)>,
}

impl Symbols {
    /// Reads a System.map, or what `nm` says of a vmlinux.
    pub fn read(path: &Path) -> Result<Symbols> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(
            !bytes.starts_with(b"\x7fELF"),
            "{} is a program; give the System.map beside it, or what `nm {0}` prints",
            path.display()
        );
        let symbols = Symbols::parse(&String::from_utf8_lossy(&bytes));
        ensure!(
            !symbols.functions.is_empty(),
            "{} is no System.map: it has no _text",
            path.display()
        );
        Ok(symbols)
    }

    fn parse(map: &str) -> Symbols {
        let line = |line: &str| {
            let mut words = line.split_ascii_whitespace().map(str::to_string);
            let address = u64::from_str_radix(&words.next()?, 16).ok()?;
            Some((address, words.next()?, words.next()?))
        };
        let symbols: Vec<_> = map.lines().filter_map(line).collect();
        let text = symbols.iter().find(|(_, _, name)| name == "_text");
        let Some(&(text, _, _)) = text else {
            return Symbols::default();
        };
        let mut functions: Vec<_> = symbols
            .into_iter()
            .filter(|(address, kind, _)| {
                *address >= text && matches!(&**kind, "t" | "T" | "w" | "W")
            })
            .map(|(address, _, name)| (address - text, name))
            .collect();
        functions.sort();
        Symbols { functions }
    }

    /// "native_write_msr+0x4".
    fn name(&self, offset: u64) -> Option<String> {
        let after = self
            .functions
            .partition_point(|(start, _)| *start <= offset);
        let (start, name) = self.functions.get(after.checked_sub(1)?)?;
        Some(format!("{name}+{:#x}", offset - start))
    }

    /// Gives names to all places of a report.
    pub fn apply(&self, report: &mut Report) {
        for run in &mut report.runs {
            let samples = run.samples.iter_mut().map(|sample| &mut sample.counts);
            for counts in samples.chain([&mut run.whole]) {
                counts.by_place = self.named(&counts.by_place);
            }
        }
    }

    fn named(&self, places: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
        let mut named = BTreeMap::new();
        for (place, count) in places {
            let name = place.split_once(TEXT).and_then(|(reason, offset)| {
                let offset = u64::from_str_radix(offset, 16).ok()?;
                Some(format!("{reason}{}", self.name(offset)?))
            });
            *named
                .entry(name.unwrap_or_else(|| place.clone()))
                .or_insert(0) += count;
        }
        named
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "0000000000000000 D __per_cpu_start\n\
        ffffffff81000000 T _text\n\
        ffffffff81051e50 t native_write_msr\n\
        ffffffff81051e80 T native_read_msr\n\
        ffffffff82000000 D data\n";

    fn places(list: &[(&str, u64)]) -> BTreeMap<String, u64> {
        list.iter()
            .map(|(place, n)| (place.to_string(), *n))
            .collect()
    }

    #[test]
    fn places_are_the_same_in_every_boot() {
        let traced = [
            ("MSR 0xffffffff9ae51e54", 5),
            ("HLT 0x401000", 1),
            ("CPUID 0x402000", 1),
            ("CPUID 0x403000", 2),
            ("MSR 0xffffffffc0001000", 1),
        ];
        let relative_to = |text| relative(&places(&traced), text);
        assert_eq!(
            relative_to(Some("0xffffffff9ae00000")),
            places(&[
                ("MSR _text+0x51e54", 5),
                ("HLT below the kernel", 1),
                ("CPUID below the kernel", 3),
                ("MSR in a module", 1),
            ])
        );
        assert_eq!(relative_to(None), places(&traced));
        assert_eq!(relative_to(Some("nonsense")), places(&traced));
    }

    #[test]
    fn offsets_get_names() {
        let symbols = Symbols::parse(MAP);
        let named = symbols.named(&places(&[
            ("MSR _text+0x51e54", 5),
            ("MSR _text+0x51e80", 6),
            ("HLT below the kernel", 1),
        ]));
        assert_eq!(
            named,
            places(&[
                ("MSR native_write_msr+0x4", 5),
                ("MSR native_read_msr+0x0", 6),
                ("HLT below the kernel", 1),
            ])
        );
    }

    #[test]
    fn files_that_are_no_map_are_refused() {
        let folder = crate::compare::disk::TempFolder::new().unwrap();
        let path = folder.path().join("map");
        for (text, part) in [("\x7fELF", "nm "), ("x\n", "no _text")] {
            fs::write(&path, text).unwrap();
            let error = Symbols::read(&path).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        fs::write(&path, MAP).unwrap();
        Symbols::read(&path).unwrap();
    }
}
