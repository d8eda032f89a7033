//! Starting over: deletes what the live generation owns (its group, state and internal topics), never a sink or a source.

use crate::error::{Error, Result};
use crate::job::control::Change;
use crate::job::{Site, jobs, ledger};
use crate::log::{CommittedOffset, CommittedOffsets};
use crate::record::{NextOffset, Topic};
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

/// The next `run` begins a new generation. Sinks keep what was published. First the generation is no longer live, so that a process that
/// starts meanwhile commits nothing, least of all from where it once began because its offsets are gone; what it owns goes after that.
///
/// # Errors
/// `Config` while processes run it, and when it is not live any more.
pub fn perform(site: &Site, plan: &ResetPlan) -> Result<()> {
    let names = Names::new(&site.settings.name_prefix, &plan.pipeline, plan.generation)?;
    let mut written = false;
    ledger::change(site.log.as_ref(), &names, |control| {
        match control.live == Some(plan.generation) {
            true => {}
            false if written => return Ok(None),
            false => return Err(not_live(plan, control.live)),
        }
        at_rest(site, &names)?;
        written = true;
        Ok(Some(Change::default().no_live().no_promotion()))
    })?;
    jobs::leave(site, &names).map_err(|e| {
        e.context(format!("pipeline \"{}\" is reset, but group \"{}\" can't be deleted", plan.pipeline, plan.group))
            .hint("delete it and the generation's topics with Kafka's own tools once its members have left")
    })?;
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

/// Refused while the group has members: the broker takes an offset of an outsider only without.
fn at_rest(site: &Site, names: &Names) -> Result<()> {
    let mark = CommittedOffset { next: NextOffset(0), metadata: "tidemill: reset".to_string() };
    site.log.commit(&names.group(), &CommittedOffsets::from([(names.control().partition(0), mark)]))
}

fn not_live(plan: &ResetPlan, live: Option<u32>) -> Error {
    let now = live.map_or("none is".to_string(), |live| format!("generation {live} is"));
    Error::config(format!(
        "generation {} of pipeline \"{}\" is not live any more, {now}: it was not reset",
        plan.generation, plan.pipeline
    ))
    .hint("another command was faster; look again with \"tidemill reset\" without --yes")
}
