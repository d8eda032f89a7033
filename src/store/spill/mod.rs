//! Cold state on disk: what a store has moved out of memory, in sled, by key.
//!
//! A store spills all that it holds in memory at once, as a sorted *run* of entries; reads look at the newest run first. Runs of one
//! level are merged when there are [`FANOUT`] of them, so a key is read from few places and written again few times. sled holds blocks of
//! entries, not entries: its memory grows with the number of its values. Nothing here outlives the process: the changelog has the state.
//!
//! ```text
//! memory ──spill──▶ run 0  run 0  run 0  run 0      key -> value, or "gone"
//!    ▲                └──────┴──merge┴──────┴──▶ run 1 ...
//!    └──get (by keys, in order) · scan (a range, merged) ◀──┘
//! ```
//!
//! Invariant: a run never changes. What is read back stays there until the store spills again, so going back to the last commit needs
//! nothing from here.

mod filter;
mod run;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use xxhash_rust::xxh3::xxh3_64;

use self::run::{Cursor, Run, Writer};
use crate::error::{Error, Result};
use crate::metric;

/// So many runs of one level become one of the next.
const FANOUT: usize = 4;

/// The database that all spilled stores of a process share; opened when the first store spills.
#[derive(Debug, Default)]
pub struct Spills {
    /// `None`: below the system's directory for temporary files.
    dir: Mutex<Option<PathBuf>>,
    open: OnceLock<Open>,
    opening: Mutex<()>,
    cache_bytes: u64,
    next: AtomicU64,
    reads: AtomicU64,
    waiting: AtomicU64,
}

#[derive(Debug)]
struct Open {
    db: sled::Db,
    dir: PathBuf,
}

impl Spills {
    /// With a cache of so many bytes.
    pub fn new(cache_bytes: usize) -> Spills {
        let mut spills = Spills::default();
        spills.cache_bytes = cache_bytes as u64;
        spills
    }

    /// Where the database goes, unless it is open already. What a killed process left there goes.
    pub fn place(&self, dir: &Path) {
        let _one = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if self.open.get().is_some() {
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %dir.display(), %error, "spilled state of an earlier run stays behind");
        }
        *self.dir.lock().unwrap_or_else(PoisonError::into_inner) = Some(dir.to_path_buf());
    }

    /// Blocks read since the process began.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Rows written since the process began that wait for a watermark.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    fn opened(&self) -> Result<&Open> {
        let _one = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if self.open.get().is_none() {
            let dir = self.dir.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let dir = dir.unwrap_or_else(|| std::env::temp_dir().join(format!("tidemill-spill-{:016x}", rand::random::<u64>())));
            let opened = open(&dir, self.cache_bytes)?;
            tracing::info!(dir = %dir.display(), "state goes to disk: it has outgrown its share of the memory budget");
            let _ = self.open.set(opened);
        }
        Ok(self.open.get().expect("it was just opened"))
    }
}

/// What an earlier process left there is of no use.
fn open(dir: &Path, cache_bytes: u64) -> Result<Open> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::failed(format!("\"{}\": spilled state of an earlier run can't be removed: {e}", dir.display())));
        }
        _ => {}
    }
    let config = sled::Config::new().path(dir).cache_capacity(cache_bytes.max(1 << 20)).flush_every_ms(None);
    let db = config.mode(sled::Mode::HighThroughput).open().map_err(|e| failed(dir, &e))?;
    Ok(Open { db, dir: dir.to_path_buf() })
}

fn failed(dir: &Path, error: &sled::Error) -> Error {
    Error::failed(format!("\"{}\": spilled state: {error}", dir.display()))
        .hint("is the disk full? Give the state directory more room, or the process a larger [memory] budget")
}

impl Drop for Spills {
    fn drop(&mut self) {
        if let Some(Open { db, dir }) = self.open.take() {
            drop(db);
            if let Err(error) = std::fs::remove_dir_all(&dir) {
                tracing::debug!(dir = %dir.display(), %error, "spilled state stays behind; the next run removes it");
            }
        }
    }
}

