//! Bounded reads end, whatever the last offsets of a partition are.

use std::time::Duration;

use serde_json::json;
use tidemill::log::CommittedOffsets;
use tidemill::record::{NextOffset, OffsetVector, Outgoing, Topic};

use crate::shop::{ORDER, now_ms};
use crate::world::{World, avro, wait_until};

fn sql(name: &str, topic: &Topic) -> String {
    format!(
        "SET 'pipeline.name' = '{name}';
CREATE STREAM orders (WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND)
  WITH ('topic' = '{topic}', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK copy WITH ('topic' = '{name}.copy', 'format' = 'avro');
CREATE SINK totals (PRIMARY KEY (customer_id)) WITH ('topic' = '{name}.totals', 'format' = 'avro', 'key.format' = 'string');
INSERT INTO copy SELECT order_id, customer_id, amount FROM orders;
INSERT INTO totals SELECT customer_id, COUNT(*) AS orders FROM orders GROUP BY customer_id;
"
    )
}

fn runs_end_with(world: &World, topic: &Topic, rows: usize) {
    let file = world.pipeline(&sql(&world.name, topic));
    let sql = file.to_str().unwrap();
    let site = world.site("once", "");
    let limit = Duration::from_secs(40);
    for again in 0..2 {
        let output = site.run_within(limit, &["run", sql, "--until-caught-up"]);
        assert_eq!(output.code, 0, "run {again}: {}", output.stderr);
        assert_eq!(world.read(&world.topic("copy")).len(), rows, "run {again}");
    }
    let output = site.run_within(limit, &["backfill", sql, "--from", "earliest", "--to", "latest", "--job", "b"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert_eq!(world.read(&Topic::new(format!("tidemill.{}.b.copy", world.name))).len(), rows);
}

fn order(
    partition: i32,
    id: i64,
    writer: &(tidemill::contract::SchemaId, std::sync::Arc<tidemill::contract::AvroSchema>),
) -> Outgoing {
    let mut out = Outgoing::default();
    let value = json!({"order_id": id, "customer_id": format!("p{partition}"), "amount": 1, "ordered_at": now_ms()});
    out.push(partition, now_ms(), Some(format!("p{partition}").as_bytes()), Some(&avro(writer, &value)), Vec::new());
    out
}

#[test]
fn on_markers_aborted_and_deleted_records_and_empty_partitions() {
    let Some(world) = World::shared("bounded") else { return };
    let topic = world.create("orders", 6, &[]);
    let writer = world.register(&topic, ORDER);
    // 0: ends with the marker of a commit. 1: with aborted records. 2: only aborted records. 3: all deleted. 4: never written.
    // 5: deleted up to the marker behind its last record.
    let mut producer = world.transactional_producer();
    let mut transaction = |partitions: &[i32], commit: bool| {
        producer.begin().unwrap();
        partitions.iter().for_each(|p| producer.send(&topic, &order(*p, i64::from(*p), &writer)).unwrap());
        if commit {
            producer.commit(&CommittedOffsets::new(), None).unwrap();
        } else {
            // Aborted records are in the log only once the broker has them.
            let sent = |p: &i32| {
                let at = std::slice::from_ref(&world.partitions(&topic)[*p as usize]).to_vec();
                let ends = |isolation| world.log.end_offsets(&at, isolation).unwrap();
                ends(tidemill::log::Isolation::Uncommitted) > ends(tidemill::log::Isolation::Committed)
            };
            wait_until("the records are in the log", Duration::from_secs(10), || partitions.iter().all(sent));
            producer.abort().unwrap();
        }
    };
    transaction(&[0, 1, 3, 5], true);
    transaction(&[1, 2], false);
    let partitions = world.partitions(&topic);
    let all = world.ends(&topic);
    let deleted = OffsetVector::from([(partitions[3].clone(), all[&partitions[3]]), (partitions[5].clone(), NextOffset(1))]);
    world.log.delete_records(&deleted).unwrap();
    let starts = world.log.start_offsets(&partitions).unwrap();
    assert_eq!(starts[&partitions[3]], all[&partitions[3]], "the log of partition 3 is empty and begins above zero");
    assert!(starts[&partitions[3]] > NextOffset(0));
    runs_end_with(&world, &topic, 2);
}

#[test]
fn on_records_that_were_compacted_away() {
    let Some(world) = World::shared("compacted") else { return };
    let config = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "100"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("delete.retention.ms", "1"),
        ("max.compaction.lag.ms", "100"),
    ];
    let topic = world.create("orders", 1, &config);
    let writer = world.register(&topic, ORDER);
    let put = |id: i64, key: &str, good: bool| {
        let mut out = Outgoing::default();
        let value = json!({"order_id": id, "customer_id": key, "amount": 1, "ordered_at": now_ms()});
        let bytes = good.then(|| avro(&writer, &value));
        out.push(0, now_ms(), Some(key.as_bytes()), bytes.as_deref(), Vec::new());
        world.write(&topic, &out);
        std::thread::sleep(Duration::from_millis(150));
    };
    put(1, "kept", true);
    (2..6).for_each(|id| put(id, "gone", true));
    put(6, "gone", false);
    // The active segment is never cleaned: aborted records close the others.
    let mut producer = world.transactional_producer();
    let partition = world.partitions(&topic);
    let mut left = usize::MAX;
    wait_until("the log is cleaned", Duration::from_secs(90), || {
        producer.begin().unwrap();
        producer.send(&topic, &order(0, 9, &writer)).unwrap();
        let ends = |isolation| world.log.end_offsets(&partition, isolation).unwrap();
        wait_until("the record is in the log", Duration::from_secs(10), || {
            ends(tidemill::log::Isolation::Uncommitted) > ends(tidemill::log::Isolation::Committed)
        });
        producer.abort().unwrap();
        std::thread::sleep(Duration::from_secs(1));
        left = world.read(&topic).len();
        left == 1
    });
    runs_end_with(&world, &topic, 1);
}
