//! `tidemill lag`: committed offsets against the ends that a read_committed consumer can reach, and event time against the clock.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use super::context::Context;
use super::report::Exit;
use super::show::{Listing, Row, line, row};
use crate::error::{Error, Result, nearest};
use crate::job::control::{Control, JobState};
use crate::job::ledger;
use crate::log::{Isolation, Log, partitions_of};
use crate::record::{Topic, TopicPartition};
use crate::task::names::Names;
use crate::task::progress;
use crate::watermark::Watermark;

const WATCH_EVERY: Duration = Duration::from_secs(2);
const CONTROL_SUFFIX: &str = ".control";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A pipeline's name [default: all]
    #[arg(value_name = "PIPELINE")]
    pub pipeline: Option<String>,
    /// A consumer group instead of a pipeline; it may be anybody's
    #[arg(long, value_name = "G", conflicts_with = "pipeline")]
    pub group: Option<String>,
    /// Again every two seconds, with rate and time left
    #[arg(long)]
    pub watch: bool,
    #[command(flatten)]
    pub listing: Listing,
}

/// A group to look at. Without topics: every topic it has committed offsets in.
struct Group {
    name: String,
    topics: Option<Vec<Topic>>,
}

pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    let log = context.log()?;
    let log = log.as_ref();
    let groups = groups(args, context, log)?;
    let mut before: Option<(Instant, BTreeMap<(String, TopicPartition), i64>)> = None;
    loop {
        let measured_at = Instant::now();
        let mut lags = Vec::new();
        for group in &groups {
            lags.extend(measure(log, group)?);
        }
        show(args, &lags, before.as_ref(), measured_at);
        if !args.watch {
            return Ok(Exit::Done);
        }
        let positions = lags.iter().filter_map(|lag| Some(((lag.group.clone(), lag.at.clone()), lag.committed?))).collect();
        before = Some((measured_at, positions));
        std::thread::sleep(WATCH_EVERY);
    }
}

fn groups(args: &Args, context: &Context, log: &dyn Log) -> Result<Vec<Group>> {
    if let Some(group) = &args.group {
        return Ok(vec![Group { name: group.clone(), topics: None }]);
    }
    let prefix = context.name_prefix();
    let pipelines: Vec<String> = log
        .topics(prefix)?
        .iter()
        .filter_map(|info| info.topic.as_str().strip_prefix(prefix)?.strip_suffix(CONTROL_SUFFIX).map(str::to_string))
        .collect();
    let mut groups = Vec::new();
    match &args.pipeline {
        Some(pipeline) if !pipelines.contains(pipeline) => {
            let hint = match nearest(pipeline, pipelines.iter().map(String::as_str)) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None if pipelines.is_empty() => "no pipeline has run on this cluster under this name_prefix".to_string(),
                None => format!("pipelines here are {}", pipelines.join(", ")),
            };
            return Err(Error::config(format!("there is no pipeline \"{pipeline}\" on this cluster")).hint(hint));
        }
        Some(pipeline) => groups.extend(of_pipeline(context, log, pipeline)?),
        None => {
            for pipeline in &pipelines {
                groups.extend(of_pipeline(context, log, pipeline)?);
            }
        }
    }
    Ok(groups)
}

/// The groups of the live generation and of jobs that run.
fn of_pipeline(context: &Context, log: &dyn Log, pipeline: &str) -> Result<Vec<Group>> {
    let names = Names::new(context.name_prefix(), pipeline, 1)?;
    let Control { generations, live, jobs, .. } = ledger::read(log, &names)?;
    let running = jobs.values().filter(|job| job.state == JobState::Running).map(|job| job.generation);
    let group = |generation: u32| {
        let topics = generations.get(&generation)?.partitions.keys().map(Topic::new).collect();
        Some(Group { name: names.with_generation(generation).group(), topics: Some(topics) })
    };
    Ok(live.into_iter().chain(running).filter_map(group).collect())
}

struct Lag {
    group: String,
    at: TopicPartition,
    committed: Option<i64>,
    end: i64,
    records: i64,
    watermark: Option<Watermark>,
}

