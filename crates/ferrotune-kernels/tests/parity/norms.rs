//! RMS and layer norms over rows and over heads, with one weight for all heads or one for each.

use ferrotune_kernels::ops::layer_norm::{self, Grads, LayerNorm};
use ferrotune_kernels::ops::rms_norm::{self, RmsNorm};
use ferrotune_kernels::{DType, Device, Tensor};

use super::{added, assert_close, cpus, finite_difference, inner, random};

/// Width of the groups, and columns of the weight, for rows of 50.
const SHAPES: [(usize, usize); 3] = [(50, 50), (10, 10), (10, 50)];

#[test]
fn rms_norm_agrees() {
    let dev = Device::reference();
    let (x, dy) = (random(&dev, 7, 50, "x"), random(&dev, 7, 50, "dy"));
    for (width, columns) in SHAPES {
        let w = random(&dev, 1, columns, "w");
        let norm = RmsNorm { width, eps: 1e-5, offset: if width == 10 { 1.0 } else { 0.0 } };
        let run = |dev: &Device| {
            let y = rms_norm::forward(dev, &x, &w, norm, DType::F32).unwrap();
            // Both are added to.
            let (mut dx, mut dw) = (random(dev, 7, 50, "dx"), random(dev, 1, columns, "dw"));
            rms_norm::backward(dev, &x, &w, norm, &dy, &mut dx, Some(&mut dw)).unwrap();
            [y.to_vec(), dx.to_vec(), dw.to_vec()]
        };
        let expected = run(&dev);
        let loss = |x: &Tensor, w: &Tensor| {
            inner(&rms_norm::forward(&Device::reference(), x, w, norm, DType::F32).unwrap(), &dy)
        };
        let dx = added(&expected[1], &random(&dev, 7, 50, "dx"));
        let dw = added(&expected[2], &random(&dev, 1, columns, "dw"));
        finite_difference("rms_norm dx", &x, &dx, |x| loss(x, &w));
        finite_difference("rms_norm dw", &w, &dw, |w| loss(&x, w));
        for dev in cpus() {
            for (i, found) in run(&dev).iter().enumerate() {
                assert_close(&format!("rms_norm {width} {i}"), found, &expected[i], 2e-6);
            }
        }
    }
    let norm = RmsNorm { width: 20, eps: 1e-5, offset: 0.0 };
    assert!(
        rms_norm::forward(&dev, &x, &random(&dev, 1, 20, "w"), norm, DType::F32).is_err(),
        "20 does not divide 50"
    );
}

#[test]
fn layer_norm_agrees() {
    let dev = Device::reference();
    let (mut x, dy) = (random(&dev, 7, 50, "x"), random(&dev, 7, 50, "dy"));
    x.host_f32_mut().iter_mut().for_each(|v| *v += 3.0);
    for (width, columns) in SHAPES {
        let (w, b) = (random(&dev, 1, columns, "w"), random(&dev, 1, columns, "b"));
        let norm = LayerNorm { width, eps: 1e-5 };
        let run = |dev: &Device| {
            let y = layer_norm::forward(dev, &x, &w, Some(&b), norm, DType::F32).unwrap();
            let plain = layer_norm::forward(dev, &x, &w, None, norm, DType::F32).unwrap();
            let mut dx = random(dev, 7, 50, "dx");
            let (mut dw, mut db) = (random(dev, 1, columns, "dw"), random(dev, 1, columns, "db"));
            let grads = Grads { weight: Some(&mut dw), bias: Some(&mut db) };
            layer_norm::backward(dev, &x, &w, norm, &dy, &mut dx, grads).unwrap();
            [y.to_vec(), plain.to_vec(), dx.to_vec(), dw.to_vec(), db.to_vec()]
        };
        let expected = run(&dev);
        let loss = |x: &Tensor, w: &Tensor, b: &Tensor| {
            inner(&layer_norm::forward(&Device::reference(), x, w, Some(b), norm, DType::F32).unwrap(), &dy)
        };
        let start = |rows, cols, name| random(&dev, rows, cols, name);
        finite_difference("layer_norm dx", &x, &added(&expected[2], &start(7, 50, "dx")), |x| {
            loss(x, &w, &b)
        });
        finite_difference("layer_norm dw", &w, &added(&expected[3], &start(1, columns, "dw")), |w| {
            loss(&x, w, &b)
        });
        finite_difference("layer_norm db", &b, &added(&expected[4], &start(1, columns, "db")), |b| {
            loss(&x, &w, b)
        });
        for dev in cpus() {
            for (i, found) in run(&dev).iter().enumerate() {
                assert_close(&format!("layer_norm {width} {i}"), found, &expected[i], 3e-6);
            }
        }
    }
}
