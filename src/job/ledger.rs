//! The control topic read to its end, and changed by one writer at a time.
//!
//! All changes go through one transactional id per pipeline. A writer opens its producer, which fences every earlier one and settles what it
//! left open, then reads the topic to its end, decides, and writes. If another writer came in between, this one is fenced and decides again:
//! no change rests on anything but the last state.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::job::control::{Change, Control};
use crate::log::{CommittedOffsets, Isolation, Log, ProducerSettings};
use crate::record::{NextOffset, OffsetVector, Outgoing};
use crate::task::names::Names;

/// A killed writer's transaction ends by itself after its timeout.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a change is decided anew because another writer came in between.
const TRIES: u32 = 10;

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

/// To the high watermark: a transaction that is still open must not hide what was decided after it began.
fn read_on(log: &dyn Log, names: &Names, known: &mut Known) -> Result<()> {
    let partition = names.control().partition(0);
    let only = std::slice::from_ref(&partition);
    let end = log.end_offsets(only, Isolation::Uncommitted)?[&partition];
    if known.position >= end {
        return Ok(());
    }
    let from = log.start_offsets(only)?[&partition].max(known.position);
    let mut reader = log.reader(Isolation::Committed, &OffsetVector::from([(partition.clone(), from)]))?;
    let clock = log.clock();
    let deadline = clock.now() + READ_TIMEOUT;
    while reader.positions()[&partition] < end {
        for chunk in reader.poll(Duration::from_millis(100), 10_000)? {
            for row in 0..chunk.len() {
                let key = String::from_utf8_lossy(chunk.keys.get(row).unwrap_or_default()).into_owned();
                let place = format!("{partition} offset {}", chunk.offsets[row]);
                known.control.apply(&key, chunk.values.get(row)).map_err(|e| e.context(place))?;
            }
            known.position = chunk.next;
        }
        if clock.now() > deadline {
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
pub fn change(log: &dyn Log, names: &Names, mut decide: impl FnMut(&Control) -> Result<Option<Change>>) -> Result<Control> {
    let settings = ProducerSettings { transactional_id: Some(names.control_writer()), transaction_timeout: WRITE_TIMEOUT };
    let mut last = None;
    for _ in 0..TRIES {
        let mut producer = log.producer(&settings)?;
        let control = read(log, names)?;
        let Some(change) = decide(&control)? else { return Ok(control) };
        let mut records = Outgoing::default();
        let now = chrono::Utc::now().timestamp_millis();
        for (key, value) in &change.records {
            records.push(0, now, Some(key.as_bytes()), value.as_deref(), Vec::new());
        }
        let written = (|| {
            producer.begin()?;
            producer.send(&names.control(), &records)?;
            producer.commit(&CommittedOffsets::new(), None)
        })();
        match written {
            Ok(()) => {
                let mut control = control;
                for (key, value) in &change.records {
                    control.apply(key, value.as_deref())?;
                }
                return Ok(control);
            }
            Err(error) if matches!(error.kind, Kind::Fenced | Kind::Abort | Kind::Unknown) => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    let why = last.map(|error| error.message).unwrap_or_default();
    Err(Error::away(format!("topic \"{}\" can't be changed, others change it at the same time: {why}", names.control())))
}
