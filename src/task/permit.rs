//! Whether a run may still commit: the fence between two generations of a pipeline.
//!
//! A group fences the members of one generation; another generation has another group. So a worker asks, after every assignment before its
//! first commit and about once a second, whether its generation still is what it was started for. One that may not commit any more commits
//! what is open, unless it has not asked since its assignment, and leaves its group.

use crate::error::Result;

pub trait Permit: Send + Sync {
    /// Answers as of now, or later: what was decided before the call is known to it.
    ///
    /// # Errors
    /// `Away`: it can't be known now. The worker waits and commits nothing that it has not asked for.
    fn granted(&self) -> Result<bool>;
}
