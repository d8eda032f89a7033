//! SIGTERM and SIGINT: the first asks workers to stop, the second ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// Whether the process was asked to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Takes over the process's signals.
    pub fn on_signal() -> Result<Stop> {
        let stop = Stop::default();
        let asked = stop.clone();
        let failed = |e: std::io::Error| Error::failed(format!("signals can't be listened for: {e}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (mut interrupt, mut terminate) = {
            use tokio::signal::unix::{SignalKind, signal};
            let _inside = runtime.enter();
            (signal(SignalKind::interrupt()).map_err(failed)?, signal(SignalKind::terminate()).map_err(failed)?)
        };
        let listen = move || {
            runtime.block_on(async {
                loop {
                    let name = tokio::select! {
                        _ = interrupt.recv() => "SIGINT",
                        _ = terminate.recv() => "SIGTERM",
                    };
                    if asked.0.swap(true, Ordering::SeqCst) {
                        eprintln!("{name} again: ending at once; the open transaction is aborted by the broker");
                        std::process::exit(1);
                    }
                    tracing::info!("{name}: committing and leaving; a second signal ends at once");
                }
            });
        };
        std::thread::Builder::new().name("signals".into()).spawn(listen).map_err(failed)?;
        Ok(stop)
    }

    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
