//! Holds what `--json` prints to `docs/json-schema.json`. It knows as much of JSON Schema as that file uses, and
//! panics at anything else.

use serde_json::{Map, Value};

const SCHEMA: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/json-schema.json"));

/// The command prints this, by the schema.
#[track_caller]
pub(crate) fn assert_fits(command: &str, value: &Value) {
    let root: Value = serde_json::from_str(SCHEMA).unwrap();
    let schema = &root["properties"][command];
    assert!(schema.is_object(), "the schema does not have {command}");
    if let Err(why) = check(&root, schema, value, "$") {
        panic!("`{command}` does not fit the schema: {why}\n{value:#}");
    }
}

fn check(root: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    for (word, rule) in schema.as_object().unwrap() {
        match word.as_str() {
            "description" | "format" | "pattern" | "properties" | "required" => {}
            "$ref" => check(root, root.pointer(&rule.as_str().unwrap()[1..]).unwrap(), value, at)?,
            "anyOf" => {
                let tried: Vec<_> =
                    rule.as_array().unwrap().iter().map(|one| check(root, one, value, at)).collect();
                if tried.iter().all(Result::is_err) {
                    let why: Vec<_> = tried.into_iter().filter_map(Result::err).collect();
                    return Err(format!("{at} is none of: {}", why.join(" | ")));
                }
            }
            "const" if rule == value => {}
            "enum" if rule.as_array().unwrap().contains(value) => {}
            "const" | "enum" => return Err(format!("{at} is {value}, not {rule}")),
            "type" if is_of_type(rule, value) => {}
            "type" => return Err(format!("{at} is {value}, not of type {rule}")),
            "minimum" => {
                if value.as_i64().is_some_and(|number| number < rule.as_i64().unwrap()) {
                    return Err(format!("{at} is {value}"));
                }
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, rule, item, &format!("{at}[{index}]"))?;
                }
            }
            "minItems" | "maxItems" => {
                let length = u64::try_from(value.as_array().map_or(0, Vec::len)).unwrap();
                let limit = rule.as_u64().unwrap();
                if (word == "minItems" && length < limit) || (word == "maxItems" && length > limit) {
                    return Err(format!("{at} has {length} items"));
                }
            }
            "additionalProperties" => {}
            other => panic!("the schema has a word that is not known here: {other}"),
        }
    }
    value.as_object().map_or(Ok(()), |object| check_object(root, schema, object, at))
}

fn check_object(root: &Value, schema: &Value, object: &Map<String, Value>, at: &str) -> Result<(), String> {
    for name in schema["required"].as_array().into_iter().flatten() {
        let name = name.as_str().unwrap();
        if !object.contains_key(name) {
            return Err(format!("{at} has no {name}"));
        }
    }
    for (name, value) in object {
        let at = format!("{at}.{name}");
        match (&schema["properties"][name], &schema["additionalProperties"]) {
            (Value::Null, Value::Bool(false)) => return Err(format!("{at} is not in the schema")),
            (Value::Null, rule @ Value::Object(_)) => check(root, rule, value, &at)?,
            (Value::Null, _) => {}
            (rule, _) => check(root, rule, value, &at)?,
        }
    }
    Ok(())
}

fn is_of_type(rule: &Value, value: &Value) -> bool {
    match rule {
        Value::Array(several) => several.iter().any(|one| is_of_type(one, value)),
        Value::String(name) => match name.as_str() {
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            "null" => value.is_null(),
            other => panic!("the schema has a type that is not known here: {other}"),
        },
        other => panic!("the schema has this for a type: {other}"),
    }
}
