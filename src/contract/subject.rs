//! How subjects are named: Confluent's three strategies.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::record::Topic;

/// A subject name strategy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Strategy {
    /// `<topic>-value`, `<topic>-key`.
    #[default]
    #[serde(rename = "TopicNameStrategy", alias = "topic")]
    TopicName,
    /// The full name of the record.
    #[serde(rename = "RecordNameStrategy", alias = "record")]
    RecordName,
    /// `<topic>-<full name of the record>`.
    #[serde(rename = "TopicRecordNameStrategy", alias = "topic_record")]
    TopicRecordName,
}

impl Strategy {
    /// `record`: the full name of the record, needed by the two strategies that use it; a reader that does not know it must name
    /// the subject instead (`Config` error).
    pub fn subject(self, topic: &Topic, key: bool, record: Option<&str>) -> Result<String> {
        let named = || {
            record.ok_or_else(|| {
                Error::config(format!("topic \"{topic}\": the subject depends on the record's name, which is not known here"))
                    .hint("name the subject of this topic in the pipeline")
            })
        };
        Ok(match self {
            Strategy::TopicName => format!("{topic}-{}", if key { "key" } else { "value" }),
            Strategy::RecordName => named()?.to_string(),
            Strategy::TopicRecordName => format!("{topic}-{}", named()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_named_as_confluent_names_them() {
        let topic = Topic::new("orders");
        assert_eq!(Strategy::TopicName.subject(&topic, false, None).unwrap(), "orders-value");
        assert_eq!(Strategy::TopicName.subject(&topic, true, None).unwrap(), "orders-key");
        assert_eq!(Strategy::RecordName.subject(&topic, false, Some("shop.Order")).unwrap(), "shop.Order");
        assert_eq!(Strategy::TopicRecordName.subject(&topic, false, Some("shop.Order")).unwrap(), "orders-shop.Order");
        assert!(Strategy::RecordName.subject(&topic, false, None).unwrap_err().message.contains("record's name"));
    }
}
