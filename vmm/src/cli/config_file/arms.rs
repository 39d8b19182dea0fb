//! `[[arm]]` tables of an experiment: the words of `--arm`, and back.

use std::path::Path;

use toml::de::DeValue;
use toml::Spanned;

use super::{scalar, unknown, ARM};
use crate::compare::arm::{self, OwnArm};

/// What is wrong with the keys of `[[arm]]` tables, and where.
pub(super) fn check(value: &Spanned<DeValue<'_>>) -> Result<(), (usize, String)> {
    let DeValue::Array(arms) = value.get_ref() else {
        return Err((value.span().start, "an arm is written as [[arm]]".into()));
    };
    for arm in arms.iter() {
        let DeValue::Table(table) = arm.get_ref() else {
            return Err((arm.span().start, "an arm is a table".into()));
        };
        let mut keys: Vec<_> = table.keys().collect();
        keys.sort_by_key(|key| key.span().start);
        for key in keys {
            let name: &str = key.get_ref();
            if !arm::OWN_KEYS.contains(&name) {
                let text = unknown(name, &arm::OWN_KEYS, "those of an arm");
                return Err((key.span().start, text));
            }
        }
    }
    Ok(())
}

/// An arm's table in one line, its paths from the file's folder.
pub(super) fn inline(value: &DeValue<'_>, folder: &Path) -> Result<String, String> {
    let DeValue::Table(table) = value else {
        return Err("an arm is a table".into());
    };
    let mut plain = toml::Table::new();
    for (key, value) in table.iter() {
        let key: &str = key.get_ref();
        let value = match plain_value(value.get_ref())? {
            toml::Value::String(path) if arm::OWN_PATHS.contains(&key) => {
                let path = folder.join(path).into_os_string().into_string();
                toml::Value::String(path.map_err(|path| format!("{path:?} is no text"))?)
            }
            value => value,
        };
        plain.insert(key.into(), value);
    }
    Ok(toml::Value::Table(plain).to_string())
}

fn plain_value(value: &DeValue<'_>) -> Result<toml::Value, String> {
    Ok(match value {
        DeValue::String(text) => toml::Value::String(text.to_string()),
        DeValue::Integer(_) => {
            let number = scalar(value)?;
            let number = number
                .parse()
                .map_err(|_| format!("number {number} is too large"))?;
            toml::Value::Integer(number)
        }
        DeValue::Array(array) => {
            let items = array.iter().map(|item| plain_value(item.get_ref()));
            toml::Value::Array(items.collect::<Result<_, _>>()?)
        }
        _ => return Err("expected text, a number or a list of texts".into()),
    })
}

/// An arm that was given in one line, as a table of its own.
pub(super) fn table(line: &str) -> String {
    // What the option's parser took can be read again.
    let keys = OwnArm::parse(line).ok();
    let keys = keys.and_then(|arm| toml::to_string(&arm).ok());
    format!("\n[[{ARM}]]\n{}", keys.unwrap_or_default())
}
