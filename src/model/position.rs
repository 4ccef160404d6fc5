//! The position of data in its database's log of changes. Pure data.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Where the data of a snapshot stands in its database's log: a replay of the log begins here, and what came before
/// is in the files.
///
/// It is the database's name, and what that database says of the place: only it understands that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(Value);

impl Position {
    /// Returns a place in the log of the database of that name.
    #[must_use]
    pub fn of(database: &str, place: Value) -> Self {
        Self(Value::Object(Map::from_iter([(database.to_owned(), place)])))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_position_is_kept_as_it_is_whatever_the_database() {
        for value in [json!({"mysql": {"gtid": "3E11FA47:1-5"}}), json!("later")] {
            let position: Position = serde_json::from_value(value.clone()).unwrap();
            assert_eq!(serde_json::to_value(&position).unwrap(), value);
        }
        let position = Position::of("mysql", json!({"gtid": "3E11FA47:1-5"}));
        assert_eq!(serde_json::to_value(&position).unwrap(), json!({"mysql": {"gtid": "3E11FA47:1-5"}}));
    }
}
