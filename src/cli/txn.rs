//! `tidemill txn`: transactions as their coordinators have them, and the remedy for one that hangs and holds back who reads committed records.
//!
//! The internal topic `__transaction_state` is read for that: the Kafka client has no request to list transactions (KIP-664). To abort one is
//! to open a producer of its transactional id: the coordinator then aborts what is open and takes no word any more from who had the id.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::context::Context;
use super::range;
use super::report::Exit;
use super::show::{Listing, Row, line, row};
use crate::error::{Error, Kind, Result, nearest};
use crate::log::kafka::transactions::{self, State, Transaction};
use crate::log::{Isolation, Log, ProducerSettings};
use crate::record::{Chunk, NextOffset, OffsetVector, Timestamp, Topic, TopicPartition};
use crate::task::names::Names;

/// Until then the markers of an aborted transaction are written.
const RELEASED: Duration = Duration::from_secs(10);
const SLICE: Duration = Duration::from_millis(100);
const OTHER_TOOL: &str = "kafka-transactions.sh, Kafka's own tool, asks the coordinators instead (list, describe, abort)";

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Transactional ids of pipelines, with their state; the oldest open transaction first
    List(List),
    /// Abort the transaction that is open under an id, and fence who has the id (a dry run unless --yes)
    Abort(Abort),
}

#[derive(Debug, clap::Args)]
pub struct List {
    /// Ids of others, too: not only those under [topics] name_prefix
    #[arg(long)]
    pub all: bool,
    /// Only transactions that are open for longer than their timeout
    #[arg(long)]
    pub hanging: bool,
    #[command(flatten)]
    pub listing: Listing,
}

#[derive(Debug, clap::Args)]
pub struct Abort {
    /// The transactional id, as "list" shows it
    #[arg(value_name = "ID")]
    pub id: String,
    /// Do it; without this it is only shown what would be done
    #[arg(long)]
    pub yes: bool,
    /// Also an id that is not under [topics] name_prefix, whose state can't be read, or under which nothing is open
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub listing: Listing,
}

pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    let log = context.log()?;
    match &args.command {
        Command::List(list) => show(list, log.as_ref(), context.name_prefix()),
        Command::Abort(abort) => perform(abort, log.as_ref(), context.name_prefix()),
    }
}

fn show(args: &List, log: &dyn Log, prefix: &str) -> Result<Exit> {
    let now = chrono::Utc::now().timestamp_millis();
    let found = read(log)?;
    let mut wanted: Vec<(&String, &Transaction)> = found
        .iter()
        .filter(|(id, _)| args.all || Names::owner_of(prefix, id).is_some())
        .filter(|(_, transaction)| !args.hanging || hangs(transaction, now))
        .collect();
    // Those that are not open last, by their ids.
    wanted.sort_by_key(|(id, transaction)| (opened_at(transaction).unwrap_or(i64::MAX), *id));
    let rows: Vec<Row> = wanted.into_iter().map(|(id, transaction)| describe(prefix, id, transaction, now)).collect();
    let none = match (args.hanging, args.all) {
        (true, _) => "no transaction is open for longer than its timeout",
        (false, true) => "no transactional id is known on this cluster",
        (false, false) => "no transactional id is known under this name_prefix (--all shows those of others)",
    };
    args.listing.rows(&rows, none);
    Ok(Exit::Done)
}

/// When the transaction was begun that is open.
fn opened_at(transaction: &Transaction) -> Option<i64> {
    transaction.started_at.filter(|_| transaction.state.is_open())
}

/// Its coordinator should have aborted it by now.
fn hangs(transaction: &Transaction, now: i64) -> bool {
    opened_at(transaction).is_some_and(|at| now - at > i64::from(transaction.timeout_ms))
}

fn describe(prefix: &str, id: &str, transaction: &Transaction, now: i64) -> Row {
    let owner = Names::owner_of(prefix, id);
    let generation = owner.as_ref().and_then(|(_, generation)| *generation);
    let opened_at = opened_at(transaction);
    row! {
        "id": id,
        "pipeline": owner.map(|(pipeline, _)| pipeline),
        "generation": generation,
        "state": transaction.state.name(),
        "since": time(opened_at.unwrap_or(transaction.updated_at)),
        "age_seconds": opened_at.map(|at| seconds(now - at)),
        "timeout_seconds": seconds(i64::from(transaction.timeout_ms)),
        "hangs": hangs(transaction, now),
        "producer_id": transaction.producer_id,
        "epoch": transaction.epoch,
        "partitions": places(&transaction.partitions),
    }
}

