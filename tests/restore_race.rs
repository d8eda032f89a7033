//! A restore by a process that does not own the task any more, because it slept: whatever it reads is of several commits. That is no damage of the
//! state, and must not end the pipeline.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tidemill::cli::test::case::{Case, Input};
use tidemill::cli::test::world::World;
use tidemill::clock::Clock;
use tidemill::error::{Error, Kind, Result};
use tidemill::job::live;
use tidemill::log::embedded::EmbeddedLog;
use tidemill::log::{
    CommittedOffsets, Consumer, ConsumerSettings, GroupMetadata, Isolation, Log, NewTopic, Producer, ProducerSettings, Reader,
    TopicInfo,
};
use tidemill::record::{OffsetVector, Topic, TopicPartition};
use tidemill::task::core::Cadence;
use tidemill::task::local::LocalCopies;
use tidemill::task::plan::TaskId;
use tidemill::task::restore::{Sources, restore};
use tidemill::task::run::{Run, Step, Worker};
use tidemill::task::watch::Watch;
use tidemill::topology::Options;

/// Its first reader finds the changelog damaged, and while it answers for the second time what is committed, `meanwhile` happens.
struct Slow {
    log: EmbeddedLog,
    readers: AtomicU32,
    asked: AtomicU32,
    meanwhile: Box<dyn Fn() + Send + Sync>,
}

impl Log for Slow {
    fn clock(&self) -> Clock {
        self.log.clock()
    }

    fn cluster_id(&self) -> Result<Option<String>> {
        self.log.cluster_id()
    }

    fn topic(&self, topic: &Topic) -> Result<Option<TopicInfo>> {
        self.log.topic(topic)
    }

    fn topics(&self, prefix: &str) -> Result<Vec<TopicInfo>> {
        self.log.topics(prefix)
    }

    fn create_topics(&self, topics: &[NewTopic]) -> Result<()> {
        self.log.create_topics(topics)
    }

    fn delete_topics(&self, topics: &[Topic]) -> Result<()> {
        self.log.delete_topics(topics)
    }

    fn delete_records(&self, below: &OffsetVector) -> Result<()> {
        self.log.delete_records(below)
    }

    fn delete_group(&self, group: &str) -> Result<()> {
        self.log.delete_group(group)
    }

    fn outsider(&self, group: &str) -> GroupMetadata {
        self.log.outsider(group)
    }

    fn start_offsets(&self, partitions: &[TopicPartition]) -> Result<OffsetVector> {
        self.log.start_offsets(partitions)
    }

    fn end_offsets(&self, partitions: &[TopicPartition], isolation: Isolation) -> Result<OffsetVector> {
        self.log.end_offsets(partitions, isolation)
    }

    fn offsets_for_times(&self, partitions: &[TopicPartition], millis: i64) -> Result<OffsetVector> {
        self.log.offsets_for_times(partitions, millis)
    }

    fn committed(&self, group: &str, partitions: &[TopicPartition]) -> Result<CommittedOffsets> {
        let committed = self.log.committed(group, partitions)?;
        if self.asked.fetch_add(1, Ordering::Relaxed) == 1 {
            (self.meanwhile)();
        }
        Ok(committed)
    }

    fn commit(&self, group: &str, offsets: &CommittedOffsets) -> Result<()> {
        self.log.commit(group, offsets)
    }

    fn consumer(&self, settings: &ConsumerSettings) -> Result<Box<dyn Consumer>> {
        self.log.consumer(settings)
    }

    fn reader(&self, isolation: Isolation, from: &OffsetVector) -> Result<Box<dyn Reader>> {
        match self.readers.fetch_add(1, Ordering::Relaxed) {
            0 => Err(Error::corrupt("the changelog can't be read")),
            _ => self.log.reader(isolation, from),
        }
    }

    fn producer(&self, settings: &ProducerSettings) -> Result<Box<dyn Producer>> {
        self.log.producer(settings)
    }
}

fn run(world: &World, case: &Case) -> Run {
    let mut run = live::prepare(&world.site, &case.topology, None, false).expect("a live run").run;
    run.cadence = Cadence { max_records: 1, ..Cadence::live(1) };
    run
}

/// Until it has committed whatever arrived.
fn settle(worker: &mut Worker) {
    let mut idle = 0;
    while idle < 20 {
        idle = if worker.step(Duration::from_millis(1)).expect("a step") == Step::Idle { idle + 1 } else { 0 };
    }
}

#[test]
fn a_commit_of_another_owner_between_two_attempts_is_no_damage() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/updating_totals");
    let case = Case::open(&dir, &Options::default()).expect("the golden case opens");
    let world = Arc::new(World::new(&case).expect("a world"));
    let of_task: Vec<Input> = case.inputs.iter().filter(|input| input.place().1 == 0).cloned().collect();
    assert!(of_task.len() > 1, "the task commits twice");
    world.append(&of_task[0]).expect("a record");
    let mut owner =
        Worker::open(Arc::new(world.log.clone()), Arc::new(world.registry.clone()), run(&world, &case)).expect("it starts");
    settle(&mut owner);

    let folder = tempfile::tempdir().expect("a folder");
    let mut slept = run(&world, &case);
    slept.state = Some(folder.path().into());
    let local = LocalCopies::of(&slept).expect("local copies").expect("there is a folder for them");
    let owner = std::sync::Mutex::new(owner);
    let (log, later, of_world) = (world.log.clone(), of_task[1].clone(), world.clone());
    let meanwhile = Box::new(move || {
        of_world.append(&later).expect("a record");
        settle(&mut owner.lock().expect("no panic"));
    });
    let log: Arc<dyn Log> = Arc::new(Slow { log, readers: AtomicU32::new(0), asked: AtomicU32::new(0), meanwhile });
    let sources = Sources::of(&log, &slept, Some(&local));
    let task = TaskId { sub: 0, number: 0 };
    let error = restore(&slept.plan, task, &sources, None, &Watch::default()).err().expect("it is of two commits");
    assert_eq!(error.kind, Kind::Fenced, "{error}");
    // Whoever asks anew has the state.
    let restored = restore(&slept.plan, task, &sources, None, &Watch::default()).expect("of one commit");
    assert_eq!(restored.task.commit_number(), 2);
}
