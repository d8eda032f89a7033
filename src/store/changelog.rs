//! Deltas as messages of a changelog topic.
