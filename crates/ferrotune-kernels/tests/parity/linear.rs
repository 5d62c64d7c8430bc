//! The linear with its LoRA branch, frozen and trained.

use ferrotune_kernels::cpu::Cpu;
use ferrotune_kernels::ops::elementwise::{self, Dropout};
use ferrotune_kernels::ops::linear::{self, Branch, Grads, Linear, Matrix, Passed};
use ferrotune_kernels::quant::{Bytes, FourBitKind, GgufType, gguf, int8, nf4};
use ferrotune_kernels::rng::Stream;
use ferrotune_kernels::{DType, Device, Precision, Tensor, Threads, Weight};

use super::{added, assert_close, cpus, finite_difference, inner, random};

struct LinearCase {
    x: Tensor,
    weights: Vec<Weight>,
    bias: Tensor,
    branches: Vec<(Tensor, Tensor)>,
    dys: Vec<Tensor>,
    drop: Option<Dropout>,
}

const SIZES: [(usize, usize); 3] = [(70, 8), (24, 4), (24, 0)];

impl LinearCase {
    fn new(m: usize, k: usize, drop: Option<Dropout>) -> Self {
        let dev = Device::reference();
        LinearCase {
            x: random(&dev, m, k, "x"),
            weights: SIZES
                .iter()
                .map(|(n, _)| Weight::from_f32(*n, k, random(&dev, *n, k, "w").host_f32()))
                .collect(),
            bias: random(&dev, 1, SIZES[0].0, "bias"),
            branches: SIZES
                .iter()
                .filter(|(_, r)| *r > 0)
                .map(|(n, r)| (random(&dev, *r, k, "a"), random(&dev, *n, *r, "b")))
                .collect(),
            dys: SIZES.iter().map(|(n, _)| random(&dev, m, *n, &format!("dy{n}"))).collect(),
            drop,
        }
    }

    fn linears<'a>(&'a self, a0: &'a Tensor, b0: &'a Tensor) -> Vec<Linear<'a>> {
        (0..SIZES.len())
            .map(|i| Linear {
                weight: Matrix::Frozen(&self.weights[i]),
                bias: (i == 0).then_some(&self.bias),
                branch: self.branches.get(i).map(|(a, b)| Branch {
                    a: if i == 0 { a0 } else { a },
                    b: if i == 0 { b0 } else { b },
                    bias: None,
                    scale: 0.5,
                    dropout: self.drop,
                }),
            })
            .collect()
    }

    /// Where the sums of a branch's gradients stand before: whole steps add to what other micro-batches left.
    fn starts(&self, dev: &Device, branch: usize) -> (Tensor, Tensor) {
        let (a, b) = &self.branches[branch];
        (random(dev, a.rows(), a.cols(), "dA"), random(dev, b.rows(), b.cols(), "dB"))
    }

    /// Outputs, `H`, dX, and dA, dB of the first two, all added to something.
    fn run(&self, dev: &Device, precision: Precision) -> Vec<Vec<f32>> {
        let (m, k) = (self.x.rows(), self.x.cols());
        let (a0, b0) = &self.branches[0];
        let linears = self.linears(a0, b0);
        let mut outs: Vec<Tensor> = SIZES.iter().map(|(n, _)| dev.tensor(m, *n, &vec![1.0; m * n])).collect();
        let mut refs: Vec<&mut Tensor> = outs.iter_mut().collect();
        let h = linear::forward(dev.ctx(precision), &self.x, &linears, &mut refs, true).unwrap();
        let mut dx = dev.tensor(m, k, &vec![1.0; m * k]);
        let mut sums: Vec<(Tensor, Tensor)> = (0..self.branches.len()).map(|i| self.starts(dev, i)).collect();
        let mut grads: Vec<Grads<'_>> =
            sums.iter_mut().map(|(a, b)| Grads { a: Some(a), b: Some(b), ..Grads::default() }).collect();
        grads.push(Grads::default());
        let dys: Vec<&Tensor> = self.dys.iter().collect();
        linear::backward(
            dev.ctx(precision),
            Passed { x: &self.x, h: h.as_ref(), linears: &linears, dys: &dys },
            Some(&mut dx),
            true,
            &mut grads,
        )
        .unwrap();
        let mut all: Vec<Vec<f32>> = outs.iter().map(Tensor::to_vec).collect();
        all.push(h.unwrap().to_vec());
        all.push(dx.to_vec());
        all.extend(sums.iter().flat_map(|(a, b)| [a.to_vec(), b.to_vec()]));
        all
    }

    fn loss(&self, x: &Tensor, a0: &Tensor, b0: &Tensor) -> f64 {
        let dev = Device::reference();
        let mut outs: Vec<Tensor> = SIZES.iter().map(|(n, _)| dev.zeros(x.rows(), *n)).collect();
        let mut refs: Vec<&mut Tensor> = outs.iter_mut().collect();
        linear::forward(dev.ctx(Precision::F32), x, &self.linears(a0, b0), &mut refs, false).unwrap();
        outs.iter().zip(&self.dys).map(|(y, dy)| inner(y, dy)).sum()
    }
}

