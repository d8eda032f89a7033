//! `tidemill schema`: the registry, with compatibility explained field by field.

use std::path::{Path, PathBuf};

use super::context::Context;
use super::pipeline;
use super::report::Exit;
use super::show::{Listing, Row, line, row};
use crate::contract::changes::changes;
use crate::contract::compat::{self, Level};
use crate::contract::lock::lines;
use crate::contract::{AvroSchema, Lock, LockedSink, RegisteredSchema, Registry};
use crate::error::{Error, Result, nearest};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Subjects with their latest version and compatibility
    List {
        #[command(flatten)]
        listing: Listing,
    },
    /// One version of a subject
    Show {
        subject: String,
        /// [default: the latest]
        #[arg(long, value_name = "N")]
        version: Option<u32>,
        #[command(flatten)]
        listing: Listing,
    },
    /// Register a schema, or find it if it is registered already
    Register {
        subject: String,
        #[arg(value_name = "FILE.avsc")]
        file: PathBuf,
        #[command(flatten)]
        listing: Listing,
    },
    /// Whether a schema is compatible with a subject, and what is not
    Check {
        subject: String,
        #[arg(value_name = "FILE.avsc")]
        file: PathBuf,
        #[command(flatten)]
        listing: Listing,
    },
    /// Write pipeline.lock beside a pipeline: the schemas of its sources and sinks; what it holds already stays, unless --upgrade
    Pin {
        #[arg(value_name = "PIPELINE.sql")]
        pipeline: PathBuf,
        /// Take the registry's latest versions for the sources, and what the SQL makes of them for the sinks
        #[arg(long)]
        upgrade: bool,
    },
}

pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    let registry = context.registry()?;
    let registry = registry.as_ref();
    match &args.command {
        Command::List { listing } => list(registry, *listing),
        Command::Show { subject, version, listing } => show(registry, subject, *version, *listing),
        Command::Register { subject, file, listing } => register(registry, subject, file, *listing),
        Command::Check { subject, file, listing } => check(registry, subject, file, *listing),
        Command::Pin { pipeline, upgrade } => pin(context, registry, pipeline, *upgrade),
    }
}

fn list(registry: &dyn Registry, listing: Listing) -> Result<Exit> {
    let mut rows: Vec<Row> = Vec::new();
    let mut subjects = registry.subjects()?;
    subjects.sort();
    for subject in subjects {
        let latest = registry.latest(&subject)?;
        let compatibility = registry.compatibility(&subject)?;
        rows.push(row! {
            "subject": subject,
            "version": latest.as_ref().map(|s| s.version),
            "id": latest.as_ref().map(|s| s.id),
            "compatibility": compatibility,
            "type": latest.as_ref().and_then(|s| s.schema.full_name()),
        });
    }
    listing.rows(&rows, "the registry has no subject");
    Ok(Exit::Done)
}

fn show(registry: &dyn Registry, subject: &str, version: Option<u32>, listing: Listing) -> Result<Exit> {
    let versions = registry.versions(subject)?;
    let found = match version {
        None => versions.last(),
        Some(version) => versions.iter().find(|known| known.version == version),
    };
    let Some(found) = found else {
        return Err(unknown(registry, subject, version, &versions));
    };
    let value = describe(found);
    listing.value(&value, || {
        let pretty = serde_json::to_string_pretty(&value["schema"]).expect("JSON has string keys");
        format!(
            "# subject {subject}, version {}, id {}, fingerprint {}\n{pretty}",
            found.version, found.id, found.schema.fingerprint
        )
    });
    Ok(Exit::Done)
}

fn unknown(registry: &dyn Registry, subject: &str, version: Option<u32>, versions: &[RegisteredSchema]) -> Error {
    if let (Some(version), false) = (version, versions.is_empty()) {
        let known: Vec<String> = versions.iter().map(|s| s.version.to_string()).collect();
        return Error::config(format!("subject \"{subject}\" has no version {version}"))
            .hint(format!("it has {}", known.join(", ")));
    }
    let subjects = registry.subjects().unwrap_or_default();
    let hint = match nearest(subject, subjects.iter().map(String::as_str)) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => "\"tidemill schema list\" shows what there is".to_string(),
    };
    Error::config(format!("the registry has no subject \"{subject}\"")).hint(hint)
}

fn describe(schema: &RegisteredSchema) -> serde_json::Value {
    let text =
        serde_json::from_str(&schema.schema.text).unwrap_or_else(|_| serde_json::Value::String(schema.schema.text.clone()));
    serde_json::json!({
        "subject": schema.subject,
        "version": schema.version,
        "id": schema.id,
        "fingerprint": schema.schema.fingerprint,
        "schema": text,
    })
}

fn read(file: &Path) -> Result<AvroSchema> {
    let text = std::fs::read_to_string(file).map_err(|e| {
        Error::config(format!("schema file \"{}\" can't be read: {e}", file.display()))
            .hint("give the path of a readable .avsc file")
    })?;
    AvroSchema::parse(&text).map_err(|e| e.context(file.display()))
}

