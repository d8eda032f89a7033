//! `tidemill explain`: the topology that a pipeline becomes.

use std::path::PathBuf;

use super::context::Context;
use super::pipeline;
use super::report::Exit;
use super::show::Listing;
use crate::error::Result;
use crate::topology;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(value_name = "PIPELINE.sql")]
    pub pipeline: PathBuf,
    /// No network: contracts come from --contracts, or from pipeline.lock
    #[arg(long)]
    pub offline: bool,
    /// A folder of <subject>.avsc files, for --offline
    #[arg(long, value_name = "DIR", requires = "offline")]
    pub contracts: Option<PathBuf>,
    #[command(flatten)]
    pub listing: Listing,
}

pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    let topology = match args.offline {
        true => pipeline::compile_offline(context, &args.pipeline, args.contracts.as_deref())?,
        false => {
            // A file that can't be read is said before a broker is waited for.
            pipeline::read(&args.pipeline)?;
            let partitions = context.log().and_then(|log| pipeline::partitions(&args.pipeline, log.as_ref()));
            let partitions = partitions.unwrap_or_else(|error| {
                eprintln!("warning: the topics' numbers of partitions are not known, and taken for equal: {}", error.message);
                Default::default()
            });
            pipeline::compile(context, &args.pipeline, context.registry()?.as_ref(), &partitions)?.topology
        }
    };
    args.listing.value(&topology::explain_json(&topology), || topology::explain(&topology));
    Ok(Exit::Done)
}
