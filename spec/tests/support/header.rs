//! The C header, from the descriptions in the crate.
//!
//! A header generator that reads Rust source sees none of this: structures, codes and operations
//! come from macros. Their descriptions say more than a type does, so the header is written here.

use std::fmt::Write;

use coopvirt_spec::code::{BrokenReason, SetupStatus, Status};
use coopvirt_spec::counter::{GUEST_COUNTERS, HOST_COUNTERS};
use coopvirt_spec::describe::{Code, Field, Structure};
use coopvirt_spec::op::{self, EXPERIMENTAL_FIRST};
use coopvirt_spec::page::{self, at, STRUCTURES};
use coopvirt_spec::version::{Features, Version};
use coopvirt_spec::{discover, doorbell, entry, mark, setup};

use super::text::sentence;

/// The whole header.
pub(crate) fn header() -> String {
    let mut out = String::from(PROLOGUE);
    constants(&mut out);
    codes(
        &mut out,
        "FEATURE",
        "Features, as bits of a set.",
        &feature_bits(),
    );
    for (prefix, title, table) in [
        ("STATUS", "How an operation ended.", Status::ALL),
        (
            "SETUP",
            "How a write to a set-up register ended.",
            SetupStatus::ALL,
        ),
        ("BROKEN", "Why an area is broken.", BrokenReason::ALL),
    ] {
        let values: Vec<_> = table.iter().map(|code| (code, code.value)).collect();
        codes(&mut out, prefix, title, &values);
    }
    operations(&mut out);
    counters(&mut out);
    for structure in STRUCTURES {
        structure_of(&mut out, structure);
    }
    out.push_str("#endif /* COOPVIRT_H */\n");
    out
}

const PROLOGUE: &str = "\
/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Types and constants of the Coopvirt interface, version 1.0, for guests in C.
 *
 * Generated from the crate coopvirt-spec; do not edit. SPEC.md is normative: it says in which order
 * words are written and read, and that is not in any type.
 */
#ifndef COOPVIRT_H
#define COOPVIRT_H

#include <stddef.h>
#include <stdint.h>

#if defined(__cplusplus)
#define COOPVIRT_ASSERT(condition, text) static_assert(condition, text)
#else
#define COOPVIRT_ASSERT(condition, text) _Static_assert(condition, text)
#endif

";

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn constants(out: &mut String) {
    let signature = std::str::from_utf8(&discover::SIGNATURE).expect("ASCII");
    line(out, &format!("#define COOPVIRT_SIGNATURE \"{signature}\""));
    let values: [(&str, u64); 44] = [
        ("VERSION_MAJOR", Version::CURRENT.major.into()),
        ("VERSION_MINOR", Version::CURRENT.minor.into()),
        ("CPUID_SCAN_FIRST", discover::SCAN_FIRST.into()),
        ("CPUID_SCAN_END", discover::SCAN_END.into()),
        ("CPUID_SCAN_STEP", discover::SCAN_STEP.into()),
        ("CPUID_DEFAULT_BASE", discover::DEFAULT_BASE.into()),
        ("CPUID_LEAVES", discover::LEAVES.into()),
        ("MARK_PORT", mark::MARK_PORT.into()),
        ("DEFAULT_ASYNC_PORT", doorbell::ASYNC_PORT.into()),
        ("DEFAULT_SYNC_PORT", doorbell::SYNC_PORT.into()),
        ("BELL_VALUE", doorbell::VALUE.into()),
        ("BELL_HALT", doorbell::HALT.into()),
        ("DEFAULT_MSR_BASE", mark::MARK_MSR.into()),
        ("MSR_MARK", 0),
        ("MSR_FEATURES", setup::FEATURES_OFFSET.into()),
        ("MSR_AREA", setup::AREA_OFFSET.into()),
        ("MSR_STATUS", setup::STATUS_OFFSET.into()),
        ("NR_MSRS", setup::NR_MSRS.into()),
        ("AREA_ENABLE", setup::AREA_ENABLE),
        ("MAGIC", page::MAGIC),
        ("PAGE_BYTES", page::PAGE_BYTES),
        ("CONTROL_BYTES", wide(page::CONTROL_BYTES)),
        ("DEFAULT_RING_ENTRIES", page::DEFAULT_RING_ENTRIES.into()),
        ("MIN_RING_ENTRIES", page::MIN_RING_ENTRIES.into()),
        ("MAX_RING_ENTRIES", page::MAX_RING_ENTRIES.into()),
        ("AT_LEASE", wide(at::LEASE)),
        ("AT_ARMED", wide(at::ARMED)),
        ("AT_SERVED", wide(at::SERVED)),
        ("AT_BROKEN", wide(at::BROKEN)),
        ("AT_CONTENTION", wide(at::CONTENTION)),
        ("AT_IO_IN_FLIGHT", wide(at::IO_IN_FLIGHT)),
        ("AT_DEADLINE", wide(at::DEADLINE)),
        ("AT_SUBMISSION_TAIL", wide(at::SUBMISSION_TAIL)),
        ("AT_IDLE", wide(at::IDLE)),
        ("AT_TIMER_VECTOR", wide(at::TIMER_VECTOR)),
        ("AT_STOCK_DEADLINE", wide(at::STOCK_DEADLINE)),
        ("AT_SUBMISSION_HEAD", wide(at::SUBMISSION_HEAD)),
        ("AT_COMPLETION_TAIL", wide(at::COMPLETION_TAIL)),
        ("AT_COMPLETION_HEAD", wide(at::COMPLETION_HEAD)),
        ("AT_GUEST_COUNTERS", wide(at::GUEST_COUNTERS)),
        ("AT_HOST_COUNTERS", wide(at::HOST_COUNTERS)),
        ("FLAG_QUIET", entry::FLAG_QUIET.into()),
        ("ARG_WORDS", wide(coopvirt_spec::op::ARG_WORDS)),
        ("OP_EXPERIMENTAL_FIRST", EXPERIMENTAL_FIRST.into()),
    ];
    for (name, value) in values {
        define(out, name, value, "");
    }
    out.push('\n');
}

