//! What is refused before it starts: exit code 2 in under five seconds, with the place and the remedy.

use std::time::Duration;

use tidemill::log::{CommittedOffset, CommittedOffsets};
use tidemill::record::NextOffset;

use crate::program::{Output, Site};
use crate::shop::{Shop, Source, sql};
use crate::world::{World, wait_until};

/// Five seconds, as it is shipped; a debug build beside other tests gets more.
const LIMIT: Duration = Duration::from_secs(if cfg!(debug_assertions) { 15 } else { 5 });

#[track_caller]
fn refused(site: &Site, arguments: &[&str], says: &[&str]) -> Output {
    let output = site.run_within(Duration::from_secs(60), arguments);
    assert_eq!(output.code, 2, "tidemill {arguments:?} is refused:\n{}", output.stderr);
    assert!(output.took < LIMIT, "tidemill {arguments:?} took {:?}:\n{}", output.took, output.stderr);
    assert!(output.stderr.contains("hint: "), "there is no remedy:\n{}", output.stderr);
    for text in says {
        assert!(output.stderr.contains(text), "\"{text}\" is not in:\n{}", output.stderr);
    }
    eprintln!("refused in {:.1?}: {}", output.took, output.stderr.trim().replace('\n', "\n    "));
    output
}

#[test]
fn a_missing_topic() {
    let Some(world) = World::shared("missing") else { return };
    let shop = Shop::open(&world);
    let name = &world.name;
    let text = sql(name).replace(&format!("'{name}.orders'"), &format!("'{name}.ordrs'"));
    let file = world.file("typo.sql", &text);
    refused(
        &world.site("live", ""),
        &["run", file.to_str().unwrap()],
        &[&format!("{name}.ordrs"), "did you mean", &format!("{name}.orders")],
    );
    // Its contract is there, the topic is not.
    let ghost = world.topic("ghosts");
    world.register(&ghost, crate::shop::ORDER);
    let file = world.file("ghost.sql", &sql(name).replace(&format!("'{name}.orders'"), &format!("'{ghost}'")));
    refused(&world.site("live", ""), &["run", file.to_str().unwrap()], &[ghost.as_str(), "does not exist"]);
    drop(shop);
}

