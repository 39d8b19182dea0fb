//! The JSON Schema of a comparison's file, as it is published, and proof that files keep to it.
//!
//! `vmm/schema/comparison-2.json` is the text; `coopvirt report --schema` prints it. Whoever changes
//! [`super::model`] changes it too: a test finds members that it does not describe.

/// The schema of files of version [`super::model::FORMAT`].
pub const SCHEMA: &str = include_str!("../../schema/comparison-2.json");

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::account::durations::Durations;
    use crate::compare::disk::TempFolder;
    use crate::compare::json;
    use crate::compare::model::{Identity, Report, FORMAT};
    use crate::compare::pin::Thread;
    use crate::compare::records::ModuleRecord;
    use crate::compare::waterfall;

    /// A report in which nothing that can be there is missing.
    fn full() -> Report {
        let mut report = waterfall::tests::moved();
        let mut durations = Durations::default();
        durations.add(12_345);
        for run in &mut report.runs {
            run.identity = Some(Identity {
                traced_exits: 1,
                stats_exits: Some(1),
                traced_userspace: 1,
                own_userspace: None,
                missing: Some("x".into()),
            });
            run.threads = vec![Thread {
                name: "vcpu0".into(),
                cpus: "1".into(),
            }];
            run.modules = vec![ModuleRecord {
                state: "loaded".into(),
                ..ModuleRecord::default()
            }];
            run.coop = Some(Default::default());
            for sample in &mut run.samples {
                sample.detail = [("lost".to_string(), 1.5)].into();
                sample.counts.guest_ns = 7;
                sample.counts.by_place = [("MSR x+0x1".to_string(), 3)].into();
                sample.counts.durations = [("MSR".to_string(), durations.clone())].into();
            }
        }
        report
    }

    fn written(report: &Report) -> Value {
        let folder = TempFolder::new().unwrap();
        let path = folder.path().join("report.json");
        json::write(&path, report).unwrap();
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn files_validate_and_wrong_ones_do_not() {
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let mut file = written(&full());
        let errors: Vec<_> = validator
            .iter_errors(&file)
            .map(|e| e.to_string())
            .collect();
        assert_eq!(errors, [""; 0]);
        assert!(validator.is_valid(&written(&crate::compare::summary::tests::report())));
        file["runs"][0]["samples"][0]["counts"]["total"] = Value::from("many");
        assert!(!validator.is_valid(&file));
        let mut file = written(&full());
        file["format"] = Value::from(FORMAT + 1);
        assert!(!validator.is_valid(&file));
    }

    #[test]
    fn every_member_is_described() {
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        let mut missing = Vec::new();
        undescribed(&schema, &schema, &written(&full()), "", &mut missing);
        missing.sort();
        missing.dedup();
        assert_eq!(missing, [""; 0], "vmm/schema/comparison-2.json lacks these");
    }

    /// Walks a value with its schema and notes members of objects that have no entry.
    fn undescribed(
        root: &Value,
        schema: &Value,
        value: &Value,
        at: &str,
        missing: &mut Vec<String>,
    ) {
        let schema = resolved(root, schema, value);
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    let at = format!("{at}.{name}");
                    let is_open =
                        schema["properties"].is_null() && schema["additionalProperties"].is_null();
                    match (&schema["properties"][name], &schema["additionalProperties"]) {
                        (Value::Null, Value::Null) if is_open => {}
                        (Value::Null, Value::Null) => missing.push(at),
                        (Value::Null, all) => undescribed(root, all, member, &at, missing),
                        (one, _) => undescribed(root, one, member, &at, missing),
                    }
                }
            }
            Value::Array(items) if !schema["items"].is_null() => {
                for item in items {
                    undescribed(root, &schema["items"], item, at, missing);
                }
            }
            _ => {}
        }
    }

    /// Follows references and picks what is not null of a choice.
    fn resolved<'a>(root: &'a Value, schema: &'a Value, value: &Value) -> &'a Value {
        if let Some(name) = schema["$ref"]
            .as_str()
            .and_then(|r| r.strip_prefix("#/$defs/"))
        {
            return resolved(root, &root["$defs"][name], value);
        }
        match schema["anyOf"].as_array() {
            Some(choice) if !value.is_null() => resolved(root, &choice[0], value),
            _ => schema,
        }
    }
}
