//! The control topic read to its end, and changed by one writer at a time.
//!
//! All changes go through one transactional id per pipeline. A writer opens its producer, which fences every earlier one and settles what it
//! left open, then reads the topic to its end, decides, and writes. If another writer came in between, this one is fenced and decides again:
//! no change rests on anything but the last state. So whatever must happen once per generation (the offsets with which its group begins) is
//! decided in there, and is part of the same transaction.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::job::control::{Change, Control};
use crate::log::{Isolation, Log, Producer, ProducerSettings};
use crate::record::{NextOffset, OffsetVector, Outgoing};
use crate::task::names::Names;

/// A killed writer's transaction ends by itself after its timeout.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// A transaction that is open for so long has no writer any more: it takes milliseconds.
const UNDECIDED: Duration = Duration::from_secs(5);
/// How often a change is decided anew because another writer came in between.
const TRIES: u32 = 10;
/// The longest wait before the second try; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(20);

/// The control topic, read on to its end each time it is asked for.
pub struct Ledger {
    log: Arc<dyn Log>,
    names: Names,
    known: Mutex<Known>,
}

struct Known {
    control: Control,
    position: NextOffset,
}

impl Known {
    fn nothing() -> Known {
        Known { control: Control::default(), position: NextOffset(0) }
    }
}

impl Ledger {
    pub fn new(log: Arc<dyn Log>, names: Names) -> Ledger {
        Ledger { log, names, known: Mutex::new(Known::nothing()) }
    }

    /// What the topic says now.
    pub fn look<T>(&self, at: impl FnOnce(&Control) -> T) -> Result<T> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        read_on(self.log.as_ref(), &self.names, &mut known)?;
        Ok(at(&known.control))
    }
}

/// Reads the control topic to its end; empty when it does not exist.
pub fn read(log: &dyn Log, names: &Names) -> Result<Control> {
    if log.topic(&names.control())?.is_none() {
        return Ok(Control::default());
    }
    let mut known = Known::nothing();
    read_on(log, names, &mut known)?;
    Ok(known.control)
}

/// To the high watermark: a transaction that is still open must not hide what was decided after it began. One that stays open is closed.
fn read_on(log: &dyn Log, names: &Names, known: &mut Known) -> Result<()> {
    let close = || {
        let control = names.control();
        tracing::warn!("topic \"{control}\": a change stays undecided: whoever left it is fenced");
        if let Err(error) = open(log, names, None).map(drop) {
            tracing::warn!(%error, "topic \"{control}\": it can't be closed from here");
        }
    };
    read_to_end(log, names, known, close)
}

/// `stuck` is called once if a transaction holds back the end for long.
fn read_to_end(log: &dyn Log, names: &Names, known: &mut Known, stuck: impl FnOnce()) -> Result<()> {
    let partition = names.control().partition(0);
    let only = std::slice::from_ref(&partition);
    let end = log.end_offsets(only, Isolation::Uncommitted)?[&partition];
    if known.position >= end {
        return Ok(());
    }
    let from = log.start_offsets(only)?[&partition].max(known.position);
    let mut reader = log.reader(Isolation::Committed, &OffsetVector::from([(partition.clone(), from)]))?;
    let clock = log.clock();
    let began = clock.now();
    let mut stuck = Some(stuck);
    while reader.positions()[&partition] < end {
        for chunk in reader.poll(Duration::from_millis(100), 10_000)? {
            for row in 0..chunk.len() {
                let key = String::from_utf8_lossy(chunk.keys.get(row).unwrap_or_default()).into_owned();
                let place = format!("{partition} offset {}", chunk.offsets[row]);
                known.control.apply(&key, chunk.values.get(row)).map_err(|e| e.context(place))?;
            }
            known.position = chunk.next;
        }
        if clock.since(began) > UNDECIDED
            && let Some(stuck) = stuck.take()
        {
            stuck();
        }
        if clock.since(began) > READ_TIMEOUT {
            let seconds = READ_TIMEOUT.as_secs();
            return Err(Error::away(format!("{partition}: not read to its end {end} within {seconds} s")));
        }
    }
    known.position = known.position.max(reader.positions()[&partition]);
    Ok(())
}

