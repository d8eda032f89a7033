//! What only the embedded log has: faults, expiry on demand, seeded polls. What it shares with Kafka is in `tests/log_suite.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::error::Kind;
use crate::log::{CommittedOffset, Polled};
use crate::record::Outgoing;

const NOW: Duration = Duration::ZERO;

struct World {
    log: EmbeddedLog,
    topic: Topic,
}

fn world(partitions: i32) -> World {
    world_on(EmbeddedLog::new(), partitions)
}

/// Time passes when somebody waits.
fn simulated(partitions: i32) -> World {
    world_on(EmbeddedLog::on(Clock::simulated(1)), partitions)
}

fn world_on(log: EmbeddedLog, partitions: i32) -> World {
    let topic = Topic::new("t");
    let new = NewTopic { topic: topic.clone(), partitions, replication: 1, config: BTreeMap::new() };
    log.create_topics(&[new]).unwrap();
    World { log, topic }
}

impl World {
    fn producer(&self) -> Box<dyn Producer> {
        let settings = ProducerSettings { transactional_id: Some("p".to_owned()), transaction_timeout: Duration::from_secs(1) };
        self.log.producer(&settings).unwrap()
    }

    fn member(&self) -> Box<dyn Consumer> {
        let settings =
            ConsumerSettings { group: "g".to_owned(), topics: [(self.topic.clone(), Vec::new())].into(), instance_id: None };
        self.log.consumer(&settings).unwrap()
    }

    fn send(&self, producer: &mut dyn Producer, value: &str) {
        let mut records = Outgoing::default();
        records.push(0, 1, Some(b"k"), Some(value.as_bytes()), Vec::new());
        producer.begin().unwrap();
        producer.send(&self.topic, &records).unwrap();
    }

    fn commit(&self, producer: &mut dyn Producer, member: &dyn Consumer, next: i64) -> Result<()> {
        let committed = CommittedOffset { next: NextOffset(next), metadata: String::new() };
        let offsets = CommittedOffsets::from([(self.topic.partition(0), committed)]);
        producer.commit(&offsets, Some(("g", &member.group_metadata())))
    }

    fn committed(&self) -> Option<i64> {
        let partition = self.topic.partition(0);
        self.log.committed("g", std::slice::from_ref(&partition)).unwrap().get(&partition).map(|committed| committed.next.0)
    }

    fn values(&self) -> Vec<String> {
        let chunks = self.log.read(&self.topic, Isolation::Committed).unwrap();
        let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
        chunks.iter().flat_map(|chunk| chunk.values.iter().map(text).collect::<Vec<_>>()).collect()
    }
}

#[test]
fn each_commit_fault_does_what_it_says() {
    for (fault, kind, committed) in [
        (CommitFault::LostBefore, Kind::Unknown, false),
        (CommitFault::LostAfter, Kind::Unknown, true),
        (CommitFault::Abort, Kind::Abort, false),
        (CommitFault::Fenced, Kind::Fenced, false),
    ] {
        let world = world(1);
        let (mut member, mut producer) = (world.member(), world.producer());
        assert!(matches!(member.poll(NOW, 1).unwrap(), Polled::Assigned(_)));
        world.log.faults().fail_commit(1, fault);
        world.send(&mut *producer, "first");
        world.commit(&mut *producer, &*member, 1).unwrap();
        world.send(&mut *producer, "second");
        assert_eq!(world.commit(&mut *producer, &*member, 2).unwrap_err().kind, kind, "{fault:?}");
        if kind == Kind::Abort {
            producer.abort().unwrap();
        } else {
            assert_eq!(producer.begin().unwrap_err().kind, Kind::Fenced, "{fault:?}: the producer is dead");
            producer = world.producer();
        }
        assert_eq!(world.committed(), Some(if committed { 2 } else { 1 }), "{fault:?}");
        assert_eq!(world.values().len(), if committed { 2 } else { 1 }, "{fault:?}");
        world.send(&mut *producer, "third");
        world.commit(&mut *producer, &*member, 3).unwrap();
        assert_eq!(world.log.faults().commits(), 3);
    }
}

#[test]
fn lost_commit_holds_offsets_back_until_the_id_comes_back() {
    let world = world(1);
    let (mut member, mut producer) = (world.member(), world.producer());
    member.poll(NOW, 1).unwrap();
    world.log.faults().fail_commit(0, CommitFault::LostBefore);
    world.send(&mut *producer, "x");
    world.commit(&mut *producer, &*member, 1).unwrap_err();
    let error = world.log.committed("g", &[world.topic.partition(0)]).unwrap_err();
    assert_eq!(error.kind, Kind::Away);
    drop(world.producer());
    assert_eq!(world.committed(), None);
}