/// The blocks of one store.
struct Blocks {
    spills: Arc<Spills>,
    id: u64,
}

impl Blocks {
    fn key(&self, run: u32, block: u32) -> [u8; 16] {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&self.id.to_be_bytes());
        key[8..12].copy_from_slice(&run.to_be_bytes());
        key[12..].copy_from_slice(&block.to_be_bytes());
        key
    }

    fn put(&self, run: u32, block: u32, bytes: &[u8]) -> Result<()> {
        let open = self.spills.opened()?;
        metrics::counter!(metric::SPILL_WRITTEN_BYTES).increment(bytes.len() as u64);
        open.db.insert(self.key(run, block), bytes).map(drop).map_err(|e| failed(&open.dir, &e))
    }

    fn get(&self, run: u32, block: u32) -> Result<sled::IVec> {
        let open = self.spills.opened()?;
        self.spills.reads.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(metric::SPILL_READS).increment(1);
        let found = open.db.get(self.key(run, block)).map_err(|e| failed(&open.dir, &e))?;
        found.ok_or_else(|| Error::corrupt(format!("\"{}\": a block of spilled state is missing", open.dir.display())))
    }

    fn remove(&self, run: u32, block: u32) -> Result<()> {
        let open = self.spills.opened()?;
        open.db.remove(self.key(run, block)).map(drop).map_err(|e| failed(&open.dir, &e))
    }
}

/// What one store has spilled.
pub struct Spill {
    blocks: Blocks,
    /// Oldest first; levels never rise.
    runs: Vec<Run>,
    next_run: u32,
    /// Keys below are over, whether their blocks have been removed or not.
    bound: Vec<u8>,
}

pub fn hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

