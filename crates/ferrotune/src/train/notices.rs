//! What a user should hear before a run, of the base and of the rows.

use std::path::Path;

use ferrotune_kernels::Threads;

use super::record::Event;
use crate::Result;
use crate::data::PreparedData;
use crate::data::tokenize::Names;
use crate::formats::Checkpoint;
use crate::load::BaseForm;
use crate::results::trained_beside::TrainedBeside;
use crate::run_config::RunConfig;

/// What a user should hear of the base before a run: what its own training code does and this one does not, and that an
/// adapter to begin with was trained beside other weights.
pub(crate) fn of_base(
    config: &RunConfig,
    base: &Checkpoint,
    form: BaseForm,
    threads: &Threads,
) -> Result<Vec<Event>> {
    let mut texts = Vec::new();
    for (key, share) in base.config().own_dropout() {
        let path = base.config().path.display();
        texts.push(format!("{path}: `{key}`: {share} is not applied in training; only method.dropout is"));
    }
    if let Some(folder) = &config.train.init_adapter
        && let Some(beside) = TrainedBeside::read(Path::new(folder))?
    {
        if beside.fingerprint != base.fingerprint(threads)? {
            texts.push(format!("the adapter in {folder} was trained beside {}, another base", beside.base));
        } else if beside.form() != form {
            texts.push(format!(
                "the adapter in {folder} was trained beside its base in another form than that of this run"
            ));
        }
    }
    Ok(texts.into_iter().map(|text| Event::Warning { text }).collect())
}

/// What a user should hear about the rows.
pub fn of_rows(prepared: &PreparedData) -> Vec<Event> {
    let mut events =
        vec![Event::Prepared { train: prepared.train_report.clone(), eval_rows: prepared.eval.len() }];
    let train = prepared.train_report.warnings();
    let held = prepared.eval_report.iter().flat_map(|report| report.warnings_in(Names::EVAL));
    let held = held.map(|text| format!("held-out rows: {text}"));
    events.extend(train.into_iter().chain(held).map(|text| Event::Warning { text }));
    events
}
