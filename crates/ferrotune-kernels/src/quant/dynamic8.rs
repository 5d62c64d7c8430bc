//! Blockwise 8 bits: an index in a dynamic map times the block's largest magnitude, as bitsandbytes stores optimizer
//! states and the scales of doubly quantized weights.
//!
//! A map has seven decades, each with twice the values of the one below (Dettmers et al. 2021): dense near zero, with
//! three digits near one. The signed map serves first moments, the unsigned one second moments.

use std::sync::OnceLock;

/// A set of 256 values in `[-1, 1]` or `[0, 1]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DynamicMap {
    /// 127 values of each sign, zero, and one.
    Signed,
    /// 254 positive values, zero, and one.
    Unsigned,
}

/// Values of a block of an optimizer's state.
pub const BLOCK: usize = 256;

/// A tensor in blocks of [`BLOCK`] values.
#[derive(Debug, Clone, PartialEq)]
pub struct Blocks8 {
    /// What codes stand for.
    pub map: DynamicMap,
    /// A code for each value.
    pub codes: Vec<u8>,
    /// The largest magnitude of each block.
    pub scales: Vec<f32>,
}

impl Blocks8 {
    /// `len` zeros.
    pub fn zeros(map: DynamicMap, len: usize) -> Self {
        Blocks8 { map, codes: vec![0; len], scales: vec![0.0; len.div_ceil(BLOCK)] }
    }
}

/// Half of the steps into which the reference divides the range from -1 to 1.
const HALF_STEPS: f32 = 65535.0 / 2.0;

impl DynamicMap {
    /// The values in order.
    pub fn values(self) -> &'static [f32; 256] {
        static MAPS: [OnceLock<[f32; 256]>; 2] = [OnceLock::new(), OnceLock::new()];
        MAPS[self as usize].get_or_init(|| self.make())
    }

    fn make(self) -> [f32; 256] {
        let mut values = vec![0.0f32, 1.0];
        for decade in 0..7 {
            let intervals = match self {
                DynamicMap::Signed => 1usize << decade,
                DynamicMap::Unsigned => 2usize << decade,
            };
            let step = (1.0f32 - 0.1) / intervals as f32;
            // The reference spaces values from both ends to the middle, with fused multiply-adds.
            let edge = |i: usize| match i < intervals.div_ceil(2) {
                true => step.mul_add(i as f32, 0.1),
                false => (-step).mul_add((intervals - i) as f32, 1.0),
            };
            let scale = 10f64.powi(decade - 6) as f32;
            for i in 0..intervals {
                let value = scale * ((edge(i) + edge(i + 1)) / 2.0);
                values.push(value);
                if self == DynamicMap::Signed {
                    values.push(-value);
                }
            }
        }
        values.sort_by(f32::total_cmp);
        let mut map = [0.0; 256];
        map.copy_from_slice(&values);
        map
    }

    /// Code of each of 65536 even steps from -1 to 1.
    ///
    /// The reference's CPU path rounds to these steps before it looks for the nearest value of the map; its GPU path
    /// does not, so the two differ where a value is almost on a midpoint. We follow the CPU.
    fn codes(self) -> &'static [u8] {
        static TABLES: [OnceLock<Vec<u8>>; 2] = [OnceLock::new(), OnceLock::new()];
        TABLES[self as usize].get_or_init(|| {
            let bounds: Vec<f32> = self.values().windows(2).map(|w| (w[0] + w[1]) / 2.0).collect();
            let value = |step: u32| step as f32 * (2.0 / 65535.0) - 1.0;
            (0..=65535).map(|step| bounds.partition_point(|&b| b < value(step)) as u8).collect()
        })
    }

    /// Writes the codes of one block and gives its scale; a block of zeros has scale 0 and codes 0.
    pub fn encode(self, values: &[f32], codes: &mut [u8]) -> f32 {
        let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        if largest == 0.0 {
            codes.fill(0);
            return largest;
        }
        let (factor, table) = (1.0 / largest, self.codes());
        for (code, v) in codes.iter_mut().zip(values) {
            *code = table[(((v * factor + 1.0) * HALF_STEPS + 0.5) as usize).min(table.len() - 1)];
        }
        largest
    }

    /// The values of the codes of one block.
    pub fn decode(self, codes: &[u8], scale: f32, out: &mut [f32]) {
        let map = self.values();
        out.iter_mut().zip(codes).for_each(|(o, code)| *o = map[*code as usize] * scale);
    }
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    #[test]
    fn golden_maps_codes_and_values_are_exact() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/golden/quant/eight_bit/");
        let text = std::fs::read_to_string(format!("{golden}case.json")).unwrap();
        let about: serde_json::Value = serde_json::from_str(&text).unwrap();
        let file = std::fs::read(format!("{golden}eight_bit.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&file).unwrap();
        let bytes = |name: &str| file.tensor(name).unwrap().data().to_vec();
        let floats = |name: &str| -> Vec<f32> {
            bytes(name).chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        };
        for (map, name) in
            [(DynamicMap::Signed, "dynamic_signed"), (DynamicMap::Unsigned, "dynamic_unsigned")]
        {
            assert_eq!(map.values()[..], floats(&format!("map/{name}")), "{name}");
        }
        let cases = about["cases"].as_object().unwrap();
        assert_eq!(cases.len(), 6);
        for (name, case) in cases {
            let map = if case["map"] == "dynamic_signed" { DynamicMap::Signed } else { DynamicMap::Unsigned };
            let block = case["blocksize"].as_u64().unwrap() as usize;
            let source = floats(&format!("{name}/source"));
            let (mut codes, mut values) = (vec![0; source.len()], vec![0.0; source.len()]);
            let mut absmax = Vec::new();
            let blocks = source.chunks(block).zip(codes.chunks_mut(block)).zip(values.chunks_mut(block));
            for ((source, codes), values) in blocks {
                absmax.push(map.encode(source, codes));
                map.decode(codes, absmax[absmax.len() - 1], values);
            }
            assert_eq!(codes, bytes(&format!("{name}/codes")), "{name}");
            assert_eq!(absmax, floats(&format!("{name}/absmax")), "{name}");
            assert_eq!(values, floats(&format!("{name}/dequant")), "{name}");
        }
    }
}
