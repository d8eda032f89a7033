//! Who is told what a worker decides and does: the simulation, which writes it down, and kills or delays the worker in between.

use crate::task::core::{Action, Event};

pub trait Observer: Send {
    /// Before the core takes it.
    fn event(&mut self, event: &Event);

    fn before(&mut self, action: &Action);

    /// Also when it failed.
    fn after(&mut self, action: &Action);
}