impl Spill {
    pub fn new(spills: &Arc<Spills>) -> Spill {
        let id = spills.next.fetch_add(1, Ordering::Relaxed);
        let blocks = Blocks { spills: spills.clone(), id };
        Spill { blocks, runs: Vec::new(), next_run: 0, bound: Vec::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Bytes in memory: filters and indexes.
    pub fn size(&self) -> usize {
        self.runs.iter().map(Run::size).sum()
    }

    /// `false`: the key was certainly not spilled.
    pub fn may_hold(&self, key: &[u8]) -> bool {
        let hash = hash(key);
        self.runs.iter().any(|run| run.may_hold(hash))
    }

    /// The newest values of the given keys, which ascend; `None` for those that are not there, or gone.
    pub fn get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        let hashes: Vec<u64> = keys.iter().map(|key| hash(key)).collect();
        let mut found: Vec<Option<Option<Vec<u8>>>> = vec![None; keys.len()];
        for run in self.runs.iter().rev() {
            let mut cursor: Option<Cursor<'_>> = None;
            for (at, key) in keys.iter().enumerate() {
                if found[at].is_some() || *key < self.bound || !run.may_hold(hashes[at]) {
                    continue;
                }
                let cursor = match &mut cursor {
                    Some(cursor) => {
                        cursor.seek(key)?;
                        cursor
                    }
                    None => cursor.insert(Cursor::at(run, &self.blocks, key)?),
                };
                if cursor.key() == Some(key) {
                    found[at] = Some(cursor.value().map(<[u8]>::to_vec));
                }
            }
        }
        Ok(found.into_iter().map(Option::flatten).collect())
    }

    /// Writes a new run. `fill` pushes the entries in order, each key once, `None` for a key that is gone.
    pub fn write(&mut self, entries: usize, fill: impl FnOnce(&mut Push<'_>) -> Result<()>) -> Result<()> {
        let mut writer = Writer::new(&self.blocks, self.next_run, 0, entries);
        fill(&mut |key, value| writer.push(key, value))?;
        let run = writer.finish()?;
        self.next_run += 1;
        self.runs.extend(run);
        self.compact()
    }

    /// Of what was written so many rows wait for a watermark.
    pub fn note_waiting(&self, rows: usize) {
        self.blocks.spills.waiting.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// The live entries from `from` on (at or above it), newest of each key.
    pub fn scan(&self, from: &[u8]) -> Result<Scan<'_>> {
        Scan::new(&self.blocks, &self.runs, from.max(&self.bound))
    }

    /// Keys below `bound` are over.
    pub fn remove_below(&mut self, bound: &[u8]) -> Result<()> {
        if bound <= self.bound.as_slice() {
            return Ok(());
        }
        self.bound = bound.to_vec();
        let mut kept = Vec::new();
        for mut run in std::mem::take(&mut self.runs) {
            if !run.remove_below(&self.blocks, bound)? {
                kept.push(run);
            }
        }
        self.runs = kept;
        Ok(())
    }

    fn compact(&mut self) -> Result<()> {
        while let Some(first) = self.runs.len().checked_sub(FANOUT)
            && self.runs[first..].iter().all(|run| run.level == self.runs[first].level)
        {
            let level = self.runs[first].level + 1;
            let old = self.runs.split_off(first);
            // With nothing older, what is gone needs no mark.
            let oldest = self.runs.is_empty();
            let mut writer = Writer::new(&self.blocks, self.next_run, level, old.iter().map(|run| run.entries).sum());
            let mut merged = Scan::new(&self.blocks, &old, &self.bound)?;
            while let Some((key, value)) = merged.next_entry()? {
                if value.is_some() || !oldest {
                    writer.push(key, value)?;
                }
            }
            drop(merged);
            self.runs.extend(writer.finish()?);
            self.next_run += 1;
            old.iter().try_for_each(|run| run.remove(&self.blocks))?;
        }
        Ok(())
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        for run in std::mem::take(&mut self.runs) {
            if let Err(error) = run.remove(&self.blocks) {
                tracing::debug!(%error, "spilled state of a store that is gone stays behind");
                return;
            }
        }
    }
}

/// Takes one entry of a run.
pub type Push<'a> = dyn FnMut(&[u8], Option<&[u8]>) -> Result<()> + 'a;

/// Several runs as one: ascending by key, the newest entry of each.
pub struct Scan<'a> {
    /// Newest first.
    cursors: Vec<Cursor<'a>>,
    /// Where the entry given last stands.
    given: Option<usize>,
}

impl<'a> Scan<'a> {
    fn new(blocks: &'a Blocks, runs: &'a [Run], from: &[u8]) -> Result<Scan<'a>> {
        let cursors = runs.iter().rev().map(|run| Cursor::at(run, blocks, from)).collect::<Result<_>>()?;
        Ok(Scan { cursors, given: None })
    }

    /// The next entry, keys that are gone included.
    #[allow(clippy::type_complexity)]
    fn next_entry(&mut self) -> Result<Option<(&[u8], Option<&[u8]>)>> {
        if let Some(given) = self.given.take() {
            let key = self.cursors[given].key().map(<[u8]>::to_vec);
            for cursor in &mut self.cursors {
                if cursor.key() == key.as_deref() {
                    cursor.step()?;
                }
            }
        }
        let mut least: Option<usize> = None;
        for (at, cursor) in self.cursors.iter().enumerate() {
            if let Some(key) = cursor.key()
                && least.is_none_or(|least| self.cursors[least].key().is_some_and(|least| key < least))
            {
                least = Some(at);
            }
        }
        self.given = least;
        Ok(least.and_then(|at| Some((self.cursors[at].key()?, self.cursors[at].value()))))
    }

