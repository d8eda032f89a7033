//! `tidemill jobs`: backfills as they are recorded, how far they are, and giving one up.

use serde_json::{Value, json};

use super::context::Context;
use super::report::Exit;
use super::show::{Listing, Row, row};
use crate::error::Result;
use crate::job::jobs::{self, Job};
use crate::log::Log;

const CONTROL_SUFFIX: &str = ".control";

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// All jobs of a pipeline
    List {
        /// The pipeline's name [default: all]
        #[arg(value_name = "PIPELINE")]
        pipeline: Option<String>,
        #[command(flatten)]
        listing: Listing,
    },
    /// One job: its vectors, progress and outputs
    Show {
        #[arg(value_name = "PIPELINE")]
        pipeline: String,
        #[arg(value_name = "JOB")]
        job: String,
        #[command(flatten)]
        listing: Listing,
    },
    /// Give a job up: its processes leave, its group and state go, its outputs stay. While it is being promoted, the live generation goes on
    Cancel {
        #[arg(value_name = "PIPELINE")]
        pipeline: String,
        #[arg(value_name = "JOB")]
        job: String,
        #[command(flatten)]
        listing: Listing,
    },
}

pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    match &args.command {
        Command::List { pipeline, listing } => list(pipeline.as_deref(), *listing, context),
        Command::Show { pipeline, job, listing } => show(pipeline, job, *listing, context),
        Command::Cancel { pipeline, job, listing } => cancel(pipeline, job, *listing, context),
    }
}

fn list(pipeline: Option<&str>, listing: Listing, context: &Context) -> Result<Exit> {
    let site = context.site()?;
    let pipelines = match pipeline {
        Some(pipeline) => vec![pipeline.to_string()],
        None => pipelines(site.log.as_ref(), context.name_prefix())?,
    };
    let mut rows: Vec<Row> = Vec::new();
    for pipeline in pipelines {
        for job in jobs::list(&site, &pipeline)? {
            let (done, all) = job.done();
            rows.push(row! {
                "pipeline": pipeline, "job": job.record.job, "generation": job.record.generation, "state": state(&job),
                "offsets": all, "done": done, "percent": percent(done, all),
            });
        }
    }
    listing.rows(&rows, "no jobs");
    Ok(Exit::Done)
}

/// Pipelines that have a control topic.
fn pipelines(log: &dyn Log, prefix: &str) -> Result<Vec<String>> {
    let name = |topic: &str| Some(topic.strip_prefix(prefix)?.strip_suffix(CONTROL_SUFFIX)?.to_string());
    Ok(log.topics(prefix)?.iter().filter_map(|info| name(info.topic.as_str())).collect())
}

fn state(job: &Job) -> String {
    match job.promoted {
        true => "promoting".to_string(),
        false => job.record.state.as_str().to_string(),
    }
}

fn percent(done: u64, all: u64) -> u64 {
    (done * 100).checked_div(all).unwrap_or(100)
}

fn show(pipeline: &str, name: &str, listing: Listing, context: &Context) -> Result<Exit> {
    let job = jobs::show(&context.site()?, pipeline, name)?;
    let (done, all) = job.done();
    let partitions: Vec<Value> = job
        .to
        .iter()
        .map(|(partition, to)| {
            let from = job.from.get(partition).map_or(0, |from| from.0);
            let committed = job.committed.get(partition).map(|at| at.0);
            json!({
                "topic": partition.topic, "partition": partition.partition.0, "from": from, "to": to.0, "committed": committed,
            })
        })
        .collect();
    let value = json!({
        "pipeline": pipeline, "job": job.record.job, "generation": job.record.generation, "state": state(&job),
        "final": job.record.finish, "ignore_decisions": job.record.ignore_decisions, "then_live": job.record.then_live, "offsets": all, "done": done, "percent": percent(done, all),
        "partitions": partitions, "outputs": job.record.outputs,
    });
    listing.value(&value, || text(pipeline, &job));
    Ok(Exit::Done)
}

fn text(pipeline: &str, job: &Job) -> String {
    let (done, all) = job.done();
    let record = &job.record;
    let mut text = format!(
        "pipeline \"{pipeline}\", job \"{}\", generation {}: {}, {done} of {all} offsets ({} %)\n",
        record.job,
        record.generation,
        state(job),
        percent(done, all)
    );
    for (partition, to) in &job.to {
        let from = job.from.get(partition).map_or(0, |from| from.0);
        let at = job.committed.get(partition).map_or("nothing".to_string(), |at| at.to_string());
        text.push_str(&format!("  {partition}: from {from} to {to}, committed {at}\n"));
    }
    for (sink, topic) in &record.outputs {
        text.push_str(&format!("  sink \"{sink}\" -> topic {topic}\n"));
    }
    text
}

fn cancel(pipeline: &str, name: &str, listing: Listing, context: &Context) -> Result<Exit> {
    let cancelled = jobs::cancel(&context.site()?, pipeline, name)?;
    let value = json!({
        "pipeline": pipeline, "job": name, "promotion_given_up": cancelled.promotion, "group": cancelled.group,
        "deleted_topics": cancelled.topics, "outputs": cancelled.outputs,
    });
    listing.value(&value, || {
        let mut text = format!("pipeline \"{pipeline}\": job \"{name}\" is cancelled\n");
        if cancelled.promotion {
            text.push_str("  it was being promoted: the live generation goes on where it stopped\n");
        }
        if let Some(group) = &cancelled.group {
            text.push_str(&format!("  deleted consumer group {group}\n"));
        }
        for topic in &cancelled.topics {
            text.push_str(&format!("  deleted topic {topic}\n"));
        }
        for topic in &cancelled.outputs {
            text.push_str(&format!("  what it has written stays in topic {topic}\n"));
        }
        text
    });
    Ok(Exit::Done)
}
