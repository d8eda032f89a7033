//! What every command gets: the settings, and connections made on first use.

use std::sync::Arc;

use datafusion_expr::{AggregateUDF, ScalarUDF};

use crate::config::Settings;
use crate::contract::Registry;
use crate::contract::registry::{HttpRegistry, RegistrySettings};
use crate::error::Result;
use crate::job::Site;
use crate::log::Log;
use crate::log::kafka::{KafkaLog, KafkaSettings};
use crate::store::memory::Memory;
use crate::topology::Options;

/// Functions that the program's author added to SQL.
#[derive(Clone, Debug, Default)]
pub struct Functions {
    pub scalars: Vec<ScalarUDF>,
    pub aggregates: Vec<AggregateUDF>,
}

pub struct Context {
    pub settings: Settings,
    pub functions: Functions,
}

impl Context {
    /// A connection to the cluster.
    pub fn log(&self) -> Result<Arc<dyn Log>> {
        self.log_of(1)
    }

    /// The same for so many pipelines, each with clients of its own: what these hold in memory comes out of the budget, unless the user says
    /// otherwise.
    fn log_of(&self, pipelines: usize) -> Result<Arc<dyn Log>> {
        let kafka = &self.settings.typed.kafka;
        let memory = Memory::of(self.settings.typed.memory.budget);
        let mut properties = KafkaSettings::within(memory.of_consumer(pipelines), memory.of_producer(pipelines));
        properties.extend(kafka.properties.iter().map(|(name, value)| (name.clone(), value.expose().to_string())));
        Ok(Arc::new(KafkaLog::connect(KafkaSettings { brokers: kafka.brokers.clone(), properties })?))
    }

    /// A client of the registry. It is not asked before something is needed of it.
    pub fn registry(&self) -> Result<Arc<dyn Registry>> {
        let registry = &self.settings.typed.registry;
        let some = |text: &str| (!text.is_empty()).then(|| text.to_string());
        let file = |path: &std::path::Path| (!path.as_os_str().is_empty()).then(|| path.to_path_buf());
        let settings = RegistrySettings {
            urls: registry.url.split(',').map(|url| url.trim().trim_end_matches('/').to_string()).collect(),
            user: some(&registry.user),
            password: some(registry.password.expose()),
            token: some(registry.token.expose()),
            headers: registry.headers.iter().map(|(name, value)| (name.clone(), value.expose().to_string())).collect(),
            ca_file: file(&registry.ca_file),
            cert_file: file(&registry.cert_file),
            key_file: file(&registry.key_file),
            timeout: registry.timeout,
        };
        Ok(Arc::new(HttpRegistry::new(settings)?))
    }

    /// Where jobs run; nothing is kept on disk unless the command locks the state directory.
    pub fn site(&self) -> Result<Site> {
        self.site_of(1)
    }

    /// The same for so many pipelines in this process.
    pub fn site_of(&self, pipelines: usize) -> Result<Site> {
        Ok(Site { log: self.log_of(pipelines)?, registry: self.registry()?, settings: self.settings.job() })
    }

    /// How SQL is planned: with the program's own functions.
    pub fn options(&self) -> Options {
        Options { udfs: self.functions.scalars.clone(), udafs: self.functions.aggregates.clone(), ..Options::default() }
    }

    pub fn name_prefix(&self) -> &str {
        &self.settings.typed.topics.name_prefix
    }
}
