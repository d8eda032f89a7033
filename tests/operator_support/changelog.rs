//! A changelog in memory: what a commit writes of a store, and what a restore makes of it; and a disk for stores that spill.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use arrow::array::RecordBatch;
use tidemill::store::Store;
use tidemill::store::spill::Spills;
use tidemill::watermark::Watermark;

#[derive(Default)]
pub struct Changelog {
    commits: Vec<(Vec<RecordBatch>, Watermark)>,
    /// Commit with which the round of the rolling snapshot began.
    round: usize,
    /// Commits deleted from the head.
    pub deleted: usize,
}

impl Changelog {
    /// Behind a commit with an odd `slice` the store goes to disk.
    pub fn commit(&mut self, store: &mut dyn Store, edge: Watermark, slice: usize) {
        let delta = store.delta().unwrap();
        assert_eq!(delta, store.delta().unwrap(), "asking again gives the same rows");
        let spills = !slice.is_multiple_of(2);
        let slice = store.slice(slice).unwrap();
        self.commits.push((delta.into_iter().chain(slice.rows).collect(), edge));
        if slice.wrapped {
            self.deleted = self.round;
            self.round = self.commits.len();
        }
        store.keep();
        if spills {
            spill(store);
        }
    }

    /// Into a store that holds nothing; after an odd number of commits it goes to disk on the way.
    pub fn restore(&mut self, store: &mut dyn Store) {
        for (rows, edge) in &self.commits[self.deleted..] {
            rows.iter().for_each(|rows| store.apply(rows).unwrap());
            if !self.commits.len().is_multiple_of(2) {
                spill(store);
            }
            store.expire(*edge);
        }
        self.restored(store);
    }

    /// Into a store that holds nothing, from an image of the last commit.
    pub fn restore_image(&mut self, image: &[RecordBatch], store: &mut dyn Store) {
        image.iter().for_each(|rows| store.apply(rows).unwrap());
        self.restored(store);
    }

    fn restored(&mut self, store: &mut dyn Store) {
        if let Some((_, edge)) = self.commits.last() {
            store.expire(*edge);
        }
        // The next round starts afresh with the new instance's cursor.
        self.round = self.commits.len();
    }
}

/// One disk for all stores of a test binary.
pub fn spills() -> &'static Arc<Spills> {
    static SPILLS: OnceLock<Arc<Spills>> = OnceLock::new();
    SPILLS.get_or_init(|| {
        let spills = Spills::new(8 << 20);
        // What is there from an earlier run is removed when it is opened.
        spills.place(&Path::new(env!("CARGO_TARGET_TMPDIR")).join(concat!("spill-", env!("CARGO_CRATE_NAME"))));
        Arc::new(spills)
    })
}

/// All that the store holds goes to disk, and nobody notices.
pub fn spill(store: &mut dyn Store) {
    let (len, delta) = (store.len(), store.delta().unwrap());
    assert_eq!(delta, None, "stores spill between two commits");
    assert!(store.spill(spills()).unwrap(), "the store can spill");
    assert_eq!(store.len(), len);
}
