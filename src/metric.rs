//! Every metric's name, unit and labels. Names are `tidemill_<noun>_<unit>[_total]`; points in time end in `_at`.

/// Counter: records read from sources. Labels: pipeline.
pub const RECORDS_IN: &str = "tidemill_records_in_total";
/// Counter: records committed to sinks. Labels: pipeline.
pub const RECORDS_OUT: &str = "tidemill_records_out_total";
/// Counter: records sent to the dead-letter topic. Labels: pipeline, class.
pub const DEAD_LETTERS: &str = "tidemill_dead_letters_total";
/// Counter: bad records dropped by policy. Labels: pipeline, class.
pub const DROPPED: &str = "tidemill_dropped_records_total";
/// Counter: rows sent to the late topic. Labels: pipeline.
pub const LATE: &str = "tidemill_late_records_total";
/// Counter: groups whose result could not be computed. Labels: pipeline.
pub const WITHDRAWN: &str = "tidemill_withdrawn_groups_total";
/// Counter: null values skipped. Labels: pipeline.
pub const SKIPPED: &str = "tidemill_skipped_tombstones_total";
/// Counter: transactions committed. Labels: pipeline.
pub const COMMITS: &str = "tidemill_commits_total";
/// Counter: transactions that failed, by error kind. Labels: pipeline, kind.
pub const COMMIT_FAILURES: &str = "tidemill_commit_failures_total";
/// Histogram: seconds from the start of a commit until it is known. Labels: pipeline.
pub const COMMIT_SECONDS: &str = "tidemill_commit_duration_seconds";
/// Gauge: records between the committed position and the end of the partition. Labels: pipeline, topic, partition.
pub const LAG_RECORDS: &str = "tidemill_lag_records";
/// Gauge: the partition's watermark in seconds since the epoch. Labels: pipeline, topic, partition.
pub const WATERMARK_SECONDS: &str = "tidemill_watermark_seconds";
/// Gauge: keys held in stores. Labels: pipeline.
pub const STATE_KEYS: &str = "tidemill_state_keys";
/// Gauge: estimated memory of stores. Labels: pipeline.
pub const STATE_BYTES: &str = "tidemill_state_bytes";
/// Gauge: of the keys, those on disk alone. Labels: pipeline.
pub const SPILLED_KEYS: &str = "tidemill_spilled_keys";
/// Counter: bytes that stores wrote to disk because they outgrew their share of memory, in all pipelines of the process. No labels.
pub const SPILL_WRITTEN_BYTES: &str = "tidemill_spill_written_bytes_total";
/// Counter: blocks of spilled state that were read back, in all pipelines of the process. No labels.
pub const SPILL_READS: &str = "tidemill_spill_reads_total";
/// Counter: keys read back from local checkpoints and changelogs, of restores that are done. Labels: pipeline.
pub const RESTORED_ROWS: &str = "tidemill_restored_rows_total";
/// Gauge: tasks that restore. Labels: pipeline.
pub const RESTORING_TASKS: &str = "tidemill_restoring_tasks";
/// Gauge: how much these have read of what they have to, 0 to 1; 1 when none restores. Labels: pipeline.
pub const RESTORE_RATIO: &str = "tidemill_restore_ratio";
/// Gauge: rows that they read a second. Labels: pipeline.
pub const RESTORE_ROWS_PER_SECOND: &str = "tidemill_restore_rows_per_second";
/// Gauge: tasks of others of which this process keeps warm copies. Labels: pipeline.
pub const STANDBY_TASKS: &str = "tidemill_standby_tasks";
/// Gauge: messages of their changelogs that are not in the copies yet. Labels: pipeline.
pub const STANDBY_LAG_MESSAGES: &str = "tidemill_standby_lag_messages";
/// Gauge: 1 while the pipeline runs and has its tasks. Labels: pipeline.
pub const READY: &str = "tidemill_ready";
/// Counter: raises of quiet partitions' watermarks. Labels: pipeline.
pub const IDLE_RAISES: &str = "tidemill_idle_raises_total";