fn time(millis: i64) -> Option<String> {
    Timestamp::from_millis(millis).map(|at| at.to_string())
}

/// To a tenth.
fn seconds(millis: i64) -> f64 {
    (millis / 100) as f64 / 10.0
}

fn places<'a>(partitions: impl IntoIterator<Item = &'a TopicPartition>) -> Vec<String> {
    partitions.into_iter().map(|at| format!("{}:{}", at.topic, at.partition)).collect()
}

/// Every transactional id that the coordinators remember.
///
/// # Errors
/// `Config` when the topic can't be read by this user, with what to do.
fn read(log: &dyn Log) -> Result<BTreeMap<String, Transaction>> {
    let topic = Topic::new(transactions::TOPIC);
    let permission =
        format!("this user needs the right to describe and read the topic {topic}. Where nobody has it, {OTHER_TOOL}");
    let denied = |error: Error| match error.kind {
        Kind::Config | Kind::Failed => {
            Error { kind: Kind::Config, ..error }.context("transactions can't be listed").hint(&permission)
        }
        Kind::Away => error.context("transactions can't be listed").hint(format!("look at the broker; and {permission}")),
        _ => error,
    };
    let Some(info) = log.topic(&topic).map_err(denied)? else {
        return Err(Error::config(format!("there is no topic {topic}, or this user may not see it"))
            .hint(format!("without it no transaction was ever begun on this cluster; else {permission}")));
    };
    let partitions = range::partitions(&info);
    let start = log.start_offsets(&partitions).map_err(denied)?;
    let end = log.end_offsets(&partitions, Isolation::Uncommitted).map_err(denied)?;
    let (mut found, mut fault) = (BTreeMap::new(), None);
    range::read(log, Isolation::Uncommitted, &start, Some(&end), |chunk| match take(chunk, &mut found) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            fault = Some(error);
            ControlFlow::Break(())
        }
    })
    .map_err(denied)?;
    fault.map_or(Ok(found), Err)
}

fn take(chunk: &Chunk, found: &mut BTreeMap<String, Transaction>) -> Result<()> {
    for at in 0..chunk.len() {
        let context = |error: Error| {
            let hint = error.hint.clone().unwrap_or_else(|| OTHER_TOOL.to_owned());
            error.context(format!("{} offset {}", chunk.partition, chunk.offsets[at])).hint(hint)
        };
        let Some(key) = chunk.keys.get(at) else { continue };
        let Some(id) = transactions::transactional_id(key).map_err(context)? else { continue };
        match chunk.values.get(at) {
            Some(value) => drop(found.insert(id, transactions::transaction(value).map_err(context)?)),
            None => drop(found.remove(&id)),
        }
    }
    Ok(())
}

fn perform(args: &Abort, log: &dyn Log, prefix: &str) -> Result<Exit> {
    let owner = Names::owner_of(prefix, &args.id);
    if owner.is_none() && !args.force {
        return Err(Error::config(format!("\"{}\" is no transactional id of a pipeline under \"{prefix}\"", args.id)).hint(
            "who has the id is fenced, and others may not come back by themselves as pipelines do: --force does it all the same",
        ));
    }
    let before = look(args, log)?;
    let open = before.as_ref().is_none_or(|transaction| transaction.state.is_open());
    let acts = open || args.force;
    let done = acts && args.yes;
    let partitions = before.as_ref().map(|transaction| transaction.partitions.clone()).unwrap_or_default();
    let mut after = None;
    let mut held = Vec::new();
    if done {
        held = abort(log, prefix, &args.id, before.as_ref(), &partitions)?;
        after = look(args, log)?;
    }
    let now = chrono::Utc::now().timestamp_millis();
    let state = |of: &Option<Transaction>| of.as_ref().map(|transaction| describe(prefix, &args.id, transaction, now));
    let value = serde_json::json!({
        "id": args.id,
        "pipeline": owner.as_ref().map(|(pipeline, _)| pipeline),
        "generation": owner.as_ref().and_then(|(_, generation)| *generation),
        "before": state(&before),
        "after": state(&after),
        "held_back": places(&held),
        "done": done,
    });
    args.listing.value(&value, || in_words(args, owner.is_some(), before.as_ref(), after.as_ref(), &held, acts));
    if acts && !args.yes && !args.listing.is_json() {
        line("nothing was changed: repeat with --yes to do it");
    }
    Ok(if held.is_empty() { Exit::Done } else { Exit::Failed })
}