#[test]
fn linear_agrees_with_and_without_dropout() {
    let drop = Dropout { p: 0.3, stream: Stream::new(5, "drop", 1) };
    for (m, k, drop) in [(3, 40, None), (11, 40, None), (100, 130, None), (11, 40, Some(drop))] {
        let case = LinearCase::new(m, k, drop);
        let expected = case.run(&Device::reference(), Precision::F32);
        for dev in cpus() {
            for (precision, limit) in [(Precision::F32, 3e-6), (Precision::Bf16, 2e-2)] {
                for (i, found) in case.run(&dev, precision).iter().enumerate() {
                    assert_close(
                        &format!("linear output {i} m={m} {precision:?}"),
                        found,
                        &expected[i],
                        limit,
                    );
                }
            }
        }
        let (a0, b0) = &case.branches[0];
        let dx: Vec<f32> = expected[4].iter().map(|v| v - 1.0).collect();
        finite_difference("linear dx", &case.x, &dx, |x| case.loss(x, a0, b0));
        let (a_start, b_start) = case.starts(&Device::reference(), 0);
        finite_difference("linear dA", a0, &added(&expected[5], &a_start), |a| case.loss(&case.x, a, b0));
        finite_difference("linear dB", b0, &added(&expected[6], &b_start), |b| case.loss(&case.x, a0, b));
    }
}

/// What is stored in bf16 gives the same as its values in f32, and an output in bf16 is the f32 one rounded once.
#[test]
fn bf16_operands_and_outputs_are_only_rounded() {
    // Few rows, some, and a reduction longer than what is packed at a time; an odd one cannot be read in place.
    for (m, k) in [(3, 40), (11, 41), (33, 40), (20, 4500)] {
        let mut case = LinearCase::new(m, k, None);
        for dev in [vec![Device::reference()], cpus()].concat() {
            let narrow = |t: &Tensor| elementwise::cast(&dev, t, DType::Bf16);
            let wide = |t: &Tensor| elementwise::cast(&dev, t, DType::F32);
            let rounded = narrow(&case.x);
            case.x = elementwise::cast(&dev, &rounded, DType::F32);
            let (a0, b0) = &case.branches[0];
            let linears = case.linears(a0, b0);
            let forward = |x: &Tensor, dtype: DType| {
                let mut outs: Vec<Tensor> = SIZES.iter().map(|(n, _)| dev.uninit(m, *n, dtype)).collect();
                let mut refs: Vec<&mut Tensor> = outs.iter_mut().collect();
                let h = linear::forward(dev.ctx(Precision::Bf16), x, &linears, &mut refs, false).unwrap();
                (outs, h)
            };
            let (expected, h) = forward(&case.x, DType::F32);
            let (found, _) = forward(&narrow(&case.x), DType::Bf16);
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(found.to_vec(), narrow(expected).to_vec(), "m={m} k={k} {dev:?}");
            }
            let backward = |x: &Tensor, dys: &[Tensor]| {
                let mut dx = dev.empty(m, k);
                let mut sums = dev.zeros(1, SIZES[0].0);
                let mut grads: Vec<Grads<'_>> = SIZES.iter().map(|_| Grads::default()).collect();
                grads[0].bias = Some(&mut sums);
                let dys: Vec<&Tensor> = dys.iter().collect();
                let p = Precision::Bf16;
                linear::backward(
                    dev.ctx(p),
                    Passed { x, h: h.as_ref(), linears: &linears, dys: &dys },
                    Some(&mut dx),
                    false,
                    &mut grads,
                )
                .unwrap();
                (dx.to_vec(), sums.to_vec())
            };
            let dys: Vec<Tensor> = case.dys.iter().map(&narrow).collect();
            let widened: Vec<Tensor> = dys.iter().map(&wide).collect();
            assert!(backward(&narrow(&case.x), &dys) == backward(&case.x, &widened), "m={m} k={k} {dev:?}");
        }
    }
}

