//! Avro bodies to columns and back.
//!
//! A decoder has a plan per writer's schema (`plan`), which walks the body once, checks it, and appends to the columns (`column`);
//! after a bad value the columns are cut back to the last good row. An encoder has one plan, the other way round.
//!
//! Why not `arrow-avro`: a bad body poisons its decoder, and with it the good rows behind; it accepts truncated bodies, so that
//! every body would have to be walked first anyway; its store of writers is fixed when it is built; a batch has one writer; and
//! enums, uuids and unions come out in types that SQL can't use. One walk does all of it; what it costs
//! against an unguarded `arrow-avro` stands in ARCHITECTURE.md (`benches/avro` measures it).

mod column;
mod cursor;
mod decode;
mod encode;
pub(crate) mod number;
mod plan;

pub(crate) use column::{Column, Values};
pub(crate) use cursor::{Cursor, Fault};
pub use decode::AvroDecoder;
pub use encode::AvroEncoder;
