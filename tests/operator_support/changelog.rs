//! A changelog in memory: what a commit writes of a store, and what a restore makes of it.

use arrow::array::RecordBatch;
use tidemill::store::Store;
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
    pub fn commit(&mut self, store: &mut dyn Store, edge: Watermark, slice: usize) {
        let delta = store.delta().unwrap();
        assert_eq!(delta, store.delta().unwrap(), "asking again gives the same rows");
        let slice = store.slice(slice).unwrap();
        self.commits.push((delta.into_iter().chain(slice.rows).collect(), edge));
        if slice.wrapped {
            self.deleted = self.round;
            self.round = self.commits.len();
        }
        store.keep();
    }

    /// Into a store that holds nothing.
    pub fn restore(&mut self, store: &mut dyn Store) {
        for (rows, edge) in &self.commits[self.deleted..] {
            rows.iter().for_each(|rows| store.apply(rows).unwrap());
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
