//! Schema registries: in this process, and over HTTP.

mod http;
mod memory;
mod transport;

pub use http::{HttpRegistry, RegistrySettings};
pub use memory::MemoryRegistry;

use crate::error::Error;

/// A schema that a registry does not take under the subject's level.
fn refused(subject: &str, level: &str, faults: &[String]) -> Error {
    let faults: String = faults.iter().map(|fault| format!("\n  {fault}")).collect();
    Error::contract(format!("subject \"{subject}\": the schema is not compatible under {level}{faults}"))
        .hint("change the query so that the schema stays compatible, or write to another topic")
}
