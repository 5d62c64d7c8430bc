//! The largest singular values of a matrix with their vectors, and the first columns of its QR factors, in f64.
//!
//! Singular vectors of the shorter side are eigenvectors of the Gram matrix: Householder reflections make it tridiagonal,
//! QR steps with Wilkinson's shift make that diagonal (Golub and Van Loan, Matrix Computations, sections 8.3.1 and
//! 8.3.3). Squaring the condition number costs nothing here: only the largest values are used.

use ferrotune_kernels::Threads;

/// `W ~ sum of s_i u_i v_it` over the largest singular values; the vectors are the rows of `u` and `v`.
#[derive(Debug)]
pub(super) struct Singular {
    /// `[R, N]`.
    pub(super) u: Vec<f64>,
    /// `R` values, the largest first.
    pub(super) s: Vec<f64>,
    /// `[R, K]`.
    pub(super) v: Vec<f64>,
}

/// The `r` largest singular values of the row-major `w [n, k]`; `r` is at most the shorter side.
pub(super) fn largest(threads: &Threads, w: &[f64], n: usize, k: usize, r: usize) -> Singular {
    if n > k {
        let turned: Vec<f64> = (0..k).flat_map(|i| (0..n).map(move |j| w[j * k + i])).collect();
        let Singular { u, s, v } = largest(threads, &turned, k, n, r);
        return Singular { u: v, s, v: u };
    }
    let rows: Vec<&[f64]> = w.chunks_exact(k).collect();
    let gram = threads.map(&rows, |a| rows.iter().map(|b| dot(a, b)).collect::<Vec<_>>()).concat();
    let (values, vectors) = eigen(gram, n);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    let mut found = Singular { u: Vec::new(), s: Vec::new(), v: Vec::new() };
    for i in order.into_iter().take(r) {
        let u = &vectors[i * n..][..n];
        let mut v = vec![0.0; k];
        for (u, row) in u.iter().zip(&rows) {
            add_scaled(row, *u, &mut v);
        }
        let s = dot(&v, &v).sqrt();
        if s > 0.0 {
            v.iter_mut().for_each(|x| *x /= s);
        }
        found.u.extend(u);
        found.s.push(s);
        found.v.extend(v);
    }
    found
}

/// The first `r` columns of Q (as rows `[r, n]`) and rows of R (`[r, k]`) of `w = QR`, by Gram-Schmidt done twice.
pub(super) fn first_of_qr(w: &[f64], n: usize, k: usize, r: usize) -> (Vec<f64>, Vec<f64>) {
    let mut q: Vec<f64> = Vec::with_capacity(r * n);
    for column in 0..r {
        let mut x: Vec<f64> = (0..n).map(|j| w[j * k + column]).collect();
        for _ in 0..2 {
            for before in q.chunks_exact(n) {
                let share = dot(before, &x);
                add_scaled(before, -share, &mut x);
            }
        }
        let length = dot(&x, &x).sqrt();
        if length > 0.0 {
            x.iter_mut().for_each(|v| *v /= length);
        }
        q.extend(x);
    }
    let mut rest = vec![0.0; r * k];
    for (q, row) in q.chunks_exact(n).zip(rest.chunks_exact_mut(k)) {
        for (q, w) in q.iter().zip(w.chunks_exact(k)) {
            add_scaled(w, *q, row);
        }
    }
    (q, rest)
}

/// Eigenvalues of a symmetric matrix and its eigenvectors as rows.
fn eigen(mut a: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut d, mut e) = (vec![0.0; n], vec![0.0; n.saturating_sub(1)]);
    let mut reflections: Vec<Vec<f64>> = Vec::new();
    for k in 0..n.saturating_sub(1) {
        // Reflect the rest of column k onto its first element: H = I - v vt with |v|^2 = 2.
        let mut v: Vec<f64> = (k + 1..n).map(|i| a[i * n + k]).collect();
        let length = dot(&v, &v).sqrt();
        let target = if v[0] > 0.0 { -length } else { length };
        v[0] -= target;
        let squares = dot(&v, &v);
        e[k] = target;
        if squares > 0.0 {
            let scale = (2.0 / squares).sqrt();
            v.iter_mut().for_each(|x| *x *= scale);
            let below = |i: usize| (k + 1 + i) * n + k + 1;
            let mut w: Vec<f64> = (0..v.len()).map(|i| dot(&a[below(i)..][..v.len()], &v)).collect();
            let half = dot(&w, &v) / 2.0;
            add_scaled(&v, -half, &mut w);
            for i in 0..v.len() {
                let row = &mut a[below(i)..][..v.len()];
                add_scaled(&w, -v[i], row);
                add_scaled(&v, -w[i], row);
            }
        } else {
            v.fill(0.0);
        }
        reflections.push(v);
    }
    for k in 0..n {
        d[k] = a[k * n + k];
    }
    // The last reflection times ... times the first: what turns the matrix tridiagonal. Its rows are the vectors once the
    // rest is diagonal.
    let mut q = vec![0.0; n * n];
    for k in 0..n {
        q[k * n + k] = 1.0;
    }
    for (k, v) in reflections.iter().enumerate().rev() {
        for row in q.chunks_exact_mut(n).skip(k + 1) {
            let share = dot(&row[k + 1..], v);
            add_scaled(v, -share, &mut row[k + 1..]);
        }
    }
    diagonalize(&mut d, &mut e, &mut q);
    (d, q)
}

