//! What the driver says: the table, and how it all ended.

use std::sync::PoisonError;

use super::Driver;
use crate::model::Result;
use crate::play::defaults::Role;
use crate::play::lifecycle::Seen;
use crate::play::status::{PodLines, Screen};
use crate::play::view;

impl Driver {
    pub(super) fn is_up(&self, seen: &[Seen]) -> bool {
        let containers = self.ground.plan.containers.iter();
        let mut apps = containers
            .zip(seen)
            .filter(|(container, _)| container.role == Role::App);
        apps.all(|(_, seen)| {
            let well = matches!(seen, Seen::Running { started: true, .. });
            well || matches!(seen, Seen::Exited { exit, .. } if exit.code == 0)
        })
    }

    /// The first container that ended badly.
    pub(super) fn why(&self, seen: &[Seen]) -> String {
        let containers = self.ground.plan.containers.iter();
        let failed = containers
            .zip(seen)
            .find_map(|(container, seen)| match seen {
                Seen::Exited { exit, .. } if exit.code != 0 => Some((container, exit)),
                _ => None,
            });
        match failed {
            Some((container, exit)) => {
                let name = &container.spec.name;
                let text = format!("container {name}: {}, exit code {}", exit.reason, exit.code);
                format!("{text} {}", exit.message).trim_end().to_owned()
            }
            None => "a container failed".into(),
        }
    }

    pub(super) fn doing(&mut self, index: usize, what: &'static str) -> Result<()> {
        self.notes.doing.insert(index, what);
        self.show()
    }

    pub(super) fn show(&self) -> Result<()> {
        let plan = &self.ground.plan;
        let addresses = self.sandbox.as_ref().map(|known| known.addresses.clone());
        let lines = match &self.last {
            Some((seen, verdict)) => {
                let addresses = addresses.unwrap_or_default();
                view::lines(plan, &addresses, seen, verdict, &self.notes)
            }
            None => PodLines {
                title: plan.title(),
                state: "Pending".into(),
                reason: self.notes.pod.clone(),
                ..Default::default()
            },
        };
        let now = self.setting.clock.now();
        let mut screen = self.screen();
        screen.update(self.setting.index, lines, now)
    }

    pub(super) fn say(&self, text: &str) -> Result<()> {
        self.screen().say(text)
    }

    fn screen(&self) -> std::sync::MutexGuard<'_, Screen> {
        let screen = &self.setting.screen;
        screen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
