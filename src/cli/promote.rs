//! `tidemill promote`: makes a generation live, at the offsets where the live one stops. The SQL says which; going back is the same with the
//! former SQL.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::backfill::state_dir;
use super::context::Context;
use super::pipeline;
use super::progress::Display;
use super::report::{self, Exit};
use super::show::line;
use super::signal::Stop;
use crate::error::Result;
use crate::job::bounds;
use crate::job::promote::{Promotion, Status, Which};
use crate::job::state::StateDir;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The version that is to be live
    #[arg(value_name = "PIPELINE.sql")]
    pub pipeline: PathBuf,
    /// The job that made it [default: the newest generation of this SQL]
    #[arg(value_name = "JOB")]
    pub job: Option<String>,
    /// The generation, by its number
    #[arg(long, value_name = "N", conflicts_with = "job")]
    pub generation: Option<u32>,
}

/// How often it is said again for what it waits.
const SAY_EVERY: Duration = Duration::from_secs(10);

pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    let stop = Stop::on_signal()?;
    let (mut site, compiled) = pipeline::open(context, &args.pipeline)?;
    let topology = &compiled.topology;
    let which = match (&args.job, args.generation) {
        (Some(job), _) => Which::Job(job.clone()),
        (None, Some(generation)) => Which::Generation(generation),
        (None, None) => Which::Newest,
    };
    // Nothing of the candidate's state is used before its directory is locked.
    let found = Promotion::open(&site, topology, &which, "00000000")?;
    let (job, generation) = (found.job().to_string(), found.generation());
    let dir = state_dir(context, &topology.pipeline, &job);
    let state = StateDir::lock(&dir)?;
    site.settings.state_dir = Some(dir);
    let mut promotion = Promotion::open(&site, topology, &Which::Generation(generation), state.instance())?;
    match drive(&mut promotion, &stop) {
        Ok(true) => {
            line(&format!(
                "pipeline \"{}\": generation {generation} is live: \"tidemill run\" of this SQL goes on",
                topology.pipeline
            ));
            Ok(Exit::Done)
        }
        Ok(false) => {
            line("interrupted: repeat the command to go on, or give it up with \"tidemill jobs cancel\"");
            Ok(Exit::Failed)
        }
        Err(error) => {
            report::error(context.settings.typed.log.format, Some(&topology.pipeline), &error);
            Ok(Exit::Failed)
        }
    }
}

/// Steps until the candidate is live, and says what happens. `false`: asked to stop before.
pub(super) fn drive(promotion: &mut Promotion, stop: &Stop) -> Result<bool> {
    let mut display: Option<Display> = None;
    let mut said: Option<(String, Instant)> = None;
    loop {
        if stop.requested() {
            promotion.stop()?;
            return Ok(false);
        }
        let status = promotion.step(Duration::from_millis(100))?;
        if status != Status::Working
            && let Some(display) = display.take()
        {
            display.end();
        }
        match status {
            Status::Live => return Ok(true),
            Status::Working => {
                let Some((planned, progress)) = promotion.working() else { continue };
                if display.is_none() {
                    eprintln!("the candidate goes to {} in its shadow", bounds::show(&planned.to));
                }
                let new = || Display::new(&planned.from, &planned.to, planned.records);
                display.get_or_insert_with(new).show(&progress);
            }
            Status::Recorded(what) => eprintln!("{what}"),
            Status::Waiting(what) => {
                if said
                    .as_ref()
                    .is_none_or(|(known, at)| *known != what && at.elapsed() > Duration::from_secs(1) || at.elapsed() > SAY_EVERY)
                {
                    eprintln!("waiting: {what}");
                    said = Some((what, Instant::now()));
                }
            }
        }
    }
}
