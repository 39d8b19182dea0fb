//! The generated parts of `SPEC.md`, from the descriptions in the crate.

use std::fmt::Write;

use coopvirt_spec::code::{BrokenReason, SetupStatus, Status};
use coopvirt_spec::counter::{GUEST_COUNTERS, HOST_COUNTERS};
use coopvirt_spec::describe::{Code, Structure};
use coopvirt_spec::op::{Operation, EXPERIMENTS, OPERATIONS};
use coopvirt_spec::page::STRUCTURES;
use coopvirt_spec::version::Features;

/// All generated parts: name of the marker, text.
pub(crate) fn parts() -> Vec<(&'static str, String)> {
    vec![
        ("features", features()),
        ("layout", layout()),
        ("operations", operations(OPERATIONS)),
        ("status", statuses()),
    ]
}

/// Replaces the generated parts of a text.
pub(crate) fn with_parts(text: &str) -> String {
    let mut text = text.to_owned();
    for (name, part) in parts() {
        let (begin, end) = (
            format!("<!-- {name}: begin -->\n"),
            format!("<!-- {name}: end -->"),
        );
        let from = text.find(&begin).expect("a begin marker") + begin.len();
        let to = from + text[from..].find(&end).expect("an end marker");
        text.replace_range(from..to, &part);
    }
    text
}

/// The documentation of an item as a sentence in a table.
pub(crate) fn sentence(purpose: &str) -> &str {
    purpose.trim()
}

fn features() -> String {
    let mut text = String::from("| feature | bit | meaning |\n|---|---|---|\n");
    for code in Features::ALL {
        let purpose = sentence(code.purpose);
        writeln!(text, "| `{}` | {} | {purpose} |", code.name, code.value).expect("to a string");
    }
    text
}

fn layout() -> String {
    let mut text = String::new();
    for structure in STRUCTURES {
        table_of(structure, &mut text);
    }
    for (side, counters) in [("Guest", GUEST_COUNTERS), ("Host", HOST_COUNTERS)] {
        let names: Vec<String> = counters
            .iter()
            .map(|(index, name)| format!("{index} `{name}`"))
            .collect();
        writeln!(text, "{side}'s counters by index: {}.\n", names.join(", ")).expect("to a string");
    }
    text
}

fn table_of(structure: &Structure, text: &mut String) {
    let purpose = sentence(structure.purpose);
    let title = format!(
        "`{}`, {} bytes. {purpose}",
        structure.name, structure.size_bytes
    );
    writeln!(
        text,
        "{title}\n\n| byte | field | type | meaning |\n|---|---|---|---|"
    )
    .expect("to a string");
    for field in structure.fields {
        let (name, kind, purpose) = (field.name, field.kind, sentence(field.purpose));
        writeln!(
            text,
            "| {} | `{name}` | `{kind}` | {purpose} |",
            field.offset
        )
        .expect("to a string");
    }
    text.push('\n');
}

/// The whole text of `EXPERIMENTS.md`.
pub(crate) fn experiments() -> String {
    format!("{EXPERIMENTS_TITLE}{}", operations(EXPERIMENTS))
}

const EXPERIMENTS_TITLE: &str = "# Experiments of this tree

Generated from `src/op/experiments.rs`; how to add one: `TUTORIAL.md`. Nothing here is part of `SPEC.md` ([OP-6]): it may
change or go at any time. A host offers experiments only if asked to (`coopvirt run --coop all,experimental`).

";

fn operations(table: &[Operation]) -> String {
    let mut text = String::from(
        "| operation | opcode | feature | since | purpose | arguments | result | errors of its own |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for operation in table {
        writeln!(text, "{}", row_of(operation)).expect("to a string");
    }
    text
}

fn row_of(operation: &Operation) -> String {
    let arguments: Vec<String> = (operation.arguments.iter())
        .map(|arg| format!("`{}` {}: {}", arg.name, arg.kind, arg.unit))
        .collect();
    let errors: Vec<String> = operation.errors.iter().map(|e| format!("`{e}`")).collect();
    let or_none = |list: Vec<String>, by: &str| {
        if list.is_empty() {
            "none".to_owned()
        } else {
            list.join(by)
        }
    };
    format!(
        "| {} | `{:#06x}` | `{:?}` | {} | {} | {} | {} | {} |",
        operation.name,
        operation.opcode.0,
        operation.feature,
        operation.since,
        sentence(operation.purpose),
        or_none(arguments, "; "),
        operation.result,
        or_none(errors, ", "),
    )
}

fn statuses() -> String {
    let tables: [(&str, &[Code]); 3] = [
        ("status", Status::ALL),
        ("set-up status", SetupStatus::ALL),
        ("broken reason", BrokenReason::ALL),
    ];
    let mut text = String::new();
    for (title, codes) in tables {
        writeln!(text, "| {title} | value | meaning |\n|---|---|---|").expect("to a string");
        for code in codes {
            let purpose = sentence(code.purpose);
            writeln!(text, "| `{}` | {:#x} | {purpose} |", code.name, code.value)
                .expect("to a string");
        }
        text.push('\n');
    }
    text
}
