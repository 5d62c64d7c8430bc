//! Clipping by the global norm, as `torch.nn.utils.clip_grad_norm_`.

/// The factor on all gradients: `max_norm / (norm + 1e-6)`, at most 1; 1 if `max_norm` is 0 (off).
pub fn factor(norm: f64, max_norm: f64) -> f32 {
    if max_norm <= 0.0 {
        return 1.0;
    }
    (max_norm / (norm + 1e-6)).min(1.0) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_norms_pass_and_large_ones_are_brought_to_the_limit() {
        assert_eq!(factor(0.5, 1.0), 1.0);
        assert!((factor(4.0, 1.0) - 0.25).abs() < 1e-6);
        assert_eq!(factor(1e9, 0.0), 1.0);
    }
}
