//! What is generated from the crate is what is checked in (`[VER-3]`).
//!
//! `COOPVIRT_BLESS=1 cargo test -p coopvirt-spec --test generated` writes the files anew.

#[path = "support/header.rs"]
mod header;
mod support;
#[path = "support/text.rs"]
mod text;

use std::fs;
use std::process::Command;

use coopvirt_spec::op::{self, ArgWord, Opcode, Operation, ARG_WORDS, EXPERIMENTS, OPERATIONS};
use support::{is_blessing, path};

fn compare(name: &str, fresh: &str) {
    let path = path(name);
    if is_blessing() {
        fs::create_dir_all(path.parent().expect("in a folder")).expect("cannot make the folder");
        fs::write(&path, fresh).expect("cannot write");
    }
    let found = fs::read_to_string(&path).expect("cannot read");
    let differs = found.lines().zip(fresh.lines()).position(|(a, b)| a != b);
    assert!(
        found == fresh,
        "{name} is out of date from line {}; set COOPVIRT_BLESS=1 to write it",
        differs.map_or(found.lines().count(), |line| line + 1),
    );
}

#[test]
fn op_1_the_tables_of_the_specification_are_those_of_the_crate() {
    let spec = fs::read_to_string(path("SPEC.md")).expect("cannot read SPEC.md");
    compare("SPEC.md", &text::with_parts(&spec));
}

#[test]
fn op_6_the_table_of_experiments_is_that_of_the_crate() {
    compare("EXPERIMENTS.md", &text::experiments());
}

#[test]
fn ver_3_the_c_header_is_that_of_the_crate() {
    compare("include/coopvirt.h", &header::header());
}

/// The header's own asserts compare each size and offset in the C compiler.
#[test]
fn abi_1_a_c_compiler_sees_the_same_layout() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let source = folder.join("uses_header.c");
    fs::write(&source, C_PROGRAM).expect("cannot write");
    let run = Command::new("cc")
        .args([
            "-std=c11",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-pedantic",
            "-fsyntax-only",
            "-I",
        ])
        .arg(path("include"))
        .arg(&source)
        .output();
    let run = run.expect("no C compiler (cc) to check the header with");
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
}

const C_PROGRAM: &str = "
#include <coopvirt.h>
#include <coopvirt.h>
COOPVIRT_ASSERT(offsetof(struct coopvirt_control, guest_control)
    + offsetof(struct coopvirt_guest_control, deadline_tsc) == COOPVIRT_AT_DEADLINE, \"deadline\");
COOPVIRT_ASSERT(sizeof(struct coopvirt_control) == COOPVIRT_CONTROL_BYTES, \"control\");
struct coopvirt_submission ipi(uint32_t first, uint64_t mask, uint8_t vector);
struct coopvirt_submission ipi(uint32_t first, uint64_t mask, uint8_t vector) {
    struct coopvirt_submission call = { .opcode = COOPVIRT_OP_IPI, .flags = COOPVIRT_FLAG_QUIET };
    call.args[COOPVIRT_ARG_IPI_FIRST_APIC_ID] = first;
    call.args[COOPVIRT_ARG_IPI_MASK_LOW] = mask;
    call.args[COOPVIRT_ARG_IPI_VECTOR] = vector;
    return call;
}
uint64_t features(void);
uint64_t features(void) { return COOPVIRT_FEATURE_RING | COOPVIRT_FEATURE_EXPERIMENTAL; }
";

#[test]
fn op_1_the_table_is_in_order_and_complete() {
    let ascending = |pair: &[Operation]| pair[0].opcode < pair[1].opcode;
    assert!(OPERATIONS.windows(2).all(ascending) && EXPERIMENTS.windows(2).all(ascending));
    let is_experimental = |operation: &Operation| operation.opcode.is_experimental();
    assert!(!OPERATIONS.iter().any(is_experimental) && EXPERIMENTS.iter().all(is_experimental));
    for operation in op::all() {
        assert!(operation.opcode.0 != 0);
        assert!(operation.arguments.len() <= ARG_WORDS);
        assert!(operation.purpose.trim().ends_with('.') && !operation.result.is_empty());
        assert_eq!(operation.opcode.describe(), Some(operation));
        assert!(operation.counter.starts_with("op_"));
        assert_eq!(operation.opcode.to_string(), operation.name);
    }
    assert_eq!(Opcode(0).to_string(), "opcode 0x0000");
    assert_eq!(<u8 as ArgWord>::from_word(256), None);
}
