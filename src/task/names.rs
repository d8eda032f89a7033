//! The names of everything that a pipeline owns (DESIGN section 13, Identity): one prefix covers them all, so that prefixed ACLs
//! suffice.

use crate::error::{Error, Result};
use crate::record::Topic;

/// Kafka's limit on the length of a topic's name.
const TOPIC_NAME_MAX: usize = 249;

/// Names of one generation of one pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// `name_prefix`, by default `tidemill.`.
    pub prefix: String,
    pub pipeline: String,
    pub generation: u32,
}

impl Names {
    /// # Errors
    /// `Config` when a part has characters that Kafka refuses in names, or a name would be too long.
    pub fn new(prefix: &str, pipeline: &str, generation: u32) -> Result<Names> {
        for (what, text) in [("name_prefix", prefix), ("pipeline.name", pipeline)] {
            if let Some(bad) = text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
                return Err(Error::config(format!("{what} \"{text}\" has the character {bad:?}"))
                    .hint("use letters, digits, '.', '_' and '-', as Kafka allows in names of topics"));
            }
        }
        if pipeline.is_empty() {
            return Err(Error::config("pipeline.name is empty").hint("name the pipeline: SET 'pipeline.name' = 'revenue';"));
        }
        let names = Names { prefix: prefix.into(), pipeline: pipeline.into(), generation };
        check_length(&names.decisions())?;
        Ok(names)
    }

    pub fn with_generation(&self, generation: u32) -> Names {
        Names { generation, ..self.clone() }
    }

    /// The consumer group.
    pub fn group(&self) -> String {
        format!("{}{}.g{}", self.prefix, self.pipeline, self.generation)
    }

    /// `instance` is the random part kept in the state directory.
    pub fn transactional_id(&self, instance: &str) -> String {
        format!("{}.{instance}", self.group())
    }

    /// The pipeline that a transactional id is of, and its generation, unless it is the one that writes the control topic. `None`: it is
    /// not of a name under this prefix.
    pub fn owner_of(prefix: &str, transactional_id: &str) -> Option<(String, Option<u32>)> {
        let (head, last) = transactional_id.strip_prefix(prefix)?.rsplit_once('.')?;
        if last == "control" {
            return Some((head.to_owned(), None)).filter(|(pipeline, _)| !pipeline.is_empty());
        }
        let (pipeline, generation) = head.rsplit_once(".g")?;
        let generation = generation.parse().ok()?;
        Some((pipeline.to_owned(), Some(generation))).filter(|(pipeline, _)| !pipeline.is_empty())
    }

    /// The changelog of the operator's store.
    pub fn changelog(&self, operator: &str) -> Result<Topic> {
        let topic = Topic::new(format!("{}.{operator}.changelog", self.group()));
        check_length(&topic)?;
        Ok(topic)
    }

    /// The topic through which rows are shuffled; `operator` is the exchange's id.
    pub fn repartition(&self, operator: &str) -> Result<Topic> {
        let topic = Topic::new(format!("{}.{operator}.repartition", self.group()));
        check_length(&topic)?;
        Ok(topic)
    }

    /// What every internal topic of this generation begins with.
    pub fn generation_prefix(&self) -> String {
        format!("{}.", self.group())
    }

    pub fn dead(&self) -> Topic {
        self.of_pipeline("dead")
    }

    pub fn late(&self) -> Topic {
        self.of_pipeline("late")
    }

    pub fn control(&self) -> Topic {
        self.of_pipeline("control")
    }

    /// The transactional id of whoever changes the control topic: one at a time.
    pub fn control_writer(&self) -> String {
        self.control().to_string()
    }

    pub fn decisions(&self) -> Topic {
        self.of_pipeline("decisions")
    }

    /// The shadow of a sink that a backfill job writes.
    pub fn shadow(&self, job: &str, sink: &str) -> Result<Topic> {
        let topic = self.of_pipeline(&format!("{job}.{sink}"));
        check_length(&topic)?;
        Ok(topic)
    }

    fn of_pipeline(&self, last: &str) -> Topic {
        Topic::new(format!("{}{}.{last}", self.prefix, self.pipeline))
    }
}

fn check_length(topic: &Topic) -> Result<()> {
    if topic.as_str().len() > TOPIC_NAME_MAX {
        return Err(Error::config(format!(
            "topic name \"{topic}\" has {} characters, Kafka takes {TOPIC_NAME_MAX}",
            topic.as_str().len()
        ))
        .hint("shorten pipeline.name, name_prefix or the sink's name"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transactional_id_tells_its_pipeline() {
        let names = Names::new("tidemill.", "shop.g2.revenue", 12).unwrap();
        let owner = |id: &str| Names::owner_of("tidemill.", id);
        let pipeline = || "shop.g2.revenue".to_string();
        assert_eq!(owner(&names.transactional_id("0a1b2c3d-00000001")), Some((pipeline(), Some(12))));
        assert_eq!(owner(&names.control_writer()), Some((pipeline(), None)));
        for other in ["connect.g1.00000000", "tidemill.revenue", "tidemill..g1.0", "tidemill.revenue.gx.0", "tidemill..control"] {
            assert_eq!(owner(other), None, "{other}");
        }
    }
}
