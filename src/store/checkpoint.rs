//! The local copy of a task's state in sled.
