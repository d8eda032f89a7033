//! The binary: what its arguments ask for.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidemill::Cli::new().run()
}
