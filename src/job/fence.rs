//! What a worker asks before it commits: does the control topic still say what it was started for?

use crate::error::Result;
use crate::job::Site;
use crate::job::control::{Control, JobState, PromotionRecord, Stance};
use crate::job::ledger::Ledger;
use crate::task::names::Names;
use crate::task::permit::Permit;

pub(super) struct Fence {
    ledger: Ledger,
    allows: Box<dyn Fn(&Control) -> bool + Send + Sync>,
}

impl Fence {
    fn new(site: &Site, names: &Names, allows: impl Fn(&Control) -> bool + Send + Sync + 'static) -> Fence {
        Fence { ledger: Ledger::new(site.log.clone(), names.clone()), allows: Box::new(allows) }
    }

    /// While its generation is live.
    pub fn live(site: &Site, names: &Names) -> Fence {
        let generation = names.generation;
        Fence::new(site, names, move |control| control.stance(generation) == Stance::Live)
    }

    /// While its generation publishes what it has shuffled, for this promotion.
    pub fn drain(site: &Site, names: &Names, promotion: PromotionRecord) -> Fence {
        let generation = names.generation;
        Fence::new(site, names, move |control| control.stance(generation) == Stance::Drain(promotion.clone()))
    }

    /// While its job runs, and its generation does not write the live sinks.
    pub fn job(site: &Site, names: &Names, job: &str) -> Fence {
        let (generation, job) = (names.generation, job.to_string());
        Fence::new(site, names, move |control| {
            control.live != Some(generation) && control.jobs.get(&job).is_some_and(|job| job.state == JobState::Running)
        })
    }
}

impl Permit for Fence {
    fn granted(&self) -> Result<bool> {
        self.ledger.look(|control| (self.allows)(control))
    }
}
