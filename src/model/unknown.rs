//! Fields of a stored object that this volsnap does not know. It keeps them: an object of a later volsnap loses nothing
//! when this one reads and writes it. Pure data.

use serde_json::Value;

/// The unknown fields, each with its place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnknownFields(Vec<UnknownField>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct UnknownField {
    /// The path to the object that has it.
    object: Vec<Step>,
    name: String,
    value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Item(usize),
}

impl UnknownFields {
    /// Returns the fields of `read` that `known` lacks; `known` is the same object, written from what was understood.
    #[must_use]
    pub fn between(read: &Value, known: &Value) -> Self {
        let mut fields = Self::default();
        fields.collect(&mut Vec::new(), read, known);
        fields
    }

    fn collect(&mut self, way: &mut Vec<Step>, read: &Value, known: &Value) {
        match (read, known) {
            (Value::Object(read), Value::Object(known)) => {
                for (name, value) in read {
                    let Some(known) = known.get(name) else {
                        let (object, name, value) = (way.clone(), name.clone(), value.clone());
                        self.0.push(UnknownField { object, name, value });
                        continue;
                    };
                    way.push(Step::Field(name.clone()));
                    self.collect(way, value, known);
                    way.pop();
                }
            }
            (Value::Array(read), Value::Array(known)) if read.len() == known.len() => {
                for (at, (value, known)) in read.iter().zip(known).enumerate() {
                    way.push(Step::Item(at));
                    self.collect(way, value, known);
                    way.pop();
                }
            }
            _ => {}
        }
    }

    /// Puts the fields back where they were. A field goes with its object, and never replaces a known field.
    pub fn put_back(&self, written: &mut Value) {
        for UnknownField { object, name, value } in &self.0 {
            let found = object.iter().try_fold(&mut *written, |at, step| match step {
                Step::Field(name) => at.get_mut(name),
                Step::Item(item) => at.get_mut(item),
            });
            if let Some(fields) = found.and_then(Value::as_object_mut) {
                fields.entry(name).or_insert_with(|| value.clone());
            }
        }
    }

    /// Returns an unknown field of the object itself.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        let is_it = |field: &&UnknownField| field.object.is_empty() && field.name == name;
        self.0.iter().find(is_it).map(|field| &field.value)
    }

    /// Returns whether everything is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_known_is_kept_at_any_depth_and_what_is_known_can_be_changed() {
        let read = json!({
            "name": "a", "mood": 1, "deep": {"known": 2, "new": {"x": [1]}}, "list": [{"a": 1}, {"a": 2, "b": 3}],
        });
        let known = json!({"name": "a", "deep": {"known": 2}, "list": [{"a": 1}, {"a": 2}]});
        let unknown = UnknownFields::between(&read, &known);
        let mut written = known.clone();
        unknown.put_back(&mut written);
        assert_eq!(written, read);
        assert_eq!(unknown.get("mood"), Some(&json!(1)));
        assert_eq!(unknown.get("new"), None);

        let mut changed = json!({"name": "b", "mood": "known by now", "list": [{"a": 1}]});
        unknown.put_back(&mut changed);
        assert_eq!(changed, json!({"name": "b", "mood": "known by now", "list": [{"a": 1}]}));
        assert!(UnknownFields::between(&known, &known).is_empty());
    }
}
