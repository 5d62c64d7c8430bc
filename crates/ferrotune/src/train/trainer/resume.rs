//! Checkpoints of a run, and going on from one: only with the settings, the data and the base of before, or with the user's
//! consent.

use super::super::outputs;
use super::super::record::Event;
use super::super::session::Trainable;
use super::Trainer;
use crate::formats::Change;
use crate::results::manifest;
use crate::results::run_folder::{ResumePoint, RunFolder};
use crate::results::train_state;
use crate::results::train_state::{Changed, TrainState};
use crate::run_config::{Difference, Settings, differences};
use crate::{Error, Result};

impl Trainer<'_> {
    /// Settings that were changed when the run was resumed, now or before.
    pub fn changes(&self) -> &[Changed] {
        &self.changes
    }

    /// Goes to a checkpoint of the folder; without one the run starts from its beginning. Rows, base and settings must be
    /// those of before, unless `accept` is set: then what differs is recorded.
    pub fn resume(
        &mut self,
        folder: &RunFolder,
        point: Option<ResumePoint>,
        accept: bool,
        on_event: &mut dyn FnMut(&Event),
    ) -> Result<()> {
        let Some(ResumePoint { path, state, damaged }) = point else { return folder.rewind(None) };
        let found = self.differences(&state);
        if !found.is_empty() && !accept {
            let list: String = found.iter().map(|d| format!("\n  {d}")).collect();
            return Err(Error::file(
                &path,
                format!("the run differs from the one that wrote this checkpoint:{list}"),
            )
            .with_hint(
                "give what was given before, begin anew with --restart, or go on nevertheless with \
                     --accept-changes, which the receipt then says",
            ));
        }
        let mut warn = |text| on_event(&Event::Warning { text });
        if state.isa != self.summary.isa {
            warn(format!(
                "the run was computed with {} and goes on with {}: its numbers are not those of one run to the bit",
                state.isa, self.summary.isa
            ));
        }
        train_state::load(
            &path,
            &state,
            self.session.dev,
            self.session.trainable.params_mut(),
            &mut *self.session.optimizer,
        )?;
        self.loader.restore(state.loader)?;
        self.changes = state.changes;
        if !found.is_empty() {
            warn(format!("changed since the checkpoint, as accepted: {}", list(&found)));
            self.changes.push(Changed { after_step: state.step, differences: found });
        }
        for (path, problem) in &damaged {
            warn(format!("{} is damaged ({problem}) and is passed over", path.display()));
        }
        folder.set_aside(&damaged)?;
        folder.rewind(Some(state.step))?;
        let lost = folder.steps_without_metrics(state.step);
        if lost > 0 {
            warn(format!("metrics.jsonl has no line of {lost} of the {} steps done", state.step));
        }
        on_event(&Event::Resumed { path: path.display().to_string(), step: state.step });
        Ok(())
    }

    /// What decides the numbers and is not as it was when a checkpoint was written.
    fn differences(&self, state: &TrainState) -> Vec<Difference> {
        let mut found = differences(&state.settings, &self.settings());
        for (what, before, now) in
            [("rows", &state.data, &self.fingerprints.0), ("base model", &state.base, &self.fingerprints.1)]
        {
            if before != now {
                let short = |hash: &String| hash.chars().take(12).collect::<String>().into();
                let key = format!("the {what} changed");
                found.push(Difference { key, before: short(before), now: short(now) });
            }
        }
        found
    }

    /// The settings that decide the run's numbers, what the machine decides included.
    fn settings(&self) -> Settings {
        let mut settings = self.config.settings();
        settings.insert("train.precision".into(), self.summary.precision.into());
        settings
    }

    /// Writes a checkpoint of the present state.
    pub(super) fn checkpoint(
        &mut self,
        folder: Option<&RunFolder>,
        on_event: &mut dyn FnMut(&Event),
    ) -> Result<()> {
        self.check_base(on_event)?;
        let Some(folder) = folder else { return Ok(()) };
        let state = TrainState {
            format: manifest::FORMAT,
            step: self.loader.state().step,
            loader: self.loader.state(),
            clock: self.base.clock().unix_seconds,
            data: self.fingerprints.0.clone(),
            base: self.fingerprints.1.clone(),
            isa: self.summary.isa.clone(),
            settings: self.settings(),
            changes: self.changes.clone(),
        };
        let (threads, beside) = (self.session.dev.threads(), self.beside());
        let path = folder.checkpoint(state.step, self.config.output.keep_checkpoints, |path| {
            let digests = train_state::save(
                &threads,
                path,
                &state,
                self.session.trainable.params(),
                &*self.session.optimizer,
            )?;
            if let Trainable::Adapter(adapter) = &self.session.trainable {
                outputs::write_adapter(path, adapter, &self.session.model, self.base, &beside, &self.ends)?;
            }
            Ok(digests)
        })?;
        on_event(&Event::Checkpoint { path: path.display().to_string() });
        Ok(())
    }

    /// A frozen base that is written over while it is mapped is another base from then on.
    fn check_base(&mut self, on_event: &mut dyn FnMut(&Event)) -> Result<()> {
        if self.base_replaced {
            return Ok(());
        }
        let frozen = matches!(self.session.trainable, Trainable::Adapter(_));
        match self.base.checkpoint.changed() {
            Some(Change::CutShort(path)) if frozen => {
                Err(Error::file(path, "the base model was cut short while the run read it").with_hint(
                    "model files must not change while they are in use; put the model back and go on from the last \
                     checkpoint with --resume",
                ))
            }
            Some(Change::Rewritten(path)) if frozen => {
                Err(Error::file(path, "the base model was written over while the run read it").with_hint(
                    "what was trained since the last checkpoint may be wrong and was not kept; put the model back and go \
                     on with --resume",
                ))
            }
            Some(Change::CutShort(path) | Change::Rewritten(path) | Change::Replaced(path)) => {
                self.base_replaced = true;
                let text = format!(
                    "{} is not the file any more that the run began with; the run goes on with the weights of then",
                    path.display()
                );
                on_event(&Event::Warning { text });
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// Differences in one line.
fn list(all: &[Difference]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
