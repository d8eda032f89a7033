//! Starting over: deletes what the live generation owns (its group, state and internal topics), never a sink or a source.

use crate::error::{Error, Result};
use crate::job::control::Change;
use crate::job::{Site, ledger};
use crate::record::Topic;
use crate::task::names::Names;

/// What a reset deletes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetPlan {
    pub pipeline: String,
    pub generation: u32,
    pub group: String,
    pub topics: Vec<Topic>,
}

/// # Errors
/// `Config` when the pipeline has no live generation.
pub fn plan(site: &Site, pipeline: &str) -> Result<ResetPlan> {
    let names = Names::new(&site.settings.name_prefix, pipeline, 1)?;
    let control = ledger::read(site.log.as_ref(), &names)?;
    let Some(generation) = control.live else {
        return Err(Error::config(format!("pipeline \"{pipeline}\" has no live generation (topic \"{}\")", names.control()))
            .hint("check the name and name_prefix; \"tidemill print\" of the control topic shows what is there"));
    };
    let names = names.with_generation(generation);
    let topics = site.log.topics(&names.generation_prefix())?.into_iter().map(|info| info.topic).collect();
    Ok(ResetPlan { pipeline: pipeline.to_string(), generation, group: names.group(), topics })
}

/// The next `run` begins a new generation. Sinks keep what was published.
pub fn perform(site: &Site, plan: &ResetPlan) -> Result<()> {
    let names = Names::new(&site.settings.name_prefix, &plan.pipeline, plan.generation)?;
    site.log.delete_group(&plan.group)?;
    ledger::change(site.log.as_ref(), &names, |_| Ok(Some(Change::default().no_live().no_promotion())))?;
    site.log.delete_topics(&plan.topics)?;
    if let Some(dir) = &site.settings.state_dir {
        let copy = dir.join(&plan.group);
        if copy.exists() {
            std::fs::remove_dir_all(&copy).map_err(|e| {
                Error::failed(format!("the local state \"{}\" can't be deleted: {e}", copy.display())).hint("delete it by hand")
            })?;
        }
    }
    Ok(())
}
