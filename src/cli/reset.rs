//! `tidemill reset`: forgets a pipeline's positions and state. A dry run unless `--yes`.

use super::context::Context;
use super::report::Exit;
use super::show::{Listing, line};
use crate::error::Result;
use crate::job::reset;
use crate::job::state::StateDir;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The pipeline's name
    #[arg(value_name = "PIPELINE")]
    pub pipeline: String,
    /// Do it; without this only what would go is shown
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    pub listing: Listing,
}

pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    let mut site = context.site()?;
    let plan = reset::plan(&site, &args.pipeline)?;
    let value = serde_json::json!({
        "pipeline": plan.pipeline, "generation": plan.generation, "group": plan.group, "topics": plan.topics, "done": args.yes,
    });
    if args.yes {
        let dir = &context.settings.typed.state.dir;
        // The local copy of the state goes too; a process that uses it must have ended.
        let _lock = if dir.exists() { Some(StateDir::lock(dir)?) } else { None };
        site.settings.state_dir = Some(dir.clone());
        reset::perform(&site, &plan)?;
    }
    args.listing.value(&value, || {
        let verb = if args.yes { "deleted" } else { "would delete" };
        let mut text =
            format!("pipeline \"{}\", generation {}:\n  {verb} consumer group {}\n", plan.pipeline, plan.generation, plan.group);
        for topic in &plan.topics {
            text.push_str(&format!("  {verb} topic {topic}\n"));
        }
        text.push_str("  sources, sinks, dead letters and late rows stay as they are\n");
        text
    });
    if !args.yes && !args.listing.is_json() {
        line("nothing was changed: repeat with --yes to do it");
    }
    Ok(Exit::Done)
}
