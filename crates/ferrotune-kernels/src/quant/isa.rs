//! Which instruction sets the decoders may use on this processor.

/// The instruction sets that the decoders are written or compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isa {
    Portable,
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// All that this processor has, slowest first.
    pub(crate) fn available() -> impl Iterator<Item = Isa> {
        [
            Some(Isa::Portable),
            #[cfg(target_arch = "aarch64")]
            Some(Isa::Neon),
            #[cfg(target_arch = "x86_64")]
            is_x86_feature_detected!("avx2").then_some(Isa::Avx2),
            #[cfg(target_arch = "x86_64")]
            (is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw"))
                .then_some(Isa::Avx512),
        ]
        .into_iter()
        .flatten()
    }

    pub(crate) fn best() -> Isa {
        Isa::available().last().unwrap_or(Isa::Portable)
    }
}
