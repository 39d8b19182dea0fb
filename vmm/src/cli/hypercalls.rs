//! `coopvirt hypercalls`: what a guest can ask, from the spec's own table.

use std::process::ExitCode;

use comfy_table::{presets, ContentArrangement, Table};
use coopvirt_spec::code::Status;
use coopvirt_spec::op::{self, Operation, COMMON_ERRORS, EXPERIMENTAL_FIRST};

use crate::say::say;

/// Prints all operations, as a table or as JSON.
pub(super) fn run(json: bool) -> anyhow::Result<ExitCode> {
    say(&match json {
        true => {
            let all = serde_json::Value::Array(op::all().map(to_json).collect());
            format!("{all:#}\n")
        }
        false => to_text(),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn arguments(operation: &Operation) -> impl Iterator<Item = String> + '_ {
    let arguments = operation.arguments.iter();
    arguments.map(|arg| format!("{}: {} ({})", arg.name, arg.kind, arg.unit))
}

fn names(errors: &[Status]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn to_text() -> String {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header([
            "opcode",
            "name",
            "feature",
            "since",
            "arguments",
            "result",
            "errors",
            "counter",
        ]);
    for operation in op::all() {
        table.add_row([
            format!("{:#06x}", operation.opcode.0),
            operation.name.into(),
            format!("{:?}", operation.feature),
            operation.since.to_string(),
            arguments(operation).collect::<Vec<_>>().join("\n"),
            operation.result.into(),
            names(operation.errors).join("\n"),
            operation.counter.into(),
        ]);
    }
    format!(
        "{table}\n\nEvery operation can also end with {}.\nOpcodes from {EXPERIMENTAL_FIRST:#06x} on are \
         experiments, offered only by --coop all,experimental.\n",
        names(COMMON_ERRORS).join(", "),
    )
}

fn to_json(operation: &Operation) -> serde_json::Value {
    serde_json::json!({
        "opcode": operation.opcode.0,
        "name": operation.name,
        "purpose": operation.purpose.trim(),
        "feature": format!("{:?}", operation.feature),
        "since": operation.since.to_string(),
        "arguments": operation.arguments.iter().map(|arg| serde_json::json!({
            "name": arg.name,
            "type": arg.kind,
            "unit": arg.unit,
        })).collect::<Vec<_>>(),
        "result": operation.result,
        "errors": names(operation.errors),
        "counter": operation.counter,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_listed_with_its_counter() {
        let text = to_text();
        for operation in op::all() {
            assert!(text.contains(operation.name), "{}", operation.name);
            let json = to_json(operation).to_string();
            assert!(json.contains(operation.counter), "{json}");
        }
    }
}
