//! Rows that a model was not trained on, as its trainer asks about them.

use std::path::Path;

use ferrotune::Result;
use ferrotune::base::BaseModel;
use ferrotune::data::train_row::TrainRow;
use ferrotune::generate::answers::Question;
use ferrotune::run_config::DataOptions;
use ferrotune_kernels::Threads;

/// The rows of a file or a folder, read as a run reads its own.
pub fn rows(threads: &Threads, base: &BaseModel, data: &DataOptions, path: &Path) -> Result<Vec<TrainRow>> {
    let (rows, _) = base.prepare_files(threads, &base.preparer(data), &[path], base.read_options(data))?;
    rows.to_vec()
}

/// What rows ask; those without a prompt or an answer ask nothing.
pub fn questions(
    rows: impl IntoIterator<Item = Result<TrainRow>>,
    base: &BaseModel,
) -> Result<Vec<Question>> {
    let questions = rows.into_iter().map(|row| Question::of(&row?, base)).collect::<Result<Vec<_>>>()?;
    Ok(questions.into_iter().flatten().collect())
}
