//! Commands that look at what a pipeline left: text for people, JSON for programs.

use serde_json::Value;

use crate::program::Site;
use crate::shop::{self, Shop, Source};
use crate::world::World;

#[track_caller]
fn json(site: &Site, arguments: &[&str]) -> Value {
    let output = site.done(&[arguments, &["--output", "json"]].concat());
    serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("tidemill {arguments:?}: {e}:\n{}", output.stdout))
}

#[track_caller]
fn json_lines(site: &Site, arguments: &[&str]) -> Vec<Value> {
    let output = site.done(&[arguments, &["--output", "json"]].concat());
    output.stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

#[track_caller]
fn text(site: &Site, arguments: &[&str], says: &[&str]) {
    let output = site.done(arguments);
    for text in says {
        assert!(output.stdout.contains(text), "tidemill {arguments:?}: \"{text}\" is not in:\n{}", output.stdout);
    }
}

#[test]
fn lag_dead_letters_records_schemas_and_reset() {
    let Some(world) = World::shared("commands") else { return };
    let shop = Shop::open(&world);
    let site = world.site("live", "");
    let name = world.name.as_str();
    let mut source = Source::new(3, shop.writer.clone());
    world.write(&shop.orders, &source.batch(3_000));
    site.done(&["run", shop.sql(), "--until-caught-up"]);
    world.write(&shop.orders, &source.batch(500));

    let lag = json(&site, &["lag", name]);
    let lag = lag.as_array().expect("a list");
    assert_eq!(lag.len() as i32, shop::PARTITIONS);
    assert_eq!(lag.iter().map(|row| shop::number(&row["lag"])).sum::<i64>(), 500);
    assert!(lag.iter().all(|row| row["group"] == world.group(1).as_str() && row["event_time_lag_seconds"].is_number()));
    text(&site, &["lag", name], &[&world.group(1), shop.orders.as_str(), "500 records behind in 3 partitions"]);
    text(&site, &["lag", "--group", &world.group(1)], &["500 records behind"]);

    let expected = shop::expected(&world, &shop);
    let dead = json(&site, &["dlq", "list", name]);
    let before = world.log.committed(&world.group(1), &world.partitions(&shop.orders)).unwrap();
    let processed = |place: &&(i64, i64)| before[&shop.orders.partition(place.0 as i32)].next.0 > place.1;
    let mut letters: Vec<(i64, i64)> =
        dead.as_array().unwrap().iter().map(|row| (shop::number(&row["partition"]), shop::number(&row["offset"]))).collect();
    letters.sort();
    assert_eq!(letters, expected.dead.iter().filter(processed).copied().collect::<Vec<_>>());
    let checks = json(&site, &["dlq", "list", name, "--class", "check"]);
    assert!(
        checks
            .as_array()
            .unwrap()
            .iter()
            .all(|row| row["class"] == "check" && row["message"].as_str().unwrap().contains("positive_amount"))
    );
    let at = dead[0]["at"].as_str().unwrap();
    text(&site, &["dlq", "list", name], &["class", at]);
    text(&site, &["dlq", "show", name, "--at", at], &["value_base64", shop.orders.as_str()]);
    let one = json(&site, &["dlq", "show", name, "--at", at]);
    assert_eq!(one.as_array().unwrap().len(), 1);

    let printed = json_lines(&site, &["print", shop.orders.as_str(), "--limit", "7"]);
    assert_eq!(printed.len(), 7);
    assert!(
        printed.iter().all(|row| row["offset"].is_number() && (row["schema_id"].is_number() || row["value"].is_string())),
        "{printed:?}"
    );
    let totals = json_lines(&site, &["print", world.topic("totals").as_str()]);
    assert!(totals.iter().any(|row| row["value"]["total"].is_number()), "{totals:?}");
    text(&site, &["print", &format!("tidemill.{name}.control")], &["live", "generation.1"]);
    text(&site, &["print", &format!("tidemill.{name}.late"), "--limit", "1"], &["tidemill.offset"]);

    let subjects = json(&site, &["schema", "list"]);
    let subject = format!("{}-value", world.topic("revenue"));
    assert!(subjects.as_array().unwrap().iter().any(|row| row["subject"] == subject.as_str()), "{subjects}");
    text(&site, &["schema", "show", &subject], &["window_start", "revenue"]);

    let plan = json(&site, &["reset", name]);
    assert_eq!((&plan["generation"], &plan["done"]), (&Value::from(1), &Value::from(false)));
    text(&site, &["reset", name], &[&world.group(1), "would delete", "--yes"]);
    assert!(
        !world.log.committed(&world.group(1), &world.partitions(&shop.orders)).unwrap().is_empty(),
        "a dry run changes nothing"
    );
    text(&site, &["reset", name, "--yes"], &["deleted"]);
    assert!(world.log.topics(&format!("{}.", world.group(1))).unwrap().is_empty());
    // The next run is a new generation, from the beginning.
    let output = site.done(&["run", shop.sql(), "--until-caught-up"]);
    assert!(output.stderr.contains("generation 2 starts at"), "{}", output.stderr);
    assert_eq!(shop::actual(&world, None, 2).totals, expected.totals);
}
