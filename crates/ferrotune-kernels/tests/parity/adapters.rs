//! The parts of an adapter that are no plain branch of a linear.

use ferrotune_kernels::ops::linear::{self, Branch, Grads, Linear, Matrix, Passed};
use ferrotune_kernels::ops::{dora, lora_embedding, token_rows};
use ferrotune_kernels::{Device, Precision, Tensor, Weight};

use super::{added, assert_close, cpus, finite_difference, inner, random};

const TOKENS: [u32; 6] = [3, 0, 7, 3, 2, 7];

#[test]
fn dora_scales_the_rows_of_the_sum() {
    let dev = Device::reference();
    let (n, k, r) = (70, 40, 4);
    let w = Weight::from_f32(n, k, random(&dev, n, k, "w").host_f32());
    let (a, b) = (random(&dev, r, k, "a"), random(&dev, n, r, "b"));
    let (z, dy) = (random(&dev, 9, n, "z"), random(&dev, 9, n, "dy"));
    let (m, bias) = (random(&dev, 1, n, "m"), random(&dev, 1, n, "bias"));
    let run = |dev: &Device, z: &Tensor, m: &Tensor, accumulate: bool| {
        let norm = dora::row_norms(dev, Matrix::Frozen(&w), Some((&a, &b, 0.5))).unwrap();
        let lengths = dora::Lengths { magnitude: m, norm: &norm };
        let mut y = random(dev, 9, n, "y");
        dora::forward(dev, z, lengths, Some(&bias), &mut y, accumulate).unwrap();
        let mut dm = random(dev, 1, n, "dm");
        let dz = dora::backward(dev, &dy, z, lengths, Some(&mut dm)).unwrap();
        let plain = dora::row_norms(dev, Matrix::Frozen(&w), None).unwrap();
        [norm, plain, y, dz, dm]
    };
    let expected = run(&dev, &z, &m, true);
    // The lengths, from the sum as a whole.
    let mut sum = random(&dev, n, k, "w").to_vec();
    for (j, row) in sum.chunks_exact_mut(k).enumerate() {
        for (i, v) in row.iter_mut().enumerate() {
            *v += 0.5 * (0..r).map(|q| b.host_f32()[j * r + q] * a.host_f32()[q * k + i]).sum::<f32>();
        }
    }
    let lengths: Vec<f32> =
        sum.chunks_exact(k).map(|row| row.iter().map(|v| v * v).sum::<f32>().sqrt()).collect();
    assert_close("lengths", expected[0].host_f32(), &lengths, 1e-6);

    let loss = |z: &Tensor, m: &Tensor| inner(&run(&Device::reference(), z, m, false)[2], &dy);
    finite_difference("dora dz", &z, expected[3].host_f32(), |z| loss(z, &m));
    let dm = added(expected[4].host_f32(), &random(&dev, 1, n, "dm"));
    finite_difference("dora dm", &m, &dm, |m| loss(&z, m));
    for dev in cpus() {
        for (i, found) in run(&dev, &z, &m, true).iter().enumerate() {
            assert_close(&format!("dora {i}"), found.host_f32(), expected[i].host_f32(), 2e-6);
        }
    }
}

#[test]
fn a_branch_of_an_embedding_agrees() {
    let dev = Device::reference();
    let (r, v, d) = (3, 8, 20);
    let (a, b) = (random(&dev, r, v, "a"), random(&dev, d, r, "b"));
    let dy = random(&dev, TOKENS.len(), d, "dy");
    let run = |dev: &Device, a: &Tensor, b: &Tensor| {
        let branch = lora_embedding::Branch { a, b, scale: 0.5 };
        let mut y = random(dev, TOKENS.len(), d, "y");
        lora_embedding::forward(dev, branch, &TOKENS, &mut y).unwrap();
        let (mut da, mut db) = (random(dev, r, v, "da"), random(dev, d, r, "db"));
        lora_embedding::backward(dev, branch, &TOKENS, &dy, &mut da, &mut db).unwrap();
        [y, da, db]
    };
    let expected = run(&dev, &a, &b);
    let loss = |a: &Tensor, b: &Tensor| inner(&run(&Device::reference(), a, b)[0], &dy);
    let da = added(expected[1].host_f32(), &random(&dev, r, v, "da"));
    let db = added(expected[2].host_f32(), &random(&dev, d, r, "db"));
    finite_difference("lora_embedding dA", &a, &da, |a| loss(a, &b));
    finite_difference("lora_embedding dB", &b, &db, |b| loss(&a, b));
    for dev in cpus() {
        for (i, found) in run(&dev, &a, &b).iter().enumerate() {
            assert_close(&format!("lora_embedding {i}"), found.host_f32(), expected[i].host_f32(), 2e-6);
        }
    }
    let branch = lora_embedding::Branch { a: &a, b: &b, scale: 0.5 };
    assert!(lora_embedding::forward(&dev, branch, &[8], &mut dev.zeros(1, d)).is_err());
}