#[test]
fn crashed_worker_is_replaced_at_once() {
    let world = world(2);
    let (mut member, mut producer) = (world.member(), world.producer());
    assert!(matches!(member.poll(NOW, 1).unwrap(), Polled::Assigned(all) if all.len() == 2));
    world.send(&mut *producer, "lost");
    drop((member, producer));
    let (mut member, mut producer) = (world.member(), world.producer());
    assert!(matches!(member.poll(NOW, 1).unwrap(), Polled::Assigned(all) if all.len() == 2));
    world.send(&mut *producer, "kept");
    world.commit(&mut *producer, &*member, 0).unwrap();
    assert_eq!(world.values(), ["kept"]);
}

#[test]
fn expelled_member_is_fenced_told_and_joins_again() {
    let world = world(1);
    let (mut member, mut producer) = (world.member(), world.producer());
    member.poll(NOW, 1).unwrap();
    world.log.expel_members("g");
    world.send(&mut *producer, "zombie");
    assert_eq!(world.commit(&mut *producer, &*member, 1).unwrap_err().kind, Kind::Fenced);
    assert!(matches!(member.poll(NOW, 1).unwrap(), Polled::Lost(lost) if lost.len() == 1));
    assert!(matches!(member.poll(NOW, 1).unwrap(), Polled::Assigned(all) if all.len() == 1));
    let mut producer = world.producer();
    world.send(&mut *producer, "owner");
    world.commit(&mut *producer, &*member, 1).unwrap();
    assert_eq!(world.values(), ["owner"]);
}

#[test]
fn expired_transaction_is_aborted_and_its_producer_fenced() {
    let world = world(1);
    let mut producer = world.producer();
    world.send(&mut *producer, "slow");
    world.log.expire_transactions();
    assert_eq!(producer.commit(&CommittedOffsets::new(), None).unwrap_err().kind, Kind::Fenced);
    assert_eq!(world.values(), Vec::<String>::new());
}

#[test]
fn compaction_leaves_open_transactions_alone() {
    let world = world(1);
    let append = |value: &str| world.log.append(&world.topic, 0, 1, Some(b"k"), Some(value.as_bytes()), Vec::new()).unwrap();
    append("old");
    append("new");
    let mut producer = world.producer();
    world.send(&mut *producer, "open");
    append("newest");
    world.log.compact(&world.topic, true).unwrap();
    assert_eq!(world.values(), ["new"]);
    producer.abort().unwrap();
    assert_eq!(world.values(), ["new", "newest"]);
}

#[test]
fn away_is_away_for_all_calls_and_passes() {
    let world = world(1);
    let (mut member, mut producer) = (world.member(), world.producer());
    world.log.faults().set_away(true);
    assert!(matches!(member.poll(NOW, 1).unwrap(), Polled::Idle));
    assert_eq!(world.log.topic(&world.topic).unwrap_err().kind, Kind::Away);
    world.send(&mut *producer, "a");
    assert_eq!(producer.commit(&CommittedOffsets::new(), None).unwrap_err().kind, Kind::Away);
    world.log.faults().set_away(false);
    producer.commit(&CommittedOffsets::new(), None).unwrap();
    assert_eq!(world.values(), ["a"]);
}

/// One seed is one order; every record comes, each partition in its own order.
#[test]
fn interleaving_follows_its_seed() {
    let order = |seed: u64| {
        let world = world(3);
        for number in 0..90 {
            world.log.append(&world.topic, number % 3, 1, None, Some(number.to_string().as_bytes()), Vec::new()).unwrap();
        }
        world.log.interleave(seed);
        let all = crate::log::partitions_of(&world.topic, 3);
        let mut reader = world.log.reader(Isolation::Committed, &world.log.start_offsets(&all).unwrap()).unwrap();
        let mut seen = Vec::new();
        loop {
            let chunks = reader.poll(NOW, 12).unwrap();
            if chunks.is_empty() {
                return seen;
            }
            seen.extend(chunks.iter().flat_map(|chunk| chunk.offsets.iter().map(|o| (chunk.partition.partition.0, o.0))));
        }
    };
    let mut orders = Vec::new();
    for seed in 0..8 {
        let seen = order(seed);
        assert_eq!(seen, order(seed), "seed {seed}");
        for partition in 0..3 {
            let own: Vec<i64> = seen.iter().filter(|(p, _)| *p == partition).map(|(_, offset)| *offset).collect();
            assert_eq!(own, (0..30).collect::<Vec<_>>(), "seed {seed} partition {partition}");
        }
        assert!(!orders.contains(&seen), "seed {seed} is another order");
        orders.push(seen);
    }
}

