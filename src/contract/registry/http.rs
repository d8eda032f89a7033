//! A registry over HTTP.

use std::sync::Arc;
use std::time::Duration;

use crate::contract::{AvroSchema, RegisteredSchema, Registry, SchemaId};
use crate::error::{Error, Result};

/// Where the registry is, and who asks.
#[derive(Clone)]
pub struct RegistrySettings {
    /// Asked in order until one answers.
    pub urls: Vec<String>,
    pub user: Option<String>,
    pub password: Option<String>,
    /// A bearer token, instead of user and password.
    pub token: Option<String>,
    /// Further headers of every request.
    pub headers: Vec<(String, String)>,
    /// Of one request.
    pub timeout: Duration,
}

/// Calls block; not to be called from async code.
pub struct HttpRegistry {}

impl HttpRegistry {
    pub fn new(settings: RegistrySettings) -> Result<HttpRegistry> {
        let _ = settings;
        Err(Error::failed("not yet"))
    }
}

impl Registry for HttpRegistry {
    fn schema(&self, _id: SchemaId) -> Result<Option<Arc<AvroSchema>>> {
        Err(Error::failed("not yet"))
    }
    fn latest(&self, _subject: &str) -> Result<Option<RegisteredSchema>> {
        Err(Error::failed("not yet"))
    }
    fn versions(&self, _subject: &str) -> Result<Vec<RegisteredSchema>> {
        Err(Error::failed("not yet"))
    }
    fn subjects(&self) -> Result<Vec<String>> {
        Err(Error::failed("not yet"))
    }
    fn compatibility(&self, _subject: &str) -> Result<String> {
        Err(Error::failed("not yet"))
    }
    fn check(&self, _subject: &str, _schema: &AvroSchema) -> Result<Option<Vec<String>>> {
        Err(Error::failed("not yet"))
    }
    fn register(&self, _subject: &str, _schema: &AvroSchema) -> Result<RegisteredSchema> {
        Err(Error::failed("not yet"))
    }
}