#[test]
fn trained_rows_stand_for_those_of_the_table() {
    let dev = Device::reference();
    let (v, d, m) = (8, 20, 5);
    let ids = [7u32, 1, 3];
    let rows = random(&dev, ids.len(), d, "rows");
    let (x, dy, dlogits) =
        (random(&dev, m, d, "x"), random(&dev, TOKENS.len(), d, "dy"), random(&dev, m, v, "dlogits"));
    let run = |dev: &Device, rows: &Tensor, x: &Tensor| {
        let r = token_rows::Rows { ids: &ids, rows };
        let mut y = random(dev, TOKENS.len(), d, "y");
        token_rows::forward(dev, r, &TOKENS, 2.0, &mut y).unwrap();
        let mut dr = random(dev, ids.len(), d, "dr");
        token_rows::backward(dev, &ids, &TOKENS, 2.0, &dy, &mut dr).unwrap();
        let mut logits = random(dev, m, v, "logits");
        token_rows::head_forward(dev, r, x, &mut logits).unwrap();
        let mut left = dev.tensor(m, v, dlogits.host_f32());
        let (mut dx, mut head) = (random(dev, m, d, "dx"), random(dev, ids.len(), d, "head"));
        token_rows::head_backward(dev, r, x, &mut left, Some(&mut dx), Some(&mut head)).unwrap();
        [y, dr, logits, dx, head, left]
    };
    let expected = run(&dev, &rows, &x);
    for (t, token) in TOKENS.iter().enumerate() {
        let (found, before) = (&expected[0].host_f32()[t * d..][..d], random(&dev, TOKENS.len(), d, "y"));
        match ids.iter().position(|id| id == token) {
            Some(j) => assert!(found.iter().zip(&rows.host_f32()[j * d..]).all(|(a, b)| *a == 2.0 * b)),
            None => assert_eq!(found, &before.host_f32()[t * d..][..d]),
        }
    }
    let embedded = |rows: &Tensor| inner(&run(&Device::reference(), rows, &x)[0], &dy);
    let dr = added(expected[1].host_f32(), &random(&dev, ids.len(), d, "dr"));
    finite_difference("token_rows dR", &rows, &dr, embedded);
    let head = |rows: &Tensor, x: &Tensor| inner(&run(&Device::reference(), rows, x)[2], &dlogits);
    let dx = added(expected[3].host_f32(), &random(&dev, m, d, "dx"));
    let dr = added(expected[4].host_f32(), &random(&dev, ids.len(), d, "head"));
    finite_difference("token_rows head dX", &x, &dx, |x| head(&rows, x));
    finite_difference("token_rows head dR", &rows, &dr, |rows| head(rows, &x));
    for (i, v) in expected[5].host_f32().iter().enumerate() {
        let taken = ids.contains(&((i % 8) as u32));
        assert_eq!(*v, if taken { 0.0 } else { dlogits.host_f32()[i] });
    }
    for dev in cpus() {
        for (i, found) in run(&dev, &rows, &x).iter().enumerate() {
            assert_close(&format!("token_rows {i}"), found.host_f32(), expected[i].host_f32(), 2e-6);
        }
    }
}

#[test]
fn a_bias_of_a_branch_is_scaled_as_the_branch() {
    let dev = Device::reference();
    let (m, n, k, r) = (6, 24, 30, 2);
    let w = Weight::from_f32(n, k, random(&dev, n, k, "w").host_f32());
    let (x, a, b) = (random(&dev, m, k, "x"), random(&dev, r, k, "a"), random(&dev, n, r, "b"));
    let (bias, own, dy) = (random(&dev, 1, n, "bias"), random(&dev, 1, n, "c"), random(&dev, m, n, "dy"));
    let run = |dev: &Device, own: &Tensor, with: bool| {
        let branch = Branch { a: &a, b: &b, bias: with.then_some(own), scale: 0.5, dropout: None };
        let linears =
            [Linear { weight: Matrix::Frozen(&w), bias: with.then_some(&bias), branch: Some(branch) }];
        let mut y = dev.zeros(m, n);
        let h = linear::forward(dev.ctx(Precision::F32), &x, &linears, &mut [&mut y], false).unwrap();
        let mut dc = random(dev, 1, n, "dc");
        let mut grads = [Grads { branch_bias: Some(&mut dc), ..Grads::default() }];
        linear::backward(
            dev.ctx(Precision::F32),
            Passed { x: &x, h: h.as_ref(), linears: &linears, dys: &[&dy] },
            None,
            false,
            &mut grads,
        )
        .unwrap();
        [y, dc]
    };
    let (expected, without) = (run(&dev, &own, true), run(&dev, &own, false));
    for (i, (found, plain)) in expected[0].host_f32().iter().zip(without[0].host_f32()).enumerate() {
        let by = bias.host_f32()[i % n] + 0.5 * own.host_f32()[i % n];
        assert!((found - plain - by).abs() < 1e-5);
    }
    let dc = added(expected[1].host_f32(), &random(&dev, 1, n, "dc"));
    finite_difference("linear dc", &own, &dc, |own| inner(&run(&Device::reference(), own, true)[0], &dy));
    for dev in cpus() {
        for (found, expected) in run(&dev, &own, true).iter().zip(&expected) {
            assert_close("linear with a branch's bias", found.host_f32(), expected.host_f32(), 3e-6);
        }
    }
}