#[test]
fn a_trained_linear_gets_weight_and_bias_gradients() {
    let dev = Device::reference();
    let (x, w, b, dy) = (
        random(&dev, 20, 30, "x"),
        random(&dev, 10, 30, "w"),
        random(&dev, 1, 10, "b"),
        random(&dev, 20, 10, "dy"),
    );
    let run = |dev: &Device, precision| {
        let linears = [Linear { weight: Matrix::Trained(&w), bias: Some(&b), branch: None }];
        let (mut dw, mut db) = (random(dev, 10, 30, "dw"), random(dev, 1, 10, "db"));
        let mut grads = [Grads { weight: Some(&mut dw), bias: Some(&mut db), ..Grads::default() }];
        linear::backward(
            dev.ctx(precision),
            Passed { x: &x, h: None, linears: &linears, dys: &[&dy] },
            None,
            false,
            &mut grads,
        )
        .unwrap();
        (dw.to_vec(), db.to_vec())
    };
    let (dw, db) = run(&dev, Precision::F32);
    let loss = |w: &Tensor, b: &Tensor| {
        let dev = Device::reference();
        let mut y = dev.zeros(20, 10);
        let linears = [Linear { weight: Matrix::Trained(w), bias: Some(b), branch: None }];
        linear::forward(dev.ctx(Precision::F32), &x, &linears, &mut [&mut y], false).unwrap();
        inner(&y, &dy)
    };
    let own = (added(&dw, &random(&dev, 10, 30, "dw")), added(&db, &random(&dev, 1, 10, "db")));
    finite_difference("linear dW", &w, &own.0, |w| loss(w, &b));
    finite_difference("linear db", &b, &own.1, |b| loss(&w, b));
    for dev in cpus() {
        for (precision, limit) in [(Precision::F32, 3e-6), (Precision::Bf16, 2e-2)] {
            let found = run(&dev, precision);
            assert_close("linear dW", &found.0, &dw, limit);
            assert_close("linear db", &found.1, &db, limit);
        }
    }
}

/// Up to four rows of X are multiplied with the blocks of W, more with decoded panels: both are the reference's.
#[test]
fn few_rows_agree_in_every_format_on_any_number_of_threads() {
    let dev = Device::reference();
    let (n, k) = (75, 192);
    let source = Weight::from_f32(n, k, random(&dev, n, k, "w").host_f32());
    let four = |kind, block, double| nf4::quantize(&Threads::one(), &source, kind, block, double).unwrap();
    let mut weights = vec![
        four(FourBitKind::Nf4, 64, true),
        four(FourBitKind::Nf4, 256, false),
        four(FourBitKind::Fp4, 128, true),
        int8::quantize(&Threads::one(), &source, true).unwrap(),
        source.clone(),
    ];
    for kind in [GgufType::Q4_0, GgufType::Q4_1, GgufType::Q5_1, GgufType::Q8_0] {
        let mut bytes = Vec::new();
        gguf::encode(kind, random(&dev, n, k, "w").host_f32(), &mut bytes).unwrap();
        weights.push(Weight::gguf(n, k, kind, Bytes::owned(bytes)).unwrap());
    }
    let (a, b, bias) = (random(&dev, 4, k, "a"), random(&dev, n, 4, "b"), random(&dev, 1, n, "bias"));
    for w in &weights {
        let name = format!("{:?}", w).chars().take(60).collect::<String>();
        let branch = Branch { a: &a, b: &b, bias: None, scale: 0.5, dropout: None };
        let linears = [
            Linear { weight: Matrix::Frozen(w), bias: Some(&bias), branch: Some(branch) },
            Linear { weight: Matrix::Frozen(w), bias: None, branch: None },
        ];
        for m in 1..=5 {
            let x = random(&dev, m, k, "x");
            let run = |dev: &Device| {
                let mut outs = [dev.tensor(m, n, &vec![1.0; m * n]), dev.tensor(m, n, &vec![2.0; m * n])];
                let mut refs: Vec<&mut Tensor> = outs.iter_mut().collect();
                let h = linear::forward(dev.ctx(Precision::F32), &x, &linears, &mut refs, true).unwrap();
                [outs[0].to_vec(), outs[1].to_vec(), h.unwrap().to_vec()]
            };
            let expected = run(&dev);
            for dev in cpus() {
                let found = run(&dev);
                for (found, expected) in found.iter().zip(&expected) {
                    assert_close(&format!("{name} m={m}"), found, expected, 3e-6);
                }
                let Device::Cpu(cpu) = &dev else { unreachable!("a CPU device") };
                for threads in [1, 5] {
                    let other = Device::Cpu(Cpu::new(threads, cpu.isa()).unwrap());
                    assert!(run(&other) == found, "{name} m={m}");
                }
            }
        }
    }
}
