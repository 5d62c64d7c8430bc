//! The embedding of tokens with what an adapter does to it: a trained copy, a branch, or some trained rows.

use ferrotune_kernels::Tensor;
use ferrotune_kernels::ops::{embedding, lora_embedding, token_rows};

use super::params::{Gradients, ParamId};
use super::parts::Base;
use super::pass::Pass;
use crate::Result;

impl<'a> Pass<'a> {
    /// Rows `[T, D]` of the table, all multiplied by `scale`.
    pub(crate) fn embed(&self, table: &'a Base, ids: &[u32], scale: f32) -> Result<Tensor> {
        let matrix = match self.table_id(table) {
            Some(id) => ferrotune_kernels::ops::linear::Matrix::Trained(self.params.get(id)),
            None => self.matrix(table),
        };
        let mut y = embedding::forward(self.dev, matrix, ids, scale)?;
        // The few rows of a table that lies in a file.
        self.table_id(table).into_iter().for_each(|id| self.params.get(id).release());
        if let Some(branch) = self.embedding_branch(scale) {
            lora_embedding::forward(self.dev, branch, ids, &mut y)?;
        }
        if let Some(tokens) = self.adapted.and_then(|a| a.tokens.as_ref()) {
            let rows = token_rows::Rows { ids: &tokens.ids, rows: self.params.get(tokens.rows) };
            token_rows::forward(self.dev, rows, ids, scale, &mut y)?;
        }
        Ok(y)
    }

    /// Adds the gradients of what is trained here, for the gradient `dy` of the rows.
    pub(crate) fn embed_backward(
        &self,
        table: &Base,
        ids: &[u32],
        scale: f32,
        dy: &Tensor,
        grads: &mut Gradients,
    ) -> Result<()> {
        if let Some(id) = self.table_id(table)
            && let Some(mut sum) = grads.take(id)
        {
            let result = embedding::backward(self.dev, dy, ids, scale, &mut sum);
            grads.put(id, sum);
            result?;
        }
        let Some(adapted) = self.adapted else { return Ok(()) };
        if let (Some(of), Some(branch)) = (adapted.embedding, self.embedding_branch(scale))
            && let (Some(mut da), Some(mut db)) = (grads.take(of.a), grads.take(of.b))
        {
            let result = lora_embedding::backward(self.dev, branch, ids, dy, &mut da, &mut db);
            grads.put(of.a, da);
            grads.put(of.b, db);
            result?;
        }
        if let Some(tokens) = &adapted.tokens
            && let Some(mut sum) = grads.take(tokens.rows)
        {
            let result = token_rows::backward(self.dev, &tokens.ids, ids, scale, dy, &mut sum);
            grads.put(tokens.rows, sum);
            result?;
        }
        Ok(())
    }

    /// Whether anything of the embedding is trained.
    pub(crate) fn trains_embedding(&self, table: &Base) -> bool {
        self.table_id(table).is_some()
            || self.adapted.is_some_and(|a| a.embedding.is_some() || a.tokens.is_some())
    }

    /// The parameter that is the table.
    fn table_id(&self, table: &Base) -> Option<ParamId> {
        match table {
            Base::Trained(id) => Some(*id),
            Base::Frozen(_) => self.adapted?.table,
        }
    }

    fn embedding_branch(&self, scale: f32) -> Option<lora_embedding::Branch<'a>> {
        let ids = self.adapted?.embedding?;
        let (a, b) = (self.params.get(ids.a), self.params.get(ids.b));
        Some(lora_embedding::Branch { a, b, scale: ids.scale * scale })
    }
}