fn register(registry: &dyn Registry, subject: &str, file: &Path, listing: Listing) -> Result<Exit> {
    let schema = read(file)?;
    // Asked first, so that a refusal says which fields are at fault.
    let faults = faults(registry, subject, &schema)?;
    if !faults.is_empty() {
        let level = registry.compatibility(subject)?;
        return Err(Error::contract(format!(
            "subject \"{subject}\" refuses the schema under {level}:\n  {}",
            faults.join("\n  ")
        ))
        .hint("change the schema, or register it under a subject of its own"));
    }
    let done = registry.register(subject, &schema)?;
    listing.value(&describe(&done), || format!("subject {subject}: version {}, id {}", done.version, done.id));
    Ok(Exit::Done)
}

/// What is incompatible: in our words where we find it, else in the registry's.
fn faults(registry: &dyn Registry, subject: &str, schema: &AvroSchema) -> Result<Vec<String>> {
    let Some(theirs) = registry.check(subject, schema)? else { return Ok(Vec::new()) };
    let level = registry.compatibility(subject)?;
    let ours = match Level::parse(&level) {
        Ok(level) => compat::check(level, schema, &registry.versions(subject)?),
        Err(_) => Vec::new(),
    };
    let found = if ours.is_empty() { theirs } else { ours };
    Ok(if found.is_empty() { vec!["the registry gives no reason".into()] } else { found })
}

fn check(registry: &dyn Registry, subject: &str, file: &Path, listing: Listing) -> Result<Exit> {
    let schema = read(file)?;
    let versions = registry.versions(subject)?;
    let level = registry.compatibility(subject)?;
    let faults = faults(registry, subject, &schema)?;
    let registered = versions.iter().find(|known| known.schema.fingerprint == schema.fingerprint).map(|known| known.version);
    let value = serde_json::json!({
        "subject": subject, "compatibility": level, "compatible": faults.is_empty(), "faults": faults,
        "versions": versions.len(), "registered_as": registered,
    });
    listing.value(&value, || match (faults.is_empty(), versions.last()) {
        (true, None) => format!("subject {subject} is new: nothing to be compatible with"),
        (true, Some(last)) => match registered {
            Some(version) => format!("subject {subject}: the schema is registered as version {version}"),
            None => format!("subject {subject}: compatible with version {} under {level}", last.version),
        },
        (false, _) => format!("subject {subject}: incompatible under {level}:\n  {}", faults.join("\n  ")),
    });
    Ok(if faults.is_empty() { Exit::Done } else { Exit::Differences })
}

fn pin(context: &Context, registry: &dyn Registry, path: &Path, upgrade: bool) -> Result<Exit> {
    if upgrade {
        return pin_latest(context, registry, path);
    }
    // Schemas do not depend on how rows are distributed.
    let lock = pipeline::compile(context, path, registry, &Default::default())?.lock;
    for (subject, changes) in &lock.drifted {
        let differs = format!("{subject}: the sink writes another schema than the pinned one; --upgrade pins it");
        line(&format!("{differs}{}", lines(changes)));
    }
    let pinned = |subject: &String| format!("{}: pinned", pipeline::describe(&lock.wanted, subject));
    write(&lock.path, &lock.wanted, &lock.added.iter().map(pinned).collect::<Vec<_>>())
}

/// The registry's latest versions for the sources, and what the SQL makes of them for the sinks. Nothing is written when they do not
/// fit the SQL.
fn pin_latest(context: &Context, registry: &dyn Registry, path: &Path) -> Result<Exit> {
    let known = Lock::read(pipeline::lock_path(path))?.unwrap_or_default();
    // Planned without the pinned readers: the SQL may already use what only the new ones have.
    let unpinned = Lock { subjects: Default::default(), ..known.clone() };
    let compiled = pipeline::compile_against(context, path, registry, &Default::default(), Some(unpinned))?;
    let mut wanted = compiled.lock.wanted;
    let mut changed = Vec::new();
    for (subject, locked) in &wanted.subjects {
        match known.subjects.get(subject) {
            None => changed.push(format!("{}: pinned", pipeline::describe(&wanted, subject))),
            Some(old) if old == locked => {}
            Some(old) => {
                let found = changes(&AvroSchema::parse(&old.text)?, &AvroSchema::parse(&locked.text)?);
                changed.push(format!("{subject}: version {} -> {}{}", old.version, locked.version, lines(&found)));
            }
        }
    }
    for (subject, schema) in pipeline::sinks(&compiled.topology) {
        let drift = compiled.lock.drifted.iter().find(|(drifted, _)| drifted == subject);
        if let Some((_, changes)) = drift {
            changed.push(format!("{subject}: the sink's schema{}", lines(changes)));
            wanted.sinks.insert(subject.to_string(), LockedSink::new(schema, registry.find(subject, schema)?.as_ref()));
        } else if known.sinks.get(subject) != wanted.sinks.get(subject) {
            changed.push(format!("{}: pinned", pipeline::describe(&wanted, subject)));
        }
    }
    // Of other pipelines beside the same lock.
    for (subject, locked) in known.subjects {
        wanted.subjects.entry(subject).or_insert(locked);
    }
    write(&compiled.lock.path, &wanted, &changed)
}

fn write(path: &Path, lock: &Lock, changed: &[String]) -> Result<Exit> {
    if changed.is_empty() {
        line(&format!("{}: nothing to change", path.display()));
        return Ok(Exit::Done);
    }
    lock.write(path)?;
    line(&format!("{}:\n  {}", path.display(), changed.join("\n  ")));
    Ok(Exit::Done)
}
