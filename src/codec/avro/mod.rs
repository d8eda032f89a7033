//! Avro bodies to columns and back.

mod decode;
mod encode;

pub use decode::AvroDecoder;
pub use encode::AvroEncoder;
