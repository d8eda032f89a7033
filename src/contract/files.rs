//! A folder of `<subject>.avsc` files: contracts without a registry.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::{AvroSchema, Contract, Contracts, MemoryRegistry, SchemaId};
use crate::error::{Error, Result};
use crate::record::Topic;

/// The contracts of a folder. Ids count from 1 in the order of the file names, versions are 1.
#[derive(Clone, Debug, Default)]
pub struct FileContracts {
    contracts: BTreeMap<String, Arc<Contract>>,
}

impl FileContracts {
    /// Reads every `*.avsc` of the folder; the stem is the subject (`orders-value`). A file may use types that another one defines.
    /// `Config` error: a folder or file that can't be read; `Contract` error with `file:line:column`: a broken schema.
    pub fn open(dir: impl AsRef<Path>) -> Result<FileContracts> {
        let dir = dir.as_ref();
        let unreadable = |path: &Path, e: std::io::Error| Error::config(format!("{}: {e}", path.display()));
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(dir).map_err(|e| unreadable(dir, e))? {
            let path = entry.map_err(|e| unreadable(dir, e))?.path();
            if path.extension().is_some_and(|extension| extension == "avsc") {
                let subject = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let text = std::fs::read_to_string(&path).map_err(|e| unreadable(&path, e))?;
                files.insert(subject, (path, text));
            }
        }
        let mut contracts = BTreeMap::new();
        for (id, (subject, (path, text))) in (1..).zip(&files) {
            let place = |e: Error, text: &str| e.context(format!("{}{}", path.display(), json_place(text)));
            let others: Vec<(String, String)> = files
                .iter()
                .filter(|(other, (_, text))| *other != subject && is_json(text))
                .map(|(other, (_, text))| (other.clone(), text.clone()))
                .collect();
            let schema = AvroSchema::parse(text)
                .or_else(|e| if is_json(text) { AvroSchema::parse_with_references(text, &others) } else { Err(e) })
                .and_then(|schema| Contract::new(subject.as_str(), SchemaId(id), 1, Arc::new(schema)));
            contracts.insert(subject.clone(), Arc::new(schema.map_err(|e| place(e, text))?));
        }
        Ok(FileContracts { contracts })
    }

    /// By subject.
    pub fn get(&self, subject: &str) -> Option<&Arc<Contract>> {
        self.contracts.get(subject)
    }

    /// In the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Contract>> {
        self.contracts.values()
    }

    /// A registry that holds these contracts under their ids.
    pub fn registry(&self) -> MemoryRegistry {
        let registry = MemoryRegistry::new();
        for contract in self.contracts.values() {
            registry
                .register_as(&contract.subject, contract.id, AvroSchema::clone(&contract.schema))
                .expect("each file has an id of its own");
        }
        registry
    }
}

impl From<FileContracts> for MemoryRegistry {
    fn from(files: FileContracts) -> MemoryRegistry {
        files.registry()
    }
}

impl Contracts for FileContracts {
    fn value(&self, topic: &Topic, subject: Option<&str>) -> Result<Option<Arc<Contract>>> {
        Ok(self.contracts.get(subject.unwrap_or(&format!("{topic}-value"))).cloned())
    }

    fn key(&self, topic: &Topic, subject: Option<&str>) -> Result<Option<Arc<Contract>>> {
        Ok(self.contracts.get(subject.unwrap_or(&format!("{topic}-key"))).cloned())
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// `:line:column` of what is not JSON.
fn json_place(text: &str) -> String {
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Err(e) => format!(":{}:{}", e.line().max(1), e.column()),
        Ok(_) => ":1:1".to_string(),
    }
}