fn measure(log: &dyn Log, group: &Group) -> Result<Vec<Lag>> {
    let infos = match &group.topics {
        Some(topics) => {
            let mut infos = Vec::new();
            for topic in topics {
                infos.extend(log.topic(topic)?);
            }
            infos
        }
        None => log.topics("")?,
    };
    let mut partitions: Vec<TopicPartition> = infos.iter().flat_map(|info| partitions_of(&info.topic, info.partitions)).collect();
    let committed = log.committed(&group.name, &partitions)?;
    if group.topics.is_none() {
        partitions.retain(|at| committed.contains_key(at));
        if partitions.is_empty() {
            return Err(Error::config(format!("consumer group \"{}\" has committed no offset", group.name))
                .hint("check the name; a group's offsets expire some time after its last member left"));
        }
    }
    let (starts, ends) = (log.start_offsets(&partitions)?, log.end_offsets(&partitions, Isolation::Committed)?);
    let lag = |at: TopicPartition| {
        let commit = committed.get(&at);
        let end = ends.get(&at).map_or(0, |end| end.0);
        let start = starts.get(&at).map_or(0, |start| start.0);
        let position = commit.map_or(start, |commit| commit.next.0);
        // Offsets of others carry no watermark of ours.
        let watermark = commit.and_then(|commit| progress::from_committed(&at, commit).ok()).map(|state| state.lowest());
        Lag {
            group: group.name.clone(),
            committed: commit.map(|commit| commit.next.0),
            end,
            records: (end - position).max(0),
            watermark: watermark.filter(|w| *w != Watermark::MIN && *w != Watermark::MAX),
            at,
        }
    };
    Ok(partitions.into_iter().map(lag).collect())
}

type Before = (Instant, BTreeMap<(String, TopicPartition), i64>);

fn show(args: &Args, lags: &[Lag], before: Option<&Before>, measured_at: Instant) {
    let now = chrono::Utc::now().timestamp_micros();
    let rows: Vec<Row> = lags.iter().map(|lag| describe(lag, before, measured_at, now)).collect();
    if args.listing.is_json() {
        if args.watch {
            line(&serde_json::to_string(&rows).expect("rows have string keys"));
        } else {
            args.listing.rows(&rows, "");
        }
        return;
    }
    if args.watch && std::io::stdout().is_terminal() {
        // Clears the screen and goes to its top.
        line("\x1b[2J\x1b[H");
    }
    args.listing.rows(&rows, "no pipeline has run on this cluster under this name_prefix");
    if !lags.is_empty() {
        let records: i64 = lags.iter().map(|lag| lag.records).sum();
        line(&format!("\n{records} records behind in {} partitions", lags.len()));
    }
}

fn describe(lag: &Lag, before: Option<&Before>, measured_at: Instant, now_micros: i64) -> Row {
    let behind = lag.watermark.map(|watermark| seconds((now_micros - watermark.0).max(0)));
    let mut row = row! {
        "group": lag.group,
        "topic": lag.at.topic,
        "partition": lag.at.partition,
        "committed": lag.committed,
        "end": lag.end,
        "lag": lag.records,
        "watermark": lag.watermark.map(|w| w.to_string()),
        "event_time_lag_seconds": behind,
    };
    if let Some((at, positions)) = before {
        let elapsed = measured_at.duration_since(*at).as_secs_f64().max(0.001);
        let moved = positions.get(&(lag.group.clone(), lag.at.clone())).zip(lag.committed).map_or(0, |(from, to)| to - from);
        let rate = moved as f64 / elapsed;
        row.insert("rate".into(), serde_json::json!(rate.round() as i64));
        let left = (rate >= 1.0 && lag.records > 0).then(|| (lag.records as f64 / rate).round() as i64);
        row.insert("seconds_left".into(), serde_json::json!(left));
    }
    row
}

/// To a tenth: event time is no finer in a lag.
fn seconds(micros: i64) -> f64 {
    (micros / 100_000) as f64 / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::embedded::EmbeddedLog;
    use crate::log::{CommittedOffset, NewTopic};
    use crate::record::NextOffset;

    #[test]
    fn lag_is_measured_from_committed_offsets_to_the_end() {
        let log = EmbeddedLog::new();
        let topic = Topic::new("orders");
        log.create_topics(&[NewTopic { topic: topic.clone(), partitions: 2, replication: 1, config: BTreeMap::new() }]).unwrap();
        for _ in 0..5 {
            log.append(&topic, 0, 0, None, Some(b"x"), Vec::new()).unwrap();
        }
        let metadata = progress::to_metadata(&progress::start(NextOffset(2)), 1);
        log.commit("g", &[(topic.partition(0), CommittedOffset { next: NextOffset(2), metadata })].into()).unwrap();
        let of_pipeline = measure(&log, &Group { name: "g".into(), topics: Some(vec![topic.clone()]) }).unwrap();
        let shown: Vec<(Option<i64>, i64, i64)> = of_pipeline.iter().map(|lag| (lag.committed, lag.end, lag.records)).collect();
        assert_eq!(shown, [(Some(2), 5, 3), (None, 0, 0)]);
        let foreign = measure(&log, &Group { name: "g".into(), topics: None }).unwrap();
        assert_eq!(foreign.len(), 1, "only partitions with an offset");
        let none = measure(&log, &Group { name: "other".into(), topics: None });
        assert!(none.is_err_and(|e| e.message.contains("\"other\"")));
    }
}
