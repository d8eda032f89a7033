//! The command line: one file per subcommand, all of one shape: `Args`, and `run(&Args, &Context) -> Result<Exit>`.
//!
//! Results go to stdout, progress, logs and errors to stderr. An error that a command returns was found before anything started;
//! what fails later the command reports itself and ends with [`Exit::Failed`].

mod backfill;
mod check;
mod context;
mod decode;
pub mod demo;
mod dlq;
mod explain;
mod jobs;
mod lag;
mod pipeline;
mod print;
mod progress;
mod promote;
mod range;
mod report;
mod reset;
mod restoring;
mod run;
mod sample;
mod schema;
mod show;
mod signal;
pub mod test;
mod topics;
mod txn;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use datafusion_expr::{AggregateUDF, ScalarUDF};

pub use context::{Context, Functions};
pub use report::Exit;
pub use show::{Format, Listing};

use crate::config::{LogFormat, Origins, Override, Settings};
use crate::error::Result;

/// The program, with your own functions if you have some: `tidemill::Cli::new().with_udf(..).run()`.
#[derive(Default)]
pub struct Cli {
    functions: Functions,
}

impl Cli {
    pub fn new() -> Cli {
        Cli::default()
    }

    /// A scalar function of yours, by its name in SQL.
    pub fn with_udf(mut self, function: ScalarUDF) -> Cli {
        self.functions.scalars.push(function);
        self
    }

    /// An aggregate function of yours, by its name in SQL.
    pub fn with_udaf(mut self, function: AggregateUDF) -> Cli {
        self.functions.aggregates.push(function);
        self
    }

    /// Runs what the process's arguments ask for.
    pub fn run(self) -> ExitCode {
        crate::store::memory::tune();
        self.run_with(std::env::args_os())
    }

    /// The same with arguments of the caller's, the program's name first.
    pub fn run_with(self, arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> ExitCode {
        let options = match Options::try_parse_from(arguments) {
            Ok(options) => options,
            Err(error) => {
                let _ = error.print();
                // Usage is refused before starting; `--help` and `--version` are done.
                return if error.use_stderr() { Exit::Refused.into() } else { Exit::Done.into() };
            }
        };
        // Until the settings are read, errors are written as the option says.
        let format = options.log_format.unwrap_or(LogFormat::Human);
        match self.execute(&options) {
            Ok(exit) => exit,
            Err((error, known)) => {
                report::error(known.unwrap_or(format), None, &error);
                Exit::before_start(&error).into()
            }
        }
    }

    fn execute(self, options: &Options) -> Result<ExitCode, (crate::error::Error, Option<LogFormat>)> {
        let settings = Settings::load(&options.origins()).map_err(|e| (e, None))?;
        let format = settings.typed.log.format;
        report::log_to_stderr(&settings, options.command.is_long_running(), options.log_level.is_some());
        let context = Context { settings, functions: self.functions };
        options.command.run(&context).map_err(|e| (e, Some(format)))
    }
}

/// One SQL pipeline over Kafka topics, live and in a backfill, exactly-once, the same table.
#[derive(Debug, Parser)]
#[command(name = "tidemill", version, max_term_width = 110)]
#[command(after_help = "Exit code: 0 done, 1 failed while running, 2 refused before starting, 3 differences found.")]
struct Options {
    /// Settings of the process (TOML) [default: $TIDEMILL_CONFIG, else ./tidemill.toml if there is one]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrides [kafka] brokers: host:port, separated by commas
    #[arg(long, global = true, value_name = "LIST")]
    brokers: Option<String>,
    /// Overrides [registry] url
    #[arg(long, global = true, value_name = "URL")]
    registry: Option<String>,
    /// Overrides [state] dir
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<String>,
    /// Overrides [log] format: how logs and errors are written to stderr
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Overrides [log] level (which "run" and "backfill" use; other commands log warnings only, unless this is given)
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
    #[command(subcommand)]
    command: Command,
}

impl Options {
    fn origins(&self) -> Origins {
        let over = |option, section, key, value: &Option<String>| {
            value.as_ref().map(|value| Override { option, section, key, value: value.clone() })
        };
        let format = self.log_format.map(|format| match format {
            LogFormat::Human => "human".to_string(),
            LogFormat::Json => "json".to_string(),
        });
        let overrides = [
            over("--brokers", "kafka", "brokers", &self.brokers),
            over("--registry", "registry", "url", &self.registry),
            over("--state-dir", "state", "dir", &self.state_dir),
            over("--log-format", "log", "format", &format),
            over("--log-level", "log", "level", &self.log_level),
        ];
        Origins {
            file: self.config.clone(),
            environment: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
            overrides: overrides.into_iter().flatten().collect(),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A small shop on the embedded log, live, killed and backfilled; no Kafka needed
    Demo(demo::Args),
    /// Your own cases in every mode; no Kafka needed
    Test(test::Args),
    /// Parse, plan, contracts, topics: everything that a run would refuse
    Check(check::Args),
    /// The topology: sources with pruned columns, stores, sinks, key and value schemas
    Explain(explain::Args),
    /// Run pipelines live
    Run(run::Args),
    /// Replay a range of the topics through the same code
    Backfill(backfill::Args),
    /// Make a generation live, at the offsets where the live one stops; also back to a former one
    Promote(promote::Args),
    /// Backfills and what became of them
    Jobs(jobs::Args),
    /// The schema registry, with compatibility explained field by field
    Schema(schema::Args),
    /// How far pipelines are behind: records and event time
    Lag(lag::Args),
    /// Dead letters
    Dlq(dlq::Args),
    /// Transactions: which are open since when; abort one that hangs
    Txn(txn::Args),
    /// Records of a topic: keys, values, headers, ids; internal topics too
    Print(print::Args),
    /// Forget a pipeline's positions and state, to start over (a dry run unless --yes)
    Reset(reset::Args),
    /// The topics that a pipeline needs, as commands that create them
    Topics(topics::Args),
    /// Sample data
    #[command(hide = true)]
    Sample(sample::Args),
}

impl Command {
    fn run(&self, context: &Context) -> Result<ExitCode> {
        match self {
            Command::Demo(args) => return demo::run(args, context),
            Command::Test(args) => return test::run(args, context),
            Command::Check(args) => check::run(args, context),
            Command::Explain(args) => explain::run(args, context),
            Command::Run(args) => run::run(args, context),
            Command::Backfill(args) => backfill::run(args, context),
            Command::Promote(args) => promote::run(args, context),
            Command::Jobs(args) => jobs::run(args, context),
            Command::Schema(args) => schema::run(args, context),
            Command::Lag(args) => lag::run(args, context),
            Command::Dlq(args) => dlq::run(args, context),
            Command::Txn(args) => txn::run(args, context),
            Command::Print(args) => print::run(args, context),
            Command::Reset(args) => reset::run(args, context),
            Command::Topics(args) => topics::run(args, context),
            Command::Sample(args) => sample::run(args, context),
        }
        .map(ExitCode::from)
    }

    /// Logs progress of its own.
    fn is_long_running(&self) -> bool {
        matches!(self, Command::Run(_) | Command::Backfill(_) | Command::Promote(_))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn options_do_not_clash() {
        super::Options::command().debug_assert();
    }
}