#[test]
fn a_poll_on_a_simulated_clock_takes_no_time() {
    let (world, began) = (simulated(1), std::time::Instant::now());
    let mut member = world.member();
    member.poll(NOW, 1).unwrap();
    assert!(matches!(member.poll(Duration::from_secs(3_600), 1).unwrap(), Polled::Idle));
    assert_eq!(world.log.clock().now().as_duration(), Duration::from_secs(3_600));
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_transaction_that_is_open_for_too_long_is_aborted_by_the_clock() {
    let world = simulated(1);
    let mut producer = world.producer();
    world.send(&mut *producer, "in time");
    world.log.clock().sleep(Duration::from_millis(999));
    producer.commit(&CommittedOffsets::new(), None).unwrap();
    world.send(&mut *producer, "too late");
    world.log.clock().sleep(Duration::from_millis(1_000));
    assert_eq!(producer.commit(&CommittedOffsets::new(), None).unwrap_err().kind, Kind::Fenced);
    assert_eq!(world.values(), ["in time"]);
}

/// Partitions and offsets learn of a commit at times of their own; who opens the same id next finds all of it done.
#[test]
fn slow_markers_arrive_one_after_the_other_or_with_the_next_transaction() {
    for goes_on in [false, true] {
        let world = simulated(1);
        let (mut member, mut producer) = (world.member(), world.producer());
        member.poll(NOW, 1).unwrap();
        world.log.faults().fail_commit(0, CommitFault::SlowMarkers(1));
        world.send(&mut *producer, "slow");
        world.commit(&mut *producer, &*member, 1).unwrap();
        assert_eq!(world.values(), Vec::<String>::new(), "the last stable offset waits for the marker");
        let only = [world.topic.partition(0)];
        assert_eq!(world.log.end_offsets(&only, Isolation::Uncommitted).unwrap()[&only[0]].0, 1);
        match goes_on {
            true => producer.begin().unwrap(),
            false => world.log.clock().sleep(Duration::from_secs(3)),
        }
        assert_eq!((world.values(), world.committed()), (vec!["slow".to_owned()], Some(1)));
    }
}

#[test]
fn a_held_partition_delivers_later_than_the_others() {
    let world = simulated(2);
    for partition in 0..2 {
        world.log.append(&world.topic, partition, 1, None, Some(b"x"), Vec::new()).unwrap();
    }
    world.log.faults().hold(&world.topic.partition(0), Duration::from_secs(2));
    let all = crate::log::partitions_of(&world.topic, 2);
    let mut reader = world.log.reader(Isolation::Committed, &world.log.start_offsets(&all).unwrap()).unwrap();
    let mut polled = || {
        let chunks = reader.poll(Duration::from_secs(5), 10).unwrap();
        (chunks[0].partition.partition.0, world.log.clock().now().as_duration().as_secs())
    };
    assert_eq!(polled(), (1, 0));
    assert_eq!(polled(), (0, 2), "the wait ends when it is let go");
}

#[test]
fn an_expelled_member_loses_what_the_others_get() {
    let world = simulated(2);
    let (mut sleeper, mut other) = (world.member(), world.member());
    let all = |polled: Polled| match polled {
        Polled::Assigned(all) | Polled::Revoked(all) | Polled::Lost(all) => all,
        other => panic!("{other:?}"),
    };
    let had = all(sleeper.poll(NOW, 1).unwrap());
    world.log.expel(&sleeper.group_metadata());
    let taken: usize = (0..2).map(|_| if let Polled::Assigned(all) = other.poll(NOW, 1).unwrap() { all.len() } else { 0 }).sum();
    assert_eq!(taken, 2);
    assert_eq!(all(sleeper.poll(NOW, 1).unwrap()), had);
}

/// The eager protocol: everybody gives everything back, and only then it is dealt out.
#[test]
fn an_eager_rebalance_takes_everything_first() {
    let world = simulated(2);
    world.log.rebalance_eagerly();
    let mut first = world.member();
    assert!(matches!(first.poll(NOW, 1).unwrap(), Polled::Assigned(all) if all.len() == 2));
    let mut second = world.member();
    assert!(matches!(second.poll(NOW, 1).unwrap(), Polled::Idle));
    let Polled::Revoked(all) = first.poll(NOW, 1).unwrap() else { panic!("it is taken away") };
    assert_eq!(all.len(), 2, "even what it will have again");
    assert!(matches!(second.poll(NOW, 1).unwrap(), Polled::Idle), "it waits for the other's answer");
    first.release(&all).unwrap();
    for member in [&mut first, &mut second] {
        assert!(matches!(member.poll(NOW, 1).unwrap(), Polled::Assigned(one) if one.len() == 1));
    }
}
