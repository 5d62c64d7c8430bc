//! Whether training changed anything: a run at a rate of zero ends like any other, and has learned nothing.

use crate::model::Params;

/// Values of a tensor that are looked at. The optimizer changes all values of a tensor that has a gradient.
const SAMPLE: usize = 4096;

/// The first values of every parameter at one time.
#[derive(Debug)]
pub(super) struct Progress {
    before: Vec<f32>,
}

impl Progress {
    /// Notes the parameters as they are now.
    pub(super) fn begin(params: &Params) -> Self {
        Progress { before: sample(params).collect() }
    }

    /// Whether any value that was noted is another now.
    pub(super) fn is_made(&self, params: &Params) -> bool {
        // Bits, as a parameter that became NaN has changed too.
        !self.before.iter().map(|v| v.to_bits()).eq(sample(params).map(f32::to_bits))
    }
}

fn sample(params: &Params) -> impl Iterator<Item = f32> + '_ {
    params.iter().flat_map(|(_, tensor)| tensor.host_f32().iter().take(SAMPLE).copied())
}