fn wide(value: usize) -> u64 {
    value.try_into().expect("64 bits are enough")
}

fn define(out: &mut String, name: &str, value: u64, purpose: &str) {
    let suffix = if value > u64::from(u32::MAX) {
        "ULL"
    } else {
        "U"
    };
    write!(out, "#define COOPVIRT_{name} {value:#x}{suffix}").expect("to a string");
    if !purpose.is_empty() {
        write!(out, " /* {purpose} */").expect("to a string");
    }
    out.push('\n');
}

fn feature_bits() -> Vec<(&'static Code, u64)> {
    Features::ALL
        .iter()
        .map(|code| (code, 1 << code.value))
        .collect()
}

fn codes(out: &mut String, prefix: &str, title: &str, values: &[(&Code, u64)]) {
    line(out, &format!("/* {title} */"));
    for (code, value) in values {
        let name = format!("{prefix}_{}", code.name);
        define(out, &name, *value, sentence(code.purpose));
    }
    out.push('\n');
}

fn operations(out: &mut String) {
    line(
        out,
        "/* Operations, then experiments: the opcode, and the index of each argument's word. */",
    );
    for operation in op::all() {
        let name = operation.name.to_uppercase();
        let opcode = operation.opcode.0.into();
        define(
            out,
            &format!("OP_{name}"),
            opcode,
            sentence(operation.purpose),
        );
        for (index, argument) in operation.arguments.iter().enumerate() {
            let purpose = format!("{}: {}", argument.kind, argument.unit);
            let name = format!("ARG_{name}_{}", argument.name.to_uppercase());
            define(out, &name, wide(index), &purpose);
        }
    }
    out.push('\n');
}

fn counters(out: &mut String) {
    line(out, "/* Counters, by index in their lines. */");
    for (side, table) in [("GUEST", GUEST_COUNTERS), ("HOST", HOST_COUNTERS)] {
        for (index, name) in table {
            let name = format!("{side}_COUNTER_{}", name.to_uppercase());
            define(out, &name, wide(*index), "");
        }
    }
    out.push('\n');
}

fn structure_of(out: &mut String, structure: &Structure) {
    let name = c_name(structure.name);
    line(out, &format!("/* {} */", sentence(structure.purpose)));
    line(out, &format!("struct {name} {{"));
    for field in structure.fields {
        let purpose = sentence(field.purpose);
        line(out, &format!("\t{}; /* {purpose} */", declaration(field)));
    }
    line(out, "};");
    let size = structure.size_bytes;
    line(
        out,
        &format!("COOPVIRT_ASSERT(sizeof(struct {name}) == {size}, \"size of {name}\");"),
    );
    for field in structure.fields {
        let (field, offset) = (c_field(field), field.offset);
        let check = format!("offsetof(struct {name}, {field}) == {offset}");
        line(
            out,
            &format!("COOPVIRT_ASSERT({check}, \"{name}.{field}\");"),
        );
    }
    out.push('\n');
}

/// A leading underscore is the implementation's in C.
fn c_field(field: &Field) -> &'static str {
    field.name.trim_start_matches('_')
}

fn declaration(field: &Field) -> String {
    let (kind, count) = match field.kind.strip_prefix('[') {
        Some(rest) => {
            let (kind, count) = rest
                .trim_end_matches(']')
                .split_once("; ")
                .expect("an array");
            (kind, format!("[{count}]"))
        }
        None => (field.kind, String::new()),
    };
    let kind = match kind {
        "u16" | "u32" | "u64" => format!("uint{}_t", &kind[1..]),
        _ => format!("struct {}", c_name(kind)),
    };
    format!("{kind} {}{count}", c_field(field))
}

/// `HostStatus` as `coopvirt_host_status`.
fn c_name(name: &str) -> String {
    let mut out = String::from("coopvirt");
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}
