//! Rows and columns that a file has in another order than a folder.
//!
//! Rows are whole blocks, so putting them back is a copy that needs no decoding.

use ferrotune_kernels::dtype::DType;
use ferrotune_kernels::quant::{Bytes, Weight};

use super::file::{TensorType, as_weight};
use super::metadata::Metadata;
use crate::Result;

/// Where a row or column of a folder's tensor stands in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// The two halves of each head of so many rows in turn (0, h, 1, h + 1, ...), as Meta's rotation reads them.
    Interleaved { head: usize },
    /// Behind `skip` rows, value heads of `width` rows by their place within the key head's group first and by the group
    /// second; a folder has them group by group.
    Tiled { skip: usize, groups: usize, of_group: usize, width: usize },
}

impl Order {
    fn from(self, at: usize) -> usize {
        match self {
            Order::Interleaved { head } => {
                let (start, within) = (at / head * head, at % head);
                start + within % (head / 2) * 2 + within / (head / 2)
            }
            Order::Tiled { skip, .. } if at < skip => at,
            Order::Tiled { skip, groups, of_group, width } => {
                let (head, within) = ((at - skip) / width, (at - skip) % width);
                skip + (head % of_group * groups + head / of_group) * width + within
            }
        }
    }

    /// The rows of bytes that are `rows` rows.
    pub(super) fn rows(self, bytes: &Bytes, rows: usize) -> Bytes {
        let bytes = bytes.as_slice();
        let size = bytes.len() / rows;
        let mut out = Vec::with_capacity(bytes.len());
        for row in 0..rows {
            let from = self.from(row);
            out.extend_from_slice(&bytes[from * size..(from + 1) * size]);
        }
        Bytes::owned(out)
    }

    /// The matrix with its columns put back. Blocks that heads cut apart cannot be moved: their values are, as f32.
    pub(super) fn columns(self, kind: TensorType, rows: usize, cols: usize, bytes: Bytes) -> Result<Weight> {
        let Order::Tiled { width, .. } = self else { return as_weight(kind, rows, cols, bytes) };
        match kind.bytes_of(width) {
            Some(size) => {
                let (mut out, heads) = (Vec::with_capacity(bytes.as_slice().len()), cols / width);
                for row in bytes.as_slice().chunks_exact(heads * size) {
                    for head in 0..heads {
                        let from = self.from(head * width) / width;
                        out.extend_from_slice(&row[from * size..(from + 1) * size]);
                    }
                }
                as_weight(kind, rows, cols, Bytes::owned(out))
            }
            None => {
                let stored = as_weight(kind, rows, cols, bytes)?;
                let (mut values, mut out) = (vec![0.0f32; cols], Vec::with_capacity(rows * cols * 4));
                for row in 0..rows {
                    stored.decode(row, 0, &mut values);
                    out.extend((0..cols).flat_map(|col| values[self.from(col)].to_le_bytes()));
                }
                Ok(Weight::dense(rows, cols, DType::F32, Bytes::owned(out))?)
            }
        }
    }
}

/// The heads of a gated delta rule whose value heads a file has in an order of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeltaHeads {
    groups: usize,
    of_group: usize,
    key_width: usize,
    value_width: usize,
}

impl DeltaHeads {
    /// As the metadata state them; nothing where each key head has one value head.
    pub(super) fn read(meta: &Metadata<'_>) -> Result<Option<Self>> {
        let need = |key| meta.need(key).map(|n| n as usize);
        let (groups, heads) = (need("ssm.group_count")?, need("ssm.time_step_rank")?);
        let (inner, key_width) = (need("ssm.inner_size")?, need("ssm.state_size")?);
        if groups == 0 || !heads.is_multiple_of(groups) || heads == 0 || !inner.is_multiple_of(heads) {
            let problem = format!("{heads} value heads, {groups} key heads, {inner} values: no whole parts");
            return Err(meta.bad("ssm.time_step_rank", problem));
        }
        let of_group = heads / groups;
        Ok((of_group > 1).then_some(DeltaHeads { groups, of_group, key_width, value_width: inner / heads }))
    }

    fn tiled(self, skip: usize, width: usize) -> Order {
        Order::Tiled { skip, groups: self.groups, of_group: self.of_group, width }
    }

    /// The order of the rows of a tensor of `linear_attn`.
    pub(super) fn rows(self, tensor: &str) -> Option<Order> {
        Some(match tensor {
            "in_proj_qkv.weight" | "conv1d.weight" => {
                self.tiled(2 * self.groups.saturating_mul(self.key_width), self.value_width)
            }
            "in_proj_z.weight" => self.tiled(0, self.value_width),
            "in_proj_a.weight" | "in_proj_b.weight" | "A_log" | "dt_bias" => self.tiled(0, 1),
            _ => return None,
        })
    }

    /// The order of the columns of a tensor of `linear_attn`.
    pub(super) fn columns(self, tensor: &str) -> Option<Order> {
        (tensor == "out_proj.weight").then(|| self.tiled(0, self.value_width))
    }

    /// Rows or columns of a tensor in this order.
    pub(super) fn count(self, order: Order) -> usize {
        match order {
            Order::Tiled { skip, groups, of_group, width } => {
                skip.saturating_add(groups.saturating_mul(of_group).saturating_mul(width))
            }
            Order::Interleaved { .. } => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_orders_are_permutations() {
        let tiled = Order::Tiled { skip: 3, groups: 2, of_group: 3, width: 2 };
        for (order, rows) in [(Order::Interleaved { head: 8 }, 24), (tiled, 15)] {
            let mut all: Vec<usize> = (0..rows).map(|row| order.from(row)).collect();
            all.sort_unstable();
            assert_eq!(all, Vec::from_iter(0..rows), "{order:?}");
        }
        // The second value head of the first group is the third that the file has: the two groups' first are before it.
        assert_eq!((tiled.from(2), tiled.from(3), tiled.from(5)), (2, 3, 7));
    }

    #[test]
    fn columns_are_the_same_moved_as_blocks_or_as_values() {
        let order = Order::Tiled { skip: 0, groups: 2, of_group: 2, width: 4 };
        let values: Vec<f32> = (0..32).map(|i| i as f32).collect();
        let bytes = Bytes::owned(values.iter().flat_map(|v| v.to_le_bytes()).collect());
        let moved = order.columns(TensorType::Dense(DType::F32), 2, 16, bytes).unwrap();
        let mut found = vec![0.0; 32];
        moved.decode_flat(0, &mut found);
        let expected: Vec<f32> = (0..32).map(|i| (i / 16 * 16 + order.from(i % 16)) as f32).collect();
        assert_eq!(found, expected);
    }
}
