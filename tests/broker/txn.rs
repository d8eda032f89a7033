//! A process that is frozen with an open transaction holds back who reads committed records: `tidemill txn` shows it, and aborts it.

use std::time::Duration;

use serde_json::Value;
use tidemill::log::{Isolation, Log};
use tidemill::record::{NextOffset, Topic, TopicPartition};

use crate::program::{Process, Site};
use crate::shop::{self, Shop, Writing};
use crate::world::{World, seed, wait_until};

/// On a machine that is busy.
const LONG: Duration = Duration::from_secs(180);
/// Commits follow one another, so that one is open at most moments; the broker waits longer for it than this test does.
const COMMITS: &str = "[commit]\ninterval = \"10ms\"\ntransaction_timeout = \"5m\"\n";

fn listed(site: &Site, more: &[&str]) -> Vec<Value> {
    let output = site.done(&[&["txn", "list", "--output", "json"], more].concat());
    let rows: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}:\n{}", output.stdout));
    rows.as_array().expect("a list").clone()
}

/// Stops the process at moments until it is one at which its transaction is open.
fn freeze(world: &World, site: &Site, process: &Process) -> Value {
    let of_pipeline = |row: &Value| row["pipeline"] == world.name.as_str() && row["generation"] == 1;
    for pause in 0..200 {
        process.signal("STOP");
        let found = listed(site, &[]).into_iter().find(|row| of_pipeline(row) && row["state"] == "Ongoing");
        if let Some(found) = found {
            return found;
        }
        process.signal("CONT");
        std::thread::sleep(Duration::from_millis(50 + pause % 37));
    }
    panic!("it was never stopped with an open transaction");
}

fn partitions(row: &Value) -> Vec<TopicPartition> {
    let places = row["partitions"].as_array().expect("a list").iter().filter_map(Value::as_str);
    let place = |text: &str| {
        let (topic, partition) = text.rsplit_once(':')?;
        Some(Topic::new(topic).partition(partition.parse().ok()?))
    };
    places.filter(|text| !text.starts_with("__")).filter_map(place).collect()
}

fn held_back(log: &dyn Log, partitions: &[TopicPartition]) -> Vec<(TopicPartition, NextOffset)> {
    let stable = log.end_offsets(partitions, Isolation::Committed).unwrap();
    let ends = log.end_offsets(partitions, Isolation::Uncommitted).unwrap();
    ends.into_iter().filter(|(partition, end)| stable[partition] < *end).collect()
}

#[test]
fn a_transaction_that_hangs_is_shown_and_aborted_and_its_process_goes_on() {
    let Some(world) = World::shared("txn") else { return };
    let shop = Shop::open(&world);
    let site = world.site("live", COMMITS);
    let operator = world.site("operator", "");
    let group = world.group(1);
    let _others = world.transactional_producer();
    let writing = Writing::start(&world, &shop, seed(), 500);
    let mut process = site.start(&["run", shop.sql()]);
    wait_until("it commits", LONG, || world.progress(&group, &shop.orders) > 0);
    let row = freeze(&world, &operator, &process);
    let id = row["id"].as_str().expect("an id");
    assert!(id.starts_with(&format!("{group}.")), "{row}");
    assert_eq!((row["timeout_seconds"].as_f64(), &row["hangs"]), (Some(300.0), &Value::from(false)), "{row}");
    assert!(row["age_seconds"].as_f64().is_some_and(|age| (-5.0..120.0).contains(&age)), "{row}");
    let touched = partitions(&row);
    wait_until("its records hold readers back", LONG, || !held_back(world.log.as_ref(), &touched).is_empty());
    assert!(!listed(&operator, &["--hanging"]).iter().any(|row| row["id"] == id), "its time is not over yet");

    // What is refused, and a dry run, change nothing.
    let other = format!("{}.input", world.name);
    for (arguments, says) in [
        (vec!["txn", "abort", other.as_str(), "--yes"], "--force"),
        (vec!["txn", "abort", &id[..id.len() - 1], "--yes"], "did you mean"),
    ] {
        let refused = operator.run(&arguments);
        assert_eq!(refused.code, 2, "{arguments:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(says), "{arguments:?}: {}", refused.stderr);
    }
    assert!(listed(&operator, &["--all"]).len() > listed(&operator, &[]).len(), "others have ids, too");
    let dry = operator.done(&["txn", "abort", id]);
    assert!(dry.stdout.contains("would abort") && dry.stdout.contains("--yes"), "{}", dry.stdout);
    let held = held_back(world.log.as_ref(), &touched);
    assert!(!held.is_empty(), "a dry run changes nothing");

    let done = operator.done(&["txn", "abort", id, "--yes", "--output", "json"]);
    let done: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(
        (&done["before"]["state"], &done["after"]["state"], &done["done"]),
        (&"Ongoing".into(), &"CompleteAbort".into(), &true.into())
    );
    assert!(
        done["after"]["epoch"].as_i64() > row["epoch"].as_i64() || done["after"]["producer_id"] != row["producer_id"],
        "{done}"
    );
    assert_eq!(done["held_back"], Value::from(Vec::<String>::new()));
    assert!(held_back(world.log.as_ref(), &touched).is_empty(), "who reads committed records goes on");
    let again = operator.done(&["txn", "abort", id, "--yes"]);
    assert!(again.stdout.contains("nothing is open under it"), "{}", again.stdout);

    let frozen = world.progress(&group, &shop.orders);
    process.signal("CONT");
    wait_until("it goes on", LONG, || world.progress(&group, &shop.orders) > frozen + 500);
    assert!(process.is_running(), "{}", process.said());
    writing.stop();
    wait_until("it catches up", LONG, || world.caught_up(&shop.orders));
    assert_eq!(process.terminate(), 0);
    site.done(&["run", shop.sql(), "--until-caught-up"]);
    shop::assert_equal(&shop::actual(&world, None, 1), &shop::expected(&world, &shop));
}