/// Changes the topic, and returns what it says then. `decide` sees the last state; `None`: nothing is to be changed. It is called again when
/// another writer came in between, or when it is not known whether the change was made, so it must see that by itself.
///
/// # Errors
/// Those of `decide`, and of the log.
pub fn change(log: &dyn Log, names: &Names, decide: impl FnMut(&Control) -> Result<Option<Change>>) -> Result<Control> {
    changed(log, names, None, decide)
}

/// The same for a generation that is to begin: the offsets of the change are its group's. What a former writer left undecided among them is
/// settled before `decide` asks for them.
///
/// # Errors
/// As those of [`change`].
pub fn begin(log: &dyn Log, names: &Names, decide: impl FnMut(&Control) -> Result<Option<Change>>) -> Result<Control> {
    changed(log, names, Some(&names.group()), decide)
}

fn changed(
    log: &dyn Log,
    names: &Names,
    group: Option<&str>,
    mut decide: impl FnMut(&Control) -> Result<Option<Change>>,
) -> Result<Control> {
    let mut last = None;
    for attempt in 0..TRIES {
        if attempt > 0 {
            give_way(log, attempt);
        }
        match change_once(log, names, group, &mut decide) {
            Err(error) if matches!(error.kind, Kind::Fenced | Kind::Abort | Kind::Unknown) => last = Some(error),
            result => return result,
        }
    }
    let why = last.map(|error| error.message).unwrap_or_default();
    Err(Error::away(format!("topic \"{}\" can't be changed, others change it at the same time: {why}", names.control())))
}

/// Two writers that fence one another would do so for ever at the same pace.
fn give_way(log: &dyn Log, attempt: u32) {
    let clock = log.clock();
    let most = FIRST_WAIT * 2u32.saturating_pow(attempt - 1).min(32);
    let share = if clock.is_simulated() { 1.0 } else { rand::random::<f64>() };
    clock.sleep(most.mul_f64(share));
}

fn change_once(
    log: &dyn Log,
    names: &Names,
    group: Option<&str>,
    decide: &mut impl FnMut(&Control) -> Result<Option<Change>>,
) -> Result<Control> {
    let (mut producer, there) = open(log, names, group)?;
    let mut known = Known::nothing();
    if there {
        read_to_end(log, names, &mut known, || {})?;
    }
    let mut control = known.control;
    let Some(change) = decide(&control)? else { return Ok(control) };
    if !there {
        // Whoever writes has made it before, but a broker may not know of it yet: what it holds is not to be taken for nothing.
        return Err(Error::new(Kind::Abort, "it does not exist"));
    }
    write(log, producer.as_mut(), names, group, &change)?;
    for (key, value) in &change.records {
        control.apply(key, value.as_deref())?;
    }
    Ok(control)
}

/// Fences every earlier writer. What those left open is over, then: in the topic, and among the group's offsets if they are asked for. Says
/// whether the topic is there.
fn open(log: &dyn Log, names: &Names, group: Option<&str>) -> Result<(Box<dyn Producer>, bool)> {
    let settings = ProducerSettings { transactional_id: Some(names.control_writer()), transaction_timeout: WRITE_TIMEOUT };
    let mut producer = log.producer(&settings)?;
    let there = log.topic(&names.control())?.is_some();
    if there {
        producer.settle(&[names.control().partition(0)], group)?;
    }
    Ok((producer, there))
}

fn write(log: &dyn Log, producer: &mut dyn Producer, names: &Names, group: Option<&str>, change: &Change) -> Result<()> {
    let mut records = Outgoing::default();
    let now = chrono::Utc::now().timestamp_millis();
    for (key, value) in &change.records {
        records.push(0, now, Some(key.as_bytes()), value.as_deref(), Vec::new());
    }
    let outsider = group.filter(|_| !change.offsets.is_empty()).map(|group| (group, log.outsider(group)));
    producer.begin()?;
    let written = producer
        .send(&names.control(), &records)
        .and_then(|()| producer.commit(&change.offsets, outsider.as_ref().map(|(group, metadata)| (*group, metadata))));
    if let Err(error) = &written
        && !matches!(error.kind, Kind::Fenced | Kind::Unknown)
        && let Err(failed) = producer.abort()
    {
        tracing::warn!(error = %failed, "topic \"{}\": a change that failed is open until its timeout", names.control());
    }
    written
}
