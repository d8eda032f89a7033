//! Reads assigned partitions of the embedded log without a group.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::log::{Isolation, Reader};
use crate::record::{Chunk, OffsetVector};

use super::{Shared, Turn};

pub(super) struct PartitionReader {
    shared: Arc<Shared>,
    isolation: Isolation,
    positions: OffsetVector,
    turn: Turn,
}

impl PartitionReader {
    pub fn open(shared: Arc<Shared>, isolation: Isolation, from: &OffsetVector) -> Result<PartitionReader> {
        let state = shared.lock();
        state.reachable()?;
        from.keys().try_for_each(|partition| state.partition(partition).map(|_| ()))?;
        drop(state);
        Ok(PartitionReader { shared, isolation, positions: from.clone(), turn: Turn::default() })
    }
}

impl Reader for PartitionReader {
    fn poll(&mut self, timeout: Duration, max_records: usize) -> Result<Vec<Chunk>> {
        let PartitionReader { shared, isolation, positions, turn } = self;
        let found = shared.wait(timeout, |state| {
            let chunks = turn.read(state, *isolation, max_records, &mut positions.iter_mut().collect::<Vec<_>>())?;
            Ok(Some(chunks).filter(|chunks| !chunks.is_empty()))
        })?;
        Ok(found.unwrap_or_default())
    }

    fn positions(&self) -> OffsetVector {
        self.positions.clone()
    }
}
