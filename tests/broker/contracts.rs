//! `pipeline.lock` against a real registry: drift is told, and a pinned pipeline reads what newer writers write.

use std::time::Duration;

use serde_json::json;
use tidemill::codec::partition::murmur2;
use tidemill::contract::{AvroSchema, Lock, Registry};
use tidemill::record::Outgoing;

use crate::shop::{ORDER, PARTITIONS, Shop, Source, actual, expected, now_ms};
use crate::world::{World, avro, wait_until};

#[test]
fn a_pinned_pipeline_goes_on_while_check_locked_tells_the_drift() {
    let Some(world) = World::shared("drift") else { return };
    let shop = Shop::open(&world);
    let site = world.site("live", "");
    world.write(&shop.orders, &Source::new(3, shop.writer.clone()).batch(500));

    let missing = site.run(&["check", shop.sql(), "--locked"]);
    assert_eq!(missing.code, 2, "{}", missing.stderr);
    assert!(missing.stderr.contains("pipeline.lock is missing") && missing.stderr.contains("hint: "), "{}", missing.stderr);

    site.done(&["run", shop.sql(), "--until-caught-up"]);
    let lock = Lock::read(world.dir.path().join("pipeline.lock")).unwrap().unwrap();
    let source = format!("{}-value", shop.orders);
    let sink = format!("{}-value", world.topic("sold"));
    assert_eq!(lock.subjects.keys().collect::<Vec<_>>(), [&source]);
    assert_eq!(lock.sinks[&sink].version, Some(1), "the run registered it, then pinned it");
    assert_eq!(lock.sinks[&sink].id.unwrap(), world.registry.latest(&sink).unwrap().unwrap().id);
    site.done(&["check", shop.sql(), "--locked"]);

    // A newer version of the source's subject, and records of it.
    let newer = ORDER.replace("\"fields\": [", "\"fields\": [{\"name\": \"note\", \"type\": \"string\", \"default\": \"-\"}, ");
    assert_ne!(newer, ORDER);
    let writer = world.register(&shop.orders, &newer);
    let mut out = Outgoing::default();
    let order = json!({"note": "new", "order_id": 1_000_000, "customer_id": "c1", "amount": 5, "ordered_at": now_ms()});
    out.push(murmur2(b"c1", PARTITIONS), now_ms(), Some(b"c1"), Some(&avro(&writer, &order)), Vec::new());
    world.write(&shop.orders, &out);

    let drift = site.run(&["check", shop.sql(), "--locked"]);
    assert_eq!(drift.code, 2, "{}", drift.stderr);
    for text in [
        &source,
        "pinned at version 1, the registry is at version 2",
        "field \"note\" is new: string, default \"-\"",
        "schema pin",
    ] {
        assert!(drift.stderr.contains(text), "\"{text}\" is not in:\n{}", drift.stderr);
    }
    site.done(&["check", shop.sql()]);
    site.done(&["run", shop.sql(), "--until-caught-up"]);
    let expected = expected(&world, &shop);
    wait_until("all rows of the input come out", Duration::from_secs(10), || actual(&world, None, 1) == expected);
    assert_eq!(
        Lock::read(world.dir.path().join("pipeline.lock")).unwrap().unwrap(),
        lock,
        "a run does not change what is pinned"
    );

    // An upgrade is another generation: `SELECT` lists stay, the reader changes.
    site.done(&["schema", "pin", shop.sql(), "--upgrade"]);
    site.done(&["check", shop.sql(), "--locked"]);
    let refused = site.run(&["run", shop.sql(), "--until-caught-up"]);
    assert_eq!(refused.code, 2, "the pinned schemas are part of the generation:\n{}", refused.stderr);
}

#[test]
fn a_schema_that_the_subject_holds_is_not_registered_again() {
    let Some(world) = World::shared("again") else { return };
    let topic = world.topic("t");
    let (id, schema) = world.register(&topic, ORDER);
    let subject = format!("{topic}-value");
    let again = world.registry.register(&subject, &schema).unwrap();
    assert_eq!((again.id, again.version), (id, 1));
    assert_eq!(world.registry.find(&subject, &schema).unwrap().unwrap().id, id);
    let other = AvroSchema::parse("\"string\"").unwrap();
    assert!(world.registry.find(&subject, &other).unwrap().is_none());
    assert!(world.registry.find("no-such-subject", &other).unwrap().is_none());
    assert_eq!(world.registry.versions(&subject).unwrap().len(), 1);
}