    /// The next live entry.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        while let Some((key, value)) = self.next_entry()? {
            if let Some(value) = value {
                return Ok(Some((key.to_vec(), value.to_vec())));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn key(number: u16) -> Vec<u8> {
        // Of different lengths, one the beginning of another.
        let mut key = (number / 3).to_be_bytes().to_vec();
        key.extend(std::iter::repeat_n(7, usize::from(number % 3)));
        key
    }

    fn all(spill: &Spill, from: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut scan = spill.scan(from).unwrap();
        let mut found = BTreeMap::new();
        while let Some((key, value)) = scan.next().unwrap() {
            assert!(found.last_key_value().is_none_or(|(last, _)| *last < key), "in order, each once");
            found.insert(key, value);
        }
        found
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// Keys with a value's size, or gone.
        Write(BTreeMap<u16, Option<u16>>),
        RemoveBelow(u16),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let size = prop_oneof![6 => 0..200u16, 1 => 3_000..9_000u16];
        let entries = prop::collection::btree_map(0..600u16, prop::option::weighted(0.8, size), 0..120);
        let step = prop_oneof![8 => entries.prop_map(Step::Write), 1 => (0..300u16).prop_map(Step::RemoveBelow)];
        prop::collection::vec(step, 1..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn runs_are_a_map(steps in steps()) {
            let dir = tempfile::tempdir().unwrap();
            let spills = Arc::new(Spills::new(1 << 20));
            spills.place(&dir.path().join("spill"));
            let (mut spill, other) = (Spill::new(&spills), Spill::new(&spills));
            let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
            let mut bound = Vec::new();
            for (nth, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Write(entries) => {
                        let entries: BTreeMap<Vec<u8>, Option<Vec<u8>>> = entries
                            .into_iter()
                            .map(|(number, size)| (key(number), size.map(|size| vec![nth as u8; usize::from(size)])))
                            .filter(|(key, _)| *key >= bound)
                            .collect();
                        spill
                            .write(entries.len(), |push| entries.iter().try_for_each(|(key, value)| push(key, value.as_deref())))
                            .unwrap();
                        for (key, value) in entries {
                            match value {
                                Some(value) => drop(model.insert(key, value)),
                                None => drop(model.remove(&key)),
                            }
                        }
                    }
                    Step::RemoveBelow(number) => {
                        bound = bound.max(key(number));
                        spill.remove_below(&bound).unwrap();
                        model.retain(|key, _| *key >= bound);
                    }
                }
                prop_assert_eq!(all(&spill, &[]), model.clone());
                let mut keys: Vec<Vec<u8>> = (0..700).map(key).collect();
                keys.sort();
                let expected: Vec<Option<Vec<u8>>> = keys.iter().map(|key| model.get(key).cloned()).collect();
                prop_assert_eq!(spill.get(&keys).unwrap(), expected);
                let from = &keys[nth * 17 % 700];
                let rest: BTreeMap<_, _> = model.range(from.clone()..).map(|(k, v)| (k.clone(), v.clone())).collect();
                prop_assert_eq!(all(&spill, from), rest);
                prop_assert!(model.keys().all(|key| spill.may_hold(key)));
            }
            prop_assert!(other.is_empty() && all(&other, &[]).is_empty());
            drop(spill);
            if let Some(open) = spills.open.get() {
                prop_assert_eq!(open.db.len(), 0, "a store that goes takes its blocks along");
            }
        }
    }

    #[test]
    fn a_key_that_is_not_there_costs_no_read() {
        let dir = tempfile::tempdir().unwrap();
        let spills = Arc::new(Spills::new(1 << 20));
        spills.place(&dir.path().join("spill"));
        let mut spill = Spill::new(&spills);
        let number = |n: u32| n.to_be_bytes().to_vec();
        let value = [7; 500];
        spill.write(10_000, |push| (0..10_000).try_for_each(|n| push(&number(2 * n), Some(&value)))).unwrap();
        let before = spills.reads();
        let absent: Vec<Vec<u8>> = (0..10_000).map(|n| number(2 * n + 1)).collect();
        assert!(spill.get(&absent).unwrap().iter().all(Option::is_none));
        let absent_reads = spills.reads() - before;
        assert!(absent_reads < 500, "{absent_reads} of 2,500 blocks were read for keys that are not there");
        assert!(dir.path().join("spill").exists());
        // Moving it while it is open is too late.
        spills.place(&dir.path().join("spill"));
        assert!(dir.path().join("spill").exists());
        drop(spill);
        drop(spills);
        assert!(!dir.path().join("spill").exists(), "nothing outlives the process");
    }
}