/// Where the id stands; `None` where that can't be read, and --force says that it need not be.
fn look(args: &Abort, log: &dyn Log) -> Result<Option<Transaction>> {
    let mut found = match read(log) {
        Err(error) if args.force && error.kind == Kind::Config => {
            tracing::warn!("{}: it is aborted without knowing what is open", error.message);
            return Ok(None);
        }
        result => result?,
    };
    match found.remove(&args.id) {
        None => {
            let near = nearest(&args.id, found.keys().map(String::as_str)).map(|near| format!("did you mean \"{near}\"? "));
            Err(Error::config(format!("no coordinator knows a transactional id \"{}\"", args.id))
                .hint(format!("{}\"tidemill txn list --all\" shows all", near.unwrap_or_default())))
        }
        found => Ok(found),
    }
}

/// Fences who has the id: the coordinator aborts what is open. Returns the partitions that stay held back all the same.
fn abort(
    log: &dyn Log,
    prefix: &str,
    id: &str,
    before: Option<&Transaction>,
    partitions: &[TopicPartition],
) -> Result<Vec<TopicPartition>> {
    // The coordinators' own topics take no records of others; they have no readers that wait either.
    let written: Vec<TopicPartition> = partitions.iter().filter(|at| !at.topic.as_str().starts_with("__")).cloned().collect();
    let ends = log.end_offsets(&written, Isolation::Uncommitted)?;
    let timeout = before.and_then(|transaction| u64::try_from(transaction.timeout_ms).ok()).unwrap_or(15_000);
    let settings = ProducerSettings {
        transactional_id: Some(id.to_owned()),
        transaction_timeout: Duration::from_millis(timeout.max(1_000)),
    };
    let mut producer = log.producer(&settings)?;
    if let Some((pipeline, Some(generation))) = Names::owner_of(prefix, id) {
        // What a coordinator took for aborted without writing the markers is closed, too.
        let group = Names::new(prefix, &pipeline, generation)?.group();
        producer.settle(&written, Some(&group))?;
    }
    wait_until_stable(log, &written, &ends)
}

/// Whether readers get to where the partitions ended when the transaction was open.
fn wait_until_stable(log: &dyn Log, partitions: &[TopicPartition], ends: &OffsetVector) -> Result<Vec<TopicPartition>> {
    let began = Instant::now();
    loop {
        let stable = log.end_offsets(partitions, Isolation::Committed)?;
        let reached = |at: &TopicPartition| stable.get(at).copied().unwrap_or(NextOffset(0)) >= ends[at];
        let held: Vec<TopicPartition> = partitions.iter().filter(|at| !reached(at)).cloned().collect();
        if held.is_empty() || began.elapsed() > RELEASED {
            return Ok(held);
        }
        std::thread::sleep(SLICE);
    }
}

fn in_words(
    args: &Abort,
    ours: bool,
    before: Option<&Transaction>,
    after: Option<&Transaction>,
    held: &[TopicPartition],
    acts: bool,
) -> String {
    let id = &args.id;
    let Some(before) = before else {
        let verb = if args.yes { "was" } else { "would be" };
        return format!(
            "transactional id {id}: what was open {verb} aborted, and who had the id fenced (its state can't be read)\n"
        );
    };
    let mut text = format!("transactional id {id}, producer {} epoch {}: {}\n", before.producer_id, before.epoch, state(before));
    if !acts {
        text.push_str("  nothing is open under it: there is nothing to abort (--force fences who has the id all the same)\n");
        return text;
    }
    let (aborts, fences) = if args.yes { ("aborted", "fenced") } else { ("would abort", "would fence") };
    match before.state {
        State::PrepareCommit => text.push_str("  it is decided: it is being committed, which goes on as it is\n"),
        _ if before.state.is_open() => text.push_str(&format!("  {aborts} its transaction in {}\n", list(&before.partitions))),
        _ => {}
    }
    text.push_str(&format!(
        "  {fences} who has the id{}\n",
        if ours {
            ": a process of the pipeline that lives goes back to its last commit and comes back by itself"
        } else {
            ": what it does then is its own affair"
        }
    ));
    if let Some(after) = after {
        text.push_str(&format!("  now epoch {}: {}\n", after.epoch, state(after)));
    }
    if !held.is_empty() {
        text.push_str(&format!(
            "  {} {} still held back by another transaction: see \"tidemill txn list --all\"\n",
            list(held),
            if held.len() == 1 { "is" } else { "are" }
        ));
    }
    text
}

