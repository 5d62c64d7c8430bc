//! Rules on several tensors of one shape, value by value in f32 as PEFT computes them.

use ferrotune_kernels::rng::Stream;

use super::{Combination, MajoritySign, Rule};

/// Combines `tensors` under a rule; `name` tells the random numbers of tensors apart.
pub(super) fn apply(
    rule: Rule,
    mut tensors: Vec<Vec<f32>>,
    weights: &[f32],
    how: &Combination,
    name: &str,
) -> Vec<f32> {
    let density = how.density.unwrap_or(1.0);
    for (i, tensor) in tensors.iter_mut().enumerate() {
        match rule {
            Rule::Sum => {}
            Rule::Ties | Rule::MagnitudePrune => keep_largest(tensor, density),
            Rule::DareTies | Rule::DareLinear => {
                drop_at_random(tensor, density, Stream::new(how.seed, &format!("dare.{i}.{name}"), 0));
            }
        }
    }
    match rule {
        Rule::Sum | Rule::MagnitudePrune | Rule::DareLinear => weighted_sum(&tensors, weights),
        Rule::Ties | Rule::DareTies => majority_mean(&tensors, weights, how.majority_sign),
    }
}

fn weighted_sum(tensors: &[Vec<f32>], weights: &[f32]) -> Vec<f32> {
    let mut sum = vec![0.0; tensors[0].len()];
    for (tensor, weight) in tensors.iter().zip(weights) {
        sum.iter_mut().zip(tensor).for_each(|(s, v)| *s += v * weight);
    }
    sum
}

/// The mean of the weighted values that have the sign of the majority; a zero has none.
///
/// The sign is elected before the weights, so a negative weight takes part with its adapter's own signs.
fn majority_mean(tensors: &[Vec<f32>], weights: &[f32], election: MajoritySign) -> Vec<f32> {
    let sign = |v: f32| if v == 0.0 { 0.0 } else { v.signum() };
    (0..tensors[0].len())
        .map(|i| {
            let votes = tensors.iter().map(|t| match election {
                MajoritySign::Total => t[i],
                MajoritySign::Frequency => sign(t[i]),
            });
            let majority = if votes.fold(0.0f32, |s, v| s + v) >= 0.0 { 1.0 } else { -1.0 };
            let (mut sum, mut count) = (0.0f32, 0.0f32);
            for (tensor, weight) in tensors.iter().zip(weights) {
                if sign(tensor[i]) == majority {
                    sum += tensor[i] * weight;
                    count += 1.0;
                }
            }
            sum / count.max(1.0)
        })
        .collect()
}

/// Keeps the share `density` of the values, the largest; of equal ones the first.
fn keep_largest(values: &mut [f32], density: f64) {
    if density >= 1.0 {
        return;
    }
    let kept = (density * values.len() as f64) as usize;
    if kept == 0 {
        return values.fill(0.0);
    }
    let mut magnitudes: Vec<f32> = values.iter().map(|v| v.abs()).collect();
    let least = *magnitudes.select_nth_unstable_by(kept - 1, |a, b| b.total_cmp(a)).1;
    let mut equal = kept - values.iter().filter(|v| v.abs() > least).count();
    for v in values.iter_mut().filter(|v| v.abs() <= least) {
        if v.abs() == least && equal > 0 {
            equal -= 1;
        } else {
            *v = 0.0;
        }
    }
}

/// Keeps each value with the probability `density`, divided by it so that the expected value stays.
fn drop_at_random(values: &mut [f32], density: f64, random: Stream) {
    if density >= 1.0 {
        return;
    }
    for (i, v) in values.iter_mut().enumerate() {
        *v = if (random.uniform(i as u64) as f64) < density { *v / density as f32 } else { 0.0 };
    }
}

#[cfg(test)]
mod tests {
    use super::super::Method;
    use super::*;

    fn how(method: &str, density: f64) -> Combination {
        Combination {
            method: Method::parse(method).unwrap(),
            weights: vec![],
            density: Some(density),
            majority_sign: MajoritySign::Total,
            rank: None,
            exact: false,
            seed: 7,
            base: None,
        }
    }

    #[test]
    fn signs_are_elected_and_only_their_values_averaged() {
        let tensors = vec![vec![3.0, -1.0, 0.0], vec![-1.0, -3.0, 0.0], vec![-1.0, 2.0, 0.0]];
        let weights = [1.0, 1.0, 2.0];
        let mut how = how("ties", 1.0);
        assert_eq!(apply(Rule::Ties, tensors.clone(), &weights, &how, "t"), [3.0, -2.0, 0.0]);
        how.majority_sign = MajoritySign::Frequency;
        assert_eq!(apply(Rule::Ties, tensors, &weights, &how, "t"), [-1.5, -2.0, 0.0]);
    }

    #[test]
    fn largest_values_stay_and_the_count_is_cut_off() {
        let mut v = vec![0.5, -4.0, 4.0, 1.0, -2.0];
        keep_largest(&mut v, 0.5);
        assert_eq!(v, [0.0, -4.0, 4.0, 0.0, 0.0]);
        let mut same = vec![1.0, -1.0, 3.0, 1.0];
        keep_largest(&mut same, 0.75);
        assert_eq!(same, [1.0, -1.0, 3.0, 0.0], "of equal ones the first");
        keep_largest(&mut v, 0.0);
        assert_eq!(v, [0.0; 5]);
    }

    #[test]
    fn what_is_dropped_depends_on_seed_name_and_adapter_alone() {
        let ones = || vec![vec![1.0f32; 4000], vec![1.0f32; 4000]];
        let run = |seed: u64, name: &str| {
            let how = Combination { seed, ..how("dare_linear", 0.25) };
            apply(Rule::DareLinear, ones(), &[1.0, 10.0], &how, name)
        };
        let first = run(7, "a");
        assert_eq!(first, run(7, "a"));
        assert_ne!(first, run(8, "a"));
        assert_ne!(first, run(7, "b"));
        let mean = first.iter().sum::<f32>() / 4000.0;
        assert!((mean - 11.0).abs() < 0.8, "{mean}");
        for v in [0.0, 4.0, 40.0, 44.0] {
            assert!(first.contains(&v), "adapters drop independently: {v} occurs");
        }
    }
}
