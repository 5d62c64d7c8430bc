//! Rows from a source of one's own: here a table of separated values, read line by line. Nothing of it is in memory but the
//! line at hand.
//!
//!     cargo run --release --example row_source -- MODEL TABLE.csv
#![allow(clippy::print_stdout)]

use std::fs::File;
use std::io::{BufRead, BufReader, Lines};

use ferrotune::data::rows::{RawRow, RowSource};
use ferrotune::run_config::MethodKind;
use ferrotune::{BaseModel, Device, Error, Result, RunConfig, Trainer};
use serde_json::{Map, Value};

/// Lines of `question;answer`.
struct Table {
    lines: Lines<BufReader<File>>,
    line: usize,
}

impl RowSource for Table {
    fn next_row(&mut self) -> Result<Option<RawRow>> {
        let Some(line) = self.lines.next() else { return Ok(None) };
        let line = line.map_err(|e| Error::io("the table", e))?;
        self.line += 1;
        // A row that cannot be used is reported with its line, together with all others.
        let fields = match line.split_once(';') {
            Some((question, answer)) => Ok(Map::from_iter([
                ("prompt".to_string(), Value::from(question)),
                ("completion".to_string(), Value::from(answer)),
            ])),
            None => Err((format!("found `{line}`, expected question;answer"), None)),
        };
        Ok(Some(RawRow::new(self.line, fields)))
    }
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (model, table) = (args.next().unwrap_or_default(), args.next().unwrap_or_default());
    let base = BaseModel::open(model.as_ref(), &model)?;
    let mut config = RunConfig::default();
    (config.method.kind, config.train.epochs) = (MethodKind::Qlora, 2);
    let dev = Device::cpu(None, None)?;

    let file = File::open(&table).map_err(|e| Error::io(&table, e))?;
    let mut rows = Table { lines: BufReader::new(file).lines(), line: 0 };
    let prepared = base.prepare_rows(&dev.threads(), &config, &table, &mut rows)?;
    println!(
        "{} rows, {} of their tokens are labels",
        prepared.train.len(),
        prepared.train_report.label_tokens
    );

    let mut trainer = Trainer::new(&config, &base, &dev, prepared, &mut |_| {})?;
    let outcome = trainer.run(None, &Default::default(), &mut |_| {})?;
    println!("loss {:.3} in the first step, {:.3} in the last", outcome.first_loss, outcome.loss);
    Ok(())
}