fn list(partitions: &[TopicPartition]) -> String {
    if partitions.is_empty() { "no partition".into() } else { places(partitions).join(", ") }
}

fn state(transaction: &Transaction) -> String {
    let since = time(opened_at(transaction).unwrap_or(transaction.updated_at)).unwrap_or_default();
    format!("{} since {since}, timeout {} s", transaction.state.name(), seconds(i64::from(transaction.timeout_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::show::Format;
    use crate::log::NewTopic;
    use crate::log::embedded::EmbeddedLog;

    fn key(id: &str) -> Vec<u8> {
        [&0i16.to_be_bytes()[..], &(id.len() as i16).to_be_bytes(), id.as_bytes()].concat()
    }

    /// As version 0 has it, without partitions.
    fn value(state: u8, timeout_ms: i32, started_at: i64) -> Vec<u8> {
        let head = [&[0, 0][..], &7i64.to_be_bytes(), &1i16.to_be_bytes(), &timeout_ms.to_be_bytes(), &[state]].concat();
        [&head[..], &(-1i32).to_be_bytes(), &5_000i64.to_be_bytes(), &started_at.to_be_bytes()].concat()
    }

    fn coordinators(records: &[(&str, Option<Vec<u8>>)]) -> EmbeddedLog {
        let (log, topic) = (EmbeddedLog::new(), Topic::new(transactions::TOPIC));
        log.create_topics(&[NewTopic { topic: topic.clone(), partitions: 1, replication: 1, config: BTreeMap::new() }]).unwrap();
        for (id, value) in records {
            log.append(&topic, 0, 0, Some(&key(id)), value.as_deref(), Vec::new()).unwrap();
        }
        log
    }

    #[test]
    fn of_each_id_the_last_record_counts_and_what_was_forgotten_is_gone() {
        let log = coordinators(&[
            ("tidemill.shop.g1.00000000", Some(value(1, 60_000, 1_000))),
            ("gone", Some(value(1, 60_000, 1_000))),
            ("tidemill.shop.g1.00000000", Some(value(4, 60_000, 1_000))),
            ("gone", None),
        ]);
        let found = read(&log).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["tidemill.shop.g1.00000000"]);
        assert_eq!(found["tidemill.shop.g1.00000000"].state, State::CompleteCommit);
    }

    #[test]
    fn what_hangs_is_open_for_longer_than_its_timeout() {
        let transaction = |state, started_at| transactions::transaction(&value(state, 60_000, started_at)).unwrap();
        assert!(hangs(&transaction(1, 1_000), 61_001));
        assert!(!hangs(&transaction(1, 1_000), 61_000));
        assert!(hangs(&transaction(3, 1_000), 90_000), "its markers are on their way for too long");
        assert!(!hangs(&transaction(5, 1_000), 90_000), "it is over");
        assert!(!hangs(&transaction(0, -1), 90_000));
        let row = describe("tidemill.", "tidemill.shop.g3.0a1b", &transaction(1, 1_000), 91_000);
        assert_eq!((&row["pipeline"], &row["generation"], &row["age_seconds"]), (&"shop".into(), &3.into(), &90.0.into()));
    }

    #[test]
    fn a_record_that_is_not_understood_is_named() {
        let error = read(&coordinators(&[("a", Some(value(1, 1, 1))), ("b", Some(vec![0, 9]))])).unwrap_err();
        assert!(error.message.contains("__transaction_state") && error.message.contains("offset 1"), "{error}");
        assert!(error.hint.unwrap().contains("kafka-transactions.sh"));
        let error = read(&EmbeddedLog::new()).unwrap_err();
        assert!(error.kind == Kind::Config && error.hint.unwrap().contains("kafka-transactions.sh"));
    }

    #[test]
    fn only_an_id_of_ours_that_is_known_is_aborted() {
        let log = coordinators(&[("connect-1", Some(value(1, 1, 1))), ("tidemill.shop.g1.0", Some(value(4, 1, 1)))]);
        let abort = |id: &str, force| {
            let listing = Listing { output: Format::Json };
            perform(&Abort { id: id.into(), yes: true, force, listing }, &log, "tidemill.")
        };
        assert!(abort("connect-1", false).unwrap_err().hint.unwrap().contains("--force"));
        assert!(abort("tidemill.shop.g1.1", false).unwrap_err().message.contains("no coordinator knows"));
        assert_eq!(abort("tidemill.shop.g1.0", false).unwrap(), Exit::Done);
    }
}