#[test]
fn an_incompatible_sink_schema() {
    let Some(world) = World::shared("incompatible") else { return };
    let shop = Shop::open(&world);
    let sold = world.topic("sold");
    world.register(&sold, r#"{"type": "record", "name": "Old", "fields": [{"name": "order_id", "type": "string"}]}"#);
    set_level(&world, &format!("{sold}-value"), "BACKWARD");
    refused(&world.site("live", ""), &["run", shop.sql()], &["sink \"sold\"", "BACKWARD", &format!("{sold}-value")]);
    assert!(world.log.topic(&sold).unwrap().is_none(), "nothing was created");
    assert!(world.log.topics(&format!("tidemill.{}", world.name)).unwrap().is_empty(), "nothing was created");
}

fn set_level(world: &World, subject: &str, level: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let url = format!("{}/config/{subject}", world.registry_url);
    let body = serde_json::json!({ "compatibility": level });
    let status = runtime.block_on(async { reqwest::Client::new().put(url).json(&body).send().await.unwrap().status() });
    assert!(status.is_success(), "{status}");
}

#[test]
fn what_does_not_fit_the_live_generation() {
    let Some(world) = World::shared("generation") else { return };
    let shop = Shop::open(&world);
    let site = world.site("live", "");
    world.write(&shop.orders, &Source::new(1, shop.writer.clone()).batch(1_000));
    site.done(&["run", shop.sql(), "--until-caught-up"]);

    let changed = world.file("changed.sql", &sql(&world.name).replace("amount <> 13", "amount <> 14"));
    let changed = changed.to_str().unwrap();
    let says =
        ["generation 1", "changed INSERT INTO sold (line 12)", "unchanged INSERT INTO totals (line 19): state kept", "reset"];
    refused(&site, &["run", changed], &says);
    refused(&site, &["run", shop.sql(), "--from", "earliest"], &["--from", "generation 1"]);

    let partition = world.partitions(&shop.orders)[1].clone();
    let committed = world.log.committed(&world.group(1), std::slice::from_ref(&partition)).unwrap()[&partition].clone();
    let to = CommittedOffset { next: NextOffset(3), metadata: String::new() };
    world.log.commit(&world.group(1), &CommittedOffsets::from([(partition.clone(), to.clone())])).unwrap();
    refused(&site, &["run", shop.sql()], &["moved by hand", &partition.to_string(), "3"]);
    // Other tools keep the metadata.
    let with_metadata = CommittedOffset { next: NextOffset(3), ..committed.clone() };
    world.log.commit(&world.group(1), &CommittedOffsets::from([(partition.clone(), with_metadata)])).unwrap();
    refused(&site, &["run", shop.sql()], &["moved by hand", "3", &committed.next.to_string()]);
    world.log.commit(&world.group(1), &CommittedOffsets::from([(partition, committed)])).unwrap();
    site.done(&["run", shop.sql(), "--until-caught-up"]);
}

#[test]
fn a_second_process_with_the_same_state_directory() {
    let Some(world) = World::shared("second") else { return };
    let shop = Shop::open(&world);
    let site = world.site("live", "");
    world.write(&shop.orders, &Source::new(1, shop.writer.clone()).batch(100));
    let first = site.start(&["run", shop.sql()]);
    wait_until("the first one commits", Duration::from_secs(30), || world.caught_up(&shop.orders));
    refused(&site, &["run", shop.sql()], &["state-live", "in use by another process"]);
    assert_eq!(first.terminate(), 0);
}

#[test]
fn nobody_answers() {
    let Some(world) = World::shared("away") else { return };
    let shop = Shop::open(&world);
    let dead = world.site("dead", "[kafka]\nbrokers = \"127.0.0.1:1\"\n");
    refused(&dead, &["run", shop.sql()], &["127.0.0.1:1"]);
    refused(&dead, &["lag"], &["127.0.0.1:1"]);
    let site = world.site("live", "");
    let text = std::fs::read_to_string(&site.config).unwrap().replace(&world.registry_url, "http://127.0.0.1:1");
    std::fs::write(&site.config, text).unwrap();
    refused(&site, &["run", shop.sql()], &["127.0.0.1:1"]);
}

#[test]
fn somebody_else_answers_or_nobody_speaks() {
    let Some(world) = World::shared("wrong") else { return };
    let shop = Shop::open(&world);
    // Takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap().to_string();
    let registry = world.registry_url.trim_start_matches("http://").split('/').next().unwrap().to_string();
    for address in [&silent, &registry] {
        let site = world.site("broker", &format!("[kafka]\nbrokers = \"{address}\"\n"));
        refused(&site, &["run", shop.sql()], &[address]);
        refused(&site, &["lag"], &[address]);
    }
    for address in [&silent, &world.broker.brokers] {
        let site = world.site("registry", "");
        let text = std::fs::read_to_string(&site.config).unwrap().replace(&registry, address).replace("\"20s\"", "\"3s\"");
        std::fs::write(&site.config, text).unwrap();
        refused(&site, &["run", shop.sql()], &[address]);
    }
    let site = world.site("path", "");
    let text = std::fs::read_to_string(&site.config).unwrap().replace("/apis/ccompat/v7", "/nowhere");
    std::fs::write(&site.config, text).unwrap();
    refused(&site, &["run", shop.sql()], &["/nowhere"]);
}

#[test]
fn what_is_no_pipeline() {
    let Some(world) = World::shared("none") else { return };
    let site = world.site("live", "");
    let run = |text: &str, says: &[&str]| {
        let file = world.file("none.sql", text);
        refused(&site, &["run", file.to_str().unwrap()], says);
    };
    run("", &["none.sql"]);
    run("-- nothing yet\n", &["none.sql"]);
    run("SET 'pipeline.name' = 'none';", &["none.sql"]);
    refused(&site, &["run", world.dir.path().to_str().unwrap()], &["can't be read"]);
}

#[test]
fn bounds_that_lie_outside_of_the_log() {
    let Some(world) = World::shared("bounds") else { return };
    let shop = Shop::open(&world);
    let site = world.site("live", "");
    world.write(&shop.orders, &Source::new(1, shop.writer.clone()).batch(1_000));
    let orders = shop.orders.as_str();
    let all = |offset: i64| (0..3).map(|p| format!("{orders}:{p}={offset}")).collect::<Vec<_>>().join(",");
    refused(&site, &["run", shop.sql(), "--from", &all(1_000_000)], &["--from", "1000000", orders, "end"]);
    refused(&site, &["run", shop.sql(), "--from", &format!("{orders}:0=5")], &["--from", orders, "partition 1"]);
    refused(&site, &["run", shop.sql(), "--from", &format!("{},{orders}:7=0", all(0))], &["--from", "partition 7"]);
    refused(&site, &["run", shop.sql(), "--from", &format!("{},nothing:0=0", all(0))], &["--from", "nothing"]);
    refused(&site, &["run", shop.sql(), "--from", "tomorrow"], &["tomorrow", "2026-01-01T00:00:00Z"]);
    refused(&site, &["run", shop.sql(), "--from", &format!("{orders}:0=-5")], &["-5"]);
    let backfill = |from: &str, to: &str, says: &[&str]| {
        refused(&site, &["backfill", shop.sql(), "--from", from, "--to", to], says);
    };
    backfill("earliest", &all(1_000_000), &["--to", "1000000"]);
    backfill(&all(9), &all(3), &["--from", "9", "3"]);
    backfill("earliest", "2026-13-01T00:00:00Z", &["2026-13-01T00:00:00Z"]);
    assert!(world.log.topics(&format!("tidemill.{}", world.name)).unwrap().is_empty(), "nothing was created");
    let start = world.ends(&shop.orders);
    world.log.delete_records(&start).unwrap();
    refused(&site, &["run", shop.sql(), "--from", &all(0)], &["--from", "log start"]);
}

#[test]
fn a_state_directory_that_can_not_be_had() {
    let Some(world) = World::shared("nowhere") else { return };
    let shop = Shop::open(&world);
    let site = world.site("live", "");
    let file = world.file("file", "this is no directory");
    let inside = file.join("state");
    let said = refused(&site, &["run", shop.sql(), "--state-dir", inside.to_str().unwrap()], &["file/state", "--state-dir"]);
    assert!(said.stderr.contains("can't be created"), "{}", said.stderr);
    // What nobody may write, not even root.
    refused(&site, &["run", shop.sql(), "--state-dir", "/proc/tidemill"], &["/proc/tidemill", "--state-dir"]);
    assert!(world.log.topics(&format!("tidemill.{}", world.name)).unwrap().is_empty(), "nothing was created");
}
