//! `tidemill topics`: what to create where a process may not create topics itself.

use std::path::PathBuf;

use super::context::Context;
use super::pipeline;
use super::report::Exit;
use super::show::{Listing, Row, line, row};
use crate::error::Result;
use crate::job::prepare;
use crate::log::NewTopic;
use crate::task::names::Names;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(value_name = "PIPELINE.sql")]
    pub pipeline: PathBuf,
    /// Of the pipeline: 1 until it is reset or replaced
    #[arg(long, default_value_t = 1)]
    pub generation: u32,
    #[command(flatten)]
    pub listing: Listing,
}

pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    let (site, compiled) = pipeline::open(context, &args.pipeline)?;
    let topology = compiled.topology;
    let counts = prepare::sources(&site, &topology)?;
    let tasks = counts.iter().copied().max().unwrap_or(0);
    let names = Names::new(context.name_prefix(), &topology.pipeline, args.generation)?;
    let mut topics = prepare::sink_topics(&site, &topology, tasks, &|sink| Ok(sink.topic.clone()))?;
    topics.extend(prepare::internal_topics(&site, &topology, &names, &counts)?);
    let mut existing = Vec::new();
    for topic in &topics {
        existing.push(site.log.topic(&topic.topic)?.is_some());
    }
    if args.listing.is_json() {
        let rows: Vec<Row> = topics
            .iter()
            .zip(&existing)
            .map(|(t, exists)| {
                row! { "topic": t.topic, "partitions": t.partitions, "replication": t.replication, "config": t.config, "exists": exists }
            })
            .collect();
        args.listing.rows(&rows, "");
    } else {
        let brokers = &context.settings.typed.kafka.brokers;
        for (topic, exists) in topics.iter().zip(existing) {
            line(&if exists { format!("# {} exists", topic.topic) } else { command(brokers, topic) });
        }
    }
    Ok(Exit::Done)
}

fn command(brokers: &str, topic: &NewTopic) -> String {
    let replication = if topic.replication > 0 { format!(" --replication-factor {}", topic.replication) } else { String::new() };
    let config: String = topic.config.iter().map(|(key, value)| format!(" --config {key}={value}")).collect();
    format!(
        "kafka-topics.sh --bootstrap-server {brokers} --create --topic {} --partitions {}{replication}{config}",
        topic.topic, topic.partitions
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Topic;

    #[test]
    fn a_command_says_all_that_the_topic_needs() {
        let config = [("cleanup.policy".to_string(), "compact".to_string())].into();
        let topic = NewTopic { topic: Topic::new("t"), partitions: 3, replication: -1, config };
        let text = command("b:1", &topic);
        assert_eq!(
            text,
            "kafka-topics.sh --bootstrap-server b:1 --create --topic t --partitions 3 --config cleanup.policy=compact"
        );
        assert!(command("b:1", &NewTopic { replication: 3, ..topic }).contains(" --replication-factor 3 "));
    }
}