/// Implicit QR steps until the off-diagonal `e` is nothing beside the diagonal `d`; rotates the rows of `q` along.
fn diagonalize(d: &mut [f64], e: &mut [f64], q: &mut [f64]) {
    let n = d.len();
    let largest = d.iter().fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()));
    let small = |d: &[f64], e: &[f64], i: usize| {
        e[i].abs() <= f64::EPSILON * (d[i].abs() + d[i + 1].abs()).max(f64::EPSILON * largest)
    };
    let mut high = n.saturating_sub(1);
    while high > 0 {
        if small(d, e, high - 1) {
            high -= 1;
            continue;
        }
        let mut low = high - 1;
        while low > 0 && !small(d, e, low - 1) {
            low -= 1;
        }
        let (delta, off) = ((d[high - 1] - d[high]) / 2.0, e[high - 1]);
        let shift = d[high] - off * off / (delta + delta.hypot(off).copysign(delta));
        let (mut x, mut z) = (d[low] - shift, e[low]);
        for k in low..high {
            let r = x.hypot(z);
            let (c, s) = if r > 0.0 { (x / r, z / r) } else { (1.0, 0.0) };
            if k > low {
                e[k - 1] = r;
            }
            let (first, second, between) = (d[k], d[k + 1], e[k]);
            d[k] = c * c * first + 2.0 * c * s * between + s * s * second;
            d[k + 1] = s * s * first - 2.0 * c * s * between + c * c * second;
            e[k] = c * s * (second - first) + (c * c - s * s) * between;
            if k + 1 < high {
                x = e[k];
                z = s * e[k + 1];
                e[k + 1] *= c;
            }
            let (above, below) = q[k * n..(k + 2) * n].split_at_mut(n);
            for (a, b) in above.iter_mut().zip(below) {
                (*a, *b) = (c * *a + s * *b, c * *b - s * *a);
            }
        }
    }
}

/// Inner product in eight sums, which the compiler can vectorise.
fn dot(x: &[f64], y: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (xs, ys) = (x.chunks_exact(8), y.chunks_exact(8));
    let rest: f64 = xs.remainder().iter().zip(ys.remainder()).map(|(a, b)| a * b).sum();
    for (x, y) in xs.zip(ys) {
        for l in 0..8 {
            sums[l] += x[l] * y[l];
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// `out += factor x`.
fn add_scaled(x: &[f64], factor: f64, out: &mut [f64]) {
    out.iter_mut().zip(x).for_each(|(o, v)| *o += factor * v);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrotune_kernels::rng::Stream;

    fn random(n: usize, k: usize) -> Vec<f64> {
        let s = Stream::new(4, "decompose", 0);
        (0..(n * k) as u64).map(|i| s.normal(i) as f64).collect()
    }

    /// Largest difference of `w` and the sum of its triplets.
    fn rest(w: &[f64], k: usize, of: &Singular) -> f64 {
        let n = w.len() / k;
        let mut worst = 0.0f64;
        for j in 0..n {
            for i in 0..k {
                let sum: f64 = (0..of.s.len()).map(|q| of.s[q] * of.u[q * n + j] * of.v[q * k + i]).sum();
                worst = worst.max((w[j * k + i] - sum).abs());
            }
        }
        worst
    }

    #[test]
    fn all_singular_values_together_are_the_matrix() {
        for (n, k) in [(1, 1), (5, 9), (9, 5), (40, 24), (33, 33)] {
            let w = random(n, k);
            let found = largest(&Threads::one(), &w, n, k, n.min(k));
            assert!(rest(&w, k, &found) < 1e-10, "{n} x {k}: {}", rest(&w, k, &found));
            assert!(found.s.windows(2).all(|s| s[0] >= s[1]));
            for (vectors, len) in [(&found.u, n), (&found.v, k)] {
                for (i, a) in vectors.chunks_exact(len).enumerate() {
                    for (j, b) in vectors.chunks_exact(len).enumerate() {
                        assert!((dot(a, b) - (i == j) as u8 as f64).abs() < 1e-8, "{n} x {k}: {i} {j}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_matrix_of_low_rank_needs_no_more_values() {
        let (n, k) = (30, 20);
        let (a, b) = (random(n, 2), random(2, k));
        let w: Vec<f64> =
            (0..n * k).map(|i| (0..2).map(|q| a[i / k * 2 + q] * b[q * k + i % k]).sum()).collect();
        let found = largest(&Threads::one(), &w, n, k, 2);
        assert!(rest(&w, k, &found) < 1e-10);
        let zero = largest(&Threads::one(), &[0.0; 12], 3, 4, 2);
        assert_eq!(zero.s, [0.0, 0.0]);
    }

    #[test]
    fn qr_gives_orthogonal_columns_that_make_up_the_first_columns() {
        let (n, k, r) = (20, 12, 5);
        let w = random(n, k);
        let (q, rows) = first_of_qr(&w, n, k, r);
        for i in 0..r {
            for j in 0..r {
                let product = dot(&q[i * n..][..n], &q[j * n..][..n]);
                assert!((product - (i == j) as u8 as f64).abs() < 1e-12);
            }
        }
        // W = QR: the first r columns of W need only the first r columns of Q.
        for j in 0..n {
            for i in 0..r {
                let sum: f64 = (0..r).map(|p| q[p * n + j] * rows[p * k + i]).sum();
                assert!((w[j * k + i] - sum).abs() < 1e-12);
            }
        }
    }
}
