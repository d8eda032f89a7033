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
